"""Layers without weights that treat every channel alike: pooling, padding, dropout, noise."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from helpers.growing import (
    FORMATS,
    RANKS,
    chain,
    conv,
    dense,
    image,
    inputs_of,
    predict,
    predict_training,
    randomize,
    run_growth_test,
)
from keras import layers

import keras_grow as kg

# (name, arguments) of layers that keep the rank; arguments may depend on the number of axes.
SPATIAL: dict[str, tuple[str, dict[str, Any]]] = {
    "max pooling": ("MaxPooling", {"pool_size": 2, "padding": "same"}),
    "max pooling, strides": ("MaxPooling", {"pool_size": 3, "strides": 1}),
    "average pooling": ("AveragePooling", {"pool_size": 2, "padding": "same"}),
    "up-sampling": ("UpSampling", {"size": 2}),
    "zero padding": ("ZeroPadding", {"padding": 1}),
    "cropping": ("Cropping", {"cropping": 1}),
    "adaptive average pooling": ("AdaptiveAveragePooling", {"output_size": 2}),
    "adaptive max pooling": ("AdaptiveMaxPooling", {"output_size": 2}),
}
WITHOUT_FORMAT = ("UpSampling1D", "Cropping1D")


def _spatial(case: str, rank: int, data_format: str) -> layers.Layer:
    name, arguments = SPATIAL[case]
    name = f"{name}{rank}D"
    if not hasattr(layers, name):
        pytest.skip(f"keras {keras.__version__} has no {name}")
    if name not in WITHOUT_FORMAT:
        arguments = {**arguments, "data_format": data_format}
    elif data_format == "channels_first":
        pytest.skip(f"{name} has no data_format")
    return getattr(layers, name)(**arguments)


@pytest.mark.parametrize("case", SPATIAL)
@pytest.mark.parametrize("rank", RANKS)
def test_spatial(rank: int, case: str, tmp_path: Path) -> None:
    model = chain(
        image(rank), dense(4, "a"), _spatial(case, rank, "channels_last"), dense(2, "b")
    )  # fmt: skip
    run_growth_test(model, {"a": 6}, tmp_path)


@pytest.mark.parametrize("data_format", FORMATS[1:])
@pytest.mark.parametrize("case", SPATIAL)
def test_spatial_channels_first(case: str, data_format: str, tmp_path: Path) -> None:
    model = chain(
        image(2, data_format=data_format),
        conv(2, 4, "a", data_format=data_format),
        _spatial(case, 2, data_format),
        conv(2, 2, "b", data_format=data_format),
    )
    run_growth_test(model, {"a": 6}, tmp_path)


def test_bilinear_up_sampling(tmp_path: Path) -> None:
    layer = layers.UpSampling2D(2, interpolation="bilinear")
    run_growth_test(chain(image(2), dense(4, "a"), layer, dense(2, "b")), {"a": 6}, tmp_path)


@pytest.mark.parametrize("keepdims", [False, True])
@pytest.mark.parametrize("kind", ["Average", "Max"])
@pytest.mark.parametrize("rank", RANKS)
def test_global_pooling(rank: int, kind: str, keepdims: bool, tmp_path: Path) -> None:
    layer = getattr(layers, f"Global{kind}Pooling{rank}D")(keepdims=keepdims)
    model = chain(image(rank), dense(4, "a"), layer, dense(2, "b"))
    run_growth_test(model, {"a": 6}, tmp_path)


@pytest.mark.parametrize("data_format", FORMATS[1:])
@pytest.mark.parametrize("kind", ["Average", "Max"])
def test_global_pooling_channels_first(kind: str, data_format: str, tmp_path: Path) -> None:
    layer = getattr(layers, f"Global{kind}Pooling2D")(data_format=data_format)
    model = chain(
        image(2, data_format=data_format),
        conv(2, 4, "a", data_format=data_format),
        layer,
        dense(2, "b"),
    )
    run_growth_test(model, {"a": 6}, tmp_path)


def test_pooling_of_a_constant_that_is_not_zero(tmp_path: Path) -> None:
    """sigmoid(0) goes through the pooling; nothing may read it."""
    model = chain(
        image(2),
        conv(2, 4, "a", activation="sigmoid"),
        layers.AveragePooling2D(2),
        layers.ZeroPadding2D(1),
        conv(2, 2, "b"),
    )
    run_growth_test(model, {"a": 6}, tmp_path, forms=["outgoing"])


SAME: dict[str, Callable[[], layers.Layer]] = {
    "identity": lambda: layers.Identity(),
    "dropout": lambda: layers.Dropout(0.4, seed=1),
    "spatial dropout 1d": lambda: layers.SpatialDropout1D(0.4, seed=1),
    "gaussian dropout": lambda: layers.GaussianDropout(0.4, seed=1),
    "gaussian noise": lambda: layers.GaussianNoise(0.4, seed=1),
    "alpha dropout": lambda: layers.AlphaDropout(0.4, seed=1),
    "activity regularization": lambda: layers.ActivityRegularization(l2=0.1),
}


@pytest.mark.parametrize("name", SAME)
def test_dropout_and_noise(name: str, tmp_path: Path) -> None:
    model = chain(image(1), dense(4, "a"), SAME[name](), dense(2, "b"))
    run_growth_test(
        model,
        {"a": 6},
        tmp_path,
        same_in_training=name in ("identity", "activity regularization"),
    )


@pytest.mark.parametrize("rank", [2, 3])
def test_spatial_dropout(rank: int, tmp_path: Path) -> None:
    layer = getattr(layers, f"SpatialDropout{rank}D")(0.4, seed=1)
    model = chain(image(rank), dense(4, "a"), layer, dense(2, "b"))
    run_growth_test(model, {"a": 6}, tmp_path, same_in_training=False)


def test_dropout_in_training_stays_a_dropout() -> None:
    """Random numbers differ, but their law does not: the mean over masks stays the output."""
    model = chain((5,), dense(4, "a"), layers.Dropout(0.5, seed=1), dense(2, "b"))
    randomize(model)
    x = inputs_of(model)
    many = keras.ops.repeat(x, 1000, axis=0)  # as many masks for each sample
    for candidate in (model, kg.widen(model, {"a": 8}, seed=0, form="outgoing")):
        drawn = predict_training(candidate, many)[0].reshape(len(x), 1000, -1)
        assert drawn.std(axis=1).min() > 0.1
        np.testing.assert_allclose(drawn.mean(axis=1), predict(model, x)[0], atol=0.2)
