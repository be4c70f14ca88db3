"""Plotly figures of runs: for the TensorBoard plugin, the report and notebooks alike.

```python
import keras_grow as kg

runs = kg.figures.read_runs("logs")
kg.figures.timeline(runs, smoothing=0.8).show()
kg.figures.network(runs[0])
```

All take `x="step"|"time"|"parameters"|"flops"`, `smoothing=0..1` (as TensorBoard's), `log=bool`,
`theme="light"|"dark"` and `among=` (names of all runs there are, which settles their colours); an
option that means nothing to a figure changes nothing. Without data they give an empty figure that
says so.
"""

from keras_grow.errors import GrowthError

try:
    import plotly  # noqa: F401
except ImportError as error:
    raise GrowthError(
        "Figures are drawn by plotly, which is not installed. Install with: "
        "pip install 'keras-grow[tensorboard]'"
    ) from error

from keras_grow.tools.figures.check import check
from keras_grow.tools.figures.comparison import Gain, gain, gains, tradeoff
from keras_grow.tools.figures.cost import costs
from keras_grow.tools.figures.network import network
from keras_grow.tools.figures.spectra import gradients, spectra, spectrum
from keras_grow.tools.figures.theme import bare, colors, template
from keras_grow.tools.figures.timeline import timeline
from keras_grow.tools.figures.widths import width_map, widths

__all__ = [
    "Gain",
    "bare",
    "check",
    "colors",
    "costs",
    "gain",
    "gains",
    "gradients",
    "network",
    "spectra",
    "spectrum",
    "template",
    "timeline",
    "tradeoff",
    "width_map",
    "widths",
]
