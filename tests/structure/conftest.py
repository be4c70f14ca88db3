"""Settings for these tests."""

import gc

import pytest
from fit.harness import quick_compilation  # noqa: F401


@pytest.fixture(autouse=True, scope="session")
def _few_objects() -> None:
    """Surgery looks through all objects for other models; leave out what is old."""
    gc.collect()
    gc.freeze()
