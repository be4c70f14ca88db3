"""The new value of a variable: its old entries moved, its new ones filled. NumPy only."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

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


@dataclass(eq=False)
class Copying:
    """New entries along one axis that are copies of old ones.

    Attributes:
        labels: like an edit's, but with the parent's old index at the new entries that are copies.
        factors: what every entry of the grown axis is multiplied by; None for 1.
        shifts: pairs of positions (k, n) along the grown axis and what is added there,
            (k, n, *other axes at their present size).
    """

    labels: np.ndarray
    factors: np.ndarray | None = None
    shifts: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)


def in_order(edits: Sequence[Edit]) -> list[Edit]:
    """The edits of one variable in the order in which `grown_value` carries them out."""
    return sorted(edits, key=lambda e: ("fan-out", "fan-in", "per-channel").index(e.role))


def grown_value(
    value: np.ndarray,
    edits: Sequence[Edit],
    fan_out: Mapping[Edit, list[tuple[np.ndarray, np.ndarray]]] | None = None,
    fan_in: Mapping[Edit, list[tuple[np.ndarray, np.ndarray]]] | None = None,
    seed: int = 0,
    entries: Mapping[Edit, list[tuple[np.ndarray, np.ndarray]]] | None = None,
    copies: Mapping[Edit, Copying] | None = None,
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
        entries: by per-channel edit, pairs of positions (k, n) and values (k,), where they are
            not to be the edit's fill.
        copies: edits whose new entries, or some of them, are copies of old ones.
    """
    done: list[Edit] = []
    for edit in in_order(edits):
        axis = edit.axis
        if edit.groups > 1:
            value = split_groups(value, edit.groups)
        copying = copies.get(edit) if copies else None
        if edit.role == "per-channel":
            labels = edit.labels if copying is None else copying.labels
            value = take(value, axis, labels)
            front = np.moveaxis(value, axis, 0)
            new = labels < 0
            if edit.fill is LIKE_OLD:
                old, rng = front[~new], np.random.default_rng((seed, axis))
                front[new] = rng.normal(old.mean(), old.std(), front[new].shape)
            else:
                fill = np.asarray(edit.fill, dtype=value.dtype)
                if fill.ndim == front.ndim:  # one for every new entry
                    fill = fill[new[edit.labels < 0]]
                front[new] = fill
            for positions, own in (entries or {}).get(edit, []):
                rest = (1,) * (front.ndim - 1)
                front[positions] = own.reshape(-1, 1, *rest)
        else:
            value = take(value, axis, edit.labels if copying is None else copying.labels)
            front = np.moveaxis(value, axis, 0)  # a view: writing to it writes to value
            if copying is not None:
                _adapt(front, copying, axis, done)
            chosen = (fan_out if edit.role == "fan-out" else fan_in) or {}
            for positions, rows in chosen.get(edit, []):
                front[positions] = _widened(rows, positions, axis, done)
        if edit.groups > 1:
            value = merge_groups(value, edit.groups)
            # Seen from the whole kernel, every group's rows moved as the first group's did.
            first = edit.labels[: len(edit.labels) // edit.groups]
            done.append(replace(edit, labels=np.maximum(first, -1), groups=1))
        else:
            done.append(edit)
    return np.ascontiguousarray(value)


def _widened(
    rows: np.ndarray, positions: np.ndarray, axis: int, done: Sequence[Edit]
) -> np.ndarray:
    """Rows at present sizes with zeros at the new entries of axes that have grown already."""
    for before in done:
        across = before.axis if before.axis < axis else before.axis - 1
        rows = take(rows, across + positions.ndim, before.labels)
    return rows


def _adapt(front: np.ndarray, copying: Copying, axis: int, done: Sequence[Edit]) -> None:
    if copying.factors is not None:
        front *= copying.factors.reshape(-1, *[1] * (front.ndim - 1)).astype(front.dtype)
    for positions, rows in copying.shifts:
        front[positions] += _widened(rows, positions, axis, done).astype(front.dtype)


def moved(value: np.ndarray, edits: Sequence[Edit], fill: float = 0.0) -> np.ndarray:
    """The old entries of an array where the edits put them, and `fill` in all new ones."""
    return grown_value(value, [replace(e, role="per-channel", fill=fill) for e in in_order(edits)])


def new_entries(edits: Sequence[Edit], old_shape: tuple[int, ...]) -> np.ndarray:
    """Which entries of the grown variable are new."""
    return ~moved(np.ones(old_shape, bool), edits)
