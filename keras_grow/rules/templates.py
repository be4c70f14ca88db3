"""Ready-made rules for what layers of the user's own usually do."""

from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar

import numpy as np

from keras_grow.graph import Call
from keras_grow.rules import activations
from keras_grow.rules.base import Rule
from keras_grow.rules.space import Channels, Production, Space, along
from keras_grow.rules.values import unknown, zero_stays


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
            space.attribute(call, x, partial(setattr, call.op, name, len(x)), key=name)
        return [x.mapped(zero_stays if self.keeps_zero else unknown)]


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
        made = space.produce(call, Production(weights, call.outputs[0].rank - 1, self.units))
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
