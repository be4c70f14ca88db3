"""Layers without weights that treat every channel alike: pooling, padding, dropout, noise."""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_grow import _keras
from keras_grow.graph import Call
from keras_grow.rules.base import Rule
from keras_grow.rules.registry import register
from keras_grow.rules.shadows import NoSlope, Shadow, ShadowContext
from keras_grow.rules.space import UNKNOWN, Channels, Space, along, channel_axis
from keras_grow.rules.values import unknown, zero_stays
from keras_grow.rules.windows import padding_of

layers = keras.layers


def existing(*names: str) -> list:
    """Layer classes by name; some exist only in newer Keras releases."""
    return [getattr(layers, n) for n in names if hasattr(layers, n)]


@register(
    layers.Identity,
    *existing("Dropout", "SpatialDropout1D", "SpatialDropout2D", "SpatialDropout3D"),
    *existing("GaussianDropout", "ActivityRegularization"),
)
class SameRule(Rule):
    """The tensor as it is, or scaled by random factors: a zero stays a zero."""

    def adds(self, call: Call) -> bool:
        return isinstance(call.op, layers.Identity) or getattr(call.op, "rate", 1) == 0

    def flow(self, call: Call, inputs: list, space: Space) -> list:
        return [inputs[0]]

    def shadow(self, call: Call, inputs: list, context: ShadowContext) -> list:
        return [inputs[0]]  # a dropout mask has mean 1


@register(layers.GaussianNoise, layers.AlphaDropout)
class NoiseRule(SameRule):
    """Exact in inference. In training the noise reaches new channels too."""


class SpatialRule(Rule):
    """Acts on every axis but the channel axis, each channel by itself."""

    def channel_axis(self, call: Call) -> int:
        data_format = getattr(call.op, "data_format", "channels_last")
        data_format = data_format or keras.config.image_data_format()
        return channel_axis(data_format, call.inputs[0].rank)

    def out_axis(self, call: Call, axis: int) -> int:
        return axis

    def flow(self, call: Call, inputs: list, space: Space) -> list:
        x = along(space, call, inputs[0], self.channel_axis(call))
        return [None if x is None else self.pass_on(call, x).at(self.out_axis(call, x.axis))]

    def pass_on(self, call: Call, x: Channels) -> Channels:
        return x

    def shadow(self, call: Call, inputs: list, context: ShadowContext) -> list:
        x = inputs[0]  # a mask may follow
        tensor = self.linear(call, x, context)
        return [Shadow(tensor, self.out_axis(call, x.axis), x.ids)]

    def linear(self, call: Call, x: Shadow, context: ShadowContext) -> Any:
        return call.op.call(x.tensor)  # weightless and blind to the number of channels


@register(
    *existing("AveragePooling1D", "AveragePooling2D", "AveragePooling3D"),
    *existing("UpSampling1D", "UpSampling2D", "UpSampling3D"),
    *existing("Cropping1D", "Cropping2D", "Cropping3D"),
    *existing("AdaptiveAveragePooling1D", "AdaptiveAveragePooling2D", "AdaptiveAveragePooling3D"),
)
class LinearSpatialRule(SpatialRule):
    """Linear along space, and constant maps stay constant."""


@register(*existing("ZeroPadding1D", "ZeroPadding2D", "ZeroPadding3D"))
class ZeroPaddingRule(SpatialRule):
    """Adds zeros around: only a map of zeros stays constant."""

    def pass_on(self, call: Call, x: Channels) -> Channels:
        return x.mapped(zero_stays)


@register(layers.Resizing, layers.CenterCrop, "ops.Resize")
class ResizingRule(SpatialRule):
    """Every channel is resampled by itself; what is padded has the fill value."""

    def pass_on(self, call: Call, x: Channels) -> Channels:
        fill = getattr(call.op, "fill_value", 0.0)
        padded = getattr(call.op, "pad_to_aspect_ratio", False)
        return x.mapped(unknown if padded and fill != 0 else zero_stays)


def _per_axis(value: Any, count: int) -> tuple[int, ...]:
    return (value,) * count if isinstance(value, int) else tuple(value)


@register(*existing("MaxPooling1D", "MaxPooling2D", "MaxPooling3D"))
class MaxPoolingRule(SpatialRule):
    """On a map of equal values all three backends send the gradient to the first cell."""

    def linear(self, call: Call, x: Shadow, context: ShadowContext) -> Any:
        if not context.linear:
            return call.op.call(x.tensor)
        tensor = x.tensor
        axes = [a for a in range(1, len(tensor.shape)) if a != x.axis]
        pool = _per_axis(call.op.pool_size, len(axes))
        strides = _per_axis(call.op.strides or pool, len(axes))
        for axis, k, s in zip(axes, pool, strides, strict=True):
            size = tensor.shape[axis]
            before, after = padding_of(size, k, s, 1, call.op.padding)
            count = (size + before + after - k) // s + 1
            starts = [max(i * s - before, 0) for i in range(count)]
            tensor = ops.take(tensor, starts, axis=axis)
        return tensor


@register(*existing("AdaptiveMaxPooling1D", "AdaptiveMaxPooling2D", "AdaptiveMaxPooling3D"))
class AdaptiveMaxPoolingRule(SpatialRule):
    def linear(self, call: Call, x: Shadow, context: ShadowContext) -> Any:
        if not context.linear:
            return call.op.call(x.tensor)
        raise NoSlope(f"{call!r} has no slope at equal values that all backends agree on")


class GlobalRule(SpatialRule):
    def out_axis(self, call: Call, axis: int) -> int:
        return axis if call.op.keepdims else 1


@register(*existing("GlobalAveragePooling1D", "GlobalAveragePooling2D", "GlobalAveragePooling3D"))
class GlobalAverageRule(GlobalRule):
    """With a mask, over the steps that it leaves."""

    def linear(self, call: Call, x: Shadow, context: ShadowContext) -> Any:
        masks = [context.actual(ref) for ref in call.inputs[1:]]
        return call.op.call(x.tensor, *masks)


@register(*existing("GlobalMaxPooling1D", "GlobalMaxPooling2D", "GlobalMaxPooling3D"))
class GlobalMaxRule(GlobalRule):
    """On equal values the gradient of the maximum is shared out evenly on all three backends."""

    def linear(self, call: Call, x: Shadow, context: ShadowContext) -> Any:
        if not context.linear:
            return call.op.call(x.tensor)
        axes = [a for a in range(1, len(x.tensor.shape)) if a != x.axis]
        return ops.mean(x.tensor, axis=axes, keepdims=call.op.keepdims)


# --- the same as keras.ops ---------------------------------------------------------------------


register("ops.MaxPool")(MaxPoolingRule())
register("ops.AveragePool", "ops.AdaptiveAveragePool")(LinearSpatialRule())
register("ops.CropImages")(LinearSpatialRule())
register("ops.AdaptiveMaxPool")(AdaptiveMaxPoolingRule())
register("ops.PadImages", "ops.GaussianBlur")(ZeroPaddingRule())


@register("ops.ExtractPatches")
class PatchesRule(SpatialRule):
    """The pixels of every patch side by side, all channels of a pixel together."""

    def _pixels(self, call: Call) -> int:
        axis = self.channel_axis(call)
        return call.outputs[0].shape[axis] // call.inputs[0].shape[axis]

    def flow(self, call: Call, inputs: list, space: Space) -> list:
        x = along(space, call, inputs[0], self.channel_axis(call))
        if x is None:
            return [None]
        if call.inputs[0].rank - x.axis != 1 and call.inputs[0].rank != 4:
            space.refuse(call, [x], "takes patches of a volume in another layout")
            return [None]
        return [space.tile(x, self._pixels(call)).mapped(zero_stays)]

    def shadow(self, call: Call, inputs: list, context: ShadowContext) -> list:
        (x,) = inputs
        return [Shadow(call.op.call(x.tensor), x.axis, np.tile(x.ids, self._pixels(call)))]


@register("ops.Unfold")
class UnfoldRule(Rule):
    """(B, C, H, W) -> (B, C * pixels of a patch, patches)."""

    def flow(self, call: Call, inputs: list, space: Space) -> list:
        x = along(space, call, inputs[0], 1)
        if x is None:
            return [None]
        size = call.op.kernel_size
        pixels = size**2 if isinstance(size, int) else size[0] * size[1]
        return [space.repeat(x, pixels).mapped(zero_stays)]


@register("ops.Pad")
class PadOpRule(Rule):
    """Constant padding along other axes than the channels."""

    def flow(self, call: Call, inputs: list, space: Space) -> list:
        x = inputs[0]
        if x is None:
            return [None]
        widths = _keras.pad_width(call.op, call.inputs[0].rank)
        if call.op.mode != "constant":
            space.refuse(call, [x], "pads with a mirror image, not with a constant")
            return [None]
        if any(widths[x.axis]):
            x = space.extend(x, *widths[x.axis])
        filling = _keras.pad_constant(call.node)
        return [x.mapped(lambda v: np.where(v == filling, v, UNKNOWN))]

    def shadow(self, call: Call, inputs: list, context: ShadowContext) -> list:
        x = inputs[0]
        widths = _keras.pad_width(call.op, call.inputs[0].rank)
        widths[x.axis] = (0, 0)  # a shadow has nothing but new channels
        return [Shadow(ops.pad(x.tensor, widths), x.axis, x.ids)]
