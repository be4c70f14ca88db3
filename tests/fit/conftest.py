"""Settings for the tests of growth in `fit`."""

import keras
import pytest


@pytest.fixture(autouse=True)
def _quick_compilation():
    """Compiling is most of the time on JAX, and these tiny programs need no optimization."""
    if keras.config.backend() != "jax":
        yield
        return
    import jax

    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
