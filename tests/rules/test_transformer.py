"""Transformer encoders of stock Keras layers: everything in them grows, then they train on."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from helpers.growing import ALL, BACKEND, predict, randomize, run_growth_test
from keras import layers

import keras_grow as kg

WORDS, LENGTH, STREAM = 7, 6, 4


def norm(kind: str, name: str) -> Any:
    if kind == "none":
        return layers.Identity(name=name)
    return getattr(layers, kind)(name=name)


def encoder(order: str = "pre", kind: str = "LayerNormalization", blocks: int = 2) -> keras.Model:
    """Tokens and positions, blocks of attention and MLP on a residual stream, a classifier."""
    inputs = keras.Input((LENGTH,), dtype="int32")
    x = layers.Embedding(WORDS, STREAM, name="tokens")(inputs)
    positions = keras.Input((LENGTH,), dtype="int32", name="places")
    x = layers.Add()([x, layers.Embedding(LENGTH, STREAM, name="positions")(positions)])
    for i in range(blocks):
        attention = layers.MultiHeadAttention(2, 3, name=f"attention_{i}")
        up = layers.Dense(5, activation="gelu", name=f"up_{i}")
        down = layers.Dense(STREAM, name=f"down_{i}")
        first, second = norm(kind, f"norm_{i}a"), norm(kind, f"norm_{i}b")
        if order == "pre":
            y = first(x)
            x = layers.Add()([x, attention(y, y)])
            x = layers.Add()([x, down(up(second(x)))])
        else:
            x = first(layers.Add()([x, attention(x, x)]))
            x = second(layers.Add()([x, down(up(x))]))
    if order == "pre":
        x = norm(kind, "norm")(x)
    x = layers.GlobalAveragePooling1D()(x)
    return keras.Model([inputs, positions], layers.Dense(3, name="head")(x))


INSIDE = {"up_0": 8, "attention_0.num_heads": 3, "attention_1.key_dim": 5}
STREAMS = {"tokens": 6}
EVERYTHING = {**INSIDE, **STREAMS}


@pytest.mark.parametrize("order", ["pre", "post"])
def test_everything_grows_at_once(order: str, tmp_path: Path) -> None:
    run_growth_test(encoder(order), EVERYTHING, tmp_path, forms=("outgoing",), trains=True)


@pytest.mark.parametrize("order", ["pre", "post"] if ALL else ["pre"])
@pytest.mark.parametrize("name", [*INSIDE, "attention_0.value_dim"])
def test_insides(order: str, name: str, tmp_path: Path) -> None:
    run_growth_test(encoder(order, blocks=1 + ("1" in name)), {name: 7}, tmp_path)


@pytest.mark.parametrize("kind", ["none", "RMSNormalization", "LayerNormalization"])
@pytest.mark.parametrize("order", ["pre", "post"])
def test_stream(order: str, kind: str, tmp_path: Path) -> None:
    model = encoder(order, kind, blocks=1)
    run_growth_test(model, STREAMS, tmp_path, forms=("outgoing",))


def test_the_stream_is_one_site() -> None:
    site = next(s for s in kg.sites(encoder()) if "tokens" in s.producers)
    stream = ["tokens", "positions", "attention_0", "down_0", "attention_1", "down_1"]
    assert sorted(site.producers) == sorted(stream)
    assert site.width == STREAM


def data(samples: int = 64) -> tuple[list, np.ndarray]:
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, WORDS, (samples, LENGTH)).astype("int32")
    places = np.tile(np.arange(LENGTH, dtype="int32"), (samples, 1))
    return [tokens, places], (tokens[:, 0] + tokens[:, -1]) % 3


def test_grows_twice_while_it_trains() -> None:
    """Adam's moments go along; the loss goes on falling, and never jumps at a growth."""
    keras.utils.set_random_seed(0)
    model = encoder(blocks=1)
    randomize(model)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.01), loss, jit_compile=BACKEND == "jax")
    x, y = data()
    losses = [float(model.evaluate(x, y, verbose=0))]
    for widths in (
        {"up_0": 8, "tokens": 6, "attention_0.num_heads": 3},
        {"up_0": 10, "tokens": 8, "attention_0.key_dim": 5},
    ):
        model.fit(x, y, epochs=5, batch_size=16, verbose=0)
        before = predict(model, x)
        kg.grow_(model, widths, seed=0)
        np.testing.assert_allclose(predict(model, x)[0], before[0], atol=1e-4)
        losses.append(float(model.evaluate(x, y, verbose=0)))
    model.fit(x, y, epochs=5, batch_size=16, verbose=0)
    losses.append(float(model.evaluate(x, y, verbose=0)))
    assert losses == sorted(losses, reverse=True), losses


@pytest.mark.skipif(not ALL, reason="compiles every shape")
@pytest.mark.parametrize("order", ["pre", "post"])
def test_grows_inside_fit(order: str) -> None:
    """All of it, twice; the callback undoes and raises where outputs change."""
    keras.utils.set_random_seed(0)
    model = encoder(order, blocks=1)
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    x, y = data(32)
    callback = kg.GrowthCallback(
        (x, y),
        method="random",
        schedule=kg.schedules.Every(2, times=2),
        selector=kg.selectors.All(amount=1),
        on_failure="raise",
    )
    model.fit(x, y, epochs=3, batch_size=16, verbose=0, callbacks=[callback])
    assert len(callback.events) == 2
    assert all(event.flops_after > event.flops_before for event in callback.events)
    attention = model.get_layer("attention_0")
    assert (attention.num_heads, attention.key_dim, attention.value_dim) == (4, 5, 5)


@pytest.mark.skipif(not ALL, reason="compiles every shape")
def test_gradmax_widens_the_mlp() -> None:
    model = encoder(blocks=1)
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    wider = kg.widen(model, {"up_0": 8}, method="gradmax", data=data(32), seed=0)
    assert kg.verify(model, wider, data(8)[0])
