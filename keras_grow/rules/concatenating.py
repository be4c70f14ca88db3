"""Calls that put several tensors side by side: concatenations and stacks."""

import keras
import numpy as np
from keras import ops

from keras_grow.graph import Call
from keras_grow.rules.base import Rule
from keras_grow.rules.registry import register
from keras_grow.rules.shadows import NoSlope, Shadow, ShadowContext
from keras_grow.rules.space import UNKNOWN, Channels, Space


@register(keras.layers.Concatenate, "ops.Concatenate")
class ConcatenateRule(Rule):
    """New channels of a branch land in the middle, after that branch's old ones."""

    def axis(self, call: Call) -> int:
        return call.op.axis % call.inputs[0].rank

    def flow(self, call: Call, inputs: list, space: Space) -> list:
        axis = self.axis(call)
        grown = [x for x in inputs if x is not None]
        if not grown:
            return [None]
        if any(x.axis != axis for x in grown):
            if any(x is None or x.axis == axis for x in inputs):
                space.refuse(
                    call, inputs, "concatenates along another axis with tensors that do not grow"
                )
                return [None]
            joined = space.join(call, grown)
            values = np.where(
                np.all([x.values == grown[0].values for x in grown], axis=0),
                grown[0].values,
                UNKNOWN,
            )
            return [Channels(joined.axis, joined.labels, values)]
        return [space.concatenate(call, inputs, axis)]

    def shadow(self, call: Call, inputs: list, context: ShadowContext) -> list:
        axis = self.axis(call)
        parts = [x for x in inputs if x is not None]
        if parts[0].axis == axis:
            tensors = [x.tensor for x in parts]
            tensor = tensors[0] if len(tensors) == 1 else ops.concatenate(tensors, axis=axis)
            return [Shadow(tensor, axis, np.concatenate([x.ids for x in parts]))]
        full = []
        for x, ref in zip(inputs, call.inputs, strict=True):
            if x is not None:
                full.append(x.tensor)
                continue
            shape = list(parts[0].tensor.shape)
            if ref.shape[axis] is None:
                raise NoSlope(f"{call!r} joins tensors along axis {axis}, whose size is not known")
            shape[axis] = ref.shape[axis]
            full.append(ops.zeros([d or -1 for d in shape], dtype=parts[0].tensor.dtype))
        return [Shadow(ops.concatenate(full, axis=axis), parts[0].axis, parts[0].ids)]


@register("ops.Hstack")
class HstackRule(ConcatenateRule):
    def axis(self, call: Call) -> int:
        return 1


@register("ops.Vstack")
class VstackRule(ConcatenateRule):
    """Along the batch."""

    def axis(self, call: Call) -> int:
        return 0


@register("ops.Dstack")
class DstackRule(ConcatenateRule):
    def axis(self, call: Call) -> int:
        return 2

    def flow(self, call: Call, inputs: list, space: Space) -> list:
        if call.inputs[0].rank < 3:
            if any(x is not None for x in inputs):
                space.refuse(call, inputs, "puts axes around tensors of rank 2; use ops.stack")
            return [None]
        return super().flow(call, inputs, space)


@register("ops.Append")
class AppendRule(ConcatenateRule):
    def flow(self, call: Call, inputs: list, space: Space) -> list:
        if all(x is None for x in inputs):
            return [None]
        if call.op.axis is None:
            space.refuse(call, inputs, "appends to the flattened batch; give it an axis")
            return [None]
        if len(call.inputs) < 2:
            space.refuse(
                call, inputs, "appends a constant; use ops.pad or keras.layers.Concatenate"
            )
            return [None]
        return super().flow(call, inputs, space)


@register("ops.Stack")
class StackRule(Rule):
    """Tensors side by side along a new axis: all carry the same channels."""

    def flow(self, call: Call, inputs: list, space: Space) -> list:
        grown = [x for x in inputs if x is not None]
        if not grown:
            return [None]
        axis = call.op.axis % (call.inputs[0].rank + 1)
        if len(grown) < len(inputs) or any(x.axis != grown[0].axis for x in grown):
            space.refuse(call, inputs, "stacks tensors of which not all can grow alike")
            return [None]
        if axis == 0:
            space.refuse(call, inputs, "puts an axis in front of the batch")
            return [None]
        joined = space.join(call, grown)
        alike = np.all([x.values == grown[0].values for x in grown], axis=0)
        values = np.where(alike | (joined.labels >= 0), grown[0].values, UNKNOWN)
        return [Channels(joined.axis + (axis <= joined.axis), joined.labels, values)]

    def shadow(self, call: Call, inputs: list, context: ShadowContext) -> list:
        known = next(x for x in inputs if x is not None)
        tensors = [ops.zeros_like(known.tensor) if x is None else x.tensor for x in inputs]
        axis = context.axis(call.outputs[0])
        return [Shadow(ops.stack(tensors, axis=call.op.axis), axis, known.ids)]
