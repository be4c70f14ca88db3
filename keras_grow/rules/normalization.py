"""Layers that normalise or scale every channel by itself."""

from typing import Any, ClassVar

import keras
import numpy as np
from keras import ops

from keras_grow import _keras
from keras_grow.graph import Call
from keras_grow.rules.base import (
    UNKNOWN,
    Rule,
    Shadow,
    ShadowContext,
    Space,
    along,
    register,
)


def _zero_stays_zero(values: np.ndarray) -> np.ndarray:
    return np.where(values == 0, 0.0, UNKNOWN)


@register(keras.layers.BatchNormalization)
class BatchNormalizationRule(Rule):
    """A channel that is constantly 0 leaves as 0 in training and in inference.

    New entries are gamma 1, beta 0, mean 0, variance 1. In training the gradient through such a
    channel is centred over the batch and multiplied by 1 / sqrt(epsilon) (paper, appendix C).
    """

    FILLS: ClassVar[dict[str, float]] = {
        "gamma": 1.0, "beta": 0.0, "moving_mean": 0.0, "moving_variance": 1.0,
        "moving_stddev": 1.0, "renorm_mean": 0.0, "renorm_stddev": 1.0,
    }  # fmt: skip

    def flow(self, call: Call, inputs: list, space: Space) -> list:
        layer = call.op
        axis = layer.axis if isinstance(layer.axis, int) else layer.axis[0]
        x = along(space, call, inputs[0], axis % call.inputs[0].rank)
        if x is None:
            return [None]
        for name, fill in self.FILLS.items():
            variable = getattr(layer, name, None)
            if variable is not None:
                space.carry(call, variable, 0, x, fill)
        return [x.mapped(_zero_stays_zero)]

    def shadow(self, call: Call, inputs: list, context: ShadowContext) -> list:
        (x,) = inputs[:1]
        layer, tensor = call.op, x.tensor
        if layer.trainable:
            axes = [a for a in range(len(tensor.shape)) if a != x.axis]
            tensor = tensor - ops.mean(tensor, axis=axes, keepdims=True)
            scale = 1.0 / np.sqrt(layer.epsilon)
        else:
            scale = 1.0 / np.sqrt(1.0 + layer.epsilon)
        return [Shadow(tensor * scale, x.axis, x.ids)]


@register(keras.layers.Normalization)
class NormalizationRule(Rule):
    """(x - mean) / sqrt(variance) with fixed statistics; new channels get mean 0, variance 1."""

    def flow(self, call: Call, inputs: list, space: Space) -> list:
        (x,) = inputs
        if x is None:
            return [None]
        layer = call.op
        kept = _keras.normalized_axes(layer, call.inputs[0].rank)
        if x.axis not in kept:
            if kept:
                space.refuse(call, [x], f"normalises axes {kept}, not the channel axis {x.axis}")
                return [None]
            mean, scale = _keras.scalar_statistics(layer)
            value = mean if layer.invert else -mean / scale
            return [x.mapped(lambda v: np.where(v == 0, value, UNKNOWN))]
        if layer.input_mean is not None:
            space.refuse(
                call,
                [x],
                "was given its mean and variance as constants for the old channels; use adapt() "
                "instead, or put it before the growing layer",
            )
            return [None]
        position = kept.index(x.axis)
        space.carry(call, layer.adapt_mean, position, x, 0.0)
        space.carry(call, layer.adapt_variance, position, x, 1.0)
        space.attribute(call, x, lambda: _keras.refresh_normalization(layer, x.axis, len(x)))
        return [x.mapped(_zero_stays_zero)]

    def shadow(self, call: Call, inputs: list, context: ShadowContext) -> list:
        (x,) = inputs
        layer = call.op
        if _keras.normalized_axes(layer, call.inputs[0].rank):
            return [x]
        _, scale = _keras.scalar_statistics(layer)
        factor = scale if layer.invert else 1.0 / scale
        return [Shadow(x.tensor * factor, x.axis, x.ids)]


@register(keras.layers.Rescaling)
class RescalingRule(Rule):
    """x * scale + offset, scalars only."""

    def flow(self, call: Call, inputs: list, space: Space) -> list:
        (x,) = inputs
        if x is None:
            return [None]
        scale, offset = self._constants(call)
        if scale is None or offset is None:
            space.refuse(
                call, [x], "rescales every channel by its own constant; use scalar scale and offset"
            )
            return [None]
        return [x.mapped(lambda v: v * scale + offset)]

    def _constants(self, call: Call) -> tuple[float | None, float | None]:
        def scalar(value: Any) -> float | None:
            array = np.asarray(value, dtype="float64")
            return float(array.reshape(())) if array.size == 1 else None

        return scalar(call.op.scale), scalar(call.op.offset)

    def shadow(self, call: Call, inputs: list, context: ShadowContext) -> list:
        (x,) = inputs
        scale, _ = self._constants(call)
        return [Shadow(x.tensor * scale, x.axis, x.ids)]
