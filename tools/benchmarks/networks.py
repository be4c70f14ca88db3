"""Small networks of the kinds that people grow, at any width, for `benchmarks helps`.

Every builder takes the shape of an image and a width of 0.5 (before growing) or 1 (after), and
gives an unmodified functional Keras model with 10 logits.
"""

from collections.abc import Callable

import keras
from keras import layers


def mlp(shape: tuple[int, ...], width: float) -> keras.Model:
    """Two relu layers of 16."""
    inputs = keras.Input(shape)
    x = layers.Flatten()(inputs)
    for n in range(2):
        x = layers.Dense(int(16 * width), activation="relu", name=f"dense{n}")(x)
    return keras.Model(inputs, layers.Dense(10, name="logits")(x))


def conv(shape: tuple[int, ...], width: float, normalize: bool = False) -> keras.Model:
    """Three 3x3 convolutions of 16, 32 and 32 with relu."""
    inputs = x = keras.Input(shape)
    for n, (filters, stride) in enumerate(((16, 1), (32, 2), (32, 1))):
        x = layers.Conv2D(
            int(filters * width), 3, stride, "same", use_bias=not normalize, name=f"conv{n}"
        )(x)
        x = layers.ReLU()(layers.BatchNormalization()(x) if normalize else x)
    return keras.Model(inputs, _head(x))


def conv_bn(shape: tuple[int, ...], width: float) -> keras.Model:
    """The same with BatchNormalization between convolution and relu."""
    return conv(shape, width, normalize=True)


def batchnorm(shape: tuple[int, ...], width: float) -> keras.Model:
    """As `conv_bn`, halving twice and without biases: for images of 28 x 28."""
    inputs = x = keras.Input(shape)
    for n, (filters, stride) in enumerate(((16, 2), (32, 2), (32, 1))):
        x = layers.Conv2D(int(filters * width), 3, stride, "same", use_bias=False, name=f"conv{n}")(
            x
        )
        x = layers.ReLU()(layers.BatchNormalization()(x))
    return keras.Model(inputs, _head(x))


def wrn10(shape: tuple[int, ...], width: float) -> keras.Model:
    """A WRN-10: three pre-activation blocks; the first convolution of each grows."""
    inputs = keras.Input(shape)
    x = layers.Conv2D(8, 3, padding="same", use_bias=False, name="stem")(inputs)
    for n, (filters, stride) in enumerate(((8, 1), (16, 2), (32, 2))):
        y = layers.ReLU()(layers.BatchNormalization()(x))
        shortcut = x
        if x.shape[-1] != filters or stride > 1:
            shortcut = layers.Conv2D(filters, 1, stride, use_bias=False, name=f"shortcut{n}")(y)
        y = layers.Conv2D(int(filters * width), 3, stride, "same", use_bias=False, name=f"conv{n}")(
            y
        )
        y = layers.ReLU()(layers.BatchNormalization()(y))
        y = layers.Conv2D(filters, 3, padding="same", use_bias=False, name=f"out{n}")(y)
        x = layers.Add()([shortcut, y])
    return keras.Model(inputs, _head(layers.ReLU()(layers.BatchNormalization()(x))))


def mobilenet(shape: tuple[int, ...], width: float) -> keras.Model:
    """Three depthwise-separable blocks, each convolution normalised."""
    inputs = keras.Input(shape)
    x = layers.Conv2D(int(16 * width), 3, padding="same", use_bias=False, name="conv0")(inputs)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    for n, (filters, stride) in enumerate(((32, 2), (32, 1), (48, 2)), start=1):
        x = layers.DepthwiseConv2D(3, stride, "same", use_bias=False, name=f"depthwise{n}")(x)
        x = layers.ReLU()(layers.BatchNormalization()(x))
        x = layers.Conv2D(int(filters * width), 1, use_bias=False, name=f"conv{n}")(x)
        x = layers.ReLU()(layers.BatchNormalization()(x))
    return keras.Model(inputs, _head(x))


def transformer(shape: tuple[int, ...], width: float) -> keras.Model:
    """Two pre-norm encoder blocks on patches of 2x2; the hidden layers of their MLPs grow.

    No position embedding but what zero padding of the first convolution tells.
    """
    size = 16
    inputs = keras.Input(shape)
    x = layers.Conv2D(size, 3, 2, "same", name="patches")(inputs)
    x = layers.Reshape((-1, size))(x)
    for n in range(2):
        y = layers.LayerNormalization()(x)
        x = layers.Add()([x, layers.MultiHeadAttention(2, size // 2, name=f"attention{n}")(y, y)])
        y = layers.LayerNormalization()(x)
        y = layers.Dense(int(32 * width), activation="gelu", name=f"hidden{n}")(y)
        x = layers.Add()([x, layers.Dense(size, name=f"projection{n}")(y)])
    x = layers.GlobalAveragePooling1D()(layers.LayerNormalization()(x))
    return keras.Model(inputs, layers.Dense(10, name="logits")(x))


def _head(x: keras.KerasTensor) -> keras.KerasTensor:
    return layers.Dense(10, name="logits")(layers.GlobalAveragePooling2D()(x))


#: By name: the builder, and the rates of SGD (momentum 0.9) and AdamW.
NETWORKS: dict[str, tuple[Callable[..., keras.Model], float, float]] = {
    "mlp": (mlp, 0.02, 0.003),
    "conv": (conv, 0.02, 0.003),
    "conv_bn": (conv_bn, 0.1, 0.003),
    "batchnorm": (batchnorm, 0.1, 0.003),
    "wrn10": (wrn10, 0.1, 0.003),
    "mobilenet": (mobilenet, 0.1, 0.003),
    "transformer": (transformer, 0.05, 0.003),
}
#: Layers that grow.
GROWING = ("dense", "conv", "hidden")


def target(model: keras.Model) -> dict[str, int]:
    """The widths of the layers that grow, in the big model."""
    found = {}
    for layer in model.layers:
        width = getattr(layer, "units", getattr(layer, "filters", None))
        if width is not None and layer.name.rstrip("0123456789") in GROWING:
            found[layer.name] = int(width)
    return found
