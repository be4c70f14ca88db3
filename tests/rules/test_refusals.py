"""What has no rule is refused by class name, with the path that leads there."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from helpers.growing import chain, conv, dense, describe, image
from keras import layers

import keras_grow as kg


class Doubling(layers.Layer):
    """A layer of the user's own."""

    def call(self, x):
        return 2.0 * x


class MyDense(layers.Dense):
    """A subclass may do anything, so it is not taken for its parent."""


# On (B, 4, 5, C) or, where it says so, on (B, 4, C).
REFUSED: dict[str, tuple[int, Callable[[], layers.Layer]]] = {
    "Softmax": (2, lambda: layers.Softmax(name="odd")),
    "Lambda": (2, lambda: layers.Lambda(lambda x: 2.0 * x, name="odd")),
    "Doubling": (2, lambda: Doubling(name="odd")),
    "MyDense": (2, lambda: MyDense(4, name="odd")),
    "Masking": (1, lambda: layers.Masking(1.0, name="odd")),
}


def _model(name: str) -> keras.Model:
    rank, layer = REFUSED[name]
    return chain(image(rank), dense(4, "a"), layers.ReLU(name="act"), layer(), dense(2, "b"))


@pytest.mark.parametrize("name", REFUSED)
def test_by_class_name_and_path(name: str) -> None:
    model = _model(name)
    (refusal,) = [r for r in kg.sites(model, refused=True) if r.producer == "a"]
    assert f"{name} 'odd'" in refusal.reason
    assert "Path: a -> act -> odd" in refusal.reason
    assert "a" not in {p for s in kg.sites(model) for p in s.producers}


@pytest.mark.parametrize("name", ["Doubling", "MyDense"])
def test_nothing_is_changed(name: str) -> None:
    model = _model(name)
    before, weights = describe(model), model.get_weights()
    for attempt in (kg.plan, kg.widen, kg.grow_):
        with pytest.raises(kg.GrowthError, match=f"Layer 'a' .* {name} 'odd'"):
            attempt(model, {"a": 6})
    assert describe(model) == before
    for old, new in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_what_lies_behind_a_refused_layer_grows() -> None:
    x = keras.Input((5,))
    h = Doubling()(dense(4, "a")(x))
    model = keras.Model(x, dense(2, "c")(dense(4, "b")(h)))
    assert [s.name for s in kg.sites(model)] == ["b"]
    wider = kg.widen(model, {"b": 6})
    assert kg.verify(model, wider)


def test_inside_a_nested_model_the_path_is_full() -> None:
    inner = chain((4,), Doubling(name="ln"), dense(3, "b"))
    inner.name = "inner"
    model = chain((5,), dense(4, "a"), inner, dense(2, "c"))
    (refusal,) = [r for r in kg.sites(model, refused=True) if r.producer == "a"]
    assert "Doubling 'inner/ln'" in refusal.reason
    assert "Path: a -> inner/ln" in refusal.reason


def test_the_models_outputs_keep_their_width() -> None:
    x = keras.Input((5,))
    a = dense(4, "a")(x)
    model = keras.Model(x, [dense(2, "b")(a), layers.ReLU(name="act")(dense(3, "c")(a))])
    reasons = {r.producer: r.reason for r in kg.sites(model, refused=True)}
    assert set(reasons) == {"b", "c"}
    assert all("output of the model" in reason for reason in reasons.values())
    with pytest.raises(kg.GrowthError, match="output of the model"):
        kg.widen(model, {"c": 6})


@pytest.mark.parametrize("layer", [MyDense(4, name="odd")])
def test_a_layer_without_a_rule_is_not_called_widthless(layer: layers.Layer) -> None:
    model = chain((5,), layer, dense(2, "b"))
    with pytest.raises(kg.GrowthError, match=rf"{type(layer).__name__}.* no rule"):
        kg.widen(model, {"odd": 6})


def test_layers_whose_channels_follow_another() -> None:
    model = chain(image(2), conv(2, 4, "a"), layers.BatchNormalization(name="bn"), conv(2, 2, "b"))
    with pytest.raises(kg.GrowthError, match=r"'bn' .* follow the layer before it"):
        kg.widen(model, {"bn": 6})


def test_lora_and_quantized_kernels() -> None:
    model = chain((5,), dense(4, "a"), dense(3, "b"), dense(2, "c"))
    model.get_layer("b").enable_lora(2)
    with pytest.raises(kg.GrowthError, match="'b' has LoRA enabled"):
        kg.widen(model, {"a": 6})
    model = chain((5,), dense(4, "a"), dense(3, "b"), dense(2, "c"))
    model.get_layer("b").quantize("int8")
    with pytest.raises(kg.GrowthError, match=r"'b' is quantized \(int8\)"):
        kg.widen(model, {"a": 6})


BAD_WIDTHS: dict[str, Any] = {
    "not wider": {"a": 4},
    "narrower": {"a": 2},
    "no integer": {"a": 6.0},
    "a flag": {"a": True},
    "no dict": [("a", 6)],
    "nothing": {},
    "unknown": {"aa": 6},
}


@pytest.mark.parametrize("name", BAD_WIDTHS)
def test_bad_widths(name: str) -> None:
    model = chain((5,), dense(4, "a"), dense(2, "b"))
    with pytest.raises(kg.GrowthError, match=r"Received|Did you mean 'a'"):
        kg.widen(model, BAD_WIDTHS[name])
