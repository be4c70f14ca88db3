"""The models of the report."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

PIXELS = (127.0, 64.0)  # for models that rescale their inputs themselves
STANDARD = (0.0, 1.0)
ALL_BACKENDS = ("torch", "jax", "tensorflow")


@dataclass(frozen=True)
class Entry:
    """One model of the report.

    Attributes:
        library: where it comes from.
        family: architectures that differ in size only have the same one.
        name: its name there.
        build: makes it, and imports what it needs.
        inputs_like: mean and standard deviation of its inputs.
        backends: on which it can be built.
    """

    library: str
    family: str
    name: str
    build: Callable[[], Any]
    inputs_like: tuple[float, float] = STANDARD
    backends: tuple[str, ...] = ALL_BACKENDS

    @property
    def key(self) -> str:
        return f"{self.library}/{self.name}"


def entries() -> list[Entry]:
    """Every model of the report."""
    from keras_grow.tools.coverage import applications, hub, keras_cv

    return [*applications.entries(), *keras_cv.entries(), *hub.entries()]


def entry(key: str) -> Entry:
    """The entry of that key.

    Raises:
        KeyError: there is none.
    """
    return {e.key: e for e in entries()}[key]
