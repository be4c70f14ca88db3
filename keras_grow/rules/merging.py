"""Calls that take several tensors, and the same element-wise ops with a constant."""

from collections.abc import Callable
from functools import reduce

import keras
import numpy as np
from keras import ops

from keras_grow import _keras
from keras_grow.graph import Call, Ref
from keras_grow.rules.base import (
    UNKNOWN,
    Channels,
    NoSlope,
    Rule,
    Shadow,
    ShadowContext,
    Space,
    register,
    register_instance,
)

layers = keras.layers


class Join(Rule):
    """An element-wise function of several tensors, which must carry the same channels.

    Args:
        combine: the function on the values of new channels.
        weights: the derivative by input i of n, where it is a constant; None for products.
    """

    def __init__(
        self, combine: Callable, weights: Callable[[int, int], float] | None = None, kind: str = ""
    ) -> None:
        self.combine = combine
        self.weights = weights
        self.kind = kind

    def flow(self, call: Call, inputs: list, space: Space) -> list:
        if all(x is None for x in inputs):
            return [None]
        if len(call.inputs) == 1:
            return self._with_constant(call, inputs[0], space)
        rank = max(ref.rank for ref in call.inputs)
        # Inputs of lower rank are aligned at the last axis, as NumPy and Keras both do.
        shifted = [
            None if x is None else x.at(x.axis + rank - ref.rank)
            for x, ref in zip(inputs, call.inputs, strict=True)
        ]
        grown = [x for x in shifted if x is not None]
        axis = grown[0].axis
        if any(x.axis != axis for x in grown):
            space.refuse(call, inputs, "joins tensors whose channels lie on different axes")
            return [None]
        parts: list[Channels] = []
        values: list[Channels | None] = []
        sizes = [_size_along(ref, axis - (rank - ref.rank)) for ref in call.inputs]
        for x, ref, size in zip(shifted, call.inputs, sizes, strict=True):
            broadcast = size == 1 and max(sizes) > 1
            if broadcast and x is not None:
                space.refuse(call, [x], "broadcasts its single channel, which must stay single")
            if x is None and not broadcast and self.adds(call):
                x = space.partner(call, len(values), grown[0])
            if x is None and not broadcast:
                space.refuse(
                    call,
                    grown,
                    f"joins the channels with {origin_of(ref)}, whose channels cannot grow with "
                    "them",
                )
                return [None]
            values.append(None if broadcast else x)
            if x is not None and not broadcast:
                parts.append(x)
        if not parts:
            return [None]
        joined = space.join(call, parts)
        new = joined.labels < 0
        self.note(call, joined, parts, space)
        known = [np.full(len(joined), UNKNOWN) if v is None else v.values for v in values]
        with np.errstate(invalid="ignore"):
            result = np.where(new, reduce(self._pair, known), 0.0)
        if self.kind == "average":
            result = result / len(known)
        return [Channels(axis, joined.labels, result)]

    def adds(self, call: Call) -> bool:
        return self.weights is not None and len(call.inputs) > 1

    def note(self, call: Call, joined: Channels, parts: list[Channels], space: Space) -> None:
        """Says where new channels get no gradient; sums and extrema pass one on."""

    def _pair(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return self.combine(a, b)

    def _with_constant(self, call: Call, x: Channels, space: Space) -> list:
        constant, first = _keras.constant_of(call.node)
        value = np.asarray(constant, dtype="float64")
        if value.size != 1:
            space.refuse(
                call,
                [x],
                f"combines the channels with a constant of shape {value.shape}; make it a scalar "
                "or a layer's weight",
            )
            return [None]
        c = float(value.reshape(()))
        pair = (lambda v: self.combine(v, c)) if first else (lambda v: self.combine(c, v))
        with np.errstate(all="ignore"):
            return [x.mapped(lambda v: np.broadcast_to(np.asarray(pair(v), dtype=float), v.shape))]

    def shadow(self, call: Call, inputs: list, context: ShadowContext) -> list:
        if len(call.inputs) == 1:
            return [self._shadow_with_constant(call, inputs[0])]
        rank = max(ref.rank for ref in call.inputs)
        terms = []
        for i, (x, ref) in enumerate(zip(inputs, call.inputs, strict=True)):
            if x is None:
                continue
            if ref.rank < rank:
                tensor = x.tensor
                for _ in range(rank - ref.rank):
                    tensor = ops.expand_dims(tensor, 1)
                x = Shadow(tensor, x.axis + rank - ref.rank, x.ids)
            term = self._derivative(call, i, x, context)
            if term is not None:
                terms.append(term)
        return [_spread(call, add_shadows(terms)) if terms else None]

    def _derivative(self, call: Call, i: int, x: Shadow, context: ShadowContext) -> Shadow | None:
        """What input i's shadow does to the output; None if nothing."""
        if self.weights is None:
            raise NoSlope(
                f"{call!r} takes a maximum or minimum of equal values, where it has no one slope"
            )
        return x.times(self.weights(i, len(call.inputs)))

    def _shadow_with_constant(self, call: Call, x: Shadow) -> Shadow:
        constant, first = _keras.constant_of(call.node)
        c = float(np.asarray(constant, dtype="float64").reshape(()))
        # Slope at 0 by exact differences: these functions are linear there or not differentiable.
        pair = (lambda v: self.combine(v, c)) if first else (lambda v: self.combine(c, v))
        up, down = float(pair(1e-3) - pair(0.0)) * 1e3, float(pair(0.0) - pair(-1e-3)) * 1e3
        if not np.isclose(up, down) or up == 0:
            raise NoSlope(f"{call!r} with the constant {c} has no slope at 0")
        return Shadow(x.tensor * up, x.axis, x.ids)


class ProductJoin(Join):
    def note(self, call: Call, joined: Channels, parts: list[Channels], space: Space) -> None:
        zero = sum(((x.labels < 0) & (x.values == 0)).astype(int) for x in parts)
        if np.any(zero > 1):  # the derivative by each factor is the other one, which is 0
            space.activation(call, joined)

    def _pair(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        zero = (a == 0) | (b == 0)  # a zero on one side is enough, whatever the other is
        return np.where(zero, 0.0, a * b)

    def _derivative(self, call: Call, i: int, x: Shadow, context: ShadowContext) -> Shadow | None:
        tensor = x.tensor
        rank = max(ref.rank for ref in call.inputs)
        for j, ref in enumerate(call.inputs):
            if j == i:
                continue
            value = context.value(ref)
            if value is None:
                other = context.actual(ref)
                for _ in range(rank - ref.rank):
                    other = ops.expand_dims(other, 1)
                tensor = tensor * ops.cast(other, tensor.dtype)
            elif np.isnan(value):
                raise NoSlope(f"{call!r} multiplies by new channels whose value is not known")
            elif value == 0.0 and context.value(call.inputs[i]) == 0.0:
                raise NoSlope(f"{call!r} multiplies new channels with each other, and both are 0")
            elif value == 0.0:
                return None
            else:
                tensor = tensor * value
        return Shadow(tensor, x.axis, x.ids)


def _size_along(ref: Ref, axis: int) -> int:
    """Entries along an axis; 1 for axes that broadcasting puts in front of a tensor."""
    return (ref.shape[axis] or 0) if axis >= 1 else 1


def _spread(call: Call, x: Shadow) -> Shadow:
    """The shadow along axes where the call broadcasts it."""
    shape = list(x.tensor.shape)
    for a, size in enumerate(call.outputs[0].shape):
        if a not in (0, x.axis) and shape[a] == 1 and size != 1:
            if size is None:
                raise NoSlope(f"{call!r} broadcasts over axis {a}, whose size is not known")
            shape[a] = size
    if shape == list(x.tensor.shape):
        return x
    return Shadow(ops.broadcast_to(x.tensor, shape), x.axis, x.ids)


def add_shadows(terms: list[Shadow]) -> Shadow:
    total = terms[0]
    for term in terms[1:]:
        total = Shadow(total.tensor + term.tensor, total.axis, total.ids)
    return total


def origin_of(ref: Ref) -> str:
    if ref.maker is None:
        return f"the model input '{ref.tensors[0].name}'"
    return f"the output of {ref.maker!r}"


_ADD = Join(lambda a, b: a + b, lambda i, n: 1.0)
_SUBTRACT = Join(lambda a, b: a - b, lambda i, n: -1.0 if i else 1.0)
_AVERAGE = Join(lambda a, b: a + b, lambda i, n: 1.0 / n, kind="average")
_MULTIPLY = ProductJoin(lambda a, b: a * b)
_MAXIMUM = Join(np.maximum)
_MINIMUM = Join(np.minimum)
register_instance(_ADD, layers.Add, "ops.Add")
register_instance(_SUBTRACT, layers.Subtract, "ops.Subtract")
register_instance(_AVERAGE, layers.Average)
register_instance(_MULTIPLY, layers.Multiply, "ops.Multiply")
register_instance(_MAXIMUM, layers.Maximum, "ops.Maximum")
register_instance(_MINIMUM, layers.Minimum, "ops.Minimum")


class Divide(Join):
    def flow(self, call: Call, inputs: list, space: Space) -> list:
        if len(call.inputs) == 1 and _keras.constant_of(call.node)[1]:
            return super().flow(call, inputs, space)
        if any(x is not None for x in inputs):
            space.refuse(call, inputs, "divides by channels that may be new, which are 0")
        return [None]


register_instance(Divide(lambda a, b: a / b), "ops.Divide", "ops.TrueDivide")


@register(layers.Concatenate, "ops.Concatenate")
class ConcatenateRule(Rule):
    """New channels of a branch land in the middle, after that branch's old ones."""

    def flow(self, call: Call, inputs: list, space: Space) -> list:
        axis = call.op.axis % call.inputs[0].rank
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
        axis = call.op.axis % call.inputs[0].rank
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
