"""Layers and ops that re-index: Flatten, Reshape, Permute, transposes.

Nothing is derived by hand: a NumPy array of positions goes through the same re-indexing as the
tensor, and what comes out says where every channel went.
"""

import math
from collections.abc import Callable, Sequence

import keras
import numpy as np

from keras_grow import _keras
from keras_grow.errors import RefusedError
from keras_grow.graph import Call
from keras_grow.rules.base import Rule
from keras_grow.rules.registry import register
from keras_grow.rules.shadows import NoSlope, Shadow, ShadowContext
from keras_grow.rules.space import Space


class Rearrange(Rule):
    """A re-indexing of one sample, the batch axis left alone."""

    def transform(self, call: Call) -> Callable[[np.ndarray, int], np.ndarray]:
        """The re-indexing as a NumPy function.

        It takes one sample with any number of channels, and the axis that they have in the
        result, batch included.
        """
        raise NotImplementedError

    def check(self, call: Call, axis: int) -> str | None:
        """Why the call moves the batch axis or cannot be followed; None if it can."""
        return None

    def resize(self, call: Call, axis: int, size: int) -> None:
        """Changes what the op stores about the shape of its output."""

    def flow(self, call: Call, inputs: list, space: Space) -> list:
        (x,) = inputs
        if x is None:
            return [None]
        reason = self.check(call, x.axis)
        if reason is None and None in call.inputs[0].shape[1:]:
            reason = (
                f"re-indexes a tensor of unknown size {call.inputs[0].shape}; give the Input "
                "fixed sizes, or use global pooling"
            )
        if reason is not None:
            space.refuse(call, [x], reason)
            return [None]
        out = space.rearrange(call, x, self.transform(call))
        if out is not None:
            space.attribute(call, x, lambda: self.resize(call, out.axis, len(out)))
        return [out]

    def shadow(self, call: Call, inputs: list, context: ShadowContext) -> list:
        (x,) = inputs
        sample = tuple(x.tensor.shape[1:])
        shape = [1] * len(sample)
        shape[x.axis - 1] = len(x.ids)
        axis = context.axis(call.outputs[0])
        ids = self.transform(call)(np.broadcast_to(x.ids.reshape(shape), sample), axis)
        tensor = keras.ops.reshape(
            keras.ops.transpose(x.tensor, (0, *(a + 1 for a in self.order(call)))),
            (-1, *ids.shape),
        )
        index = tuple(slice(None) if a == axis - 1 else 0 for a in range(ids.ndim))
        return [Shadow(tensor, axis, ids[index])]

    def order(self, call: Call) -> tuple[int, ...]:
        """How the axes of a sample are permuted before they are reshaped."""
        return tuple(range(call.inputs[0].rank - 1))


@register(keras.layers.Flatten)
class FlattenRule(Rearrange):
    def order(self, call: Call) -> tuple[int, ...]:
        rank = call.inputs[0].rank
        if call.op.data_format == "channels_first" and rank > 2:
            return (*range(1, rank - 1), 0)
        return tuple(range(rank - 1))

    def transform(self, call: Call) -> Callable[[np.ndarray, int], np.ndarray]:
        order = self.order(call)
        return lambda sample, axis: sample.transpose(order).reshape(-1)


class AxisMap(Rule):
    """The same entries with the axes in another order, or with more or fewer axes of size 1."""

    def order(self, call: Call) -> Sequence[int | None]:
        """The axis of the input that each axis of the output is; None for a new one of size 1."""
        raise NotImplementedError

    def flow(self, call: Call, inputs: list, space: Space) -> list:
        (x,) = inputs
        if x is None:
            return [None]
        order = list(self.order(call))
        if order[:1] != [0]:
            space.refuse(call, [x], "moves the batch axis")
            return [None]
        if x.axis not in order:
            space.refuse(call, [x], "takes away the channel axis, which must stay 1 wide")
            return [None]
        return [x.at(order.index(x.axis))]

    def shadow(self, call: Call, inputs: list, context: ShadowContext) -> list:
        (x,) = inputs
        order = list(self.order(call))
        gone = tuple(a for a in range(len(x.tensor.shape)) if a not in order)
        tensor = keras.ops.squeeze(x.tensor, gone) if gone else x.tensor
        kept = [a for a in order if a is not None]
        left = sorted(kept)
        tensor = keras.ops.transpose(tensor, [left.index(a) for a in kept])
        for position, a in enumerate(order):
            if a is None:
                tensor = keras.ops.expand_dims(tensor, position)
        return [Shadow(tensor, order.index(x.axis), x.ids)]


@register(keras.layers.Permute, "ops.Transpose", "ops.Moveaxis", "ops.Swapaxes")
class PermuteRule(AxisMap):
    def order(self, call: Call) -> Sequence[int]:
        op, rank = call.op, call.inputs[0].rank
        if isinstance(op, keras.layers.Permute):
            return (0, *op.dims)
        axes = list(range(rank))
        if call.kind == "Moveaxis":
            # The shape of an array shows where its axes went.
            sample = np.empty(tuple(range(rank)))
            return np.moveaxis(sample, tuple(op.source), tuple(op.destination)).shape
        if call.kind == "Swapaxes":
            axes[op.axis1], axes[op.axis2] = axes[op.axis2], axes[op.axis1]
            return axes
        return axes[::-1] if op.axes is None else [a % rank for a in op.axes]


@register("ops.Squeeze", "ops.ExpandDims")
class UnitAxisRule(AxisMap):
    """Takes away or adds axes of size 1."""

    def order(self, call: Call) -> Sequence[int | None]:
        axis, shape = call.op.axis, call.inputs[0].shape
        rank = len(shape)
        if axis is None:
            return [a for a, d in enumerate(shape) if d != 1]
        axes = [axis] if isinstance(axis, int) else list(axis)
        if call.kind == "Squeeze":
            gone = [a % rank for a in axes]
            return [a for a in range(rank) if a not in gone]
        added = [a % (rank + len(axes)) for a in axes]
        old = iter(range(rank))
        return [None if a in added else next(old) for a in range(rank + len(axes))]


@register("ops.DepthToSpace", "ops.SpaceToDepth")
class BlocksRule(Rearrange):
    """Blocks of `block_size` squared positions become channels, or the other way round.

    A channel of a block lies at the same position in every image, so it is one channel, which
    the layer in front makes as often as a block has positions.
    """

    def transform(self, call: Call) -> Callable[[np.ndarray, int], np.ndarray]:
        size = call.op.block_size
        first = call.op.data_format == "channels_first"

        def apart(sample: np.ndarray, axis: int) -> np.ndarray:
            if first:
                sample = sample.transpose(1, 2, 0)
            h, w, depth = sample.shape
            if call.kind == "DepthToSpace":
                blocks = sample.reshape(h, w, size, size, -1).transpose(0, 2, 1, 3, 4)
                result = blocks.reshape(h * size, w * size, -1)
            else:
                blocks = sample.reshape(h // size, size, w // size, size, depth)
                result = blocks.transpose(0, 2, 1, 3, 4).reshape(h // size, w // size, -1)
            return result.transpose(2, 0, 1) if first else result

        return apart

    def shadow(self, call: Call, inputs: list, context: ShadowContext) -> list:
        (x,) = inputs
        if call.kind == "DepthToSpace":
            raise NoSlope(f"{call!r} spreads its channels over space")
        return [Shadow(call.op.call(x.tensor), x.axis, np.tile(x.ids, call.op.block_size**2))]


@register(keras.layers.RepeatVector)
class RepeatVectorRule(Rule):
    """(B, C) -> (B, n, C)."""

    def flow(self, call: Call, inputs: list, space: Space) -> list:
        (x,) = inputs
        return [None if x is None else x.at(2)]

    def shadow(self, call: Call, inputs: list, context: ShadowContext) -> list:
        (x,) = inputs
        return [Shadow(call.op.call(x.tensor), 2, x.ids)]


@register("ops.BroadcastTo")
class BroadcastRule(Rule):
    """Axes of size 1 become longer; the channel axis is none of them."""

    def flow(self, call: Call, inputs: list, space: Space) -> list:
        (x,) = inputs
        if x is None:
            return [None]
        shape = list(call.op.shape)
        axis = x.axis + len(shape) - call.inputs[0].rank
        if len(shape) != call.inputs[0].rank or shape[axis] != call.inputs[0].shape[x.axis]:
            if len(shape) != call.inputs[0].rank:
                reason = "puts an axis in front of the batch"
            else:
                reason = "broadcasts its single channel, which must stay single"
            space.refuse(call, [x], reason)
            return [None]

        def resize(size: int = len(x)) -> None:
            shape[axis] = size
            _keras.set_constructor_argument(call.op, "shape", tuple(shape))

        space.attribute(call, x, resize)
        return [x]

    def shadow(self, call: Call, inputs: list, context: ShadowContext) -> list:
        (x,) = inputs
        shape = list(call.op.shape)
        shape[0], shape[x.axis] = x.tensor.shape[0], len(x.ids)
        return [Shadow(keras.ops.broadcast_to(x.tensor, shape), x.axis, x.ids)]


@register(keras.layers.Reshape, "ops.Reshape")
class ReshapeRule(Rearrange):
    def _target(self, call: Call) -> tuple:
        """Present output shape of a sample."""
        return tuple(call.outputs[0].shape[1:])

    def check(self, call: Call, axis: int) -> str | None:
        source, target = call.inputs[0].shape, call.outputs[0].shape
        if len(target) < 1 or None in target[1:] or None in source[1:]:
            return f"reshapes {source} into {target}, which have unknown sizes"
        if not isinstance(call.op, keras.layers.Reshape) and call.op.newshape[0] not in (-1, None):
            return "reshapes the batch axis; write -1 or use keras.layers.Reshape"
        if math.prod(source[1:]) != math.prod(target[1:]):
            return "moves entries between the batch axis and the others"
        return None

    def transform(self, call: Call) -> Callable[[np.ndarray, int], np.ndarray]:
        def reshape(sample: np.ndarray, axis: int) -> np.ndarray:
            target = list(self._target(call))
            rest = math.prod(target[: axis - 1] + target[axis:])
            if sample.size % rest:
                raise RefusedError(
                    f"{call!r} makes {tuple(target)} of a sample of {sample.size} entries once "
                    f"it has grown, but they do not divide by {rest}."
                )
            target[axis - 1] = sample.size // rest
            return sample.reshape(target)

        return reshape

    def resize(self, call: Call, axis: int, size: int) -> None:
        layer = isinstance(call.op, keras.layers.Reshape)
        # A layer's target has no batch axis.
        target = list(call.op.target_shape if layer else call.op.newshape)
        position = axis - 1 if layer else axis
        if target[position] != -1:
            target[position] = size
        if layer:
            call.op.target_shape = tuple(target)
        else:
            _keras.record_reshape(call.op, tuple(target))
