"""Arithmetic on labels along an axis: where channels lie, and where new ones go. NumPy only."""

from collections.abc import Sequence

import numpy as np


class Alike:
    """Tells classes apart by the layers which they were shown with, and how often in each."""

    def __init__(self, count: int) -> None:
        self.group = np.zeros(count, dtype=np.int64)
        self.count = 1

    def split(self, classes: np.ndarray) -> None:
        """These classes, with multiplicity, belong to one more layer."""
        found, times = np.unique(classes, return_counts=True)
        key = self.group[found] * (int(times.max(initial=0)) + 1) + times
        kinds, place = np.unique(key, return_inverse=True)
        self.group[found] = self.count + place
        self.count += len(kinds)

    def groups(self, classes: np.ndarray) -> list[int]:
        """The groups among these classes, in the order in which they appear."""
        return list(dict.fromkeys(self.group[classes].tolist()))

    def members(self, group: int, classes: np.ndarray) -> np.ndarray:
        """Those of `classes` that are in the group, each once."""
        own = classes[self.group[classes] == group]
        _, first = np.unique(own, return_index=True)
        return own[np.sort(first)]


def rows_of(labels: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Positions of each wanted label, (len(wanted), n), where every label occurs n times."""
    order = np.argsort(labels, kind="stable")
    sorted_labels = labels[order]
    first = np.searchsorted(sorted_labels, wanted, side="left")
    last = np.searchsorted(sorted_labels, wanted, side="right")
    n = int((last - first).max()) if len(wanted) else 0
    assert ((last - first) == n).all(), "a channel occurs more often than another"
    return order[first[:, None] + np.arange(n)]


def insertions(positions: np.ndarray, added: int, groups: int) -> list[tuple[int, int]]:
    """Where `added` channels go: pairs of (position they follow, number of the channel).

    A channel that occurs several times in a row gets its new neighbour as often in a row. Whether
    the new channels then meet where the old ones do is for the plan to find out.

    Args:
        positions: (width, n) of the present channels, each of which occurs n times.
        groups: the new ones are shared out over this many blocks, at the end of each.
    """
    width = len(positions)
    last = np.arange(width // groups - 1, width, width // groups)
    if positions.shape[1] == 1:
        after = np.repeat(positions[last, 0], added // groups)
        return list(zip(after.tolist(), range(added), strict=True))
    places = []
    for i, channel in enumerate(np.repeat(last, added // groups).tolist()):
        own = positions[channel]
        # With a single channel, occurrences in a row are one run of all channels each.
        breaks = np.flatnonzero(np.diff(own) > 1) if width > 1 else np.arange(len(own) - 1)
        start = 0
        for stop in [*(breaks + 1).tolist(), len(own)]:
            places += [(int(own[stop - 1]), i)] * (stop - start)
            start = stop
    return places


def runs_of(labels: np.ndarray, classes: np.ndarray, groups: int) -> int | None:
    """How many blocks of its channels a layer with groups tells apart.

    Returns:
        `groups` if every group has channels of its own, 1 if each has all of them; None if
        there are channels of others among them, or the groups have unequal parts.
    """
    if groups == 1:
        return 1
    if len(labels) % groups:
        return None
    found: list[np.ndarray] = []
    for block in labels.reshape(groups, -1):
        own = np.unique(block)
        if not any(np.array_equal(own, other) for other in found):
            found.append(own)
    whole = np.array_equal(np.concatenate(found), classes)
    return len(found) if whole and len({len(own) for own in found}) == 1 else None


def along_axis(labels: np.ndarray, axis: int, dims: Sequence[int]) -> np.ndarray:
    """Labels along an axis (batch included) of one sample."""
    shape = [1] * len(dims)
    shape[axis - 1] = len(labels)
    return np.broadcast_to(labels.reshape(shape), dims)


def varying_axes(sample: np.ndarray) -> list[int]:
    return [a for a in range(sample.ndim) if (sample != np.take(sample, [0], axis=a)).any()]
