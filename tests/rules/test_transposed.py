"""Transposed convolutions: the kernel's last axis reads, the one before it makes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import pytest
from helpers.growing import BACKEND, FORMATS, chain, conv, dense, image, run_growth_test
from keras import layers

import keras_grow as kg


def transposed(rank: int, filters: int, name: str, size: int = 2, **options: Any) -> Any:
    options = {"padding": "same", **options}
    return getattr(layers, f"Conv{rank}DTranspose")(filters, size, name=name, **options)


CASES: dict[str, Callable[[], keras.Model]] = {
    "producer": lambda: chain(
        image(2), transposed(2, 4, "a", 3, strides=2, activation="relu"), conv(2, 2, "b")
    ),
    "consumer": lambda: chain(image(2), conv(2, 4, "a"), transposed(2, 2, "b", 3, strides=2)),
    "both, valid": lambda: chain(
        image(1), transposed(1, 4, "a", padding="valid"), transposed(1, 2, "b", padding="valid")
    ),
    "dilation, no bias": lambda: chain(
        image(2),
        transposed(2, 4, "a", dilation_rate=2, use_bias=False),
        transposed(2, 2, "b", use_bias=False),
    ),
    "output padding": lambda: chain(
        image(2), transposed(2, 4, "a", 3, strides=2, output_padding=1), conv(2, 2, "b")
    ),
    "3d": lambda: chain(image(3), transposed(3, 4, "a", strides=2), conv(3, 2, "b")),
    "centred before a layer normalisation": lambda: chain(
        image(2), transposed(2, 4, "a"), layers.LayerNormalization(), conv(2, 2, "b")
    ),
    "sigmoid": lambda: chain(
        image(2), transposed(2, 4, "a", activation="sigmoid"), layers.Flatten(), dense(2, "b")
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_geometry(name: str, tmp_path: Path) -> None:
    if "dilation" in name and BACKEND == "tensorflow":
        pytest.skip("TensorFlow's transposed convolutions on the CPU have no dilation")
    options: dict[str, Any] = {"trains": True} if name == "producer" else {}
    if "centred" in name:
        options["forms"] = ("outgoing",)
    run_growth_test(CASES[name](), {"a": 6}, tmp_path, **options)


@pytest.mark.parametrize("data_format", FORMATS)
@pytest.mark.parametrize("rank", [1, 2])
def test_data_formats(rank: int, data_format: str, tmp_path: Path) -> None:
    model = chain(
        image(rank, data_format=data_format),
        transposed(rank, 4, "a", data_format=data_format, strides=2),
        transposed(rank, 2, "b", data_format=data_format),
    )
    run_growth_test(model, {"a": 5}, tmp_path)


def test_flops() -> None:
    model = chain((4, 5, 3), transposed(2, 6, "a", 3, strides=2), conv(2, 2, "b", 1))
    assert kg.flops(model) == 2 * (4 * 5 * 3 * 9 * 6 + 8 * 10 * 6 * 2)
