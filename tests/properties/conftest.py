"""The same means as for the rules: many small models."""

from rules.conftest import _few_objects, _quick_on_jax  # noqa: F401
