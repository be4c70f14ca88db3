"""Settings for these tests."""

import gc
from collections.abc import Callable
from typing import Any

import keras
import pytest
from fit.harness import quick_compilation  # noqa: F401

from keras_grow import _backend


@pytest.fixture(autouse=True, scope="session")
def _few_objects() -> None:
    """Surgery looks through all objects for other models; leave out what is old."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _eager_on_jax(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """On JAX, runs verification op by op, since every new shape is compiled; not in `fit`."""
    if keras.config.backend() == "jax" and "in_fit" not in request.node.nodeid:

        def eager(function: Callable, variables: Any) -> Callable:
            return lambda *arrays: function([], *arrays)

        monkeypatch.setattr(_backend, "compiled", eager)
