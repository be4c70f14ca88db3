"""Products of tensors that sum over an axis: einsum, matmul, dot, attention.

A letter of an equation names an axis in every tensor that has it, so the channels of all of them
are the same. If the letter is summed over, the channels end: exact while one of the factors is
zero in the new ones.
"""

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_grow import _keras
from keras_grow.graph import Call, Ref
from keras_grow.rules.base import Rule
from keras_grow.rules.elementwise import origin_of
from keras_grow.rules.registry import register
from keras_grow.rules.shadows import NoSlope, Shadow, ShadowContext
from keras_grow.rules.space import UNKNOWN, Channels, Space, along
from keras_grow.rules.values import is_zero, zero_stays

LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
NOT_ZERO = (
    "sums products over the channels, where the new ones of one factor must be zero; there they "
    "would not be"
)


def product_values(parts: list[Channels]) -> np.ndarray:
    """Values of the products of new entries: zero if one factor is, otherwise not known."""
    zero = np.any([part.values == 0 for part in parts], axis=0)
    return np.where(parts[0].labels < 0, np.where(zero, 0.0, UNKNOWN), 0.0)


def multiplied(call: Call, parts: list[Channels], space: Space) -> Channels:
    """The channels of a product of tensors that all have them."""
    joined = space.join(call, parts)
    zero = sum(((p.labels < 0) & (p.values == 0)).astype(int) for p in parts)
    if np.any(np.asarray(zero) > 1):  # the slope by each factor is the other one, which is 0
        space.activation(call, joined)
    return Channels(joined.axis, joined.labels, product_values(parts))


@dataclass(frozen=True)
class Equation:
    """One string of letters for every operand, and one for the output."""

    operands: list[str]
    output: str


class Contraction(Rule):
    """Base: a subclass says what the equation of a call is."""

    def equation(self, call: Call) -> Equation | str:
        """The letters of the operands, in their order; or why there are none."""
        raise NotImplementedError

    def operands(self, call: Call) -> list[Any]:
        """The operands: symbolic tensors or constants."""
        args, kwargs = _keras.node_arguments(call.node)
        return [*args, *kwargs.values()]

    def flow(self, call: Call, inputs: list, space: Space) -> list:
        if all(x is None for x in inputs):
            return [None]
        equation = self.equation(call)
        if isinstance(equation, str):
            space.refuse(call, inputs, equation)
            return [None]
        tensors = iter(zip(inputs, call.inputs, strict=True))
        letter = ""
        found: list[tuple[str, Channels | None, Ref | None]] = []
        for letters, operand in zip(equation.operands, self.operands(call), strict=True):
            x, ref = next(tensors) if isinstance(operand, keras.KerasTensor) else (None, None)
            found.append((letters, x, ref))
            if x is not None:
                if letter not in ("", letters[x.axis]):
                    space.refuse(call, inputs, "multiplies tensors whose channels differ")
                    return [None]
                letter = letters[x.axis]
        parts: list[Channels] = []
        for letters, x, ref in found:
            if letter not in letters:
                continue
            if letters.count(letter) > 1:
                space.refuse(call, inputs, "takes a diagonal of the channel axis")
                return [None]
            if x is not None:
                parts.append(x)
            elif ref is None:
                space.refuse(
                    call,
                    inputs,
                    "multiplies the channels with a constant, which has nothing for new ones; "
                    "use a layer with a kernel",
                )
                return [None]
            elif ref.shape[letters.index(letter)] != 1:
                space.refuse(
                    call,
                    inputs,
                    f"multiplies the channels with {origin_of(ref)}, whose channels cannot grow "
                    "with them",
                )
                return [None]
        result = multiplied(call, parts, space)
        if letter not in equation.output:
            space.require(call, result, is_zero, NOT_ZERO)
            return [None]
        axis = equation.output.index(letter)
        if axis == 0:
            space.refuse(call, inputs, "puts the channels in the place of the batch")
            return [None]
        return [result.at(axis)]

    def shadow(self, call: Call, inputs: list, context: ShadowContext) -> list:
        equation = self.equation(call)
        assert isinstance(equation, Equation)
        (ref,) = call.outputs
        if not context.carries(ref):
            return [None]  # the channels end here, before any kernel reads them
        axis = context.axis(ref)
        letter = equation.output[axis]
        owners = [i for i, letters in enumerate(equation.operands) if letter in letters]
        if len(owners) > 1:
            raise NoSlope(f"{call!r} multiplies new channels with each other")
        tensors = iter(zip(inputs, call.inputs, strict=True))
        operands, ids = [], np.zeros(0, int)
        for operand in self.operands(call):
            if not isinstance(operand, keras.KerasTensor):
                operands.append(operand)
                continue
            x, own = next(tensors)
            if x is None:
                operands.append(context.actual(own))
            else:
                operands.append(x.tensor)
                ids = x.ids
        subscripts = ",".join(equation.operands) + "->" + equation.output
        return [Shadow(ops.einsum(subscripts, *operands), axis, ids)]


@register("ops.Einsum")
class EinsumOpRule(Contraction):
    def operands(self, call: Call) -> list[Any]:
        return list(_keras.node_arguments(call.node)[0])

    def equation(self, call: Call) -> Equation | str:
        left, arrow, output = call.op.subscripts.replace(" ", "").partition("->")
        given = left.split(",")
        spare = [c for c in LETTERS if c not in call.op.subscripts]
        operands, longest = [], ""
        for letters, operand in zip(given, self.operands(call), strict=True):
            hidden = len(np.shape(operand)) - len(letters.replace("...", ""))
            # An ellipsis stands for axes that are aligned at their last one.
            own = "".join(spare[:26][-hidden:]) if hidden else ""
            longest = max(longest, own, key=len)
            operands.append(letters.replace("...", own))
        if not arrow:
            every = "".join(given)
            output = "..." if "..." in every else ""
            output += "".join(sorted(c for c in set(every) - {"."} if every.count(c) == 1))
        return Equation(operands, output.replace("...", longest))


class OfTwo(Contraction):
    """The product of two tensors; the letters come from their ranks."""

    def letters(self, call: Call, first: int, second: int) -> Equation | str:
        raise NotImplementedError

    def equation(self, call: Call) -> Equation | str:
        ranks = [len(np.shape(operand)) for operand in self.operands(call)]
        return self.letters(call, ranks[0], ranks[1])


def _summed(first: int, second: int, pairs: list[tuple[int, int]]) -> Equation:
    """A sum over pairs of axes; what is left of the second operand follows the first."""
    one, two = list(LETTERS[:first]), list(LETTERS[first : first + second])
    for a, b in pairs:
        two[b] = one[a]
    output = [c for i, c in enumerate(one) if i not in [a for a, _ in pairs]]
    output += [c for i, c in enumerate(two) if i not in [b for _, b in pairs]]
    return Equation(["".join(one), "".join(two)], "".join(output))


@register("ops.Matmul")
class MatmulRule(OfTwo):
    def letters(self, call: Call, first: int, second: int) -> Equation | str:
        if min(first, second) < 2:
            return _summed(first, second, [(first - 1, max(second - 2, 0))])
        stack = LETTERS[: max(first, second) - 2]
        m, k, n = "X", "Y", "Z"
        one = stack[len(stack) - (first - 2) :] + m + k
        two = stack[len(stack) - (second - 2) :] + k + n
        return Equation([one, two], stack + m + n)


@register("ops.Dot")
class DotOpRule(OfTwo):
    def letters(self, call: Call, first: int, second: int) -> Equation | str:
        if min(first, second) == 0:
            return "multiplies by a scalar; use ops.multiply"
        return _summed(first, second, [(first - 1, max(second - 2, 0))])


@register("ops.Inner")
class InnerRule(OfTwo):
    def letters(self, call: Call, first: int, second: int) -> Equation | str:
        return _summed(first, second, [(first - 1, second - 1)])


@register("ops.Vdot")
class VdotRule(OfTwo):
    def letters(self, call: Call, first: int, second: int) -> Equation | str:
        shapes = [np.shape(operand)[1:] for operand in self.operands(call)]
        if shapes[0] != shapes[1]:
            return "multiplies flattened tensors of different shapes"
        return _summed(first, second, [(a, a) for a in range(first)])


@register("ops.Tensordot")
class TensordotRule(OfTwo):
    def letters(self, call: Call, first: int, second: int) -> Equation | str:
        axes = call.op.axes
        if isinstance(axes, int):
            pairs = [(first - axes + i, i) for i in range(axes)]
        else:
            lists = [[a] if isinstance(a, int) else list(a) for a in axes]
            pairs = [(a % first, b % second) for a, b in zip(*lists, strict=True)]
        return _summed(first, second, pairs)


@register(keras.layers.Dot)
class DotLayerRule(OfTwo):
    """Sample by sample, over one axis of each; optionally of unit vectors along it."""

    def operands(self, call: Call) -> list[Any]:
        return list(_keras.node_arguments(call.node)[0][0])

    def letters(self, call: Call, first: int, second: int) -> Equation | str:
        axes = call.op.axes
        a, b = (axes, axes) if isinstance(axes, int) else axes
        plain = _summed(first, second, [(a % first, b % second)])
        one, two = plain.operands
        return Equation([one, one[0] + two[1:]], plain.output.replace(two[0], "") or one[0] + "A")

    def flow(self, call: Call, inputs: list, space: Space) -> list:
        if call.op.normalize:
            axes = call.op.axes
            pair = (axes, axes) if isinstance(axes, int) else axes
            for x, ref, axis in zip(inputs, call.inputs, pair, strict=True):
                if x is not None and x.axis != axis % ref.rank:
                    space.refuse(
                        call,
                        [x],
                        "normalises every channel by itself, and a new one of zeros has no "
                        "direction; use normalize=False",
                    )
                    return [None]
        return super().flow(call, inputs, space)


# --- attention ---------------------------------------------------------------------------------


@register("ops.DotProductAttention")
class DotProductAttentionRule(Rule):
    """Query, key and value of shape (B, T, heads, size).

    All three grow together, in their sizes or in their number of heads: Keras takes the output to
    be shaped like the query. The scale 1 / sqrt(size) is written into the call when the size grows.
    """

    def flow(self, call: Call, inputs: list, space: Space) -> list:
        if all(x is None for x in inputs):
            return [None]
        query, key, value = inputs[:3]
        if any(x is not None for x in inputs[3:]):
            space.refuse(call, inputs[3:], "takes its mask or bias from channels that could grow")
            return [None]
        heads = [x for x in inputs[:3] if x is not None and x.axis == 2]
        if heads:
            return [self._heads(call, inputs[:3], space)]
        if query is None or key is None or value is None:
            space.refuse(
                call, inputs, "takes query, key and value to be of one size, and not all can grow"
            )
            return [None]
        if any(x.axis != 3 for x in (query, key, value)):
            space.refuse(call, inputs, "attends along the channel axis")
            return [None]
        joined = space.join(call, [query, key, value])
        space.require(call, multiplied(call, [query, key], space), is_zero, NOT_ZERO)
        if _keras.argument(call.node, 5, "scale") is None:
            scale = float(call.inputs[0].shape[3]) ** -0.5
            space.attribute(call, joined, lambda: _keras.set_argument(call.node, 5, "scale", scale))
        return [_weighted_mean(value)]

    @staticmethod
    def _heads(call: Call, inputs: list, space: Space) -> Channels | None:
        sizes = {ref.shape[2] for ref in call.inputs[:3]}
        if any(x is None or x.axis != 2 for x in inputs) or len(sizes) > 1:
            space.refuse(
                call, inputs, "has heads that could not all grow, or fewer for the keys than for "
                "the queries",
            )  # fmt: skip
            return None
        joined = space.join(call, inputs)
        return _weighted_mean(Channels(2, joined.labels, inputs[2].values))

    def shadow(self, call: Call, inputs: list, context: ShadowContext) -> list:
        raise NoSlope(f"{call!r} would need its attention weights")


def _weighted_mean(value: Channels) -> Channels:
    """Channels of the values after attention: weights that add up to 1, over all positions."""
    return value.mapped(zero_stays)


class AttentionBase(Rule):
    """[query, value, key] of shape (B, T, dim); the output has the channels of the values."""

    def flow(self, call: Call, inputs: list, space: Space) -> list:
        nothing: list = [None] * len(call.outputs)
        if all(x is None for x in inputs):
            return nothing
        count = len(_keras.node_arguments(call.node)[0][0])
        if any(x is not None for x in inputs[count:]):
            space.refuse(call, inputs[count:], "takes its mask from channels that could grow")
            return nothing
        last = [
            along(space, call, x, ref.rank - 1)
            for x, ref in zip(inputs[:count], call.inputs[:count], strict=True)
        ]
        query, value, key = last if count == 3 else [*last, last[1]]
        if (query is None) != (key is None):
            space.refuse(call, inputs, "compares channels with others that cannot grow with them")
            return nothing
        if query is not None and key is not None:
            self.score(call, query, key, space)
        return [None if value is None else _weighted_mean(value), *nothing[1:]]

    def score(self, call: Call, query: Channels, key: Channels, space: Space) -> None:
        """Ends the channels of queries and keys in the scores."""
        raise NotImplementedError

    def added(self, call: Call, query: Channels, key: Channels, space: Space) -> Channels:
        """tanh(query + key), which is zero where both are."""
        joined = space.join(call, [query, key])
        zero = (query.values == 0) & (key.values == 0)
        values = np.where((joined.labels < 0) & ~zero, UNKNOWN, 0.0)
        return Channels(joined.axis, joined.labels, values)

    def shadow(self, call: Call, inputs: list, context: ShadowContext) -> list:
        raise NoSlope(f"{call!r} would need its attention weights")

    def correlate(self, call: Call, shadow: Shadow, gradient: Any) -> tuple[Any, np.ndarray]:
        raise NoSlope(f"{call!r} reads the new channels in its scores")


@register(keras.layers.Attention)
class AttentionRule(AttentionBase):
    def score(self, call: Call, query: Channels, key: Channels, space: Space) -> None:
        if call.op.score_mode == "dot":
            result = multiplied(call, [query, key], space)
        else:
            result = self.added(call, query, key, space)
        space.require(call, result, is_zero, NOT_ZERO)


@register(keras.layers.AdditiveAttention)
class AdditiveAttentionRule(AttentionBase):
    """The scores are tanh(query + key) times `scale`, which reads the channels."""

    def score(self, call: Call, query: Channels, key: Channels, space: Space) -> None:
        result = self.added(call, query, key, space)
        if call.op.scale is None:
            space.require(call, result, is_zero, NOT_ZERO)
        else:
            space.read(call, call.op.scale, 0, result)
