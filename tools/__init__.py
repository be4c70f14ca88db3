"""The command line of keras_grow and its demonstration.

Installed as ``keras_grow.tools``; started by ``keras-grow`` or ``python -m keras_grow.tools``.
Nothing here is needed by the library, and everything here uses the library's public interface
only. Importing this package imports neither Keras nor a backend.
"""
