"""Wide residual networks (Zagoruyko and Komodakis 2016) as GradMax grows them (section 4.2).

A WRN-d-k has d - 4 = 6n 3x3 convolutions in three groups of n blocks of two, with 16k, 32k and 64k
channels. The residual sum fixes a block's input and output channels, so GradMax starts from a
network in which only the first convolution of every block is narrower (`block_width`) and grows
these: 12 sites in a WRN-28.
"""

import keras

from keras_grow.zoo._common import (
    NORMALIZATIONS,
    Kernels,
    channel_axis,
    image_shape,
    one_of,
    whole,
)
from keras_grow.zoo.registry import ZooError, register_model

_GROUPS = ((16, 1), (32, 2), (64, 2))  # channels at k=1, stride of the group's first block


class _Layers:
    """Makes the network's layers, with their initial weights and the common regularization."""

    def __init__(self, seed: int | None, l2: float) -> None:
        self.kernels = Kernels(seed)
        self._l2 = l2

    def conv(self, filters: int, size: int, stride: int, name: str) -> keras.layers.Layer:
        layer = keras.layers.Conv2D(
            filters,
            size,
            strides=stride,
            padding="same",
            use_bias=False,
            kernel_regularizer=self._regularizer(),
            name=name,
        )
        return self.kernels.of(layer, keras.initializers.HeNormal())

    def norm(self, name: str) -> keras.layers.Layer:
        return keras.layers.BatchNormalization(
            axis=channel_axis(),
            momentum=0.9,
            epsilon=1e-5,
            beta_regularizer=self._regularizer(),
            gamma_regularizer=self._regularizer(),
            name=name,
        )

    def dense(self, units: int, name: str) -> keras.layers.Layer:
        layer = keras.layers.Dense(
            units,
            kernel_regularizer=self._regularizer(),
            bias_regularizer=self._regularizer(),
            name=name,
        )
        return self.kernels.of(layer, keras.initializers.HeNormal())

    def _regularizer(self) -> keras.regularizers.Regularizer | None:
        return keras.regularizers.L2(self._l2) if self._l2 else None


@register_model("wide_resnet")
def wide_resnet(
    depth: int = 28,
    k: int = 1,
    block_width: float = 1.0,
    normalization: str = "none",
    image_size: int = 32,
    channels: int = 3,
    classes: int = 10,
    l2: float = 0.0,
    seed: int | None = None,
) -> keras.Model:
    """Build a WRN-`depth`-`k`: pre-activation blocks, no biases but that of the last layer.

    Layers are named after group and block: `block1_1_norm1`, `block1_1_relu1`, `block1_1_conv1`,
    `block1_1_norm2` (with "batch"), `block1_1_relu2`, `block1_1_conv2`, `block1_1_add`; the first
    block of a group whose channels or stride change has a 1x1 convolution `block2_1_shortcut` on
    its input. `stem` comes before, `norm`, `relu`, `pool` (global average) and `logits` after.

    Args:
        depth: 6n + 4: 10, 16, 22, 28, 34, 40, ...
        k: multiplies the channels of all three groups.
        block_width: multiplies the channels of each block's first convolution only, rounded down
            as in the paper's code. The paper starts growing from 0.25.
        normalization: "none" or "batch": what lies between the two convolutions of a block. As in
            the paper's code, a BatchNormalization precedes each block and the last ReLU in either
            case: "none" means that no normalization lies on the channels that grow.
        image_size: height and width of the images, at least 4.
        channels: channels of the images.
        classes: how many logits come out.
        l2: L2 regularization of all trained weights. The paper's code trains with 2e-4.
        seed: of the initial weights: He normal; the same on every backend.

    Returns:
        A functional model from images to (batch, classes) logits: train it with a loss made with
        `from_logits=True`.

    Raises:
        ZooError: if the depth is not 6n + 4, `block_width` leaves a convolution without channels,
            or another argument is out of range.
    """
    depth = whole("depth", depth, minimum=10)
    if (depth - 4) % 6:
        lower = depth - (depth - 4) % 6
        raise ZooError(
            f"The depth of a wide residual network is 6n + 4: its three groups have n blocks of "
            f"two convolutions each. The nearest are {lower} and {lower + 6}. "
            f"Received: depth={depth!r}"
        )
    k = whole("k", k, minimum=1)
    if int(_GROUPS[0][0] * k * block_width) < 1:
        raise ZooError(
            f"`block_width` must leave at least one of the first group's {_GROUPS[0][0] * k} "
            f"channels. Received: block_width={block_width!r}"
        )
    one_of("normalization", normalization, NORMALIZATIONS)
    image_size = whole("image_size", image_size, minimum=4)
    channels = whole("channels", channels, minimum=1)
    classes = whole("classes", classes, minimum=1)
    layers = _Layers(seed, l2)

    inputs = keras.Input(image_shape(image_size, image_size, channels), name="image")
    x = layers.conv(16, 3, 1, "stem")(inputs)
    for group, (base, group_stride) in enumerate(_GROUPS, start=1):
        filters = base * k
        for block in range(1, (depth - 4) // 6 + 1):
            name = f"block{group}_{block}"
            stride = group_stride if block == 1 else 1
            y = layers.norm(f"{name}_norm1")(x)
            y = keras.layers.Activation("relu", name=f"{name}_relu1")(y)
            y = layers.conv(int(filters * block_width), 3, stride, f"{name}_conv1")(y)
            if normalization == "batch":
                y = layers.norm(f"{name}_norm2")(y)
            y = keras.layers.Activation("relu", name=f"{name}_relu2")(y)
            y = layers.conv(filters, 3, 1, f"{name}_conv2")(y)
            if stride > 1 or x.shape[channel_axis()] != filters:
                x = layers.conv(filters, 1, stride, f"{name}_shortcut")(x)
            x = keras.layers.Add(name=f"{name}_add")([x, y])
    x = layers.norm("norm")(x)
    x = keras.layers.Activation("relu", name="relu")(x)
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    x = layers.dense(classes, "logits")(x)
    layers.kernels.draw()
    return keras.Model(inputs, x, name=f"wide_resnet_{depth}_{k}")
