"""Layers that re-index: Flatten, Reshape, Permute."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import pytest
from helpers.growing import FORMATS, assert_refused, chain, conv, dense, image, run_growth_test
from keras import layers

import keras_grow as kg


@pytest.mark.parametrize("data_format", FORMATS)
def test_flatten_in_both_formats(data_format: str, tmp_path: Path) -> None:
    model = chain(
        image(2, data_format=data_format),
        conv(2, 4, "a", data_format=data_format),
        layers.Flatten(data_format=data_format),
        dense(2, "b"),
    )
    run_growth_test(model, {"a": 6}, tmp_path)


CASES: dict[str, Callable[[], keras.Model]] = {
    "flatten, default format": lambda: chain(
        image(2), dense(4, "a"), layers.Flatten(), dense(2, "b")
    ),
    "flatten channels_first in front of the channels": lambda: chain(
        (2, 3, 5), dense(4, "a"), layers.Flatten("channels_first"), dense(2, "b")
    ),
    "flatten of two axes": lambda: chain((5,), dense(4, "a"), layers.Flatten(), dense(2, "b")),
    "flatten of width 1": lambda: chain(image(2), dense(1, "a"), layers.Flatten(), dense(2, "b")),
    "reshape to a row": lambda: chain(
        image(2), dense(4, "a"), layers.Reshape((-1,)), dense(2, "b")
    ),
    "reshape, explicit": lambda: chain(
        image(2), dense(4, "a"), layers.Reshape((20, 4)), dense(2, "b")
    ),
    "reshape, -1 for space": lambda: chain(
        image(2), dense(4, "a"), layers.Reshape((-1, 4)), dense(2, "b")
    ),
    "reshape, -1 for the channels": lambda: chain(
        image(2), dense(4, "a"), layers.Reshape((20, -1)), dense(2, "b")
    ),
    "reshape, part of space and channels": lambda: chain(
        image(2), dense(4, "a"), layers.Reshape((4, 20)), dense(2, "b")
    ),
    "reshape into an image": lambda: chain(
        (5,), dense(4, "a"), layers.Reshape((1, 1, 4)), conv(2, 2, "b", size=1)
    ),
    "reshape of width 1": lambda: chain(
        (2, 5), dense(1, "a"), layers.Reshape((2,)), dense(2, "b")
    ),
    "reshape in two": lambda: chain(
        (5,), dense(4, "a"), layers.Reshape((2, 2)), layers.Flatten(), dense(2, "b")
    ),
    "reshape of units into an image": lambda: chain(
        (5,), dense(4, "a"), layers.Reshape((1, 2, 2)), conv(2, 2, "b")
    ),
    "reshape and back": lambda: chain(
        image(2),
        dense(4, "a"),
        layers.Flatten(),
        layers.Reshape((4, 5, 4)),
        layers.Reshape((20, 4)),
        dense(2, "b"),
    ),
    "permute and back": lambda: chain(
        image(1),
        dense(4, "a"),
        layers.Permute((2, 1)),
        layers.ReLU(),
        layers.Permute((2, 1)),
        dense(2, "b"),
    ),
    "permute, then flatten": lambda: chain(
        image(2), dense(4, "a"), layers.Permute((3, 1, 2)), layers.Flatten(), dense(2, "b")
    ),
    "permute, flatten, and back to channels first": lambda: chain(
        image(1),
        dense(4, "a"),
        layers.Permute((2, 1)),
        layers.Flatten(),
        layers.Reshape((4, 4)),
        layers.Permute((2, 1)),
        dense(2, "b"),
    ),
    "permute, batch normalisation on axis 1": lambda: chain(
        image(1),
        dense(4, "a"),
        layers.Permute((2, 1)),
        layers.BatchNormalization(axis=1),
        layers.Permute((2, 1)),
        dense(2, "b"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_reindexing(name: str, tmp_path: Path) -> None:
    run_growth_test(CASES[name](), {"a": 6}, tmp_path)


REFUSED: dict[str, tuple[Callable[[], keras.Model], str]] = {
    "splitting the channels": (
        lambda: chain(
            image(2),
            dense(4, "a"),
            layers.Flatten(),
            layers.Reshape((16, 5), name="split"),
            layers.Flatten(),
            dense(2, "b"),
        ),
        "Reshape 'split' splits the channels over several axes",
    ),
    "dense over another axis": (
        lambda: chain((3, 5), dense(4, "a"), layers.Permute((2, 1)), dense(2, "b")),
        "Dense 'b' works along axis 2, but the channels lie on axis 1",
    ),
    "unknown sizes": (
        lambda: chain(
            (None, 5),
            dense(4, "a"),
            layers.Reshape((-1, 2, 4)),
            layers.GlobalMaxPooling2D(),
            dense(2, "b"),
        ),
        "unknown size",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    build, message = REFUSED[name]
    assert_refused(build(), message)


def test_a_shared_reshape_that_would_need_two_shapes_is_refused() -> None:
    x = keras.Input((3, 2))
    halves = layers.Reshape((3, 2, 2), name="halves")

    def shuffled(t: Any) -> Any:
        return layers.Reshape((3, 4))(layers.Permute((1, 3, 2))(halves(t)))

    first = halves(shuffled(dense(4, "a")(x)))
    model = keras.Model(x, dense(2, "b")(layers.Flatten()(first)))
    (refusal,) = [r for r in kg.sites(model, refused=True) if r.producer == "a"]
    assert "'halves' is shared" in refusal.reason
