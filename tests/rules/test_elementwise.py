"""Layers that take several tensors entry by entry: who must grow together."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from helpers.growing import FORMATS, assert_refused, conv, dense, image, run_growth_test
from keras import layers, ops

import keras_grow as kg

JOINS = ["Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum"]


@pytest.mark.parametrize("name", JOINS)
def test_joins_tie_their_producers(name: str, tmp_path: Path) -> None:
    x = keras.Input((5,))
    a, b, c = dense(4, "a")(x), dense(4, "b", activation="tanh")(x), dense(4, "c")(x)
    tensors = [a, b] if name == "Subtract" else [a, b, c]
    model = keras.Model(x, dense(2, "out")(getattr(layers, name)()(tensors)))
    site = kg.sites(model)[0]
    assert site.producers == tuple("abc"[: len(tensors)])
    assert site.consumers == ("out",)
    run_growth_test(model, {"b": 6}, tmp_path)
    assert model.get_layer("a").units == 6


@pytest.mark.parametrize("name", JOINS)
def test_joins_of_a_tensor_with_itself(name: str, tmp_path: Path) -> None:
    x = keras.Input((5,))
    a = dense(4, "a", activation="relu")(x)
    y = getattr(layers, name)()([a, a])
    model = keras.Model(x, dense(2, "out")(layers.Concatenate()([y, x])))
    run_growth_test(model, {"a": 6}, tmp_path, trains=False if name == "Subtract" else None)


@pytest.mark.parametrize("name", JOINS)
def test_joins_broadcast_over_space(name: str, tmp_path: Path) -> None:
    """(B, H, W, C) with (B, 1, 1, C): both grow. With (B, H, W, 1): one grows."""
    x = keras.Input(image(2))
    a = dense(4, "a")(x)
    pooled = dense(4, "p")(layers.GlobalAveragePooling2D(keepdims=True)(x))
    mask = dense(1, "m")(x)
    y = getattr(layers, name)()([a, pooled])
    y = getattr(layers, name)()([y, mask])
    model = keras.Model(x, dense(2, "out")(y))
    assert kg.sites(model)[0].producers == ("a", "p")
    # With zero in the new channels only a product stays zero when it meets the mask.
    form = kg.plan(model, {"a": 6}).sites[0].form
    assert form == ("outgoing" if name == "Multiply" else "inverse")
    run_growth_test(model, {"a": 6}, tmp_path)


def test_a_broadcast_channel_must_stay_single() -> None:
    x = keras.Input(image(2))
    y = layers.Multiply()([dense(4, "a")(x), dense(1, "mask")(x)])
    model = keras.Model(x, dense(2, "out")(y))
    assert [s.name for s in kg.sites(model)] == ["a"]
    with pytest.raises(kg.GrowthError, match=r"Multiply .* broadcasts its single channel"):
        kg.widen(model, {"mask": 2})


@pytest.mark.parametrize("name", ["Add", "Multiply"])
def test_joins_of_single_channels(name: str, tmp_path: Path) -> None:
    x = keras.Input((5,))
    a, b = dense(1, "a")(x), dense(1, "b")(x)
    model = keras.Model(x, dense(2, "out")(getattr(layers, name)()([a, b])))
    run_growth_test(model, {"a": 3}, tmp_path)


def test_squeeze_and_excite(tmp_path: Path) -> None:
    """The gate's new channels are sigmoid(0) = 0.5, and multiply zeros."""
    x = keras.Input(image(2))
    a = conv(2, 4, "a", activation="relu")(x)
    gate = layers.GlobalAveragePooling2D(keepdims=True)(a)
    gate = dense(2, "squeeze", activation="gelu")(gate)
    gate = dense(4, "excite", activation="sigmoid")(gate)
    y = layers.Multiply()([a, gate])
    model = keras.Model(x, conv(2, 2, "out")(layers.BatchNormalization()(y)))
    site = kg.sites(model)[0]
    assert set(site.producers) == {"a", "excite"}
    assert set(site.consumers) == {"squeeze", "out"}
    assert kg.plan(model, {"a": 6}).sites[0].form == "outgoing"
    run_growth_test(model, {"a": 6, "squeeze": 3}, tmp_path, trains=True)


@pytest.mark.parametrize("data_format", FORMATS)
def test_residual_blocks_tie_a_whole_stage(data_format: str, tmp_path: Path) -> None:
    options = {"data_format": data_format}
    axis = -1 if data_format == "channels_last" else 1
    x = keras.Input(image(2, data_format=data_format))
    h = conv(2, 4, "stem", **options)(x)
    for i in range(2):
        y = layers.ReLU()(layers.BatchNormalization(axis=axis)(h))
        y = conv(2, 3, f"{i}_inner", activation="relu", **options)(y)
        h = layers.Add()([h, conv(2, 4, f"{i}_outer", **options)(y)])
    model = keras.Model(x, dense(2, "out")(layers.Flatten(data_format=data_format)(h)))
    stage = next(s for s in kg.sites(model) if "stem" in s.producers)
    assert stage.producers == ("stem", "0_outer", "1_outer")
    widths = {"1_outer": 6, "0_inner": 5}
    run_growth_test(model, widths, tmp_path, trains=data_format == "channels_last" or None)


def test_one_producer_read_by_many(tmp_path: Path) -> None:
    x = keras.Input(image(2))
    a = conv(2, 4, "a", activation="relu")(x)
    y = [
        layers.GlobalAveragePooling2D()(a),
        layers.Flatten()(conv(2, 2, "b")(a)),
        layers.Flatten()(a),
    ]
    model = keras.Model(x, [dense(2, "c")(y[0]), dense(2, "d")(layers.Concatenate()(y))])
    run_growth_test(model, {"a": 6}, tmp_path)


def _with_input(join: Any) -> Callable[[], keras.Model]:
    def build() -> keras.Model:
        x = keras.Input((4,))
        return keras.Model(x, dense(2, "out")(join([dense(4, "a")(x), x])))

    return build


REFUSED = {
    "with the model's input": (
        _with_input(layers.Add()),
        "joins the channels with the model input",
    ),
    "with channels that no rule lets grow": (
        _with_input(lambda xs: layers.Add()([xs[0], layers.Softmax(name="ln")(xs[0])])),
        "Softmax 'ln'",
    ),
    "with a constant of more axes": (
        _with_input(lambda xs: ops.mean(xs[0] + np.ones((1, 3, 4), "float32"), axis=1)),
        "broadcasts the channels to the constant's 3 axes",
    ),
    "with a variable of no layer": (
        _with_input(lambda xs: xs[0] * keras.Variable(np.ones(4))),
        "belongs to no layer",
    ),
    "a power of others": (
        _with_input(lambda xs: xs[0] ** dense(4, "b")(xs[1])),
        "to the power of others",
    ),
    "chosen from an array": (
        _with_input(lambda xs: ops.where(xs[0] > 0, xs[0], np.arange(4.0))),
        "no single numbers",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    build, message = REFUSED[name]
    assert_refused(build(), message)
