"""Which entries of a variable are new, and where its old ones went. NumPy only."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from keras_grow.planning import Edit
from keras_grow.planning.arrays import grown_value


def in_order(edits: Sequence[Edit]) -> list[Edit]:
    """The edits of one variable in the order in which `grown_value` carries them out."""
    return sorted(edits, key=lambda e: ("fan-out", "fan-in", "per-channel").index(e.role))


def moved(value: np.ndarray, edits: Sequence[Edit], fill: float = 0.0) -> np.ndarray:
    """The old entries of an array where the edits put them, and `fill` in all new ones."""
    return grown_value(value, [replace(e, role="per-channel", fill=fill) for e in in_order(edits)])


def new_entries(edits: Sequence[Edit], old_shape: tuple[int, ...]) -> np.ndarray:
    """Which entries of the grown variable are new."""
    return ~moved(np.ones(old_shape, bool), edits)
