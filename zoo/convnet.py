"""A small convolutional network for small grey images, whose every hidden layer can grow."""

import keras

from keras_grow.zoo._common import (
    NORMALIZATIONS,
    Kernels,
    channel_axis,
    image_shape,
    one_of,
    whole,
)
from keras_grow.zoo.registry import register_model


@register_model("convnet")
def convnet(
    width: int = 16,
    image_size: int = 8,
    channels: int = 1,
    classes: int = 10,
    normalization: str = "none",
    seed: int | None = None,
) -> keras.Model:
    """Build conv-conv-pool-conv-pool-flatten-dense.

    The 3x3 convolutions `conv1`, `conv2` and `conv3` have `width`, `width` and `2 * width`
    channels; both max-poolings halve the image; `logits` reads the flattened rest. Between them
    lie the paths which a growing layer meets in practice: convolution to convolution, through a
    pooling, and through pooling and Flatten into a dense layer.

    Args:
        width: channels of `conv1` and `conv2`, half the channels of `conv3`.
        image_size: height and width of the images, at least 4.
        channels: channels of the images.
        classes: how many logits come out.
        normalization: "none", or "batch" for a BatchNormalization (`norm1` to `norm3`) between
            each convolution and its ReLU (`relu1` to `relu3`).
        seed: of the initial weights: He normal for the convolutions, Glorot uniform for `logits`;
            the same on every backend.

    Returns:
        A functional model from images to (batch, classes) logits: train it with a loss made with
        `from_logits=True`.

    Raises:
        ZooError: if an argument is out of range.
    """
    width = whole("width", width, minimum=1)
    image_size = whole("image_size", image_size, minimum=4)
    channels = whole("channels", channels, minimum=1)
    classes = whole("classes", classes, minimum=1)
    one_of("normalization", normalization, NORMALIZATIONS)
    kernels = Kernels(seed)

    inputs = keras.Input(image_shape(image_size, image_size, channels), name="image")
    x = inputs
    for i, filters in enumerate((width, width, 2 * width), start=1):
        # A BatchNormalization has a bias of its own.
        use_bias = normalization == "none"
        conv = keras.layers.Conv2D(filters, 3, padding="same", use_bias=use_bias, name=f"conv{i}")
        x = kernels.of(conv, keras.initializers.HeNormal())(x)
        if normalization == "batch":
            x = keras.layers.BatchNormalization(axis=channel_axis(), name=f"norm{i}")(x)
        x = keras.layers.Activation("relu", name=f"relu{i}")(x)
        if i > 1:
            x = keras.layers.MaxPooling2D(name=f"pool{i}")(x)
    x = keras.layers.Flatten(name="flatten")(x)
    logits = keras.layers.Dense(classes, name="logits")
    x = kernels.of(logits, keras.initializers.GlorotUniform())(x)
    kernels.draw()
    return keras.Model(inputs, x, name="convnet")
