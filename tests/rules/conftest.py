"""Makes many small models affordable on JAX, where every new shape is compiled."""

from collections.abc import Callable
from typing import Any

import keras
import pytest

from keras_grow import _backend


@pytest.fixture(autouse=True)
def _quick_on_jax(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs verification op by op, and starts kernels at zero instead of drawing them.

    Neither matters to these tests: every weight gets a random value from the harness, and the
    compiled verification is run by the tests of growth during `fit`.
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
