"""Which layers lead from one tensor's shape to another's: the two weighted layers of a bridge."""

from dataclasses import dataclass
from itertools import product
from typing import Any

import keras

from keras_grow.errors import GrowthError

layers = keras.layers

# Kernel sizes tried after the consumer's own, where sizes do not come out otherwise.
OTHER_SIZES = (3, 1, 2, 4, 5, 6, 7)


@dataclass
class BridgeLayers:
    """The layers of a bridge, in order.

    Attributes:
        hidden: the new layer, with the activation.
        between: layers without weights.
        out: leads into the pre-activation; it has no bias, since that has one.
    """

    hidden: Any
    between: list[Any]
    out: Any


def connect(
    start: tuple, end: tuple, consumer: Any, source: Any, width: int, activation: Any, name: str
) -> BridgeLayers:
    """New layers that turn shape `start` into shape `end`.

    Args:
        start, end: of tensors, batch included; unknown spatial sizes are taken to be equal.
        consumer: the layer into whose pre-activation the bridge leads; conv paths take its
            kernel size.
        source: the layer the bridge starts from; asked for its data format.

    Raises:
        GrowthError: no dense or convolutional path leads from one to the other.
    """
    options = {"dtype": consumer.dtype_policy}
    rank = len(start)
    dense_like = isinstance(consumer, (layers.Dense, layers.EinsumDense))
    if rank == len(end) and rank >= 2 and dense_like and start[1:-1] == end[1:-1]:
        return BridgeLayers(
            layers.Dense(width, activation=activation, name=name, **options),
            [],
            layers.Dense(end[-1], use_bias=False, name=f"{name}_out", **options),
        )
    data_format = _data_format(consumer, source)
    if 3 <= rank <= 5 and len(end) == 2:
        conv = getattr(layers, f"Conv{rank - 2}D")
        pool = getattr(layers, f"GlobalAveragePooling{rank - 2}D")
        return BridgeLayers(
            conv(
                width,
                _usable(3, _spatial(start, data_format)),
                padding="same",
                activation=activation,
                data_format=data_format,
                name=name,
                **options,
            ),
            [pool(data_format=data_format, name=f"{name}_pool", **options)],
            layers.Dense(end[-1], use_bias=False, name=f"{name}_out", **options),
        )
    if 3 <= rank <= 5 and rank == len(end):
        found = _convolutions(
            _spatial(start, data_format), _spatial(end, data_format), _kernel_size(consumer, rank)
        )
        if found is not None:
            first, second = found
            conv = getattr(layers, f"Conv{rank - 2}D")
            channels = end[-1] if data_format == "channels_last" else end[1]
            options["data_format"] = data_format
            return BridgeLayers(
                conv(width, activation=activation, name=name, **first, **options),
                [],
                conv(channels, use_bias=False, name=f"{name}_out", **second, **options),
            )
    raise GrowthError(
        f"No dense or convolutional path leads from shape {start} (what '{source.name}' makes) to "
        f"shape {end} (the pre-activation of '{consumer.name}'): paths lead from vectors to "
        "vectors, from maps to maps that are not larger, and from maps to vectors. Choose "
        "layers between which sizes shrink or stay."
    )


def _data_format(consumer: Any, source: Any) -> str:
    for layer in (consumer, source):
        if getattr(layer, "data_format", None) is not None:
            return layer.data_format
    return "channels_last"


def _spatial(shape: tuple, data_format: str) -> tuple:
    return tuple(shape[1:-1] if data_format == "channels_last" else shape[2:])


def _usable(size: int, spatial: tuple) -> tuple[int, ...]:
    """A kernel size no larger than the map (the next smaller odd one)."""
    return tuple(size if n is None or n >= size else (n - 1) // 2 * 2 + 1 for n in spatial)


def _kernel_size(consumer: Any, rank: int) -> tuple[int, ...]:
    size = getattr(consumer, "kernel_size", None)
    return tuple(size) if size is not None and len(size) == rank - 2 else (3,) * (rank - 2)


def _convolutions(
    start: tuple, end: tuple, kernel: tuple[int, ...]
) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """Arguments of two convolutions; the first has the stride, the ratio of the sizes."""
    for others in (False, True):
        for paddings in product(("same", "valid"), repeat=2):
            axes = [
                _axis(n, m, (k, *OTHER_SIZES) if others else (k,), paddings)
                for n, m, k in zip(start, end, kernel, strict=True)
            ]
            if all(axis is not None for axis in axes):
                sizes, strides = zip(*(a for a in axes if a is not None), strict=True)
                return (
                    {"kernel_size": sizes, "strides": strides, "padding": paddings[0]},
                    {"kernel_size": sizes, "padding": paddings[1]},
                )
    return None


def _axis(
    n: int | None, m: int | None, sizes: tuple[int, ...], paddings: tuple[str, ...]
) -> tuple[int, int] | None:
    """Kernel size and stride along one axis; the smallest stride that gives the size `m`."""
    if n is None or m is None:
        return (sizes[0], 1) if n is m and paddings == ("same", "same") else None
    for k in sizes:
        for stride in range(1, n + 1):
            if paddings[0] == "valid" and k > n:
                break
            middle = -(-n // stride) if paddings[0] == "same" else (n - k) // stride + 1
            last = middle if paddings[1] == "same" else middle - k + 1
            if last == m:
                return k, stride
            if last < m:
                break
    return None
