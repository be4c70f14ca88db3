"""The *Growth* tab of TensorBoard.

`loader` is what TensorBoard imports, `plugin` answers the tab's requests, `source` reads runs
through TensorBoard's data provider, and `static/` is the tab: ES modules without a build step.
Neither Keras nor a backend is imported, and plotly only when the first figure is asked for.
"""
