"""Ops along an axis: reductions, running sums, orders, normalisations.

Along other axes than the channels' every channel is treated by itself. Over the channels
themselves a sum or a norm is exact while new channels are 0; a mean, a maximum or a rank is not.
"""

import keras
import numpy as np
from keras import ops

from keras_grow import _keras
from keras_grow.graph import Call
from keras_grow.rules.base import Rule
from keras_grow.rules.registry import register
from keras_grow.rules.shadows import NoSlope, Shadow, ShadowContext, applied
from keras_grow.rules.space import Space
from keras_grow.rules.values import Values, constant, is_zero, not_zero, same, unknown, zero_stays


def axes_of(call: Call, name: str = "axis") -> list[int]:
    rank, axis = call.inputs[0].rank, getattr(call.op, name)
    if axis is None:
        return list(range(rank))
    return [a % rank for a in ([axis] if isinstance(axis, int) else list(axis))]


class Reduction(Rule):
    """Takes axes away, or makes them 1 long.

    Args:
        over: why the channel axis itself cannot be reduced; None where zeros change nothing.
        values: values of new channels after a reduction over other axes, by their values before.
        shadow: what a reduction over other axes does to a small change, equal everywhere: "linear",
            "mean" of it, or None where that cannot be said.
        flat: whether new channels get no gradient where they are 0.
        needs: what their values must satisfy if other axes are reduced, and the reason.
        axis: attribute of the op.
    """

    def __init__(
        self,
        over: str | None,
        values: Values = same,
        shadow: str | None = None,
        flat: bool = False,
        needs: tuple[Values, str] | None = None,
        axis: str = "axis",
    ) -> None:
        self.over = over
        self.values = values
        self.kind = shadow
        self.flat = flat
        self.needs = needs
        self.axis = axis

    def _after(self, call: Call, axis: int) -> int:
        axes = axes_of(call, self.axis)
        kept = getattr(call.op, "keepdims", False)
        return axis if kept else axis - sum(a < axis for a in axes)

    def flow(self, call: Call, inputs: list, space: Space) -> list:
        x = inputs[0]
        count = len(call.outputs)
        if any(other is not None for other in inputs[1:]):
            space.refuse(call, inputs, "takes weights or positions from channels that could grow")
            return [None] * count
        if x is None:
            return [None] * count
        axes = axes_of(call, self.axis)
        if x.axis in axes:
            if self.over is not None:
                space.refuse(call, [x], f"reduces over the channel axis itself: {self.over}")
                return [None] * count
            space.require(
                call, x, is_zero, "reduces over the channels, where new ones would not be 0"
            )
            if self.flat:
                space.activation(call, x)
            return [None] * count
        if 0 in axes:
            space.refuse(
                call, [x], "reduces over the batch axis, where a new channel changes the result"
            )
            return [None] * count
        if self._odd(call):
            space.refuse(call, [x], "puts an axis in front of the batch")
            return [None] * count
        if self.needs is not None:
            space.require(call, x, *self.needs)
        if self.flat:
            space.activation(call, x)
        out = x.mapped(lambda v: self.after(call, v)).at(self._after(call, x.axis))
        return [out] * count

    def after(self, call: Call, values: np.ndarray) -> np.ndarray:
        return self.values(values)

    @staticmethod
    def _odd(call: Call) -> bool:
        """Whether a quantile is asked for several fractions, which become the first axis."""
        return call.kind.endswith(("ntile", "Quantile")) and np.ndim(
            ops.convert_to_numpy(_keras.argument(call.node, 1, "q"))
        ) > 0  # fmt: skip

    def shadow(self, call: Call, inputs: list, context: ShadowContext) -> list:
        x = inputs[0]
        if x.axis in axes_of(call, self.axis):
            return [None] * len(call.outputs)  # the channels end here, before any kernel
        if context.finite:
            if len(call.outputs) > 1:
                raise NoSlope(f"{call!r} has several outputs")
            tensor = applied(call, inputs)
        elif self.kind == "linear" or (self.kind == "mean" and not context.linear):
            tensor = call.op.call(x.tensor)
        elif self.kind == "mean":
            keep = getattr(call.op, "keepdims", False)
            tensor = ops.mean(x.tensor, axis=tuple(axes_of(call, self.axis)), keepdims=keep)
        else:
            raise NoSlope(f"{call!r} has no one slope where all entries are equal")
        return [Shadow(tensor, self._after(call, x.axis), x.ids)]


class Extremum(Reduction):
    """Also compares with the `initial` value, where one is given."""

    def after(self, call: Call, values: np.ndarray) -> np.ndarray:
        initial = getattr(call.op, "initial", None)
        if initial is None:
            return values
        choose = np.maximum if call.kind == "Max" else np.minimum
        return choose(values, float(initial))


_FEWER = "it depends on how many channels there are"
_MEAN = f"{_FEWER}; divide ops.sum of them by a fixed number instead of taking the mean"
_BEST = "a new channel may be the largest or smallest"
_COUNTS = "a new channel counts from the moment on when it is not 0"
_JUMPS = (not_zero, "jumps at 0, where new channels would start")
_NO_SLOPE = (not_zero, "has no slope at 0, where new channels would start")
for _rule, _names in (
    (Reduction(None, zero_stays, "linear"), "Sum Nansum"),
    (Reduction(None, zero_stays, flat=True, needs=_NO_SLOPE), "Norm"),
    (Reduction(_COUNTS, zero_stays, flat=True, needs=_JUMPS), "Any All CountNonzero"),
    (Reduction(_MEAN, same, "linear"), "Mean Nanmean"),
    (Reduction(_MEAN, same), "Average"),
    (Extremum(_BEST, same, "mean"), "Max Amax Nanmax"),
    (Extremum(_BEST, same, "mean"), "Min Amin Nanmin"),
    (Reduction(_BEST, constant(0.0), flat=True), "Ptp"),
    (Reduction("a new channel of 0 makes it 0", zero_stays, flat=True), "Prod Nanprod"),
    (Reduction(_FEWER, constant(0.0), flat=True), "Var Nanvar"),
    (Reduction("a new channel of 0 adds exp(0) to the sum", unknown), "Logsumexp"),
    (Reduction(_BEST, unknown, flat=True), "Argmax Argmin Nanargmax Nanargmin"),
    (Reduction(_FEWER, same), "Median Nanmedian Quantile Nanquantile Percentile Nanpercentile"),
):
    for _name in _names.split():
        register(f"ops.{_name}")(_rule)

_SPREAD = (np.isnan, "is a root with no slope where all entries are equal, as new channels are")
register("ops.Std", "ops.Nanstd")(Reduction(_FEWER, unknown, needs=_SPREAD))


@register("ops.Moments")
class MomentsRule(Reduction):
    """Mean and variance at once."""

    def __init__(self) -> None:
        super().__init__(_MEAN, same, axis="axes")

    def flow(self, call: Call, inputs: list, space: Space) -> list:
        mean, variance = super().flow(call, inputs, space)
        if variance is not None:
            variance = variance.mapped(constant(0.0))
        return [mean, variance]


class AlongAxis(Rule):
    """Keeps the shape; mixes entries along some axes, of which the channels' must be none.

    Args:
        over: why the channels themselves cannot be mixed.
        values: values of new channels where other axes are mixed.
        linear: whether it is linear there.
        flat, needs: as for `Reduction`.
    """

    def __init__(
        self,
        over: str,
        values: Values,
        linear: bool = False,
        flat: bool = False,
        needs: tuple[Values, str] | None = None,
    ) -> None:
        self.over = over
        self.values = values
        self.linear = linear
        self.flat = flat
        self.needs = needs

    def flow(self, call: Call, inputs: list, space: Space) -> list:
        x = inputs[0]
        if any(other is not None for other in inputs[1:]):
            space.refuse(call, inputs, "takes a mask or weights from channels that could grow")
            return [None]
        if x is None:
            return [None]
        axes = axes_of(call)
        if x.axis in axes:
            space.refuse(call, [x], self.over)
            return [None]
        if 0 in axes:
            space.refuse(call, [x], "works along the batch axis")
            return [None]
        if self.needs is not None:
            space.require(call, x, *self.needs)
        if self.flat:
            space.activation(call, x)
        return [x.mapped(self.values)]

    def shadow(self, call: Call, inputs: list, context: ShadowContext) -> list:
        x = inputs[0]
        if not self.linear:
            raise NoSlope(f"{call!r} has no rule for gradients of new channels")
        return [Shadow(call.op.call(x.tensor), x.axis, x.ids)]


_SOFTMAX = AlongAxis("mixes all channels, so a new one changes the old ones", unknown)
register(keras.layers.Softmax, "ops.Softmax", "ops.LogSoftmax", "ops.Sparsemax")(_SOFTMAX)
_ORDER = "ranks the channels, among which a new one can be anywhere"
_RUN = "runs along the channels, so each sees those before it"
register("ops.Sort")(AlongAxis(_ORDER, same))
register("ops.Argsort", "ops.Argpartition")(AlongAxis(_ORDER, unknown, flat=True))
register("ops.Cumsum", "ops.Nancumsum")(AlongAxis(_RUN, zero_stays, linear=True))
register("ops.Cumprod", "ops.Nancumprod")(AlongAxis(_RUN, zero_stays, flat=True))


@register("ops.Diff")
class DiffRule(AlongAxis):
    def __init__(self) -> None:
        super().__init__(
            "takes differences of neighbouring channels", constant(0.0), linear=True
        )  # fmt: skip


@register("ops.Trapezoid")
class TrapezoidRule(Reduction):
    """The integral along one axis."""

    def __init__(self) -> None:
        super().__init__("it lies between neighbouring channels", zero_stays, "linear")

    def flow(self, call: Call, inputs: list, space: Space) -> list:
        if call.op.x is not None and any(x is not None for x in inputs):
            space.refuse(call, inputs, "integrates over given points; use ops.sum with weights")
            return [None]
        return super().flow(call, inputs, space)


@register("ops.Normalize")
class NormalizeRule(Rule):
    """Unit length along an axis; zeros do not change the length of any order."""

    def flow(self, call: Call, inputs: list, space: Space) -> list:
        (x,) = inputs
        if x is None:
            return [None]
        axes = axes_of(call)
        if 0 in axes:
            space.refuse(call, [x], "works along the batch axis")
            return [None]
        if x.axis in axes:
            space.require(call, x, is_zero, "divides by a length that new channels would change")
            return [x]
        space.require(
            call, x, not_zero, "normalises every channel by itself, and new ones have no length"
        )
        return [x.mapped(unknown)]

    def shadow(self, call: Call, inputs: list, context: ShadowContext) -> list:
        raise NoSlope(f"{call!r} divides by the length of the old channels")


@register(keras.layers.Masking)
class MaskingRule(Rule):
    """Zeroes and masks the steps where every channel is `mask_value`."""

    def flow(self, call: Call, inputs: list, space: Space) -> list:
        (x,) = inputs[:1]
        if x is None:
            return [None]
        if x.axis != call.inputs[0].rank - 1:
            space.refuse(call, [x], "looks for the mask value along the last axis")
            return [None]
        if call.op.mask_value != 0:
            space.refuse(
                call,
                [x],
                f"masks steps where all channels are {call.op.mask_value}, which new ones are "
                "not; mask the model's input, or use mask_value=0",
            )
            return [None]
        space.require(call, x, is_zero, "masks steps where all channels are 0")
        return [x]

    def shadow(self, call: Call, inputs: list, context: ShadowContext) -> list:
        raise NoSlope(f"{call!r} masks steps by the old channels")
