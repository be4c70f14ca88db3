"""Settings for these tests."""

from fit.harness import quick_compilation  # noqa: F401
