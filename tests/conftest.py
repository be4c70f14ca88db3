"""Settings for all tests.

The Keras backend is the one that `KERAS_BACKEND` (or Keras' own configuration file) chooses; run
pytest once per backend. What runs where is said in helpers/where.py. Everything is seeded, and
hypothesis draws the same examples in every run unless HYPOTHESIS_PROFILE=explore.
"""

import gc
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

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
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    # ... and none when it has compiled the same program before, for another model, in the other
    # worker, in a process that a test started or in an earlier run.
    "JAX_COMPILATION_CACHE_DIR": str(Path(__file__).parents[1] / "build" / "jax"),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
}.items():
    os.environ.setdefault(_name, _value)

import hypothesis
import numpy as np
import pytest

pytest.register_assert_rewrite("helpers")

from helpers.where import EVERY, FROM_ZERO, ONE, OP_BY_OP, QUICKEST, fits, home, where

TESTS = Path(__file__).parent

# Fixtures that several folders share.
pytest_plugins = ["helpers.boards", "helpers.commands"]

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


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--beside",
        default="",
        metavar="BACKENDS",
        help="backends on which this suite runs too: a test that depends on none runs on one of "
        f"them, the first of {', '.join(QUICKEST)}. Without it, everything runs here.",
    )


def _left_to(config: pytest.Config) -> str | None:
    """The backend which runs what depends on none, if that is another one."""
    import keras

    beside = config.getoption("beside").split()
    first = next((b for b in QUICKEST if b in beside), None)
    return None if first == keras.config.backend() else first


def pytest_report_header(config: pytest.Config) -> str:
    """Say at the top of the report what the tests run on, and what is left out here."""
    import keras

    first = _left_to(config)
    what = "everything" if first is None else f"what depends on no backend is left to {first}"
    return f"keras {keras.__version__} on {keras.config.backend()}: {what}"


def _path(item: pytest.Item) -> str:
    return item.path.relative_to(TESTS).as_posix()


def _runs(item: pytest.Item) -> str:
    """EVERY or ONE, from the nearest mark or from the folder."""
    for node in reversed(item.listchain()):
        for mark in node.own_markers:
            if mark.name in ("every_backend", "one_backend"):
                return EVERY if mark.name == "every_backend" else ONE
    return where(_path(item))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what another backend runs, and skip what is marked for other backends."""
    import keras

    backend = keras.config.backend()
    beside = config.getoption("beside").split()
    kept, left = [], []
    for item in items:
        marker = item.get_closest_marker("backend")
        try:
            homes = home(_runs(item), beside, marker and marker.args)
        except LookupError as error:
            raise pytest.UsageError(str(error)) from None
        if marker is not None and backend not in marker.args:
            item.add_marker(pytest.mark.skip(reason=f"only on {', '.join(marker.args)}"))
        elif homes and backend not in homes:
            left.append(item)
            continue
        kept.append(item)
    if left:
        config.hook.pytest_deselected(items=left)
        items[:] = kept


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """It is no failure that all of what was asked for is left to another backend."""
    none = exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED
    if none and _left_to(session.config) is not None:
        session.exitstatus = pytest.ExitCode.OK


@pytest.fixture(autouse=True, scope="session")
def _few_objects() -> None:
    """Surgery looks through all objects for other models; leave out what was there before."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope="module")
def _bounded_memory() -> Iterator[None]:
    """JAX keeps what it has traced and compiled for ever: gigabytes, which slow down every test."""
    import keras

    yield
    if keras.config.backend() == "jax":
        import jax

        jax.clear_caches()
        gc.collect()


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


@pytest.fixture(autouse=True)
def _quick_on_jax(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiling is most of the time on JAX: less of it where the folder says so.

    `make test-all` compiles everything.
    """
    import keras

    if keras.config.backend() != "jax" or os.environ.get("KERAS_GROW_TEST_ALL"):
        return
    path = _path(request.node)
    if fits(path, OP_BY_OP):
        from keras_grow import _backend

        def eager(function: Callable, variables: Any) -> Callable:
            return lambda *arrays: function([], *arrays)

        monkeypatch.setattr(_backend, "compiled", eager)
    if fits(path, FROM_ZERO):
        for initializer in (keras.initializers.GlorotUniform, keras.initializers.Orthogonal):
            monkeypatch.setattr(
                initializer,
                "__call__",
                lambda self, shape, dtype=None, **_: keras.ops.zeros(shape, dtype),
            )
