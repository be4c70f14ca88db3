"""Sliding windows as keras.ops: what one tap of a convolution or pooling sees."""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from keras import ops

from keras_grow import _backend
from keras_grow.errors import RefusedError
from keras_grow.rules.base import Shadow


def padding_of(
    size: int | None, kernel: int, stride: int, dilation: int, padding: str
) -> tuple[int, int]:
    """Cells added before and after one axis. "same" as TensorFlow defines it, on all backends.

    Args:
        size: length of the axis; only "same" with a stride needs it.
    """
    reach = (kernel - 1) * dilation + 1
    if padding == "valid":
        return 0, 0
    if padding == "causal":
        return reach - 1, 0
    if stride == 1:
        total = reach - 1
    else:
        assert size is not None
        total = max((-(-size // stride) - 1) * stride + reach - size, 0)
    return total // 2, total - total // 2


def taps(
    x: Any,
    axes: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    dilation: Sequence[int],
    padding: str,
) -> Iterator[tuple[tuple[int, ...], Any]]:
    """What each cell of the kernel sees of `x`, in the order of the kernel's own layout.

    Args:
        x: tensor with the spatial dimensions at `axes`.

    Yields:
        The position in the kernel, and a tensor with the spatial sizes of the output.
    """
    pads = [(0, 0)] * len(x.shape)
    lengths = []
    for axis, k, s, d in zip(axes, kernel, strides, dilation, strict=True):
        size = x.shape[axis]
        if size is None:
            raise RefusedError(
                "Gradients of new channels need the spatial size of the tensor. Received: shape "
                f"{tuple(x.shape)}. Give growth data of a fixed size."
            )
        pads[axis] = padding_of(size, k, s, d, padding)
        reach = (k - 1) * d + 1
        lengths.append((size + sum(pads[axis]) - reach) // s + 1)
    if any(p != (0, 0) for p in pads):
        x = ops.pad(x, pads)
    for cell in itertools.product(*(range(k) for k in kernel)):
        index: list[slice] = [slice(None)] * len(x.shape)
        for axis, c, s, d, n in zip(axes, cell, strides, dilation, lengths, strict=True):
            index[axis] = slice(c * d, c * d + (n - 1) * s + 1, s)
        yield cell, x[tuple(index)]


def im2col(x: Any, channel: int, **window: Any) -> Any:
    """All taps side by side on the channel axis, cells of the kernel slowest, channels fastest.

    This is the order of a Keras kernel `(*kernel_size, in, out)` with `out` dropped.
    """
    axes = [a for a in range(1, len(x.shape)) if a != channel]
    columns = [tap for _, tap in taps(x, axes, **window)]
    return columns[0] if len(columns) == 1 else ops.concatenate(columns, axis=channel)


def spread(
    gradient: Any,
    axes: Sequence[int],
    sizes: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    dilation: Sequence[int],
    padding: str,
) -> Iterator[Any]:
    """The transpose of `taps`: for each cell of the kernel, where the output's gradient falls.

    Args:
        gradient: gradient by the convolution's output, spatial dimensions at `axes`.
        sizes: spatial sizes of the convolution's input.

    Yields:
        Tensors with the spatial sizes of the input, in the order of the kernel's layout.
    """
    befores = []
    for axis, size, k, s, d in zip(axes, sizes, kernel, strides, dilation, strict=True):
        befores.append(padding_of(size, k, s, d, padding)[0])
        if s > 1:
            shape = [-1 if n is None else n for n in gradient.shape]
            apart = ops.expand_dims(gradient, axis + 1)
            pads = [(0, 0)] * len(apart.shape)
            pads[axis + 1] = (0, s - 1)
            shape[axis] *= s
            gradient = ops.reshape(ops.pad(apart, pads), shape)
    for cell in itertools.product(*(range(k) for k in kernel)):
        pads = [(0, 0)] * len(gradient.shape)
        index: list[slice] = [slice(None)] * len(gradient.shape)
        for axis, size, c, d, before in zip(axes, sizes, cell, dilation, befores, strict=True):
            start = before - c * d
            left = max(0, -start)
            right = max(0, start + size - gradient.shape[axis])
            pads[axis] = (left, right)
            index[axis] = slice(start + left, start + left + size)
        moved = ops.pad(gradient, pads) if any(p != (0, 0) for p in pads) else gradient
        yield moved[tuple(index)]


def as_rows(tensor: Any, channel: int) -> Any:
    """(positions of all samples, channels): the channel axis last, all others merged."""
    rank = len(tensor.shape)
    if channel != rank - 1:
        order = [a for a in range(rank) if a != channel] + [channel]
        tensor = ops.transpose(tensor, order)
    return ops.reshape(tensor, (-1, tensor.shape[-1]))


class Windows(Shadow):
    """All taps of a convolution side by side, kept as the tensor they are cut from.

    Two convolutions with stride 1, one after the other, meet only through the sum of their
    kernel positions: (2k-1)^d displacements instead of (k^2)^d pairs of cells. That sum lets
    cells outside the map in between count, where the second convolution sees its zero padding;
    those are taken off again, strip by strip, so the result is exact.
    """

    def __init__(self, source: Any, axis: int, ids: np.ndarray, window: dict, factor: float = 1.0):
        object.__setattr__(self, "source", source)
        object.__setattr__(self, "axis", axis)
        object.__setattr__(self, "ids", ids)
        object.__setattr__(self, "window", window)
        object.__setattr__(self, "factor", factor)

    source: Any
    window: dict
    factor: float

    @property
    def tensor(self) -> Any:  # type: ignore[override]
        columns = im2col(self.source, self.axis, **self.window)
        return columns if self.factor == 1 else columns * self.factor

    def times(self, factor: float) -> Shadow:
        return Windows(self.source, self.axis, self.ids, self.window, self.factor * factor)

    @property
    def _axes(self) -> list[int]:
        return [a for a in range(1, len(self.source.shape)) if a != self.axis]

    def _sizes(self, gradient: Any, window: Mapping) -> tuple[list, list, list, list]:
        """Sizes of the map in between, and the padding in front of it at both convolutions."""
        first, second = self.window["kernel"], window["kernel"]
        before = [padding_of(None, k, 1, 1, self.window["padding"])[0] for k in first]
        behind = [padding_of(None, k, 1, 1, window["padding"])[0] for k in second]
        sizes = [
            self.source.shape[a] + sum(padding_of(None, k, 1, 1, self.window["padding"])) - k + 1
            for a, k in zip(self._axes, first, strict=True)
        ]
        # One past the last cell that the second convolution reaches.
        ends = [
            gradient.shape[a] + k - 1 - b
            for a, k, b in zip(self._axes, second, behind, strict=True)
        ]
        return sizes, ends, before, behind

    def pays_off(self, gradient: Any, window: dict) -> bool:
        """Whether the displacements need clearly less work than all pairs of cells."""
        for w in (self.window, window):
            if max(*w["strides"], *w["dilation"]) > 1:
                return False
        if any(self.source.shape[a] is None or gradient.shape[a] is None for a in self._axes):
            return False
        sizes, ends, _, behind = self._sizes(gradient, window)
        inside = math.prod(sizes)
        reached = math.prod(e + b for e, b in zip(ends, behind, strict=True))
        pairs = math.prod(self.window["kernel"]) * math.prod(window["kernel"])
        displacements = math.prod(
            a + b - 1 for a, b in zip(self.window["kernel"], window["kernel"], strict=True)
        )
        ours = inside * displacements + (reached - inside) * pairs
        return ours < 0.75 * inside * pairs

    def correlate(self, gradient: Any, window: dict) -> Any:
        """(cells * in, cells of the second * out): every tap with every tap of the gradient."""
        sizes, ends, before, behind = self._sizes(gradient, window)
        total = self._displaced(gradient, window, before, behind)
        for strip in _outside(sizes, ends, behind):
            columns = [
                extended(self.source, self._axes, [(lo + u - b, hi + u - b) for (lo, hi), u, b in
                                                   zip(strip, cell, before, strict=True)])
                for cell in _cells(self.window["kernel"])
            ]  # fmt: skip
            falls = [
                extended(gradient, self._axes, [(lo - w + b, hi - w + b) for (lo, hi), w, b in
                                                zip(strip, cell, behind, strict=True)])
                for cell in _cells(window["kernel"])
            ]  # fmt: skip
            total = total - _backend.matrix_product(
                as_rows(ops.concatenate(columns, axis=self.axis), self.axis),
                as_rows(ops.concatenate(falls, axis=self.axis), self.axis),
            )
        return total if self.factor == 1 else total * self.factor

    def _displaced(self, gradient: Any, window: dict, before: list, behind: list) -> Any:
        """The correlation as if the map in between had no border."""
        first, second = self.window["kernel"], window["kernel"]
        reach = [a + b - 1 for a, b in zip(first, second, strict=True)]
        shift = [a + b for a, b in zip(before, behind, strict=True)]
        sizes = [gradient.shape[a] for a in self._axes]
        lines = [self.source.shape[a] for a in self._axes]
        # The source moves along the first axis and the gradient along the others, so that
        # neither grows by all displacements. Position n of the sum is (row of the gradient,
        # columns of the source).
        moved = [
            extended(self.source, self._axes[:1], [(d - shift[0], d - shift[0] + sizes[0])])
            for d in range(reach[0])
        ]
        falls = [
            extended(gradient, self._axes[1:], [(s - d, s - d + n) for d, s, n in
                                                zip(cell, shift[1:], lines[1:], strict=True)])
            for cell in _cells(reach[1:])
        ]  # fmt: skip
        product = _backend.matrix_product(
            as_rows(ops.concatenate(moved, axis=self.axis), self.axis),
            as_rows(ops.concatenate(falls, axis=self.axis), self.axis),
        )
        into, out = self.source.shape[self.axis], gradient.shape[self.axis]
        product = ops.reshape(product, (reach[0], into, math.prod(reach[1:]), out))
        product = ops.reshape(ops.transpose(product, (0, 2, 1, 3)), (-1, into, out))
        pairs = [
            np.ravel_multi_index([a + b for a, b in zip(u, w, strict=True)], reach)
            for u in _cells(first)
            for w in _cells(second)
        ]
        blocks = ops.take(product, np.array(pairs), axis=0)
        blocks = ops.reshape(blocks, (math.prod(first), math.prod(second), into, out))
        return ops.reshape(
            ops.transpose(blocks, (0, 2, 1, 3)),
            (math.prod(first) * into, math.prod(second) * out),
        )


def _cells(kernel: Sequence[int]) -> list[tuple[int, ...]]:
    return list(itertools.product(*(range(k) for k in kernel)))


def _outside(
    sizes: Sequence[int], ends: Sequence[int], behind: Sequence[int]
) -> Iterator[list[tuple[int, int]]]:
    """Boxes that cover, once each, what lies in [-behind, end) but not in [0, size)."""
    for i, (size, end, before) in enumerate(zip(sizes, ends, behind, strict=True)):
        inner = [(0, n) for n in sizes[:i]]
        full = [(-b, e) for b, e in zip(behind[i + 1 :], ends[i + 1 :], strict=True)]
        for low, high in ((-before, 0), (size, end)):
            if high > low:
                yield [*inner, (low, high), *full]


def extended(x: Any, axes: Sequence[int], ranges: Sequence[tuple[int, int]]) -> Any:
    """x cut to `ranges` along `axes`, with zeros where a range reaches beyond it."""
    pads = [(0, 0)] * len(x.shape)
    index: list[slice] = [slice(None)] * len(x.shape)
    for axis, (start, stop) in zip(axes, ranges, strict=True):
        size = x.shape[axis]
        low, high = min(max(start, 0), size), max(min(stop, size), 0)
        high = max(low, high)
        index[axis] = slice(low, high)
        left = min(max(0, -start), stop - start)
        pads[axis] = (left, stop - start - left - (high - low))
    part = x[tuple(index)]
    return ops.pad(part, pads) if any(p != (0, 0) for p in pads) else part
