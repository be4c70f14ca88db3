"""What the zoo's builders share: initial weights, the channel axis, argument checks."""

import math
import operator
import random
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_grow.zoo.registry import ZooError

NORMALIZATIONS = ("none", "batch")


class Kernels:
    """Draws the kernels of a model's layers with NumPy, as a stock Keras initializer would.

    The same seed then gives the same model on every backend. It is also much faster on JAX, which
    compiles its random number generator for a second or more for every new shape.

    Args:
        seed: of the kernels; `None` takes one from Python's `random`, as Keras does.

    Raises:
        ZooError: if the seed is no whole number of at least 0.
    """

    def __init__(self, seed: int | None) -> None:
        seed = random.randrange(2**31) if seed is None else whole("seed", seed, minimum=0)
        self._rng = np.random.default_rng(seed)
        self._pending: list[tuple[keras.layers.Layer, keras.initializers.VarianceScaling]] = []

    def of(
        self, layer: keras.layers.Layer, initializer: keras.initializers.VarianceScaling
    ) -> keras.layers.Layer:
        """Return `layer`, not built yet, after making a note of how to draw its kernel."""
        layer.kernel_initializer = keras.initializers.Zeros()
        self._pending.append((layer, initializer))
        return layer

    def draw(self) -> None:
        """Draw all kernels noted, the layers being built; their configs name the initializers."""
        for layer, initializer in self._pending:
            layer.kernel.assign(_variance_scaling(initializer, layer.kernel.shape, self._rng))
            layer.kernel_initializer = initializer


def _variance_scaling(
    initializer: keras.initializers.VarianceScaling,
    shape: tuple[int, ...],
    rng: np.random.Generator,
) -> np.ndarray:
    """Draw what `keras.initializers.VarianceScaling` describes; `shape` ends in (in, out)."""
    *window, inputs, outputs = shape
    fan_in, fan_out = math.prod(window) * inputs, math.prod(window) * outputs
    fan = {"fan_in": fan_in, "fan_out": fan_out, "fan_avg": (fan_in + fan_out) / 2}
    deviation = math.sqrt(initializer.scale / fan[initializer.mode])
    if initializer.distribution == "uniform":
        return rng.uniform(-1.0, 1.0, shape) * math.sqrt(3.0) * deviation
    # A normal distribution cut off at two standard deviations, which leaves 0.8796 of its own.
    values = rng.standard_normal(shape)
    while (outside := np.abs(values) > 2.0).any():
        values[outside] = rng.standard_normal(int(outside.sum()))
    return values * deviation / 0.87962566103423978


def channels_first() -> bool:
    """Return whether images are (channels, height, width), by Keras' global setting."""
    return bool(keras.config.image_data_format() == "channels_first")


def channel_axis() -> int:
    """Return the axis of the channels in a batch of images, by Keras' global setting."""
    return 1 if channels_first() else -1


def image_shape(height: int, width: int, channels: int) -> tuple[int, int, int]:
    """Return the shape of one image, by Keras' global setting."""
    return (channels, height, width) if channels_first() else (height, width, channels)


def whole(name: str, value: Any, minimum: int) -> int:
    """Return `value` as an int, or raise ZooError if it is no whole number or below `minimum`."""
    try:
        number = operator.index(value)
    except TypeError:
        number = minimum - 1
    if number < minimum or isinstance(value, bool):
        raise ZooError(
            f"`{name}` must be a whole number of at least {minimum}. Received: {name}={value!r}"
        )
    return number


def one_of(name: str, value: Any, choices: Sequence[str]) -> str:
    """Return `value`, or raise ZooError if it is not among `choices`."""
    if value not in choices:
        raise ZooError(
            f"`{name}` must be one of {', '.join(map(repr, choices))}. Received: {name}={value!r}"
        )
    return str(value)
