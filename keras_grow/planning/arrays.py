"""The new value of a variable: its old entries moved, its new ones filled. NumPy only."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from keras_grow.planning.plan import Edit
from keras_grow.rules import LIKE_OLD


def take(value: np.ndarray, axis: int, labels: np.ndarray, fill: float = 0.0) -> np.ndarray:
    """Moves the entries along one axis to where `labels` says; new entries are `fill`."""
    axis %= value.ndim
    index: tuple = (slice(None),) * axis
    if not (labels < 0).any():
        return np.take(value, labels, axis=axis)
    result = np.full(
        (*value.shape[:axis], len(labels), *value.shape[axis + 1 :]), fill, value.dtype
    )
    old = np.flatnonzero(labels >= 0)
    # Run by run: indexing by slices is several times faster than by numbers.
    breaks = np.flatnonzero((np.diff(old) != 1) | (np.diff(labels[old]) != 1)) + 1
    if len(breaks) > 8:
        result[(*index, old)] = np.take(value, labels[old], axis=axis)
        return result
    for run in np.split(old, breaks):
        if len(run):
            there, source = slice(run[0], run[-1] + 1), labels[run[0]]
            result[(*index, there)] = value[(*index, slice(source, source + len(run)))]
    return result


def split_groups(kernel: np.ndarray, groups: int) -> np.ndarray:
    """(*k, in / G, filters) seen as (*k, in, filters / G), groups side by side on the input."""
    *size, rows, filters = kernel.shape
    blocks = kernel.reshape(*size, rows, groups, filters // groups)
    return np.moveaxis(blocks, -2, -3).reshape(*size, groups * rows, filters // groups)


def merge_groups(kernel: np.ndarray, groups: int) -> np.ndarray:
    """The inverse of `split_groups`."""
    *size, rows, filters = kernel.shape
    blocks = kernel.reshape(*size, groups, rows // groups, filters)
    return np.moveaxis(blocks, -3, -2).reshape(*size, rows // groups, groups * filters)


def grown_value(
    value: np.ndarray,
    edits: Sequence[Edit],
    fan_out: dict[Edit, list[tuple[np.ndarray, np.ndarray]]] | None = None,
    fan_in: dict[Edit, list[tuple[np.ndarray, np.ndarray]]] | None = None,
    seed: int = 0,
) -> np.ndarray:
    """The value of a variable after all its edits.

    Where a new row meets a new column the entry is zero: that keeps both proofs.

    Args:
        value: the present value.
        edits: the edits of this variable.
        fan_out: by edit, pairs of positions (k, n) along the grown axis and values
            (k, n, *other axes at their present size). Rows left out stay zero.
        fan_in: the same for new columns.
        seed: of the new entries that may hold anything.
    """
    ordered = sorted(edits, key=lambda e: ("fan-out", "fan-in", "per-channel").index(e.role))
    done: list[Edit] = []
    for edit in ordered:
        axis = edit.axis
        if edit.groups > 1:
            value = split_groups(value, edit.groups)
        if edit.role == "per-channel":
            value = take(value, axis, edit.labels)
            moved = np.moveaxis(value, axis, 0)
            new = edit.labels < 0
            if edit.fill is LIKE_OLD:
                old, rng = moved[~new], np.random.default_rng((seed, axis))
                moved[new] = rng.normal(old.mean(), old.std(), moved[new].shape)
            else:
                moved[new] = np.asarray(edit.fill, dtype=value.dtype)
        else:
            value = take(value, axis, edit.labels)
            moved = np.moveaxis(value, axis, 0)  # a view: writing to it writes to value
            chosen = (fan_out if edit.role == "fan-out" else fan_in) or {}
            for positions, rows in chosen.get(edit, []):
                for before in done:  # axes that have grown already get zeros at their new entries
                    across = before.axis if before.axis < axis else before.axis - 1
                    rows = take(rows, across + positions.ndim, before.labels)
                moved[positions] = rows
        if edit.groups > 1:
            value = merge_groups(value, edit.groups)
            # Seen from the whole kernel, every group's rows moved as the first group's did.
            first = edit.labels[: len(edit.labels) // edit.groups]
            done.append(replace(edit, labels=np.maximum(first, -1), groups=1))
        else:
            done.append(edit)
    return np.ascontiguousarray(value)
