"""Rules for layers of the user's own, and ready-made ones for what such layers usually do."""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import keras
import numpy as np

from keras_grow.errors import GrowthError
from keras_grow.graph import Call
from keras_grow.rules import activations, base
from keras_grow.rules.base import UNKNOWN, Channels, Rule, Space, along

_CUSTOM: set[type] = set()


def register_rule(*classes: type, replace: bool = False) -> Callable[[Any], Any]:
    """Teaches keras_grow how channels pass a layer of your own.

    ```python
    @kg.register_rule(ChannelGain)
    class ChannelGainRule(kg.rules.PerChannel):
        weights = {"gain": 1.0}
    ```

    Prove the rule with `keras_grow.testing.run_growth_test`.

    Args:
        classes: layer classes. Subclasses are not meant: each may do something else.
        replace: whether a class that has a rule already gets this one.

    Returns:
        A decorator for a `Rule` subclass, a `Rule` object, or a function that does what
        `Rule.flow` does: `function(call, inputs, space) -> outputs`.

    Raises:
        GrowthError: not a layer class, a class that has a rule, or something that is no rule.
    """
    for cls in classes:
        if not (isinstance(cls, type) and issubclass(cls, keras.layers.Layer)):
            raise GrowthError(
                "register_rule takes classes of layers, as in @keras_grow.register_rule(MyLayer). "
                f"Received: {cls!r}."
            )
        if base.find(cls) is not None and not replace:
            raise GrowthError(
                f"The layer class {cls.__name__} has a rule already "
                f"({type(base.find(cls)).__name__}). To put yours in its place, write "
                f"register_rule({cls.__name__}, replace=True)."
            )
    if not classes:
        raise GrowthError("register_rule needs at least one layer class. Received: none.")

    def decorate(rule: Any) -> Any:
        base.register_instance(_as_rule(rule), *classes)
        _CUSTOM.update(classes)
        return rule

    return decorate


def is_custom(op: Any) -> bool:
    """Whether the rule of a layer was registered by the user."""
    return type(op) in _CUSTOM


def _as_rule(rule: Any) -> Rule:
    if isinstance(rule, Rule):
        return rule
    if isinstance(rule, type) and issubclass(rule, Rule):
        return rule()
    if callable(rule) and not isinstance(rule, type):
        return _Function(rule)
    raise GrowthError(
        "A rule is a subclass of keras_grow.rules.Rule, an object of one, or a function "
        f"(call, inputs, space) -> outputs. Received: {rule!r}."
    )


class _Function(Rule):
    def __init__(self, function: Callable) -> None:
        self.function = function

    def flow(self, call: Call, inputs: list, space: Space) -> list:
        return self.function(call, inputs, space)


class PerChannel(Rule):
    """A layer that treats every channel by itself, such as a learned gain.

    Attributes:
        weights: attributes of the layer that hold one entry for each channel along their last
            axis, with what a new channel gets.
        sizes: attributes of the layer (and arguments of its constructor) that say how many
            channels there are.
        axis: of the channels.
        keeps_zero: whether a channel of zeros leaves as zeros, with the new weights as above.
    """

    weights: ClassVar[Mapping[str, Any]] = {}
    sizes: ClassVar[tuple[str, ...]] = ()
    axis: ClassVar[int] = -1
    keeps_zero: ClassVar[bool] = True

    def flow(self, call: Call, inputs: list, space: Space) -> list:
        x = along(space, call, inputs[0], self.axis % call.inputs[0].rank)
        if x is None:
            return [None]
        for name, fill in self.weights.items():
            variable = getattr(call.op, name)
            if variable is not None:
                space.carry(call, variable, len(variable.shape) - 1, x, fill)
        for name in self.sizes:
            space.attribute(call, x, _setter(call.op, name, len(x)), key=name)
        value = 0.0 if self.keeps_zero else UNKNOWN
        return [x.mapped(lambda v: np.where(v == 0, value, UNKNOWN))]


class Projection(Rule):
    """A layer with a kernel (..., in, out) that is contracted with the last axis, as in Dense.

    Attributes:
        kernel, bias: names of the layer's weights; `bias` may be None, there or in the layer.
        units: the attribute of the layer (and argument of its constructor) that says how many
            channels it makes.
        activation: the attribute that holds a function applied to the result; None if there is
            none.
    """

    kernel: ClassVar[str] = "kernel"
    bias: ClassVar[str | None] = "bias"
    units: ClassVar[str] = "units"
    activation: ClassVar[str | None] = "activation"

    def flow(self, call: Call, inputs: list, space: Space) -> list:
        layer = call.op
        kernel = getattr(layer, self.kernel)
        rank, last = len(kernel.shape), call.inputs[0].rank - 1
        x: Channels | None = along(space, call, inputs[0], last)
        if x is not None:
            space.read(call, kernel, rank - 2, x)
        weights = [(kernel, rank - 1)]
        bias = None if self.bias is None else getattr(layer, self.bias)
        if bias is not None:
            weights.append((bias, 0))
        made = space.produce(call, weights, self.units, call.outputs[0].rank - 1)
        if self.activation is None:
            return [made]
        if not hasattr(layer, self.activation):
            # Not taken for none: an activation of another name may have no slope at 0.
            space.refuse(
                call,
                [made],
                f"has no attribute '{self.activation}'; name the one that holds its activation in "
                "its rule, or write `activation = None` there",
            )
            return [None]
        return [activations.through(space, call, made, getattr(layer, self.activation))]

    def flops(self, call: Call, inputs: list[tuple], outputs: list[tuple]) -> float:
        entries = float(np.prod([d or 1 for d in outputs[0][1:]]))
        return 2.0 * entries * (inputs[0][-1] or 1)


def _setter(layer: Any, name: str, value: int) -> Callable[[], None]:
    return lambda: setattr(layer, name, value)
