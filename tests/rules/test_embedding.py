"""Embeddings make channels; a reversible one reads them too."""

from pathlib import Path
from typing import Any

import keras
import pytest
from helpers.growing import ALL, chain, dense, run_growth_test
from keras import layers

import keras_grow as kg


def tokens(*steps: Any) -> keras.Model:
    return chain((6,), *steps, dtype="int32")


@pytest.mark.parametrize("mask", [False, True])
def test_embedding(mask: bool, tmp_path: Path) -> None:
    model = tokens(
        layers.Embedding(5, 4, mask_zero=mask, name="a"),
        layers.GlobalAveragePooling1D(),
        dense(2, "b"),
    )
    run_growth_test(model, {"a": 7}, tmp_path, trains=True)


def test_positions_are_tied_to_tokens(tmp_path: Path) -> None:
    inputs = keras.Input((6,), dtype="int32")
    positions = keras.Input((6,), dtype="int32")
    x = layers.Embedding(5, 4, name="a")(inputs)
    x = layers.Add()([x, layers.Embedding(6, 4, name="positions")(positions)])
    model = keras.Model([inputs, positions], dense(2, "b")(x))
    assert kg.sites(model)[0].producers == ("a", "positions")
    run_growth_test(model, {"positions": 6}, tmp_path)


def test_shared(tmp_path: Path) -> None:
    first, second = keras.Input((6,), dtype="int32"), keras.Input((6,), dtype="int32")
    a, b = layers.Embedding(5, 4, name="a"), dense(2, "b")
    model = keras.Model([first, second], layers.Concatenate()([b(a(first)), b(a(second))]))
    run_growth_test(model, {"a": 6}, tmp_path)


def language_model(tie: bool, between: list | None = None) -> keras.Model:
    inputs = keras.Input((6,), dtype="int32")
    table = layers.ReversibleEmbedding(5, 4, tie_weights=tie, name="a")
    x = y = table(inputs)
    for layer in between or []:
        y = layer(y)
    x = layers.Add()([x, y])
    return keras.Model(inputs, table(x, reverse=True))


@pytest.mark.parametrize("tie", [False, True])
def test_reversible(tie: bool, tmp_path: Path) -> None:
    model = language_model(tie, [dense(3, "h", activation="tanh"), dense(4, "o")])
    if tie:  # nothing else is free: the table's own new columns must stay zero
        site = next(s for s in kg.sites(model) if "a" in s.producers)
        assert site.producers == ("a", "o")
        run_growth_test(model, {"a": 6}, tmp_path, forms=("outgoing",), trains=False)
    else:
        run_growth_test(model, {"a": 6}, tmp_path)


def test_a_tied_table_has_no_inverse_form() -> None:
    model = language_model(True, [dense(3, "h"), dense(4, "o")])
    with pytest.raises(kg.GrowthError, match="uses one table both ways"):
        kg.plan(model, {"a": 6}, form="inverse")


def test_a_tied_table_whose_other_end_cannot_grow_is_refused() -> None:
    inputs, hidden = keras.Input((6,), dtype="int32"), keras.Input((6, 4))
    table = layers.ReversibleEmbedding(5, 4, name="a")
    outputs = [dense(2, "b")(table(inputs)), table(hidden, reverse=True)]
    reasons = {r.producer: r.reason for r in kg.sites(keras.Model([inputs, hidden], outputs), True)}
    assert "pass tie_weights=False" in reasons["a"]


def test_flops() -> None:
    model = language_model(False, [dense(4, "o")])
    assert kg.flops(model) == 2 * 6 * (4 * 4 + 4 * 5)


@pytest.mark.skipif(not ALL, reason="the same on all backends")
def test_lora_is_refused() -> None:
    model = tokens(layers.Embedding(5, 4, name="a"), dense(2, "b"))
    model.get_layer("a").enable_lora(1)
    with pytest.raises(kg.GrowthError, match="LoRA"):
        kg.widen(model, {"a": 6})
