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

    def transform(self, call: Call) -> Callable[[np.ndarray], np.ndarray]:
        """The re-indexing as a NumPy function on one sample with any number of channels."""
        raise NotImplementedError

    def check(self, call: Call) -> str | None:
        """Why the call moves the batch axis or cannot be followed; None if it can."""
        return None

    def resize(self, call: Call, sample: tuple) -> None:
        """Changes what the op stores about sizes; `sample` is the new input shape, no batch."""

    def flow(self, call: Call, inputs: list, space: Space) -> list:
        (x,) = inputs
        if x is None:
            return [None]
        reason = self.check(call)
        dims = list(call.inputs[0].shape[1:])
        if reason is None and None in dims:
            reason = (
                f"re-indexes a tensor of unknown size {call.inputs[0].shape}; give the Input "
                "fixed sizes, or use global pooling"
            )
        if reason is not None:
            space.refuse(call, [x], reason)
            return [None]
        dims[x.axis - 1] = len(x)
        out = space.rearrange(call, x, self.transform(call))
        space.attribute(call, x, lambda: self.resize(call, tuple(dims)))
        return [out]

    def shadow(self, call: Call, inputs: list, context: ShadowContext) -> list:
        (x,) = inputs
        sample = tuple(x.tensor.shape[1:])
        ids = self._ids(call, x, sample)
        tensor = keras.ops.reshape(
            keras.ops.transpose(x.tensor, (0, *(a + 1 for a in self.order(call)))),
            (-1, *ids.shape),
        )
        varying = [a for a in range(ids.ndim) if (ids != np.take(ids, [0], axis=a)).any()]
        axis = varying[0] if varying else max(ids.ndim - 1, 0)
        if len(varying) > 1:
            raise RefusedError(f"{call!r} spreads the channels over several axes")
        index = tuple(slice(None) if a == axis else 0 for a in range(ids.ndim))
        return [Shadow(tensor, axis + 1, ids[index])]

    def order(self, call: Call) -> tuple[int, ...]:
        """How the axes of a sample are permuted before they are reshaped."""
        return tuple(range(call.inputs[0].rank - 1))

    def _ids(self, call: Call, x: Shadow, sample: tuple) -> np.ndarray:
        shape = [1] * len(sample)
        shape[x.axis - 1] = len(x.ids)
        return self.transform(call)(np.broadcast_to(x.ids.reshape(shape), sample))


@register(keras.layers.Flatten)
class FlattenRule(Rearrange):
    def order(self, call: Call) -> tuple[int, ...]:
        rank = call.inputs[0].rank
        if call.op.data_format == "channels_first" and rank > 2:
            return (*range(1, rank - 1), 0)
        return tuple(range(rank - 1))

    def transform(self, call: Call) -> Callable[[np.ndarray], np.ndarray]:
        order = self.order(call)
        return lambda sample: sample.transpose(order).reshape(-1)


@register(keras.layers.Permute, "ops.Transpose")
class PermuteRule(Rearrange):
    def order(self, call: Call) -> tuple[int, ...]:
        if isinstance(call.op, keras.layers.Permute):
            return tuple(d - 1 for d in call.op.dims)
        rank = call.inputs[0].rank
        axes = call.op.axes
        axes = tuple(reversed(range(rank))) if axes is None else tuple(a % rank for a in axes)
        return tuple(a - 1 for a in axes[1:])

    def check(self, call: Call) -> str | None:
        if sorted(self.order(call)) != list(range(call.inputs[0].rank - 1)):
            return "moves the batch axis"
        return None

    def transform(self, call: Call) -> Callable[[np.ndarray], np.ndarray]:
        order = self.order(call)
        return lambda sample: sample.transpose(order)


@register("ops.Squeeze", "ops.ExpandDims")
class UnitAxisRule(Rearrange):
    """Takes away or adds axes of size 1."""

    def check(self, call: Call) -> str | None:
        source, target = call.inputs[0].shape, call.outputs[0].shape
        return None if source[:1] == target[:1] else "changes the batch axis"

    def transform(self, call: Call) -> Callable[[np.ndarray], np.ndarray]:
        axis, rank = call.op.axis, call.inputs[0].rank
        if call.kind == "ExpandDims":
            position = (axis if axis >= 0 else axis + rank + 1) - 1
            return lambda sample: np.expand_dims(sample, position)
        axes = [axis] if isinstance(axis, int) else list(axis or ())
        if axis is None:
            axes = [a for a, d in enumerate(call.inputs[0].shape) if d == 1]
        positions = tuple(a % rank - 1 for a in axes)
        return lambda sample: np.squeeze(sample, positions)


@register(keras.layers.Reshape, "ops.Reshape")
class ReshapeRule(Rearrange):
    def _target(self, call: Call) -> tuple:
        """Present output shape of a sample."""
        return tuple(call.outputs[0].shape[1:])

    def check(self, call: Call) -> str | None:
        source, target = call.inputs[0].shape, call.outputs[0].shape
        if len(target) < 1 or None in target[1:] or None in source[1:]:
            return f"reshapes {source} into {target}, which have unknown sizes"
        if not isinstance(call.op, keras.layers.Reshape) and call.op.newshape[0] not in (-1, None):
            return "reshapes the batch axis; write -1 or use keras.layers.Reshape"
        if math.prod(source[1:]) != math.prod(target[1:]):
            return "moves entries between the batch axis and the others"
        return None

    def transform(self, call: Call) -> Callable[[np.ndarray], np.ndarray]:
        source, target = tuple(call.inputs[0].shape[1:]), self._target(call)
        return lambda sample: sample.reshape(resized_target(source, target, sample.shape))

    def resize(self, call: Call, sample: tuple) -> None:
        source, target = tuple(call.inputs[0].shape[1:]), self._target(call)
        new = resized_target(source, target, sample)
        if isinstance(call.op, keras.layers.Reshape):
            old = call.op.target_shape
            call.op.target_shape = tuple(
                -1 if o == -1 else n for o, n in zip(old, new, strict=True)
            )
        else:
            old = call.op.newshape
            _keras.record_reshape(
                call.op,
                (old[0], *(-1 if o == -1 else n for o, n in zip(old[1:], new, strict=True))),
            )


def resized_target(source: tuple, target: tuple, sample: tuple) -> tuple:
    """The shape a grown sample must be reshaped to.

    Source and target are cut into the shortest runs of axes with equal products. In a run that
    grows, the last axis of the target takes the growth.

    Args:
        source, target: the shapes before growth, without the batch axis.
        sample: the shape of the grown input.

    Raises:
        RefusedError: the growth does not divide.
    """
    result: list[int] = []
    i = j = 0
    while i < len(source) or j < len(target):
        a, b = i, j
        left = right = 1
        while True:
            if left == right and i > a and j > b:
                break
            if (left <= right and i < len(source)) or j == len(target):
                left *= source[i]
                i += 1
            else:
                right *= target[j]
                j += 1
            if i == len(source) and j == len(target):
                break
        grown = math.prod(sample[a:i])
        run = list(target[b:j])
        if run and grown != math.prod(run):
            rest = math.prod(run[:-1])
            if grown % rest:
                raise RefusedError(
                    f"reshapes {source} into {target}; with the growth, {grown} entries do not "
                    f"divide into {rest} equal parts"
                )
            run[-1] = grown // rest
        result += run
    return tuple(result)
