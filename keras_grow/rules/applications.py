"""The layers that `keras.applications` brings along for its own models."""

import numpy as np

from keras_grow import _backend, _keras
from keras_grow.graph import Call
from keras_grow.rules.base import Rule
from keras_grow.rules.elementwise import Join
from keras_grow.rules.passing import SameRule
from keras_grow.rules.registry import register
from keras_grow.rules.shadows import Shadow, ShadowContext
from keras_grow.rules.space import LIKE_OLD, UNKNOWN, Space, along
from keras_grow.rules.values import zero_stays


@register(_keras.LayerScale)
class LayerScaleRule(Rule):
    """x * gamma, one gamma a channel (ConvNeXt)."""

    def flow(self, call: Call, inputs: list, space: Space) -> list:
        layer = call.op
        x = along(space, call, inputs[0], call.inputs[0].rank - 1)
        if x is None:
            return [None]
        space.carry(call, layer.gamma, 0, x, LIKE_OLD)
        space.attribute(call, x, lambda: setattr(layer, "projection_dim", len(x)))
        return [x.mapped(zero_stays)]

    def shadow(self, call: Call, inputs: list, context: ShadowContext) -> list:
        # New scales are drawn when the channels are made; their mean is the old ones'.
        (x,) = inputs
        return [x.times(float(np.mean(_backend.to_numpy(call.op.gamma))))]


@register(_keras.CustomScaleLayer)
class ScaledSumRule(Join):
    """inputs[0] + scale * inputs[1] (Inception-ResNet)."""

    def __init__(self) -> None:
        super().__init__(lambda a, b: np.where((a == 0) & (b == 0), 0.0, UNKNOWN))

    def adds(self, call: Call) -> bool:
        return True

    def _derivative(self, call: Call, i: int, x: Shadow, context: ShadowContext) -> Shadow:
        return x.times(float(call.op.scale) if i else 1.0)


@register(_keras.StochasticDepth)
class StochasticDepthRule(SameRule):
    """Drops whole samples in training, and is the identity in inference (ConvNeXt)."""

    def adds(self, call: Call) -> bool:
        return call.op.drop_path_rate == 0
