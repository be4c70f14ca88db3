"""Activations at zero: value, slope, and a form with an explicit slope where backends differ.

relu'(0) is 0 on all three backends, so a neuron with zero fan-in would never train. The
explicit forms have the same values everywhere and the right-hand slope at 0. They carry the
name of the plain function, so a model saved in the middle of training loads without keras_grow.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_grow import _keras
from keras_grow.graph import Call
from keras_grow.rules.base import Rule
from keras_grow.rules.registry import register, rule_for
from keras_grow.rules.shadows import NoSlope, Shadow, ShadowContext, applied
from keras_grow.rules.space import UNKNOWN, Channels, Space
from keras_grow.rules.values import not_zero, unknown, zero_becomes, zero_stays

act = keras.activations


@dataclass(frozen=True)
class AtZero:
    """An element-wise function f around 0.

    Attributes:
        value: f(0).
        slope: the slope that training sees at 0, on the right-hand side for kinked functions.
        left: the slope on the left-hand side, where it differs; None if f is smooth at 0.
        explicit: same values as f, slope at 0 spelled out; None where f needs no help.
    """

    value: float
    slope: float
    left: float | None = None
    explicit: Callable | None = None


def _relu(x: Any, negative_slope: float = 0.0, max_value: float | None = None) -> Any:
    low = x * negative_slope if negative_slope else ops.zeros_like(x)
    y = ops.where(x < 0, low, x)  # x = 0 takes the branch of slope 1; NaN stays NaN
    return y if max_value is None else ops.where(x > max_value, ops.full_like(x, max_value), y)


def _relu6(x: Any) -> Any:
    return _relu(x, max_value=6.0)


def _leaky_relu(x: Any, negative_slope: float = 0.2) -> Any:
    return _relu(x, negative_slope=negative_slope)


_SELU_SCALE, _SELU_ALPHA = 1.0507009873554804934193349852946, 1.6732632423543772848170429916717


def _selu(x: Any) -> Any:
    # expm1 of a positive number may overflow to inf, whose gradient would be NaN: clip first.
    low = _SELU_SCALE * _SELU_ALPHA * ops.expm1(ops.minimum(x, 0.0))
    return ops.where(x < 0, low, _SELU_SCALE * x)


def _named(function: Callable, plain: Callable) -> Callable:
    function.__name__ = plain.__name__
    function.__qualname__ = plain.__name__
    function.__module__ = plain.__module__
    function.plain = plain  # type: ignore[attr-defined]
    return function


AT_ZERO: dict[Any, AtZero] = {
    act.linear: AtZero(0.0, 1.0),
    act.relu: AtZero(0.0, 1.0, 0.0, _named(_relu, act.relu)),
    act.relu6: AtZero(0.0, 1.0, 0.0, _named(_relu6, act.relu6)),
    act.leaky_relu: AtZero(0.0, 1.0, 0.2, _named(_leaky_relu, act.leaky_relu)),
    act.selu: AtZero(0.0, _SELU_SCALE, _SELU_SCALE * _SELU_ALPHA, _named(_selu, act.selu)),
    act.elu: AtZero(0.0, 1.0),
    act.celu: AtZero(0.0, 1.0),
    act.tanh: AtZero(0.0, 1.0),
    act.softsign: AtZero(0.0, 1.0),
    act.hard_tanh: AtZero(0.0, 1.0),
    act.gelu: AtZero(0.0, 0.5),
    act.silu: AtZero(0.0, 0.5),
    act.hard_silu: AtZero(0.0, 0.5),
    act.mish: AtZero(0.0, 0.6),
    act.tanh_shrink: AtZero(0.0, 0.0),
    act.hard_shrink: AtZero(0.0, 0.0),
    act.soft_shrink: AtZero(0.0, 0.0),
    act.sigmoid: AtZero(0.5, 0.25),
    act.hard_sigmoid: AtZero(0.5, 1 / 6),
    act.sparse_sigmoid: AtZero(0.5, 0.5),
    act.softplus: AtZero(float(np.log(2.0)), 0.5),
    act.squareplus: AtZero(1.0, 0.5),
    act.sparse_plus: AtZero(0.25, 0.5),
    act.exponential: AtZero(1.0, 1.0),
    act.log_sigmoid: AtZero(-float(np.log(2.0)), 0.5),
}
_MIXES = "mixes all channels, so a new one changes the old ones"
MIXING = {
    act.softmax: _MIXES,
    act.log_softmax: _MIXES,
    act.sparsemax: _MIXES,
    act.glu: "halves the channels, which Keras's layers do not expect; use ops.glu after the layer",
}


def plain(function: Callable) -> Callable:
    """The user's activation, where an explicit form stands in for it at present."""
    return getattr(function, "plain", function)


# Element-wise functions and layers of libraries which are not imported here, by full name.
AT_ZERO_BY_NAME: dict[str, AtZero] = {}


def at_zero(function: Callable) -> AtZero | None:
    function = plain(function)
    known = AT_ZERO.get(function)
    if known is None and AT_ZERO_BY_NAME:
        named: Any = function if hasattr(function, "__qualname__") else type(function)
        known = AT_ZERO_BY_NAME.get(f"{named.__module__}.{named.__qualname__}")
    return known


def kinked(call: Call) -> bool:
    """Whether the call bends at zero, as relu does: its second derivative then says nothing."""
    function = getattr(call.op, "activation", None)
    if function is not None:
        facts = at_zero(function)
        return facts is not None and facts.left is not None
    rule = rule_for(call.op)
    if not isinstance(rule, Elementwise):
        return isinstance(call.op, keras.layers.PReLU)
    found = rule.facts(call)
    return isinstance(found, AtZero) and found.left is not None


def name_of(function: Callable) -> str:
    return getattr(function, "__name__", type(function).__name__)


def through(
    space: Space, call: Call, channels: Channels | None, function: Callable
) -> Channels | None:
    """The channels after an activation that belongs to a layer (`activation=`)."""
    if channels is None:
        return None
    facts = at_zero(function)
    if facts is None:
        name = name_of(plain(function))
        what = MIXING.get(plain(function), "has no rule; use one of keras.activations")
        space.refuse(call, [channels], f"applies the activation '{name}', which {what}")
        return None
    return _after(space, call, channels, facts)


def _after(space: Space, call: Call, channels: Channels, facts: AtZero) -> Channels:
    if facts.explicit is not None or facts.slope == 0:
        space.activation(call, channels)
    return channels.mapped(zero_becomes(facts.value))


def shadow_of_layer(call: Call, x: Shadow, context: ShadowContext) -> Shadow:
    """A shadow after the activation that belongs to a layer (`activation=`)."""
    function = plain(call.op.activation)
    if context.finite:
        return x if function is act.linear else Shadow(function(x.tensor), x.axis, x.ids)
    facts = at_zero(function)
    assert facts is not None
    return shadow_through(call, x, facts, context)


def shadow_through(call: Call, x: Shadow, facts: AtZero, context: ShadowContext) -> Shadow:
    """A small change after an activation with the given facts."""
    if facts.slope == 0:
        raise NoSlope(f"the activation of {call!r} has slope 0 at 0")
    if not context.linear and facts.left is not None:
        tensor = ops.maximum(x.tensor, 0.0)
        if facts.slope != 1:
            tensor = facts.slope * tensor
        if facts.left != 0:
            tensor = tensor + facts.left * ops.minimum(x.tensor, 0.0)
        return Shadow(tensor, x.axis, x.ids)
    return x.times(facts.slope)


class Elementwise(Rule):
    """A call that applies one element-wise function, known by its facts at zero."""

    def __init__(self, facts: Callable[[Call], AtZero | str]) -> None:
        self.facts = facts

    def flow(self, call: Call, inputs: list, space: Space) -> list:
        (x,) = inputs[:1]
        if x is None:
            return [None]
        facts = self.facts(call)
        if isinstance(facts, str):
            space.refuse(call, [x], facts)
            return [None]
        return [_after(space, call, x, facts)]

    def shadow(self, call: Call, inputs: list, context: ShadowContext) -> list:
        (x,) = inputs[:1]
        if context.finite:
            return [Shadow(applied(call, inputs), x.axis, x.ids)]
        facts = self.facts(call)
        assert isinstance(facts, AtZero)
        return [shadow_through(call, x, facts, context)]


def _always(facts: AtZero) -> Elementwise:
    return Elementwise(lambda call: facts)


def _activation_layer(call: Call) -> AtZero | str:
    facts = at_zero(call.op.activation)
    if facts is None:
        name = name_of(plain(call.op.activation))
        return f"applies '{name}', which {MIXING.get(plain(call.op.activation), 'has no rule')}"
    return facts


def relu_facts(negative_slope: float, max_value: float | None, threshold: float) -> AtZero | str:
    """ReLU(max_value, negative_slope, threshold) of Keras around 0."""
    if threshold > 0:
        # f(x) = negative_slope * (x - threshold) below the threshold
        return AtZero(-negative_slope * threshold, negative_slope)
    if threshold < 0:
        return AtZero(0.0, 1.0)
    if max_value == 0:
        return AtZero(0.0, 0.0)

    def explicit(x: Any) -> Any:
        return _relu(x, negative_slope=negative_slope, max_value=max_value)

    return AtZero(0.0, 1.0, negative_slope, explicit)


register(keras.layers.Activation)(Elementwise(_activation_layer))
register(keras.layers.ReLU, "ops.ReLU")(
    Elementwise(
        lambda call: relu_facts(
            float(call.op.negative_slope or 0.0), call.op.max_value, float(call.op.threshold or 0.0)
        )
    )
)
register(keras.layers.LeakyReLU, "ops.LeakyRelu")(
    Elementwise(lambda call: relu_facts(float(call.op.negative_slope), None, 0.0))
)
register(keras.layers.ELU)(_always(AtZero(0.0, 1.0)))


def _clip(call: Call) -> AtZero | str:
    low, high = np.asarray(call.op.x_min, dtype=float), np.asarray(call.op.x_max, dtype=float)
    if low.size > 1 or high.size > 1:
        return "clips every channel to bounds of its own; use scalar bounds"
    a, b = float(low.reshape(())), float(high.reshape(()))
    if a < 0 < b:
        return AtZero(0.0, 1.0)
    if a == 0 < b:
        return AtZero(0.0, 1.0, 0.0, lambda x: _relu(x, max_value=b))
    return AtZero(float(np.clip(0.0, a, b)), 0.0)


def _threshold(call: Call) -> AtZero:
    if call.op.threshold < 0:
        return AtZero(0.0, 1.0)
    return AtZero(float(call.op.default_value), 0.0)


def _full(call: Call) -> AtZero | str:
    value = _keras.argument(call.node, 1, "fill_value")
    if len(call.inputs) > 1 or np.size(value) != 1:
        return "fills with values that are no one number"
    return AtZero(float(np.asarray(value).reshape(())), 0.0)


register("ops.Clip")(Elementwise(_clip))
register("ops.Threshold")(Elementwise(_threshold))
register("ops.FullLike")(Elementwise(_full))

_OPS = {
    "Relu": act.relu, "Relu6": act.relu6, "Selu": act.selu, "Elu": act.elu, "Celu": act.celu,
    "Tanh": act.tanh, "Softsign": act.softsign, "HardTanh": act.hard_tanh, "Gelu": act.gelu,
    "Silu": act.silu, "HardSilu": act.hard_silu, "TanhShrink": act.tanh_shrink,
    "HardShrink": act.hard_shrink, "SoftShrink": act.soft_shrink, "Sigmoid": act.sigmoid,
    "HardSigmoid": act.hard_sigmoid, "SparseSigmoid": act.sparse_sigmoid,
    "Softplus": act.softplus, "Squareplus": act.squareplus, "SparsePlus": act.sparse_plus,
    "LogSigmoid": act.log_sigmoid, "Exp": act.exponential,
}  # fmt: skip
for _name, _function in _OPS.items():
    register(f"ops.{_name}")(_always(AT_ZERO[_function]))

_IDENTITY, _FLAT = AtZero(0.0, 1.0), AtZero(0.0, 0.0)  # flat: value and slope are both 0
for _facts, _names in {
    _IDENTITY: "Sin Sinh Arcsin Arcsinh Arctan Arctanh Tan Expm1 Log1p Cast SaturateCast Copy "
    "ConvertToTensor Array NanToNum Real Conj Conjugate",
    _FLAT: "Square Abs Absolute Fabs Round Trunc StopGradient ZerosLike Isnan Isinf Isneginf "
    "Isposinf Imag",
    AtZero(1.0, 0.0): "Cos Cosh Sinc I0 OnesLike Isfinite Isreal LogicalNot",
    AtZero(0.0, -1.0): "Negative",
    AtZero(0.0, 2.0 / float(np.sqrt(np.pi))): "Erf",
    AtZero(1.0, -2.0 / float(np.sqrt(np.pi))): "Erfc",
    AtZero(0.0, float(np.sqrt(np.pi)) / 2.0): "Erfinv",
    AtZero(1.0, float(np.log(2.0))): "Exp2",
    AtZero(float(np.pi) / 2, -1.0): "Arccos",
    AtZero(0.0, float(np.pi) / 180.0): "Deg2rad",
    AtZero(0.0, 180.0 / float(np.pi)): "Rad2deg",
}.items():
    for _name in _names.split():
        register(f"ops.{_name}")(_always(_facts))


def gated(space: Space, call: Call, channels: Channels) -> Channels | None:
    """`glu` along the channels: the first half times the sigmoid of the second half."""
    half = len(channels) // 2
    old = call.outputs[0].shape[channels.axis]
    first, *_ = space.slice(call, channels, 0, old)
    second, *_ = space.slice(call, channels, old, 2 * old)
    if first is None or second is None or 2 * half != len(channels):
        space.refuse(call, [channels], "halves the channels, of which only one half would grow")
        return None
    joined = space.join(call, [first, second])
    values = np.where(first.values == 0, 0.0, UNKNOWN)
    return Channels(joined.axis, joined.labels, np.where(joined.labels < 0, values, 0.0))


@register("ops.Glu")
class GluRule(Rule):
    """Half of an axis times the sigmoid of the other half."""

    def flow(self, call: Call, inputs: list, space: Space) -> list:
        (x,) = inputs
        if x is None:
            return [None]
        if call.op.axis % call.inputs[0].rank == x.axis:
            return [gated(space, call, x)]
        return [x.mapped(zero_stays)]

    def shadow(self, call: Call, inputs: list, context: ShadowContext) -> list:
        (x,) = inputs
        if call.op.axis % call.inputs[0].rank == x.axis:
            raise NoSlope(f"{call!r} multiplies new channels with each other")
        if context.finite:
            return [Shadow(applied(call, inputs), x.axis, x.ids)]
        first, _ = ops.split(x.tensor, 2, axis=call.op.axis)
        return [Shadow(0.5 * first, x.axis, x.ids)]


class Singular(Rule):
    """An element-wise function that is infinite or jumps at 0, or has an infinite slope there.

    Only channels that start with other values can pass it.
    """

    def __init__(self, what: str) -> None:
        self.what = what

    def flow(self, call: Call, inputs: list, space: Space) -> list:
        (x,) = inputs[:1]
        if x is None:
            return [None]
        reason = f"{self.what} at 0, where new channels would start; add a small number before it"
        space.require(call, x, not_zero, reason)
        return [x.mapped(unknown)]


register("ops.Log", "ops.Log2", "ops.Log10", "ops.Reciprocal")(Singular("is infinite"))
register("ops.Rsqrt")(Singular("is infinite"))
register("ops.Arccosh")(Singular("has no value"))
register("ops.Sign", "ops.Signbit", "ops.Floor", "ops.Ceil")(Singular("jumps"))
register("ops.Sqrt", "ops.Cbrt")(Singular("has an infinite slope"))


@register(keras.layers.PReLU)
class PReLURule(Rule):
    """max(x, 0) + alpha * min(x, 0), alpha learned; new channels start with alpha 0."""

    def flow(self, call: Call, inputs: list, space: Space) -> list:
        (x,) = inputs
        if x is None:
            return [None]
        shared = [a % call.inputs[0].rank for a in call.op.shared_axes or []]
        if x.axis not in shared:
            space.carry(call, call.op.alpha, x.axis - 1, x, 0.0)
        space.activation(call, x)
        return [x.mapped(zero_stays)]

    def shadow(self, call: Call, inputs: list, context: ShadowContext) -> list:
        (x,) = inputs
        shared = [a % call.inputs[0].rank for a in call.op.shared_axes or []]
        if context.linear:
            return [x]
        if x.axis in shared:
            alpha = ops.expand_dims(call.op.alpha, 0)
            low = alpha * ops.minimum(x.tensor, 0.0)
        else:
            low = 0.0
        return [Shadow(ops.maximum(x.tensor, 0.0) + low, x.axis, x.ids)]


def explicit_prelu(layer: Any) -> Callable:
    """`PReLU.call` with slope 1 at 0; Keras's own form has slope 0 there."""

    def call(inputs: Any) -> Any:
        return ops.where(inputs < 0, ops.convert_to_tensor(layer.alpha) * inputs, inputs)

    return call


def explicit_call(call: Call) -> Callable | None:
    """An `op.call` with an explicit slope at zero for layers and ops that are activations."""
    if isinstance(call.op, keras.layers.PReLU):
        return explicit_prelu(call.op)
    rule = rule_for(call.op)
    if isinstance(rule, Elementwise):
        facts = rule.facts(call)
        if isinstance(facts, AtZero):
            return facts.explicit
    return None
