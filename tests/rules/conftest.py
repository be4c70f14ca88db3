"""Makes many small models affordable."""

import gc
from collections.abc import Callable
from typing import Any

import keras
import pytest

from keras_grow import _backend


@pytest.fixture(autouse=True)
def _quick_on_jax(monkeypatch: pytest.MonkeyPatch) -> None:
    """On JAX, runs verification op by op, and starts kernels at zero instead of drawing them.

    Every new shape is compiled there. Neither matters to these tests: every weight gets a random
    value from the harness, and the tests of growth during `fit` run the compiled verification.
    """
    if keras.config.backend() == "jax":

        def eager(function: Callable, variables: Any) -> Callable:
            return lambda *arrays: function([], *arrays)

        monkeypatch.setattr(_backend, "compiled", eager)
        monkeypatch.setattr(
            keras.initializers.GlorotUniform,
            "__call__",
            lambda self, shape, dtype=None, **_: keras.ops.zeros(shape, dtype),
        )


@pytest.fixture(autouse=True, scope="session")
def _few_objects() -> None:
    """Growth on TensorFlow looks through all objects for other models; leave out what is old."""
    gc.collect()
    gc.freeze()
