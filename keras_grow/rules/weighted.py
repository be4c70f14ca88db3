"""Layers with a kernel: Dense, convolutions, depthwise and separable convolutions."""

import math
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_grow import _backend, _keras
from keras_grow.graph import Call
from keras_grow.rules import activations
from keras_grow.rules.base import Rule
from keras_grow.rules.registry import register
from keras_grow.rules.shadows import NoSlope, Shadow, ShadowContext
from keras_grow.rules.space import Channels, Production, Space, along, channel_axis
from keras_grow.rules.windows import (
    Window,
    Windows,
    as_rows,
    by_spread_gradient,
    centre_tap,
    padding_of,
    rows_product,
    taps_by_gradient,
)

layers = keras.layers


def why_not_plain(layer: Any) -> str | None:
    """Why a layer's kernel is no variable of its own, or None if it is one."""
    return _keras.derived_kernel(layer)


def plain_kernel(call: Call, inputs: list, space: Space) -> bool:
    """Whether the kernel is an ordinary variable; refuses the channels where it is not."""
    reason = why_not_plain(call.op)
    if reason is not None:
        space.refuse(call, inputs, reason)
    return reason is None


def bias_of(layer: Any) -> list[tuple[Any, int]]:
    return [] if layer.bias is None else [(layer.bias, 0)]


def _delta(kernel_size: tuple, copies: int) -> np.ndarray:
    """The identity of a depthwise convolution for one channel, shape (*kernel_size, copies)."""
    fill = np.zeros((*kernel_size, copies))
    fill[tuple(k // 2 for k in kernel_size)] = 1.0
    return fill


class ProducerRule(Rule):
    """A layer that makes channels of its own and ends the ones it reads."""

    def finish(
        self, call: Call, space: Space, weights: list, size: str, axis: int, groups: int = 1
    ) -> list:
        made = space.produce(call, Production(weights, axis, size, groups))
        return [activations.through(space, call, made, call.op.activation)]

    def writes(self, call: Call) -> list[tuple[Any, int]] | None:
        layer = call.op
        if activations.plain(layer.activation) is not keras.activations.linear:
            return None
        kernel = _keras.kernel_of(layer)
        return [(kernel, len(kernel.shape) - 1), *bias_of(layer)]


@register(layers.Dense)
class DenseRule(ProducerRule):
    """y = x W + b on the last axis. W is (in, units)."""

    def flow(self, call: Call, inputs: list, space: Space) -> list:
        (x,) = inputs
        kernel = _keras.kernel_of(call.op)
        last = call.inputs[0].rank - 1
        if not plain_kernel(call, inputs, space):
            return [None]
        x = along(space, call, x, last)
        if x is not None:
            space.read(call, kernel, 0, x)
        return self.finish(call, space, [(kernel, 1), *bias_of(call.op)], "units", last)

    def patches(self, call: Call, x: Any) -> Shadow:
        return Shadow(x, len(x.shape) - 1, np.arange(x.shape[-1]))

    def respond(self, call: Call, x: Any, fan_in: Any) -> tuple[Any, int]:
        return ops.matmul(x, fan_in), len(x.shape) - 1

    def correlate(self, call: Call, shadow: Shadow, gradient: Any) -> tuple[Any, np.ndarray]:
        return rows_product(shadow.tensor, gradient, channel=shadow.axis), shadow.ids

    def flops(self, call: Call, inputs: list, outputs: list) -> float:
        return 2.0 * size_of(outputs[0]) * inputs[0][-1]


class ConvBase(ProducerRule):
    """What all convolution layers share."""

    def axis(self, call: Call) -> int:
        return channel_axis(call.op.data_format, call.inputs[0].rank)

    def window(self, call: Call) -> Window:
        layer = call.op
        return Window(layer.kernel_size, layer.strides, layer.dilation_rate, layer.padding)


@register(layers.Conv1D, layers.Conv2D, layers.Conv3D)
class ConvRule(ConvBase):
    """Kernel (*kernel_size, in / groups, filters).

    With `groups == in` it is a depthwise convolution (ConvNeXt writes it so): channels pass.
    With other groups, new channels go to the end of every group, the same number to each.
    """

    def flow(self, call: Call, inputs: list, space: Space) -> list:
        (x,) = inputs
        layer, kernel, axis = call.op, _keras.kernel_of(call.op), self.axis(call)
        groups, rank = layer.groups, len(kernel.shape)
        if not plain_kernel(call, inputs, space):
            return [None]
        x = along(space, call, x, axis)
        if groups > 1 and kernel.shape[-2] == 1 and x is not None:
            return [self._depthwise(call, x, space)]
        if x is not None:
            space.read(call, kernel, rank - 2, x, groups)
        weights = [(kernel, rank - 1), *bias_of(layer)]
        return self.finish(call, space, weights, "filters", axis, groups)

    def _depthwise(self, call: Call, x: Channels, space: Space) -> Channels | None:
        layer, kernel = call.op, _keras.kernel_of(call.op)
        copies = layer.filters // layer.groups
        out = space.repeat(x, copies)
        fill = _delta(layer.kernel_size, 1)
        space.carry(call, kernel, len(kernel.shape) - 1, out, fill)
        for bias, axis in bias_of(layer):
            space.carry(call, bias, axis, out, 0.0)

        def resize() -> None:
            layer.groups, layer.filters = len(x), len(out)

        space.attribute(call, x, resize)
        return activations.through(space, call, out, layer.activation)

    def writes(self, call: Call) -> list[tuple[Any, int]] | None:
        return None if call.op.groups > 1 else super().writes(call)

    def is_depthwise(self, call: Call) -> bool:
        return call.op.groups > 1 and _keras.kernel_of(call.op).shape[-2] == 1

    def shadow(self, call: Call, inputs: list, context: ShadowContext) -> list:
        (x,) = inputs
        copies = call.op.filters // call.op.groups
        return [depthwise_shadow(call, x, copies, self.window(call), context)]

    def patches(self, call: Call, x: Any) -> Shadow:
        _refuse_groups(call)
        window = self.window(call)
        axis = self.axis(call)
        count = x.shape[axis] * math.prod(call.op.kernel_size)
        return Windows(x, axis, np.arange(count), window)

    def respond(self, call: Call, x: Any, fan_in: Any) -> tuple[Any, int]:
        _refuse_groups(call)
        layer, axis = call.op, self.axis(call)
        padding = layer.padding
        if padding == "causal":
            pads = [(0, 0)] * 3
            (size,), (dilation,) = layer.kernel_size, layer.dilation_rate
            pads[3 - axis] = padding_of(None, size, 1, dilation, padding)
            x, padding = ops.pad(x, pads), "valid"
        kernel = ops.reshape(fan_in, (*layer.kernel_size, x.shape[axis], -1))
        y = ops.conv(x, kernel, layer.strides, padding, layer.data_format, layer.dilation_rate)
        return y, axis

    def correlate(self, call: Call, shadow: Shadow, gradient: Any) -> tuple[Any, np.ndarray]:
        layer, axis = call.op, shadow.axis
        if layer.groups > 1:
            raise NoSlope(
                f"{call!r} reads the new channels in groups={layer.groups}, for which the best "
                "direction is not computed; use method='random'"
            )
        window = self.window(call)
        if isinstance(shadow, Windows):
            product = shadow.by_displacement(gradient, window)
            if product is not None:
                return product, shadow.ids
        x = shadow.tensor
        if x.shape[axis] < gradient.shape[axis]:
            product = taps_by_gradient(x, gradient, channel=axis, window=window)
            return ops.moveaxis(product, -2, 0), shadow.ids
        return by_spread_gradient(x, gradient, channel=axis, window=window), shadow.ids

    def flops(self, call: Call, inputs: list, outputs: list) -> float:
        layer, axis = call.op, self.axis(call)
        groups = inputs[0][axis] if self.is_depthwise(call) else layer.groups
        fan_in = math.prod(layer.kernel_size) * inputs[0][axis] / groups
        return 2.0 * size_of(outputs[0]) * fan_in


def _refuse_groups(call: Call) -> None:
    if call.op.groups > 1:
        raise NoSlope(
            f"{call!r} has groups={call.op.groups}: a new filter sees only one group of the "
            "input, for which the best direction is not computed; use method='random'"
        )


def depthwise_shadow(
    call: Call, x: Shadow, copies: int, window: Window, context: ShadowContext
) -> Shadow:
    """New channels pass through the identity kernel: the centre tap of the window."""
    tensor = centre_tap(x.tensor, channel=x.axis, window=window)
    ids = np.repeat(x.ids, copies)
    if copies > 1:
        tensor = ops.repeat(tensor, copies, axis=x.axis)
    return activations.shadow_of_layer(call, Shadow(tensor, x.axis, ids), context)


@register(layers.DepthwiseConv1D, layers.DepthwiseConv2D)
class DepthwiseRule(ConvBase):
    """Kernel (*kernel_size, in, depth_multiplier): channels pass, new ones by the identity.

    The identity kernel is what the paper uses for MobileNet (section 4.2, ImageNet).
    """

    def flow(self, call: Call, inputs: list, space: Space) -> list:
        layer = call.op
        if not plain_kernel(call, inputs, space):
            return [None]
        x = along(space, call, inputs[0], self.axis(call))
        if x is None:
            return [None]
        kernel = layer.kernel
        out = space.repeat(x, layer.depth_multiplier)
        fill = _delta(layer.kernel_size, layer.depth_multiplier)
        space.carry(call, kernel, len(kernel.shape) - 2, x, fill)
        for bias, axis in bias_of(layer):
            space.carry(call, bias, axis, out, 0.0)
        return [activations.through(space, call, out, layer.activation)]

    def writes(self, call: Call) -> list[tuple[Any, int]] | None:
        return None  # every output channel has an input channel of its own

    def shadow(self, call: Call, inputs: list, context: ShadowContext) -> list:
        (x,) = inputs
        return [depthwise_shadow(call, x, call.op.depth_multiplier, self.window(call), context)]

    def flops(self, call: Call, inputs: list, outputs: list) -> float:
        return 2.0 * size_of(outputs[0]) * math.prod(call.op.kernel_size)


@register(layers.SeparableConv1D, layers.SeparableConv2D)
class SeparableRule(ConvBase):
    """A depthwise convolution followed by a pointwise one, in one layer.

    As a consumer the new depthwise kernels are the identity and the new pointwise rows are the
    fan-out. As a producer the fan-in is the new pointwise column.
    """

    def flow(self, call: Call, inputs: list, space: Space) -> list:
        layer, axis = call.op, self.axis(call)
        depthwise, pointwise = layer.depthwise_kernel, layer.pointwise_kernel
        rank = len(pointwise.shape)
        if not plain_kernel(call, inputs, space):
            return [None]
        x = along(space, call, inputs[0], axis)
        if x is not None:
            fill = _delta(layer.kernel_size, layer.depth_multiplier)
            space.carry(call, depthwise, rank - 2, x, fill)
            space.read(call, pointwise, rank - 2, space.repeat(x, layer.depth_multiplier))
        weights = [(pointwise, rank - 1), *bias_of(layer)]
        return self.finish(call, space, weights, "filters", axis)

    def writes(self, call: Call) -> list[tuple[Any, int]] | None:
        layer, kernel = call.op, call.op.pointwise_kernel
        if activations.plain(layer.activation) is not keras.activations.linear:
            return None
        return [(kernel, len(kernel.shape) - 1), *bias_of(layer)]

    def patches(self, call: Call, x: Any) -> Shadow:
        layer, axis = call.op, self.axis(call)
        kernel = ops.convert_to_tensor(layer.depthwise_kernel)
        more = x.shape[axis] - kernel.shape[-2]
        if more:  # new channels beside the present ones, which will pass through the identity
            one = _delta(layer.kernel_size, layer.depth_multiplier)[..., None, :]
            new = ops.cast(np.repeat(one, more, axis=-2), kernel.dtype)
            kernel = ops.concatenate([kernel, new], axis=-2)
        y = ops.depthwise_conv(
            x,
            ops.cast(kernel, x.dtype),
            layer.strides,
            layer.padding,
            layer.data_format,
            layer.dilation_rate,
        )
        return Shadow(y, axis, np.arange(y.shape[axis]))

    def correlate(self, call: Call, shadow: Shadow, gradient: Any) -> tuple[Any, np.ndarray]:
        layer, axis = call.op, shadow.axis
        tensor = centre_tap(shadow.tensor, channel=axis, window=self.window(call))
        product = _backend.matrix_product(as_rows(tensor, axis), as_rows(gradient, axis))
        ones = (1,) * len(layer.kernel_size)
        product = ops.reshape(product, (len(shadow.ids), *ones, -1))
        ids = shadow.ids
        if layer.depth_multiplier > 1:
            product = ops.repeat(product, layer.depth_multiplier, axis=0)
            ids = np.repeat(ids, layer.depth_multiplier)
        return product, ids

    def flops(self, call: Call, inputs: list, outputs: list) -> float:
        axis, layer = self.axis(call), call.op
        hidden = inputs[0][axis] * layer.depth_multiplier
        positions = size_of(outputs[0]) / outputs[0][axis]
        depthwise = positions * hidden * math.prod(layer.kernel_size)
        return 2.0 * (depthwise + size_of(outputs[0]) * hidden)


def size_of(shape: tuple) -> float:
    """Entries of one sample; unknown sizes count as 1."""
    return float(math.prod(d or 1 for d in shape[1:]))
