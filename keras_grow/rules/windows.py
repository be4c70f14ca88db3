"""Sliding windows as keras.ops: what one tap of a convolution or pooling sees."""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

from keras import ops

from keras_grow.errors import RefusedError


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
