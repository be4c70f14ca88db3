"""MultiHeadAttention and GroupQueryAttention: heads, sizes of heads, and the stream."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import pytest
from helpers.growing import ALL, BACKEND, chain, dense, run_growth_test
from keras import layers

import keras_grow as kg

PARTS = {"mha.num_heads": 4, "mha.key_dim": 5, "mha.value_dim": 5}
if BACKEND == "jax":  # keys and values grow together there
    del PARTS["mha.value_dim"]


def attention(
    shape: tuple = (6, 5), heads: int = 2, size: int = 3, call: dict | None = None, **options: Any
) -> keras.Model:
    """Self-attention between two dense layers."""
    inputs = keras.Input(shape)
    x = dense(5, "p")(inputs)
    layer = layers.MultiHeadAttention(heads, size, name="mha", **options)
    return keras.Model(inputs, dense(2, "o")(layer(x, x, **(call or {}))))


@pytest.mark.parametrize("part", [*PARTS, "mha", "p"])
def test_one_at_a_time(part: str, tmp_path: Path) -> None:
    trains = {"trains": True} if part in PARTS else {}
    run_growth_test(attention(), {part: 7}, tmp_path, **trains)


def test_all_at_once(tmp_path: Path) -> None:
    run_growth_test(attention(), {**PARTS, "mha": 6, "p": 8}, tmp_path, trains=True)


OPTIONS: dict[str, dict[str, Any]] = {
    "no bias": {"use_bias": False},
    "gate": {"use_gate": True},
    "causal": {"call": {"use_causal_mask": True}},
    "two axes": {"shape": (3, 2, 5), "attention_axes": (1, 2)},
    "the second axis": {"shape": (3, 2, 5), "attention_axes": 2},
    "window": {"sliding_window": 2},
    "output shape": {"output_shape": 4},
    "output of two axes": {"output_shape": (3, 4)},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_options(name: str, tmp_path: Path) -> None:
    # Without a bias the padding of a window sees rows of zeros, which is no matter here.
    run_growth_test(attention(**OPTIONS[name]), {**PARTS, "p": 6, "mha": 7}, tmp_path)


@pytest.mark.skipif(BACKEND == "jax", reason="keys and values of different sizes fail there")
def test_values_of_another_size(tmp_path: Path) -> None:
    run_growth_test(attention(value_dim=2), {"mha.key_dim": 5, "mha.value_dim": 6}, tmp_path)


@pytest.mark.skipif(BACKEND != "jax", reason="only JAX's attention needs one size")
def test_keys_and_values_grow_together_on_jax(tmp_path: Path) -> None:
    model = attention()
    assert ("mha.key_dim", "mha.value_dim") in [s.producers for s in kg.sites(model)]
    run_growth_test(model, {"mha.value_dim": 5}, tmp_path)
    # The scores are asked for, so the fused attention is not used.
    with_dropout = attention(dropout=0.5)
    assert "mha.value_dim" in [s.name for s in kg.sites(with_dropout)]


def test_dropout(tmp_path: Path) -> None:
    """Dropout draws other numbers for more heads, so training differs by chance."""
    model = attention(dropout=0.5)
    run_growth_test(model, {"mha.num_heads": 3}, tmp_path, same_in_training=False)


def test_cross_attention(tmp_path: Path) -> None:
    """Query, key and value of three widths, each grown."""
    inputs = [keras.Input((6, 5)), keras.Input((4, 5))]
    query, key, value = dense(3, "q")(inputs[0]), dense(4, "k")(inputs[1]), dense(5, "v")(inputs[1])
    x = layers.MultiHeadAttention(2, 3, name="mha")(query, value, key=key)
    model = keras.Model(inputs, dense(2, "o")(x))
    widths = {"q": 5, "k": 6, "v": 7, "mha.num_heads": 3}
    grown = run_growth_test(model, widths, tmp_path)
    # The output does not follow the query, although that is Keras's default.
    assert grown.get_layer("mha").get_config()["output_shape"] == (3,)


def test_a_mask_of_tokens(tmp_path: Path) -> None:
    inputs = keras.Input((6,), dtype="int32")
    x = layers.Embedding(5, 4, mask_zero=True, name="e")(inputs)
    x = layers.MultiHeadAttention(2, 3, name="mha")(x, x)
    model = keras.Model(inputs, dense(2, "o")(layers.GlobalAveragePooling1D()(x)))
    run_growth_test(model, {"e": 6, "mha": 5, **PARTS}, tmp_path)


def test_a_mask_as_input(tmp_path: Path) -> None:
    inputs, mask = keras.Input((6, 5)), keras.Input((6, 6), dtype="int32")
    x = layers.MultiHeadAttention(2, 3, name="mha")(inputs, inputs, attention_mask=mask)
    model = keras.Model([inputs, mask], dense(2, "o")(x))
    run_growth_test(model, {"mha": 6, **PARTS}, tmp_path)


def test_shared(tmp_path: Path) -> None:
    inputs = keras.Input((6, 5))
    layer, p = layers.MultiHeadAttention(2, 3, name="mha"), dense(5, "p")
    x = p(inputs)
    x = layers.Add()([layer(x, x), x])
    x = layer(x, x)
    model = keras.Model(inputs, dense(2, "o")(x))
    site = next(s for s in kg.sites(model) if "mha" in s.producers)
    assert site.producers == ("p", "mha")
    run_growth_test(model, {**PARTS, "p": 7}, tmp_path)


def scored() -> keras.Model:
    inputs = keras.Input((6, 5))
    layer = layers.MultiHeadAttention(2, 3, name="mha")
    x, scores = layer(inputs, inputs, return_attention_scores=True)
    return keras.Model(inputs, [dense(2, "o")(x), scores])


def test_scores_as_output(tmp_path: Path) -> None:
    run_growth_test(scored(), {"mha.key_dim": 5, "mha.value_dim": 4, "mha": 7}, tmp_path)
    reasons = {r.producer: r.reason for r in kg.sites(scored(), refused=True)}
    assert "output of the model" in reasons["mha.num_heads"]


def test_scores_that_are_read(tmp_path: Path) -> None:
    """New heads have scores that are not zero, so what reads them gets rows of zeros."""
    inputs = keras.Input((6, 5))
    layer = layers.MultiHeadAttention(2, 3, name="mha")
    x, scores = layer(inputs, inputs, return_attention_scores=True)
    read = dense(3, "s")(layers.Permute((2, 3, 1))(scores))
    model = keras.Model(inputs, [dense(2, "o")(x), read])
    run_growth_test(model, {"mha.num_heads": 4}, tmp_path)


# --- grouped queries ---------------------------------------------------------------------------


def grouped(residual: bool = True, **options: Any) -> keras.Model:
    inputs = keras.Input((6, 4))
    x = dense(5, "p")(inputs) if residual else inputs
    layer = layers.GroupQueryAttention(3, 4, 2, name="gqa", **options)
    y = layer(x, x)
    return keras.Model(inputs, dense(2, "o")(layers.Add()([x, y]) if residual else y))


GROUPED = {"gqa.num_key_value_heads": 3, "gqa.head_dim": 5, "gqa": 7}


@pytest.mark.parametrize("part", GROUPED)
def test_grouped_queries(part: str, tmp_path: Path) -> None:
    run_growth_test(grouped(), {part: GROUPED[part]}, tmp_path, trains=True)


@pytest.mark.parametrize("options", [{"use_bias": False}, {"use_gate": True}], ids=str)
def test_grouped_options(options: dict, tmp_path: Path) -> None:
    model = run_growth_test(grouped(**options), GROUPED, tmp_path)
    assert model.get_layer("gqa").num_query_heads == 6


def test_grouped_queries_write_as_many_channels_as_they_read() -> None:
    reasons = {r.producer: r.reason for r in kg.sites(grouped(residual=False), refused=True)}
    assert "as wide as its query" in reasons["gqa"]


# --- cost and refusals -------------------------------------------------------------------------


def test_flops() -> None:
    model = attention()

    def expected(heads: int, keys: int, values: int) -> int:
        projections = 6 * 5 * heads * (2 * keys + values) + 6 * heads * values * 5
        return 2 * (6 * 5 * 5 + projections + 6 * 6 * heads * (keys + values) + 6 * 5 * 2)

    assert kg.flops(model) == expected(2, 3, 3)
    if BACKEND != "jax":
        grown = kg.widen(model, {"mha.num_heads": 4, "mha.key_dim": 5})
        assert kg.flops(grown) == expected(4, 5, 3)
        plan = kg.plan(model, {"mha.num_heads": 4, "mha.key_dim": 5})
        assert plan.added_flops == expected(4, 5, 3) - expected(2, 3, 3)


REFUSED: dict[str, tuple[Callable[[], keras.Model], str, str]] = {
    "a grown tensor as mask": (
        lambda: _masked_by_grown(),
        "p",
        "takes it as its attention_mask",
    ),
    "channels not on the last axis": (
        lambda: chain(
            (6, 5),
            layers.Permute((2, 1)),
            dense(4, "p"),
            layers.Permute((2, 1)),
            lambda x: layers.MultiHeadAttention(2, 3, name="mha")(x, x),
            dense(2, "o"),
        ),
        "p",
        "works along axis 2",
    ),
}


def _masked_by_grown() -> keras.Model:
    inputs = keras.Input((6, 5))
    mask = dense(6, "p")(inputs)
    x = layers.MultiHeadAttention(2, 3, name="mha")(inputs, inputs, attention_mask=mask)
    return keras.Model(inputs, dense(2, "o")(x))


@pytest.mark.parametrize("name", REFUSED)
def test_refusals(name: str) -> None:
    build, layer, reason = REFUSED[name]
    reasons = {r.producer: r.reason for r in kg.sites(build(), refused=True)}
    assert reason in reasons[layer]


@pytest.mark.skipif(not ALL, reason="the same on all backends")
def test_lora_is_refused() -> None:
    model = attention()
    model.get_layer("mha").query_dense.enable_lora(1)
    with pytest.raises(kg.GrowthError, match="LoRA"):
        kg.widen(model, {"p": 7})


@pytest.mark.skipif(not ALL, reason="the same on all backends")
def test_gradmax_says_that_it_does_not_know() -> None:
    import numpy as np

    model = attention()
    model.compile("sgd", "mse")
    data = np.ones((4, 6, 5), "float32"), np.ones((4, 6, 2), "float32")
    for site in ("p", "mha.num_heads"):
        with pytest.raises(kg.GrowthError, match="Use method='random'"):
            kg.widen(model, {site: 7}, method="gradmax", data=data)
