"""Layers and ops that re-index: Flatten, Reshape, Permute, transposes.

Nothing is derived by hand: a NumPy array of positions goes through the same re-indexing as the
tensor, and what comes out says where every channel went.
"""

import math
from collections.abc import Callable

import keras
import numpy as np

from keras_grow import _keras
from keras_grow.errors import RefusedError
from keras_grow.graph import Call
from keras_grow.rules.base import Rule, Shadow, ShadowContext, Space, register


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


@register(keras.layers.Permute, "ops.Transpose")
class PermuteRule(Rearrange):
    def order(self, call: Call) -> tuple[int, ...]:
        if isinstance(call.op, keras.layers.Permute):
            return tuple(d - 1 for d in call.op.dims)
        rank = call.inputs[0].rank
        axes = call.op.axes
        axes = tuple(reversed(range(rank))) if axes is None else tuple(a % rank for a in axes)
        return tuple(a - 1 for a in axes[1:])

    def check(self, call: Call, axis: int) -> str | None:
        if sorted(self.order(call)) != list(range(call.inputs[0].rank - 1)):
            return "moves the batch axis"
        return None

    def transform(self, call: Call) -> Callable[[np.ndarray, int], np.ndarray]:
        order = self.order(call)
        return lambda sample, axis: sample.transpose(order)


@register("ops.Squeeze", "ops.ExpandDims")
class UnitAxisRule(Rearrange):
    """Takes away or adds axes of size 1."""

    def _positions(self, call: Call) -> tuple[int, ...]:
        """The axes of size 1, in the tensor that has them; the batch axis is 0."""
        axis, source = call.op.axis, call.inputs[0].shape
        if axis is None:
            return tuple(a for a, d in enumerate(source) if d == 1)
        axes = [axis] if isinstance(axis, int) else list(axis)
        rank = len(source) + (len(axes) if call.kind == "ExpandDims" else 0)
        return tuple(a % rank for a in axes)

    def check(self, call: Call, axis: int) -> str | None:
        positions = self._positions(call)
        if 0 in positions:
            return "changes the batch axis"
        if call.kind == "Squeeze" and axis in positions:
            return "takes away the channel axis, which must stay 1 wide"
        return None

    def transform(self, call: Call) -> Callable[[np.ndarray, int], np.ndarray]:
        positions = tuple(a - 1 for a in self._positions(call))
        if call.kind == "ExpandDims":
            return lambda sample, axis: np.expand_dims(sample, positions)
        return lambda sample, axis: np.squeeze(sample, positions)


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
