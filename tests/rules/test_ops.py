"""Nodes of keras.ops that do what layers do."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from helpers.growing import chain, conv, dense, image, run_growth_test
from keras import layers, ops

import keras_grow as kg

# (B, 4, 5, C) -> anything that Dense may read along its last axis
ON_IMAGES: dict[str, Callable[[Any], Any]] = {
    "add a number": lambda x: x + 0.5,
    "multiply by a number": lambda x: 2.0 * x,
    "number minus tensor": lambda x: 1.0 - x,
    "divide by a number": lambda x: x / 3.0,
    "maximum with a number": lambda x: ops.maximum(x, 0.2),
    "minimum with a number": lambda x: ops.minimum(0.5, x),
    "constant of shape (1,)": lambda x: x * np.full((1,), 0.5, "float32"),
    "relu": ops.relu,
    "gelu": ops.gelu,
    "leaky_relu": lambda x: ops.leaky_relu(x, 0.3),
    "sigmoid": ops.sigmoid,
    "square": ops.square,
    "negative": lambda x: -x,
    "abs": ops.abs,
    "reshape": lambda x: ops.reshape(x, (-1, 20, 4)),
    "reshape to a row": lambda x: ops.reshape(x, (-1, 80)),
    "reshape with -1 in the end": lambda x: ops.reshape(x, (-1, 4, 5 * 4)),
    "transpose": lambda x: ops.transpose(x, (0, 2, 1, 3)),
    "transpose, then reshape": lambda x: ops.reshape(ops.transpose(x, (0, 3, 1, 2)), (-1, 80)),
    "concatenate": lambda x: ops.concatenate([x, x], axis=-1),
    "concatenate along space": lambda x: ops.concatenate([x, x], axis=1),
    "mean over space": lambda x: ops.mean(x, axis=(1, 2)),
    "mean over space, kept": lambda x: ops.mean(x, axis=[1, -2], keepdims=True),
    "max over space": lambda x: ops.max(x, axis=(1, 2)),
    "max with an initial value": lambda x: ops.max(x, axis=(1, 2), initial=0.5),
    "sum over space": lambda x: ops.sum(x, axis=1),
    "max_pool": lambda x: ops.max_pool(x, 2, strides=2, padding="same"),
    "average_pool": lambda x: ops.average_pool(x, 2, strides=1),
    "pad": lambda x: ops.pad(x, ((0, 0), (1, 0), (0, 2), (0, 0))),
    "pad the channels": lambda x: ops.pad(x, ((0, 0), (0, 0), (0, 0), (1, 2))),
    "pad with a number": lambda x: ops.pad(
        x, ((0, 0), (1, 0), (0, 2), (0, 0)), constant_values=0.5
    ),
    "expand_dims, then squeeze": lambda x: ops.squeeze(ops.expand_dims(x, 1), 1),
    "expand_dims of two axes": lambda x: ops.squeeze(ops.expand_dims(x, (1, 3)), (1, 3)),
    "expand_dims from the end": lambda x: ops.squeeze(ops.expand_dims(x, -2), -2),
    "cast": lambda x: ops.cast(x, "float16"),
    "add tensors": lambda x: ops.add(ops.relu(x), x),
    "subtract, multiply tensors": lambda x: (x - 0.5 * ops.tanh(x)) * ops.sigmoid(x),
    "tensors of lower rank": lambda x: x + ops.mean(x, axis=(1, 2), keepdims=True),
}


@pytest.mark.parametrize("name", ON_IMAGES)
def test_ops(name: str, tmp_path: Path) -> None:
    model = chain(image(2), dense(4, "a"), ON_IMAGES[name], dense(2, "b"))
    tolerance = 2e-3 if name == "cast" else 1e-5
    run_growth_test(model, {"a": 6}, tmp_path, tolerance=tolerance)


def test_copies_of_ops_keep_their_arguments_as_they_are() -> None:
    """Saving and loading makes lists of tuples, which Keras' pooling on JAX does not take."""
    x = keras.Input(image(2))
    y = ops.average_pool(dense(4, "a")(x), (2, 1), strides=1)
    model = keras.Model(x, dense(2, "b")(y))
    wider = kg.widen(model, {"a": 6}, form="outgoing")
    assert kg.verify(model, wider)


def test_a_network_of_ops(tmp_path: Path) -> None:
    """Ops and layers mixed, with branches, shapes written by the user, and two sites."""
    x = keras.Input(image(2))
    h = ops.relu(conv(2, 4, "a")(x))
    h = h + ops.sigmoid(ops.mean(h, axis=(1, 2), keepdims=True)) * h
    h = ops.concatenate([h, ops.max_pool(h, 3, strides=1, padding="same")], axis=-1)
    h = ops.reshape(h, (-1, 4 * 5 * 8))
    h = ops.gelu(dense(4, "b")(h))
    model = keras.Model(x, dense(2, "out")(h))
    run_growth_test(model, {"a": 6, "b": 7}, tmp_path, trains=True)


REFUSED: dict[str, tuple[Callable[[Any], Any], str]] = {
    "softmax": (ops.softmax, "mixes all channels"),
    "mean over the channels": (
        lambda x: ops.mean(x, axis=-1, keepdims=True),
        "reduces over the channel axis",
    ),
    "sum over the batch": (lambda x: ops.sum(x, axis=0), "reduces over the batch axis"),
    "reflecting": (
        lambda x: ops.pad(x, ((0, 0), (1, 0), (0, 0), (0, 0)), mode="reflect"),
        "not with a constant",
    ),
    "cumsum": (lambda x: ops.cumsum(x, axis=-1), "Cumsum"),
    "einsum": (lambda x: ops.einsum("bhwc,bhwd->bcd", x, x), "Einsum"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_ops_are_named(name: str) -> None:
    function, message = REFUSED[name]
    model = chain(image(2), dense(4, "a"), function, dense(2, "b"))
    (refusal,) = [r for r in kg.sites(model, refused=True) if r.producer == "a"]
    assert message in refusal.reason
    assert "Path: a -> " in refusal.reason
    with pytest.raises(kg.GrowthError, match="'a'"):
        kg.widen(model, {"a": 6})
    assert isinstance(model.get_layer("b"), layers.Dense)
