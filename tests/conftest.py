"""Settings for all tests.

The Keras backend is the one that `KERAS_BACKEND` (or Keras' own configuration file) chooses; run
pytest once per backend. Everything is seeded, and hypothesis draws the same examples in every run
unless HYPOTHESIS_PROFILE=explore.
"""

import os
import random

# Before a backend is imported. One thread each: tests are small, two pytest workers fill two
# cores, and sums are added up in the same order every time. Settings of the user's win.
for _name, _value in {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "TF_NUM_INTRAOP_THREADS": "1",
    "TF_NUM_INTEROP_THREADS": "1",
    "NPROC": "1",  # the size of XLA's thread pool
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "TF_ENABLE_ONEDNN_OPTS": "0",  # its notice, and its different rounding
    "MPLBACKEND": "Agg",
    # Tests compile much and compute little: XLA spends half the time when it optimises less.
    "XLA_FLAGS": "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true",
}.items():
    os.environ.setdefault(_name, _value)

import hypothesis
import numpy as np
import pytest

hypothesis.settings.register_profile(
    "ci",
    derandomize=True,
    deadline=None,
    print_blob=True,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.register_profile(
    "explore", hypothesis.settings.get_profile("ci"), derandomize=False, max_examples=3400
)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


def pytest_report_header(config: pytest.Config) -> str:
    """Say at the top of the report what the tests run on."""
    import keras

    return f"keras {keras.__version__} on {keras.config.backend()}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what is marked for other backends."""
    import keras

    backend = keras.config.backend()
    for item in items:
        marker = item.get_closest_marker("backend")
        if marker is not None and backend not in marker.args:
            item.add_marker(pytest.mark.skip(reason=f"only on {', '.join(marker.args)}"))


@pytest.fixture(autouse=True)
def _seeds() -> None:
    """Start every test from the same random state, whichever tests ran before it."""
    import keras

    # Also drops Keras' global seed generator and the numbers in automatic layer names.
    keras.utils.clear_session(free_memory=False)
    if keras.config.backend() == "tensorflow":
        keras.utils.set_random_seed(0)
        return
    # Elsewhere `set_random_seed` would import TensorFlow for seconds if it is installed. Keras'
    # new seed generator is drawn from `random`.
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
    if keras.config.backend() == "torch":
        import torch

        torch.manual_seed(0)
