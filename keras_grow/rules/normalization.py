"""Layers that normalise: each channel by itself, groups of them, or all together."""

from typing import Any, ClassVar

import keras
import numpy as np
from keras import ops

from keras_grow import _keras
from keras_grow.graph import Call
from keras_grow.rules.base import Rule
from keras_grow.rules.registry import register
from keras_grow.rules.shadows import Shadow, ShadowContext
from keras_grow.rules.space import UNKNOWN, Channels, Space, along
from keras_grow.rules.values import is_zero, zero_becomes, zero_stays


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
        return [x.mapped(zero_stays)]

    def lifts(self, call: Call) -> bool:
        return bool(call.op.trainable)  # a frozen one goes on with its moving statistics

    def shadow(self, call: Call, inputs: list, context: ShadowContext) -> list:
        (x,) = inputs[:1]
        layer, tensor = call.op, x.tensor
        if layer.trainable:
            axes = [a for a in range(len(tensor.shape)) if a != x.axis]
            mean = ops.mean(tensor, axis=axes, keepdims=True)
            tensor = tensor - mean
            if context.finite:
                variance = ops.mean(ops.square(tensor), axis=axes, keepdims=True)
                if context.noted is not None:
                    context.noted[call] = ops.ravel(mean), ops.ravel(variance)
                return [Shadow(tensor * ops.rsqrt(variance + layer.epsilon), x.axis, x.ids)]
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
            return [x.mapped(zero_becomes(value))]
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
        return [x.mapped(zero_stays)]

    def shadow(self, call: Call, inputs: list, context: ShadowContext) -> list:
        (x,) = inputs
        layer = call.op
        if _keras.normalized_axes(layer, call.inputs[0].rank):
            return [x]
        mean, scale = _keras.scalar_statistics(layer)
        factor = scale if layer.invert else 1.0 / scale
        offset = (mean if layer.invert else -mean / scale) if context.finite else 0.0
        return [Shadow(x.tensor * factor + offset, x.axis, x.ids)]


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
        scale, offset = self._constants(call)
        assert scale is not None
        assert offset is not None
        return [Shadow(x.tensor * scale + offset * context.finite, x.axis, x.ids)]


def _axes(layer: Any, rank: int) -> list[int]:
    axis = layer.axis
    return sorted(a % rank for a in ([axis] if isinstance(axis, int) else axis))


class AcrossChannels(Rule):
    """A normalisation over axes among which the channels' own may be."""

    GAMMA: ClassVar[str]
    BETA: ClassVar[str | None] = None

    def flow(self, call: Call, inputs: list, space: Space) -> list:
        (x,) = inputs[:1]
        if x is None:
            return [None]
        layer = call.op
        axes = _axes(layer, call.inputs[0].rank)
        if x.axis in axes:
            return [self.across(call, x, axes.index(x.axis), space)]
        beta = None if self.BETA is None else getattr(layer, self.BETA)
        value = 0.0 if beta is None else UNKNOWN
        return [x.mapped(zero_becomes(value))]

    def across(self, call: Call, x: Channels, position: int, space: Space) -> Channels:
        raise NotImplementedError

    def rescale(self, call: Call, x: Channels, position: int, space: Space) -> None:
        """Keeps the old entries' values although the sum is divided by more channels.

        With k zeros appended to C channels the variance is C / (C + k) of what it was: gamma and
        epsilon take up the factor (LEMON, Wang et al. 2023; Gesmundo and Maile 2023).
        """
        layer, gamma = call.op, getattr(call.op, self.GAMMA)
        old = int(gamma.shape[position])
        factor = old / len(x)
        space.carry(call, gamma, position, x, 1.0)
        space.rewrite(call, gamma, lambda value: value * np.sqrt(factor))
        epsilon = layer.epsilon
        space.attribute(call, x, lambda: setattr(layer, "epsilon", epsilon * factor))


@register(keras.layers.LayerNormalization)
class LayerNormalizationRule(AcrossChannels):
    """Exact for appended zeros only where the mean of the channels is zero anyway.

    So all that writes them is centred, if that is possible: all writers are linear, and nothing
    but layer normalisations reads the sum (as in pre-norm transformers; SliceGPT, Ashkboos et al.
    2024). Elsewhere the old channels go on being normalised by themselves.
    """

    GAMMA = "gamma"
    BETA = "beta"

    def foldable(self, call: Call, axis: int) -> bool:
        """Whether gamma could take up the factor, and only the channels are normalised over."""
        layer = call.op
        rank = call.inputs[0].rank
        return layer.gamma is not None and not layer.rms_scaling and _axes(layer, rank) == [axis]

    def across(self, call: Call, x: Channels, position: int, space: Space) -> Channels:
        beta = call.op.beta
        if space.normalize(call, x):
            self.rescale(call, x, position, space)
            if beta is not None:
                space.carry(call, beta, position, x, 0.0)
        return x.mapped(zero_stays)


@register(keras.layers.RMSNormalization)
class RMSNormalizationRule(AcrossChannels):
    """Appended zeros leave the sum of squares alone: exact with gamma and epsilon rescaled."""

    GAMMA = "scale"

    def across(self, call: Call, x: Channels, position: int, space: Space) -> Channels:
        _only_zeros(call, x, space)
        self.rescale(call, x, position, space)
        return x


@register(keras.layers.UnitNormalization)
class UnitNormalizationRule(Rule):
    """Divides by the L2 norm, which zeros leave alone."""

    def flow(self, call: Call, inputs: list, space: Space) -> list:
        (x,) = inputs
        if x is None:
            return [None]
        if x.axis in _axes(call.op, call.inputs[0].rank):
            _only_zeros(call, x, space)
            return [x]
        space.refuse(
            call,
            [x],
            "divides every channel by its own size, which is 0 for a new one, so no gradient could "
            "be trusted there; use RMSNormalization, whose epsilon is not tiny",
        )
        return [None]


def _only_zeros(call: Call, x: Channels, space: Space) -> None:
    space.require(
        call,
        x,
        is_zero,
        "divides by the size of all channels, so new ones must arrive as exact zeros; use the "
        "outgoing form, and an activation that maps 0 to 0 before it",
    )


@register(keras.layers.GroupNormalization)
class GroupNormalizationRule(Rule):
    """New channels come as whole new groups; the old groups then stay as they are."""

    def lifts(self, call: Call) -> bool:
        return True  # of new groups, which consist of new channels only

    def flow(self, call: Call, inputs: list, space: Space) -> list:
        layer = call.op
        x = along(space, call, inputs[0], layer.axis % call.inputs[0].rank)
        if x is None:
            return [None]
        size = call.inputs[0].shape[x.axis] // layer.groups
        space.blocks(call, x, size)
        if layer.gamma is not None:
            space.carry(call, layer.gamma, 0, x, 1.0)
        if layer.beta is not None:
            space.carry(call, layer.beta, 0, x, 0.0)
        space.attribute(call, x, lambda: setattr(layer, "groups", len(x) // size))
        return [x.mapped(zero_stays)]
