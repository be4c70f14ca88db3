"""Transposed convolutions. Their kernels are (*kernel_size, filters, in)."""

import math
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_grow import _backend
from keras_grow.graph import Call
from keras_grow.rules import activations
from keras_grow.rules.registry import register
from keras_grow.rules.shadows import Shadow
from keras_grow.rules.space import Space, along
from keras_grow.rules.weighted import ConvBase, bias_of, plain_kernel, size_of
from keras_grow.rules.windows import as_rows

layers = keras.layers


@register(layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose)
class TransposedRule(ConvBase):
    """The gradient of a convolution: every input pixel adds its kernel to the output."""

    def flow(self, call: Call, inputs: list, space: Space) -> list:
        layer, axis = call.op, self.axis(call)
        kernel = layer.kernel
        rank = len(kernel.shape)
        if not plain_kernel(call, inputs, space):
            return [None]
        x = along(space, call, inputs[0], axis)
        if x is not None:
            space.read(call, kernel, rank - 1, x)
        return self.finish(call, space, [(kernel, rank - 2), *bias_of(layer)], "filters", axis)

    def writes(self, call: Call) -> list[tuple[Any, int]] | None:
        layer = call.op
        if activations.plain(layer.activation) is not keras.activations.linear:
            return None
        return [(layer.kernel, len(layer.kernel.shape) - 2), *bias_of(layer)]

    def _spread(self, call: Call, x: Any, kernel: Any) -> Any:
        layer = call.op
        return ops.conv_transpose(
            x,
            ops.cast(kernel, x.dtype),
            strides=list(layer.strides),
            padding=layer.padding,
            output_padding=layer.output_padding,
            dilation_rate=layer.dilation_rate,
            data_format=layer.data_format,
        )

    def patches(self, call: Call, x: Any) -> Shadow:
        axis, size = self.axis(call), call.op.kernel_size
        depth, cells = int(x.shape[axis]), math.prod(size)
        # One filter for every entry of a fan-in: a kernel that is one there and zero elsewhere.
        kernel = np.eye(cells * depth, dtype="float32").reshape(cells, depth, cells * depth)
        kernel = kernel.transpose(0, 2, 1).reshape(*size, cells * depth, depth)
        return Shadow(self._spread(call, x, kernel), axis, np.arange(cells * depth))

    def respond(self, call: Call, x: Any, fan_in: Any) -> tuple[Any, int]:
        axis, size = self.axis(call), call.op.kernel_size
        kernel = ops.reshape(fan_in, (*size, int(x.shape[axis]), -1))
        return self._spread(call, x, ops.swapaxes(kernel, -1, -2)), axis

    def correlate(self, call: Call, shadow: Shadow, gradient: Any) -> tuple[Any, np.ndarray]:
        axis, size = self.axis(call), call.op.kernel_size
        depth = len(shadow.ids)
        rows = as_rows(gradient, axis)
        taps = []
        for cell in np.ndindex(*size):
            kernel = np.zeros((*size, depth, depth), "float32")
            kernel[cell] = np.eye(depth)
            moved = self._spread(call, shadow.tensor, kernel)
            taps.append(_backend.matrix_product(as_rows(moved, axis), rows))
        product = ops.reshape(ops.stack(taps, axis=1), (depth, *size, -1))
        return product, shadow.ids

    def flops(self, call: Call, inputs: list, outputs: list) -> float:
        filters = outputs[0][self.axis(call)]
        return 2.0 * size_of(inputs[0]) * math.prod(call.op.kernel_size) * filters
