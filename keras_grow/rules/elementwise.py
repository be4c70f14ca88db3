"""Element-wise calls that take several tensors, and the same ops with a constant."""

from collections.abc import Callable
from functools import reduce
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_grow import _keras
from keras_grow.graph import Call, Ref
from keras_grow.rules.base import Rule
from keras_grow.rules.registry import register
from keras_grow.rules.shadows import NoSlope, Shadow, ShadowContext, applied
from keras_grow.rules.space import UNKNOWN, Channels, Space
from keras_grow.rules.values import not_zero

layers = keras.layers


class Join(Rule):
    """An element-wise function of several tensors, which must carry the same channels.

    Args:
        combine: the function on the values of new channels.
        weights: the derivative by input i of n, where it is a constant; None for products.
        fill: new entries of a constant with one number for every channel.
    """

    scales = False  # whether a constant is a factor

    def __init__(
        self,
        combine: Callable,
        weights: Callable[[int, int], float] | None = None,
        kind: str = "",
        fill: float = 0.0,
    ) -> None:
        self.combine = combine
        self.weights = weights
        self.kind = kind
        self.fill = fill

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
        self.check_parts(call, values, space)
        known = [np.full(len(joined), UNKNOWN) if v is None else v.values for v in values]
        with np.errstate(invalid="ignore"):
            result = np.where(new, self.combined(call, known), 0.0)
        if self.kind == "average":
            result = result / len(known)
        return [Channels(axis, joined.labels, result)]

    def adds(self, call: Call) -> bool:
        return self.weights is not None and len(call.inputs) > 1

    def note(self, call: Call, joined: Channels, parts: list[Channels], space: Space) -> None:
        """Says where new channels get no gradient; sums and extrema pass one on."""

    def check_parts(self, call: Call, values: list[Channels | None], space: Space) -> None:
        """Refuses tensors with which new channels would have no value or no slope.

        Args:
            values: the channels of every input; None where it is broadcast.
        """

    def combined(self, call: Call, known: list[np.ndarray]) -> np.ndarray:
        """Values of the result from those of every input."""
        return reduce(self._pair, known)

    def _pair(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return self.combine(a, b)

    def _with_constant(self, call: Call, x: Channels, space: Space) -> list:
        constant, first = _keras.constant_of(call.node)
        value = np.asarray(constant, dtype="float64")
        rank = call.inputs[0].rank
        axis = x.axis - rank + value.ndim  # of the constant, aligned at the last one
        grows = axis >= 0 and value.ndim <= rank and value.shape[axis] > 1
        if value.ndim > rank:
            space.refuse(call, [x], f"broadcasts the channels to the constant's {value.ndim} axes")
            return [None]
        if grows and value.shape[axis] != call.inputs[0].shape[x.axis]:
            space.refuse(call, [x], "broadcasts its single channel, which must stay single")
            return [None]
        if grows and _keras.holds_variable(call.node):
            space.refuse(
                call,
                [x],
                "combines the channels with a variable that belongs to no layer; make it a weight "
                "of a layer",
            )
            return [None]
        if grows:
            old, fill = value, self.fill
            space.attribute(
                call, x, lambda: _keras.set_constant(call.node, grown(old, axis, x, fill))
            )
            value = np.full((1,), fill)

        def pair(v: np.ndarray, c: float) -> np.ndarray:
            result = self._pair(v, np.array(c)) if first else self._pair(np.array(c), v)
            return np.broadcast_to(np.asarray(result, dtype=float), v.shape)

        self.check_constant(call, x, value, first, space)
        with np.errstate(all="ignore"):
            results = [pair(x.values, c) for c in np.unique(value).tolist()]
            same = np.all([r == results[0] for r in results], axis=0)
        return [x.mapped(lambda v: np.where(same, results[0], UNKNOWN))]

    def check_constant(
        self, call: Call, x: Channels, value: np.ndarray, first: bool, space: Space
    ) -> None:
        """Refuses constants with which new channels would have no value or no slope.

        Args:
            value: all entries that the constant has for the new channels.
            first: whether the tensor comes before the constant.
        """

    def shadow(self, call: Call, inputs: list, context: ShadowContext) -> list:
        if context.finite:
            return [self._finite(call, inputs, context)]
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

    def _finite(self, call: Call, inputs: list, context: ShadowContext) -> Shadow:
        """The call on the new channels alone, and on whatever is broadcast over them."""
        rank = max(ref.rank for ref in call.inputs)
        known = next(x for x in inputs if x is not None)
        axis = (
            known.axis
            + rank
            - next(r.rank for x, r in zip(inputs, call.inputs, strict=True) if x is not None)
        )
        if len(call.inputs) == 1:
            constant, _ = _keras.constant_of(call.node)
            at = known.axis - call.inputs[0].rank + np.ndim(constant)
            if at >= 0 and np.shape(constant)[at] > 1:
                return self._shadow_with_constant(call, known)
        full = []
        for x, ref in zip(inputs, call.inputs, strict=True):
            if x is None and _size_along(ref, axis - (rank - ref.rank)) != 1:
                raise NoSlope(f"{call!r} joins new channels with others that do not grow")
            full.append(Shadow(context.actual(ref), axis, known.ids) if x is None else x)
        return _spread(call, Shadow(applied(call, full), axis, known.ids))

    def _derivative(self, call: Call, i: int, x: Shadow, context: ShadowContext) -> Shadow | None:
        """What input i's shadow does to the output; None if nothing."""
        if self.weights is None:
            raise NoSlope(
                f"{call!r} takes a maximum or minimum of equal values, where it has no one slope"
            )
        return x.times(self.weights(i, len(call.inputs)))

    def _shadow_with_constant(self, call: Call, x: Shadow) -> Shadow:
        constant, first = _keras.constant_of(call.node)
        value = np.asarray(constant, dtype="float64")
        axis = x.axis - call.inputs[0].rank + value.ndim
        if axis >= 0 and value.shape[axis] > 1:
            value = np.full((1,), self.fill)
        if value.size > 1 and self.scales:
            return Shadow(x.tensor * ops.cast(constant, x.tensor.dtype), x.axis, x.ids)
        if value.size > 1 and self.weights is None:
            raise NoSlope(f"{call!r} has another constant at every position")
        c = float(value.flat[0])
        # Slope at 0 by exact differences: these functions are linear there or not differentiable.
        pair = (lambda v: self.combine(v, c)) if first else (lambda v: self.combine(c, v))
        up, down = float(pair(1e-3) - pair(0.0)) * 1e3, float(pair(0.0) - pair(-1e-3)) * 1e3
        if not np.isclose(up, down) or up == 0:
            raise NoSlope(f"{call!r} with the constant {c} has no slope at 0")
        return Shadow(x.tensor * up, x.axis, x.ids)


class ProductJoin(Join):
    scales = True

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


register(layers.Add, "ops.Add")(Join(lambda a, b: a + b, lambda i, n: 1.0))
register(layers.Subtract, "ops.Subtract")(Join(lambda a, b: a - b, lambda i, n: -1.0 if i else 1.0))
register(layers.Average)(Join(lambda a, b: a + b, lambda i, n: 1.0 / n, kind="average"))
register(layers.Multiply, "ops.Multiply")(ProductJoin(lambda a, b: a * b, fill=1.0))
register(layers.Maximum, "ops.Maximum", "ops.Fmax")(Join(np.maximum))
register(layers.Minimum, "ops.Minimum", "ops.Fmin")(Join(np.minimum))


def grown(value: np.ndarray, axis: int, x: Channels, fill: float) -> np.ndarray:
    """A constant with entries for the new channels put in."""
    old = x.labels >= 0
    shape = list(value.shape)
    shape[axis] = len(x)
    result = np.full(shape, fill)
    index: list[Any] = [slice(None)] * value.ndim
    index[axis] = np.flatnonzero(old)
    result[tuple(index)] = np.take(value, x.labels[old], axis=axis)
    return result


class Quotient(Join):
    """a / b: exact while b is not 0 in the new channels."""

    DIVISOR = "divides by channels, which would be 0 where they are new"

    def check_constant(
        self, call: Call, x: Channels, value: np.ndarray, first: bool, space: Space
    ) -> None:
        if not first:
            space.require(call, x, not_zero, self.DIVISOR)

    def check_parts(self, call: Call, values: list, space: Space) -> None:
        if values[1] is not None:
            space.require(call, values[1], not_zero, self.DIVISOR)

    def _pair(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        with np.errstate(all="ignore"):
            return np.where(a == 0, 0.0, self.combine(a, b))

    def _derivative(self, call: Call, i: int, x: Shadow, context: ShadowContext) -> Shadow | None:
        divisor = call.inputs[1]
        value = context.value(divisor)
        if i == 1:
            if context.value(call.inputs[0]) == 0:
                return None
            raise NoSlope(f"{call!r} divides by new channels")
        if value is not None:
            if np.isnan(value):
                raise NoSlope(f"{call!r} divides by new channels whose value is not known")
            return x.times(1.0 / value)
        other = context.actual(divisor)
        for _ in range(max(ref.rank for ref in call.inputs) - divisor.rank):
            other = ops.expand_dims(other, 1)
        return Shadow(x.tensor / ops.cast(other, x.tensor.dtype), x.axis, x.ids)


register("ops.Divide", "ops.TrueDivide", "ops.DivideNoNan")(Quotient(np.divide, fill=1.0))


class Remainder(Quotient):
    """Jumps where the dividend is 0."""

    JUMPS = "jumps at 0, where new channels would start"

    def check_constant(
        self, call: Call, x: Channels, value: np.ndarray, first: bool, space: Space
    ) -> None:
        super().check_constant(call, x, value, first, space)
        if first:
            space.require(call, x, not_zero, self.JUMPS)

    def check_parts(self, call: Call, values: list, space: Space) -> None:
        super().check_parts(call, values, space)
        if values[0] is not None:
            space.require(call, values[0], not_zero, self.JUMPS)

    def _derivative(self, call: Call, i: int, x: Shadow, context: ShadowContext) -> Shadow | None:
        raise NoSlope(f"{call!r} jumps")


register("ops.Mod", "ops.Fmod")(Remainder(np.mod, fill=1.0))
register("ops.FloorDivide")(Remainder(np.floor_divide, fill=1.0))


class Power(Join):
    """a ** b, where 0 ** b has no slope for b < 1 and none by b."""

    def check_constant(
        self, call: Call, x: Channels, value: np.ndarray, first: bool, space: Space
    ) -> None:
        if not first:
            return
        if value.min() < 1:
            reason = "has no finite slope at 0, where new channels would start"
            space.require(call, x, not_zero, reason)
        elif value.max() > 1:
            space.activation(call, x)

    def check_parts(self, call: Call, values: list, space: Space) -> None:
        reason = "raises channels to the power of others, which has no slope at 0 nor below"
        space.refuse(call, values, reason)


register("ops.Power")(Power(np.power, fill=1.0))


class NoSlopeAtZero(Join):
    """A function of two numbers that has no slope where both are 0."""

    def check_parts(self, call: Call, values: list, space: Space) -> None:
        if all(x is not None for x in values):
            parts = [x for x in values if x is not None]
            both = np.all([x.values == 0 for x in parts], axis=0) & (parts[0].labels < 0)
            at = Channels(parts[0].axis, parts[0].labels, np.where(both, 0.0, 1.0))
            space.require(call, at, not_zero, "has no slope where both tensors are 0")

    def check_constant(
        self, call: Call, x: Channels, value: np.ndarray, first: bool, space: Space
    ) -> None:
        if (value == 0).any():
            space.require(call, x, not_zero, "has no slope at 0, where new channels would start")


register("ops.Arctan2")(NoSlopeAtZero(np.arctan2, fill=1.0))
register("ops.Hypot")(NoSlopeAtZero(np.hypot, fill=1.0))
register("ops.Logaddexp")(Join(np.logaddexp))
register("ops.Logaddexp2")(Join(np.logaddexp2))
