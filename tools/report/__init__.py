"""One self-contained page that shows how a model grew."""

from keras_grow.tools.report.page import build

__all__ = ["build"]
