"""Sliding windows as keras.ops: what one tap of a convolution or pooling sees."""

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from keras import ops

from keras_grow import _backend
from keras_grow.errors import RefusedError
from keras_grow.rules.shadows import Shadow


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


class Window(NamedTuple):
    """The geometry of a convolution or pooling, one entry per spatial axis."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilation: tuple[int, ...]
    padding: str

    @property
    def cells(self) -> list[tuple[int, ...]]:
        """Positions in the kernel, in the order of its layout."""
        return list(itertools.product(*(range(k) for k in self.kernel)))

    @property
    def centre(self) -> int:
        """Which of `cells` is the middle one."""
        return self.cells.index(tuple(k // 2 for k in self.kernel))

    @property
    def sliding(self) -> bool:
        """Whether it visits every position and skips none in between."""
        return max(*self.strides, *self.dilation) == 1


def spatial_axes(x: Any, channel: int) -> list[int]:
    return [a for a in range(1, len(x.shape)) if a != channel]


def taps(x: Any, channel: int, window: Window, cells: Sequence[int] | None = None) -> list[Any]:
    """What each cell of the kernel sees of `x`: tensors with the spatial sizes of the output.

    Args:
        x: tensor with its channels at axis `channel`.
        cells: only these, counted in the order of the kernel's layout.
    """
    axes = spatial_axes(x, channel)
    pads = [(0, 0)] * len(x.shape)
    lengths = []
    for axis, k, s, d in zip(axes, *window[:3], strict=True):
        size = x.shape[axis]
        if size is None:
            raise RefusedError(
                "Gradients of new channels need the spatial size of the tensor. Received: shape "
                f"{tuple(x.shape)}. Give growth data of a fixed size."
            )
        pads[axis] = padding_of(size, k, s, d, window.padding)
        reach = (k - 1) * d + 1
        lengths.append((size + sum(pads[axis]) - reach) // s + 1)
    if any(p != (0, 0) for p in pads):
        x = ops.pad(x, pads)
    found = []
    for i, cell in enumerate(window.cells):
        if cells is not None and i not in cells:
            continue
        index: list[slice] = [slice(None)] * len(x.shape)
        for axis, c, s, d, n in zip(
            axes, cell, window.strides, window.dilation, lengths, strict=True
        ):
            index[axis] = slice(c * d, c * d + (n - 1) * s + 1, s)
        found.append(x[tuple(index)])
    return found


@_backend.fused
def centre_tap(x: Any, *, channel: int, window: Window) -> Any:
    """What a kernel that is the identity gives."""
    return taps(x, channel, window, [window.centre])[0]


@_backend.fused
def im2col(x: Any, *, channel: int, window: Window) -> Any:
    """All taps side by side on the channel axis, cells of the kernel slowest, channels fastest.

    This is the order of a Keras kernel `(*kernel_size, in, out)` with `out` dropped.
    """
    return _side_by_side(taps(x, channel, window), channel)


def _side_by_side(parts: list[Any], channel: int) -> Any:
    return parts[0] if len(parts) == 1 else ops.concatenate(parts, axis=channel)


@_backend.fused
def taps_by_gradient(x: Any, gradient: Any, *, channel: int, window: Window) -> Any:
    """Gradient by a kernel from the convolution's input and its output's gradient.

    Returns:
        (*kernel, channels of x, channels of the gradient).
    """
    columns = as_rows(_side_by_side(taps(x, channel, window), channel), channel)
    product = _backend.matrix_product(columns, as_rows(gradient, channel))
    return ops.reshape(product, (*window.kernel, x.shape[channel], gradient.shape[channel]))


@_backend.fused
def by_spread_gradient(x: Any, gradient: Any, *, channel: int, window: Window) -> Any:
    """The same with the gradient spread out, which is less work if it has fewer channels.

    Returns:
        (channels of x, *kernel, channels of the gradient).
    """
    falls = _side_by_side(spread(x, gradient, channel, window), channel)
    product = _backend.matrix_product(as_rows(x, channel), as_rows(falls, channel))
    return ops.reshape(product, (x.shape[channel], *window.kernel, gradient.shape[channel]))


def spread(x: Any, gradient: Any, channel: int, window: Window) -> list[Any]:
    """The transpose of `taps`: for each cell of the kernel, where the output's gradient falls.

    Args:
        x: the convolution's input, for its sizes.
        gradient: gradient by the convolution's output.

    Returns:
        Tensors with the spatial sizes of x, in the order of the kernel's layout.
    """
    axes = spatial_axes(x, channel)
    befores = []
    for axis, k, s, d in zip(axes, *window[:3], strict=True):
        befores.append(padding_of(x.shape[axis], k, s, d, window.padding)[0])
        if s > 1:
            shape = [-1 if n is None else n for n in gradient.shape]
            apart = ops.expand_dims(gradient, axis + 1)
            pads = [(0, 0)] * len(apart.shape)
            pads[axis + 1] = (0, s - 1)
            shape[axis] *= s
            gradient = ops.reshape(ops.pad(apart, pads), shape)
    return [
        extended(
            gradient,
            axes,
            [
                (before - c * d, before - c * d + x.shape[axis])
                for axis, c, d, before in zip(axes, cell, window.dilation, befores, strict=True)
            ],
        )
        for cell in window.cells
    ]


def as_rows(tensor: Any, channel: int) -> Any:
    """(positions of all samples, channels): the channel axis last, all others merged."""
    rank = len(tensor.shape)
    if channel != rank - 1:
        order = [a for a in range(rank) if a != channel] + [channel]
        tensor = ops.transpose(tensor, order)
    return ops.reshape(tensor, (-1, tensor.shape[-1]))


class Windows(Shadow):
    """All taps of a convolution side by side, kept as the tensor they are cut from."""

    def __init__(
        self, source: Any, axis: int, ids: np.ndarray, window: Window, factor: float = 1.0
    ) -> None:
        for name, value in (
            ("source", source),
            ("axis", axis),
            ("ids", ids),
            ("window", window),
            ("factor", factor),
        ):
            object.__setattr__(self, name, value)

    source: Any
    window: Window
    factor: float

    @property
    def tensor(self) -> Any:
        columns = im2col(self.source, channel=self.axis, window=self.window)
        return columns if self.factor == 1 else columns * self.factor

    def times(self, factor: float) -> Shadow:
        return Windows(self.source, self.axis, self.ids, self.window, self.factor * factor)

    def by_displacement(self, gradient: Any, window: Window) -> Any | None:
        """`by_spread_gradient` of the taps, if it takes clearly less work this way; else None."""
        if not (self.window.sliding and window.sliding):
            return None
        shapes = (self.source.shape, gradient.shape)
        if any(shape[a] is None for shape in shapes for a in spatial_axes(self.source, self.axis)):
            return None
        between = _Between(self.source, gradient, self.axis, self.window, window)
        if not between.pays_off:
            return None
        product = by_displacement(
            self.source, gradient, channel=self.axis, first=self.window, second=window
        )
        return product if self.factor == 1 else product * self.factor


class _Between:
    """Two sliding convolutions one after the other, and the map between them.

    Attributes:
        sizes: of the map in between.
        ends: one past the last of its cells that the second convolution reaches.
        before, behind: padding in front of the first and of the second convolution.
    """

    def __init__(
        self, source: Any, gradient: Any, channel: int, first: Window, second: Window
    ) -> None:
        self.axes = spatial_axes(source, channel)
        self.pairs = len(first.cells) * len(second.cells)
        self.reach = [a + b - 1 for a, b in zip(first.kernel, second.kernel, strict=True)]
        pads = [padding_of(None, k, 1, 1, first.padding) for k in first.kernel]
        self.before = [p[0] for p in pads]
        self.behind = [padding_of(None, k, 1, 1, second.padding)[0] for k in second.kernel]
        self.sizes = [
            source.shape[a] + sum(p) - k + 1
            for a, p, k in zip(self.axes, pads, first.kernel, strict=True)
        ]
        self.ends = [
            gradient.shape[a] + k - 1 - b
            for a, k, b in zip(self.axes, second.kernel, self.behind, strict=True)
        ]

    @property
    def pays_off(self) -> bool:
        inside = math.prod(self.sizes)
        reached = math.prod(e + b for e, b in zip(self.ends, self.behind, strict=True))
        ours = inside * math.prod(self.reach) + (reached - inside) * self.pairs
        return ours < 0.75 * inside * self.pairs

    def outside(self) -> Iterator[list[tuple[int, int]]]:
        """Boxes that cover, once each, the cells reached that lie outside the map."""
        for i, (size, end, low) in enumerate(zip(self.sizes, self.ends, self.behind, strict=True)):
            inner = [(0, n) for n in self.sizes[:i]]
            full = [(-b, e) for b, e in zip(self.behind[i + 1 :], self.ends[i + 1 :], strict=True)]
            for start, stop in ((-low, 0), (size, end)):
                if stop > start:
                    yield [*inner, (start, stop), *full]


@_backend.fused
def by_displacement(
    source: Any, gradient: Any, *, channel: int, first: Window, second: Window
) -> Any:
    """Every tap of one convolution with every tap of the gradient behind a second one.

    With stride 1 the two meet only through the sum of their kernel positions: (2k-1)^d
    displacements instead of (k^2)^d pairs of cells. That sum lets cells outside the map in
    between count, where the second convolution sees its zero padding; those are taken off
    again, box by box, so the result is exact.

    Returns:
        (cells of the first * channels of the source, *second kernel, channels of the gradient).
    """
    between = _Between(source, gradient, channel, first, second)
    total = _without_border(source, gradient, channel, first, second, between)
    for box in between.outside():
        columns = [
            extended(source, between.axes, _moved(box, cell, between.before, 1))
            for cell in first.cells
        ]
        falls = [
            extended(gradient, between.axes, _moved(box, cell, between.behind, -1))
            for cell in second.cells
        ]
        total = total - _backend.matrix_product(
            as_rows(_side_by_side(columns, channel), channel),
            as_rows(_side_by_side(falls, channel), channel),
        )
    return ops.reshape(total, (total.shape[0], *second.kernel, gradient.shape[channel]))


def _moved(
    box: Sequence[tuple[int, int]], cell: Sequence[int], padding: Sequence[int], sign: int
) -> list[tuple[int, int]]:
    return [
        (low + sign * (c - p), high + sign * (c - p))
        for (low, high), c, p in zip(box, cell, padding, strict=True)
    ]


def _without_border(
    source: Any, gradient: Any, channel: int, first: Window, second: Window, between: _Between
) -> Any:
    """The correlation as if the map in between had no border."""
    axes, reach = between.axes, between.reach
    shift = [a + b for a, b in zip(between.before, between.behind, strict=True)]
    rows = gradient.shape[axes[0]]
    # The source moves along the first axis and the gradient along the others, so that neither
    # is copied for all displacements. What is summed over: rows of the gradient, columns of the
    # source.
    moved = [
        extended(source, axes[:1], [(d - shift[0], d - shift[0] + rows)]) for d in range(reach[0])
    ]
    others = list(itertools.product(*(range(r) for r in reach[1:])))
    falls = [
        extended(
            gradient,
            axes[1:],
            [
                (s - d, s - d + source.shape[a])
                for d, s, a in zip(cell, shift[1:], axes[1:], strict=True)
            ],
        )
        for cell in others
    ]
    product = _backend.matrix_product(
        as_rows(_side_by_side(moved, channel), channel),
        as_rows(_side_by_side(falls, channel), channel),
    )
    into, out = source.shape[channel], gradient.shape[channel]
    product = ops.reshape(product, (reach[0], into, len(others), out))
    product = ops.reshape(ops.transpose(product, (0, 2, 1, 3)), (-1, into, out))
    pairs = [
        np.ravel_multi_index([a + b for a, b in zip(u, w, strict=True)], reach)
        for u in first.cells
        for w in second.cells
    ]
    blocks = ops.take(product, np.array(pairs), axis=0)
    blocks = ops.reshape(blocks, (len(first.cells), len(second.cells), into, out))
    return ops.reshape(
        ops.transpose(blocks, (0, 2, 1, 3)),
        (len(first.cells) * into, len(second.cells) * out),
    )


@_backend.fused
def rows_product(x: Any, gradient: Any, *, channel: int) -> Any:
    """(channels of x, channels of the gradient), summed over all positions of all samples."""
    return _backend.matrix_product(as_rows(x, channel), as_rows(gradient, len(gradient.shape) - 1))


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
