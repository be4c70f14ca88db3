"""The command line of keras_grow and its demonstration.

Installed as ``keras_grow.tools``; started by ``keras-grow`` or ``python -m keras_grow.tools``.
Nothing here is needed by the library, and everything here uses the library's public interface
only: `import keras_grow as kg`, `keras_grow.testing`, and without Keras `keras_grow.errors` and
`keras_grow.logs`. Importing this package imports neither Keras nor a backend.
"""
