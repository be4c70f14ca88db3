"""Wrappers: TimeDistributed and SpectralNormalization around other layers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import pytest
from helpers.growing import ALL, chain, conv, dense, image, run_growth_test
from keras import layers

import keras_grow as kg


def every(layer: Any, name: str) -> Any:
    return layers.TimeDistributed(layer, name=name)


# model, new widths
STEPS: dict[str, tuple[Callable[[], keras.Model], dict[str, int]]] = {
    "dense": (
        lambda: chain((4, 3), every(layers.Dense(4), "a"), every(layers.Dense(2), "b")),
        {"a": 6},
    ),
    "relu": (
        lambda: chain((4, 3), every(layers.Dense(4, activation="relu"), "a"), dense(2, "b")),
        {"a": 6},
    ),
    "convolutions": (
        lambda: chain(
            (3, *image(2)),
            every(layers.Conv2D(4, 2), "a"),
            every(layers.BatchNormalization(), "n"),
            every(layers.ReLU(), "r"),
            every(layers.Conv2D(3, 2), "b"),
            every(layers.Flatten(), "f"),
            layers.LSTM(3, name="c"),
            dense(2, "o"),
        ),
        {"a": 6, "b": 5, "c": 4},
    ),
    "pooling": (
        lambda: chain(
            (3, *image(1)),
            every(layers.Conv1D(4, 2), "a"),
            every(layers.GlobalAveragePooling1D(), "g"),
            dense(2, "b"),
        ),
        {"a": 6},
    ),
    "recurrent": (
        lambda: chain(
            (3, *image(1)), every(layers.LSTM(4), "a"), every(layers.Dense(2), "b")
        ),
        {"a": 6},
    ),
    "any number of steps": (
        lambda: chain((None, 3), every(layers.Dense(4), "a"), dense(2, "b")),
        {"a": 6},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", STEPS if ALL else ["dense", "pooling", "any number of steps"])
def test_every_step(name: str, tmp_path: Path) -> None:
    build, widths = STEPS[name]
    same = name != "convolutions"  # BatchNormalization sees one step after another in training
    trains = {"trains": True} if name == "dense" else {}
    run_growth_test(build(), widths, tmp_path, same_in_training=same, **trains)


def test_steps_shared(tmp_path: Path) -> None:
    inputs = [keras.Input((4, 3)), keras.Input((5, 3))]
    a, b = every(layers.Dense(4), "a"), every(layers.Dense(2), "b")
    model = keras.Model(inputs, layers.Concatenate(axis=1)([b(a(x)) for x in inputs]))
    run_growth_test(model, {"a": 6}, tmp_path)


def test_steps_behind_a_mask(tmp_path: Path) -> None:
    """Keras passes the mask as a second tensor of the call."""
    inputs = keras.Input((4,), dtype="int32")
    x = layers.Embedding(5, 3, mask_zero=True, name="e")(inputs)
    x = every(layers.Dense(4), "a")(x)
    x = every(layers.BatchNormalization(), "n")(x)
    model = keras.Model(inputs, every(layers.Dense(2), "b")(x))
    run_growth_test(model, {"e": 5, "a": 6}, tmp_path, same_in_training=False, trains=False)


def refusals(model: keras.Model) -> dict[str, str]:
    return {r.producer: r.reason for r in kg.sites(model, refused=True)}


def test_a_model_at_every_step_is_refused() -> None:
    inner = chain((4,), dense(3, "i"))
    model = chain((5, 3), dense(4, "a"), every(inner, "m"), dense(2, "b"))
    assert "wraps a Functional, for which there is no rule" in refusals(model)["a"]


def test_steps_are_no_channels() -> None:
    model = chain(
        (4, 3),
        layers.Permute((2, 1)),
        dense(5, "a"),
        layers.Permute((2, 1)),
        every(layers.Dense(2), "m"),
        dense(2, "b"),
    )
    assert "works step by step along axis 1" in refusals(model)["a"]


def test_flops_of_steps() -> None:
    model = chain((4, 3), every(layers.Dense(5), "a"), every(layers.Dense(2), "b"))
    assert kg.flops(model) == 2 * 4 * (3 * 5 + 5 * 2)
    assert kg.plan(model, {"a": 6}).added_flops == 2 * 4 * (3 + 2)


def spectral(layer: Any, name: str) -> Any:
    return layers.SpectralNormalization(layer, name=name)


SPECTRAL: dict[str, Callable[[], keras.Model]] = {
    "dense as producer": lambda: chain((3,), spectral(layers.Dense(4), "a"), dense(2, "b")),
    "dense as consumer": lambda: chain((3,), dense(4, "a"), spectral(layers.Dense(2), "b")),
    "convolution as producer": lambda: chain(
        image(2), spectral(layers.Conv2D(4, 2), "a"), conv(2, 2, "b")
    ),
    "convolution as consumer": lambda: chain(
        image(2), conv(2, 4, "a"), spectral(layers.Conv2D(2, 2), "b")
    ),
}


@pytest.mark.parametrize("name", SPECTRAL)
def test_spectral_normalization(name: str, tmp_path: Path) -> None:
    form = "outgoing" if "producer" in name else "inverse"
    model = SPECTRAL[name]()
    assert kg.plan(model, {"a": 6}, form=form).sites[0].form == form
    run_growth_test(model, {"a": 6}, tmp_path, forms=(form,), trains=False)


def test_spectral_normalization_between_two_is_refused() -> None:
    """One side would need a random fan-in, the other a random fan-out."""
    model = chain(
        (3,), spectral(layers.Dense(4), "a"), spectral(layers.Dense(4), "b"), dense(2, "c")
    )
    assert "divides its kernel by the largest singular value" in refusals(model)["a"]
    assert [s.name for s in kg.sites(model)] == ["b"]


def test_spectral_normalization_of_a_depthwise_convolution_is_refused() -> None:
    inner = layers.Conv2D(4, 2, groups=4)
    model = chain(image(2), conv(2, 4, "a"), spectral(inner, "b"), conv(2, 2, "c"))
    assert "own kernels would change" in refusals(model)["a"]


def test_spectral_normalization_of_another_layer_is_refused() -> None:
    model = chain(
        image(2), conv(2, 4, "a"), spectral(layers.Conv2DTranspose(2, 2), "b"), conv(2, 2, "c")
    )
    assert "no rule in a SpectralNormalization" in refusals(model)["a"]
