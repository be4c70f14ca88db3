"""Depthwise and separable convolutions."""

from pathlib import Path

import pytest
from helpers.growing import FORMATS, chain, conv, image, run_growth_test
from keras import layers


@pytest.mark.parametrize("data_format", FORMATS)
@pytest.mark.parametrize("multiplier", [1, 2])
@pytest.mark.parametrize("rank", [1, 2])
def test_depthwise(rank: int, multiplier: int, data_format: str, tmp_path: Path) -> None:
    depthwise = getattr(layers, f"DepthwiseConv{rank}D")(
        3,
        padding="same",
        depth_multiplier=multiplier,
        activation="relu" if multiplier == 1 else "tanh",
        data_format=data_format,
    )
    model = chain(
        image(rank, data_format=data_format),
        conv(rank, 4, "a", data_format=data_format),
        depthwise,
        conv(rank, 2, "b", data_format=data_format),
    )
    run_growth_test(model, {"a": 6}, tmp_path, trains=(rank, multiplier) == (2, 1) or None)


def test_depthwise_strides_even_kernel_no_bias(tmp_path: Path) -> None:
    depthwise = layers.DepthwiseConv2D(2, strides=2, padding="valid", use_bias=False)
    model = chain(image(2), conv(2, 4, "a"), depthwise, conv(2, 2, "b"))
    run_growth_test(model, {"a": 6}, tmp_path)


def test_depthwise_dilation(tmp_path: Path) -> None:
    depthwise = layers.DepthwiseConv2D(2, dilation_rate=2, padding="same")
    model = chain(image(2), conv(2, 4, "a"), depthwise, conv(2, 2, "b"))
    run_growth_test(model, {"a": 6}, tmp_path)


@pytest.mark.parametrize("data_format", FORMATS)
@pytest.mark.parametrize("rank", [1, 2])
def test_separable_as_producer_and_consumer(rank: int, data_format: str, tmp_path: Path) -> None:
    separable = getattr(layers, f"SeparableConv{rank}D")
    model = chain(
        image(rank, data_format=data_format),
        separable(4, 3, padding="same", name="a", activation="elu", data_format=data_format),
        separable(3, 3, padding="same", depth_multiplier=2, name="b", data_format=data_format),
        conv(rank, 2, "c", data_format=data_format),
    )
    run_growth_test(model, {"a": 6, "b": 5}, tmp_path, trains=rank == 1 or None)


def test_separable_strides_without_bias(tmp_path: Path) -> None:
    model = chain(
        image(2),
        layers.SeparableConv2D(4, 2, strides=2, name="a", activation="relu", use_bias=False),
        layers.SeparableConv2D(2, 2, padding="same", use_bias=False),
    )
    run_growth_test(model, {"a": 6}, tmp_path)
