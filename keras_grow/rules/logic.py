"""Comparisons, logical ops and `where`: element-wise calls in which nothing has a slope."""

import keras
import numpy as np

from keras_grow import _keras
from keras_grow.graph import Call
from keras_grow.rules.elementwise import Join
from keras_grow.rules.registry import register
from keras_grow.rules.shadows import NoSlope, ShadowContext
from keras_grow.rules.space import UNKNOWN, Channels, Space
from keras_grow.rules.values import not_zero


class Logical(Join):
    """A truth value for each entry; nothing has a slope."""

    def note(self, call: Call, joined: Channels, parts: list[Channels], space: Space) -> None:
        space.activation(call, joined)

    def check_constant(
        self, call: Call, x: Channels, value: np.ndarray, first: bool, space: Space
    ) -> None:
        space.activation(call, x)

    def _pair(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        known = np.isnan(a) | np.isnan(b)
        return np.where(known, UNKNOWN, self.combine(a, b).astype(float))

    def shadow(self, call: Call, inputs: list, context: ShadowContext) -> list:
        return [None]


class Comparison(Logical):
    """Jumps where both sides are equal."""

    JUMPS = "compares new channels with what they are equal to, and would change with their sign"

    def check_parts(self, call: Call, values: list, space: Space) -> None:
        parts = [x for x in values if x is not None]
        if len(parts) == 2:
            equal = parts[0].values == parts[1].values
            at = Channels(parts[0].axis, parts[0].labels, np.where(equal, 0.0, 1.0))
            space.require(call, at, not_zero, self.JUMPS)

    def check_constant(
        self, call: Call, x: Channels, value: np.ndarray, first: bool, space: Space
    ) -> None:
        super().check_constant(call, x, value, first, space)
        space.require(call, x, lambda v: ~np.isin(v, value), self.JUMPS)


for _name, _compare in {
    "Greater": np.greater, "GreaterEqual": np.greater_equal, "Less": np.less,
    "LessEqual": np.less_equal, "Equal": np.equal, "NotEqual": np.not_equal,
}.items():  # fmt: skip
    register(f"ops.{_name}")(Comparison(_compare))
register("ops.LogicalAnd")(Logical(np.logical_and))
register("ops.LogicalOr")(Logical(np.logical_or))
register("ops.LogicalXor")(Logical(np.logical_xor))


class Where(Join):
    """`ops.where(condition, x1, x2)` of tensors and numbers."""

    def flow(self, call: Call, inputs: list, space: Space) -> list:
        if all(x is None for x in inputs):
            return [None]
        operands = self._operands(call)
        if len(operands) != 3 or any(
            not isinstance(o, keras.KerasTensor) and np.size(o) != 1 for o in operands
        ):
            space.refuse(call, inputs, "chooses from constants that are no single numbers")
            return [None]
        if len(call.inputs) > 1:
            return super().flow(call, inputs, space)
        return [inputs[0].mapped(lambda v: self.combined(call, [v]))]

    @staticmethod
    def _operands(call: Call) -> list:
        args, kwargs = _keras.node_arguments(call.node)
        return [*args, *kwargs.values()]

    def combined(self, call: Call, known: list[np.ndarray]) -> np.ndarray:
        values = iter(known)
        condition, a, b = (
            next(values) if isinstance(o, keras.KerasTensor) else np.full_like(known[0], float(o))
            for o in self._operands(call)
        )
        unclear = np.where(a == b, a, UNKNOWN)
        return np.where(np.isnan(condition), unclear, np.where(condition != 0, a, b))

    def shadow(self, call: Call, inputs: list, context: ShadowContext) -> list:
        raise NoSlope(f"{call!r} chooses between tensors")


register("ops.Where")(Where(np.maximum))
