"""`ops.rearrange`, which Keras takes with a batch of known size only."""

from pathlib import Path

import keras
import pytest
from helpers.growing import conv, dense, image, run_growth_test
from keras import layers, ops

import keras_grow as kg

PATTERNS = {
    "axes": ("b h w c -> b w h c", {}),
    "space together": ("b h w c -> b (h w) c", {}),
    "channels and space together": ("b h w c -> b h (w c)", {}),
    "channels in front": ("b h w c -> b (c h w)", {}),
    "space apart": ("b (h p) w c -> b h w (p c)", {"p": 2}),
    "patches": ("b (h p) w c -> b (h w) (p c)", {"p": 2}),
}


@pytest.mark.parametrize("name", PATTERNS)
def test_patterns(name: str, tmp_path: Path) -> None:
    pattern, lengths = PATTERNS[name]
    x = keras.Input(image(2), batch_size=4)
    h = layers.Concatenate()([x, conv(2, 4, "a")(x), x])
    model = keras.Model(x, dense(2, "b")(ops.rearrange(h, pattern, **lengths)))
    run_growth_test(model, {"a": 6}, tmp_path)


@pytest.mark.parametrize("lengths", [{"g": 2}, {"c": 4}, {"g": 2, "c": 4}])
def test_channels_apart(lengths: dict, tmp_path: Path) -> None:
    """One channel of every group at a time; a length that was given grows with them."""
    x = keras.Input(image(2), batch_size=4)
    h = ops.rearrange(conv(2, 8, "a")(x), "b h w (g c) -> b h w g c", **lengths)
    h = ops.rearrange(layers.Activation("tanh")(h), "b h w g c -> b h w (c g)")
    model = keras.Model(x, conv(2, 2, "b")(h))
    (site,) = kg.sites(model)
    assert site.width == 4
    run_growth_test(model, {"a": 12}, tmp_path)


REFUSED = {
    "b h w (g c) -> b h w (c g)": "not clear which of them would grow",
    "b h w c -> (b h) w c": "moves the batch axis",
}


@pytest.mark.parametrize("pattern", REFUSED)
def test_refused(pattern: str) -> None:
    x = keras.Input(image(2), batch_size=4)
    lengths = {"g": 2} if "g" in pattern else {}
    h = ops.rearrange(conv(2, 8, "a")(x), pattern, **lengths)
    model = keras.Model(x, dense(2, "b")(h))
    (refusal,) = [r for r in kg.sites(model, refused=True) if r.producer == "a"]
    assert REFUSED[pattern] in refusal.reason
