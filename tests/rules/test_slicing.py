"""Calls that take parts of a tensor. New channels lie in the middle, after a concatenation."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from helpers.growing import chain, conv, dense, image, run_growth_test
from keras import layers, ops

import keras_grow as kg


def _in_the_middle(function: Callable[[Any], Any]) -> keras.Model:
    """(B, 4, 5, 3 + 4 + 3), of which layer `a` makes the 4 in the middle, through `function`."""
    x = keras.Input(image(2))
    y = layers.Concatenate()([x, dense(4, "a")(x), x])
    y = function(y)
    parts = y if isinstance(y, (list, tuple)) else [y]
    outs = [dense(2, f"b{i}")(part) for i, part in enumerate(parts)]
    return keras.Model(x, outs)


PARTS: dict[str, Callable[[Any], Any]] = {
    "open slice": lambda x: x[..., 2:],
    "slice with an end": lambda x: x[..., :8],
    "slice with negative bounds": lambda x: x[..., -8:-1],
    "slice through the channels": lambda x: x[..., 5:],
    "slice of other axes": lambda x: x[:, 1:-1, 2],
    "new axis": lambda x: x[:, None, ..., 1:][:, 0],
    "one channel beside all": lambda x: x[..., 8:9] * x,
    "split in sections": lambda x: ops.concatenate(ops.split(x, 2, axis=-1)[::-1], axis=-1),
    "split at positions": lambda x: ops.split(x, [2, 9], axis=3),
    "split of space": lambda x: ops.split(x, 2, axis=1),
    "take a permutation": lambda x: ops.take(x, [9, 5, 6, 3, 4, 0, 2], axis=-1),
    "take with an array": lambda x: ops.take(x, np.array([[6], [3]])[:, 0], axis=-1),
    "take from space": lambda x: ops.take(x, [[0, 2], [1, 3]], axis=1)[:, 0],
    "unstack space": lambda x: ops.unstack(x, axis=1)[2],
    "flip": lambda x: ops.flip(x, axis=-1),
    "flip of space": lambda x: ops.flip(x, axis=(1, 2)),
    "flip of all but the batch": lambda x: ops.flip(x, axis=(1, 2, 3)),
    "roll of space": lambda x: ops.roll(x, 1, axis=2),
    "rot90": lambda x: ops.rot90(x, axes=(1, 2)),
    "repeat": lambda x: ops.repeat(x, 3, axis=-1),
    "repeat of space": lambda x: ops.repeat(x, 2, axis=1),
    "tile": lambda x: ops.tile(x, (1, 2, 1, 3)),
    "tile, short": lambda x: ops.tile(x, 2),
    "top_k along another axis": lambda x: ops.transpose(
        ops.top_k(ops.transpose(x, (0, 1, 3, 2)), 2)[0], (0, 1, 3, 2)
    ),
}


@pytest.mark.parametrize("name", PARTS)
def test_parts(name: str, tmp_path: Path) -> None:
    if name == "rot90" and keras.config.backend() == "jax":
        pytest.skip("Keras loads the axes as a list, which JAX does not take")
    run_growth_test(_in_the_middle(PARTS[name]), {"a": 6}, tmp_path)


def test_slice_op(tmp_path: Path) -> None:
    """With a batch of known size: Keras takes a size of -1 in another way on torch."""
    x = keras.Input(image(2), batch_size=4)
    y = layers.Concatenate()([x, dense(4, "a")(x), x])
    y = ops.slice(y, [0, 1, 0, 2], (4, 2, 5, 7))
    run_growth_test(keras.Model(x, dense(2, "out")(y)), {"a": 6}, tmp_path)


def test_an_index_moves_with_its_channel(tmp_path: Path) -> None:
    model = _in_the_middle(lambda x: ops.expand_dims(x[..., 8], -1) + x)
    run_growth_test(model, {"a": 6}, tmp_path)
    model = _in_the_middle(lambda x: ops.expand_dims(ops.take(x, -2, axis=-1), -1) + x)
    run_growth_test(model, {"a": 6}, tmp_path)


def _gated(h: Any) -> Any:
    a, b = ops.split(h, 2, axis=-1)
    return a * ops.sigmoid(b)


# On (B, 4, 5, 8) made by one layer: its halves grow together.
TIED: dict[str, Callable[[Any], Any]] = {
    "halves added": lambda h: ops.add(*ops.split(h, 2, axis=-1)),
    "halves gated": _gated,
    "glu": lambda h: ops.glu(h),
    "array_split": lambda h: ops.add(*ops.array_split(h, 2, axis=-1)),
    "sliced halves": lambda h: h[..., :4] - ops.tanh(h[..., 4:]),
    "every second channel": lambda h: h[..., ::2] * ops.sigmoid(h[..., 1::2]),
    "channel shuffle": lambda h: layers.Reshape((4, 5, 8))(
        ops.transpose(layers.Reshape((4, 5, 2, 4))(h), (0, 1, 2, 4, 3))
    ),
    "depth to space": lambda h: ops.depth_to_space(h, 2),
    "quarters of quarters": lambda h: ops.add(
        *ops.split(ops.add(*ops.split(h, 2, axis=-1)), 2, axis=-1)
    ),
}


@pytest.mark.parametrize("name", TIED)
def test_tied_parts_of_one_layer(name: str, tmp_path: Path) -> None:
    x = keras.Input(image(2))
    h = TIED[name](layers.Activation("tanh")(conv(2, 8, "a")(x)))
    model = keras.Model(x, dense(2, "out")(h))
    (site,) = kg.sites(model)
    assert site.name.startswith("a[0:")
    times = 8 // site.width
    assert times == (4 if name in ("depth to space", "quarters of quarters") else 2)
    run_growth_test(model, {"a": 8 + 2 * times}, tmp_path)
    assert kg.sites(model)[0].width == site.width + 2


def test_widths_of_tied_halves_come_in_pairs() -> None:
    x = keras.Input((5,))
    model = keras.Model(x, dense(2, "out")(_gated(dense(6, "a")(x))))
    with pytest.raises(kg.GrowthError, match="grows in steps of 2"):
        kg.widen(model, {"a": 7})


def test_parts_with_other_readers_are_sites_of_their_own(tmp_path: Path) -> None:
    x = keras.Input((5,))
    first, second = ops.split(dense(6, "a")(x), [2], axis=-1)
    model = keras.Model(x, [dense(2, "b")(first), dense(2, "c")(second)])
    assert [(s.name, s.width, s.consumers) for s in kg.sites(model)] == [
        ("a[0:2]", 2, ("b",)),
        ("a[2:6]", 4, ("c",)),
    ]
    with pytest.raises(kg.GrowthError, match=r"Name one of them: 'a\[0:2\]' or 'a\[2:6\]'"):
        kg.widen(model, {"a": 8})
    wider = kg.widen(model, {"a[0:2]": 5, "a[2:6]": 5})
    assert kg.verify(model, wider)
    assert [v.shape[0] for v in (wider.get_layer("b").kernel, wider.get_layer("c").kernel)] == [
        5,
        5,
    ]


def test_c2f_block(tmp_path: Path) -> None:
    """YOLOv8: half of a layer passes a chain of bottlenecks, and all are concatenated."""
    x = keras.Input(image(2))
    h = layers.ReLU()(layers.BatchNormalization()(conv(2, 8, "pre")(x)))
    left, right = ops.split(h, 2, axis=-1)
    outs = [left, right]
    for i in range(2):
        y = layers.ReLU()(conv(2, 4, f"m{i}_in")(right))
        right = layers.Add()([right, layers.ReLU()(conv(2, 4, f"m{i}_out")(y))])
        outs.append(right)
    model = keras.Model(x, conv(2, 2, "post", size=1)(layers.Concatenate()(outs)))
    names = {s.name: s.producers for s in kg.sites(model)}
    assert names["pre[0:4]"] == ("pre",)
    assert names["m0_out"] == ("pre", "m0_out", "m1_out")
    run_growth_test(model, {"m0_out": 6, "m0_in": 6}, tmp_path)


def test_both_halves_of_c2f_at_once() -> None:
    x = keras.Input(image(2))
    left, right = ops.split(conv(2, 8, "pre")(x), 2, axis=-1)
    y = layers.Concatenate()([left, layers.Add()([right, conv(2, 4, "m")(right)])])
    model = keras.Model(x, dense(2, "out")(y))
    with pytest.raises(kg.GrowthError, match=r"Name one of them: 'pre\[0:4\]' or 'm'"):
        kg.widen(model, {"pre": 10})
    wider = kg.widen(model, {"pre[0:4]": 6, "m": 7})
    assert wider.get_layer("pre").filters == 13
    assert kg.verify(model, wider)


def test_shufflenet_unit(tmp_path: Path) -> None:
    """Grouped pointwise convolutions around a channel shuffle and a depthwise convolution."""
    x = keras.Input(image(2, channels=4))
    h = layers.ReLU()(conv(2, 8, "a", size=1, groups=2)(x))
    h = layers.Reshape((4, 5, 2, 4))(h)
    h = layers.Permute((1, 2, 4, 3))(h)
    h = layers.Reshape((4, 5, 8))(h)
    h = layers.DepthwiseConv2D(3, padding="same")(h)
    h = conv(2, 4, "b", size=1, groups=2)(h)
    model = keras.Model(x, dense(2, "out")(layers.Add()([h, x])))
    (site,) = [s for s in kg.sites(model) if s.producers == ("a",)]
    assert site.width == 4
    assert site.granularity == 2
    run_growth_test(model, {"a": 12}, tmp_path)


def test_attention_heads_by_reshape(tmp_path: Path) -> None:
    """Head size grows in every head at once; the scale is a constant of the graph."""
    x = keras.Input((6, 5))
    q, k, v = (layers.Reshape((6, 2, 3))(dense(6, n)(x)) for n in "qkv")
    scores = ops.softmax(ops.einsum("btnd,bsnd->bnts", q, k) / 3.0**0.5, axis=-1)
    y = layers.Reshape((6, 6))(ops.einsum("bnts,bsnd->btnd", scores, v))
    model = keras.Model(x, dense(2, "out")(y))
    run_growth_test(model, {"v": 10}, tmp_path)


REFUSED: dict[str, tuple[Callable[[Any], Any], str]] = {
    "one channel each": (lambda x: ops.unstack(x, axis=-1)[5:6], "makes a tensor of each"),
    "unstack of the batch": (lambda x: ops.take(x, [0, 1], axis=0), "samples out of the batch"),
    "one sample": (lambda x: x[0][None, ...] + x, "takes one sample out of the batch"),
    "roll": (lambda x: ops.roll(x, 1, axis=-1), "ops.take"),
    "take of the flat batch": (
        lambda x: ops.take(x, [[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]])[:, None, None, :] + x,
        "give it an axis",
    ),
    "two-dimensional indices": (
        lambda x: ops.take(x, [[0, 4], [1, 5]], axis=-1)[..., 0],
        "indices of shape",
    ),
    "take_along_axis": (
        lambda x: ops.take_along_axis(x, ops.cast(x, "int32"), axis=1),
        "new ones have none",
    ),
    "top_k": (lambda x: ops.top_k(x, 3)[0], "can be the largest"),
    "array_split": (
        lambda x: ops.concatenate(ops.array_split(x, 2, axis=-1), axis=-1),
        "use ops.split",
    ),
    "steps": (lambda x: x[..., ::2], "picks channels by their position"),
    "repeats by channel": (
        lambda x: ops.repeat(x, [1] * 9 + [2], axis=-1),
        "another number of times",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    function, message = REFUSED[name]
    model = _in_the_middle(function)
    (refusal,) = [r for r in kg.sites(model, refused=True) if r.producer == "a"]
    assert message in refusal.reason
    assert "Path: a -> " in refusal.reason
    with pytest.raises(kg.GrowthError, match="'a'"):
        kg.widen(model, {"a": 6})


def test_computed_positions_are_refused() -> None:
    x, index = keras.Input((5,)), keras.Input(batch_shape=(3,), dtype="int32")
    model = keras.Model([x, index], dense(2, "b")(ops.take(dense(4, "a")(x), index, axis=-1)))
    with pytest.raises(kg.GrowthError, match="positions which the model computes"):
        kg.widen(model, {"a": 6})


def test_constants_are_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """A growth that fails half way leaves keys, sections and recorded arguments as they were."""
    from keras_grow.apply.widening import Surgery

    x = keras.Input((5,))
    h = chain((5,), dense(6, "a"))(x)
    left, right = ops.split(h, 2, axis=-1)
    model = keras.Model(x, dense(2, "out")(left * right[..., 0:3]))
    name = kg.sites(model)[0].name
    config = model.get_config()

    def fail(self: Surgery) -> None:
        raise MemoryError("no more")

    monkeypatch.setattr(Surgery, "_shapes", fail)
    with pytest.raises(kg.GrowthError, match="was undone"):
        kg.grow_(model, {name: 5})
    assert model.get_config() == config
    sample = np.ones((2, 5), "float32")
    assert model(sample).shape == (2, 2)


def test_a_strided_slice_that_would_read_new_channels_unevenly() -> None:
    x = keras.Input((5,))
    picked = dense(3, "a")(x)[:, ::2]
    model = keras.Model(x, dense(2, "b")(picked))
    (refusal,) = [r for r in kg.sites(model, refused=True) if r.producer == "a"]
    assert "would not read the new channels" in refusal.reason
    for width in (4, 5, 7):
        with pytest.raises(kg.GrowthError):
            kg.widen(model, {"a": width})
