"""Ops along an axis: exact over the channels where zeros change nothing, refused elsewhere."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from helpers.growing import BACKEND, chain, conv, dense, image, run_growth_test
from keras import layers, ops

import keras_grow as kg

TIMES = 6


def _skip_what_keras_cannot(name: str) -> None:
    if BACKEND == "jax" and name in ("norm", "quantile"):
        pytest.skip("Keras makes a list of the axis, which JAX does not take")


# Over time, on (B, 6, channels): what comes out is read by a dense layer.
OVER_TIME: dict[str, Callable[[Any], Any]] = {
    "sum": lambda x: ops.sum(x, axis=1),
    "nansum": lambda x: ops.nansum(x, axis=1, keepdims=True),
    "norm": lambda x: ops.norm(x, axis=1),
    "any": lambda x: ops.cast(ops.any(x > 0, axis=1), "float32") + ops.sum(x, axis=1),
    "all": lambda x: ops.cast(ops.all(x > -1, axis=1), "float32") + ops.sum(x, axis=1),
    "average": lambda x: ops.average(x, axis=1),
    "amax": lambda x: ops.amax(x, axis=1),
    "min": lambda x: ops.min(x, axis=1),
    "min with an initial value": lambda x: ops.min(x, axis=1, initial=-0.5),
    "prod": lambda x: ops.prod(x, axis=1) + ops.sum(x, axis=1),
    "var": lambda x: ops.var(x, axis=1) + ops.sum(x, axis=1),
    "std": lambda x: ops.std(x, axis=1),
    "moments": lambda x: ops.add(*ops.moments(x, axes=[1])),
    "logsumexp": lambda x: ops.logsumexp(x, axis=1),
    "median": lambda x: ops.median(x, axis=1),
    "quantile": lambda x: ops.quantile(x, 0.3, axis=1),
    "sort": lambda x: ops.sort(x, axis=1),
    "cumsum": lambda x: ops.cumsum(x, axis=1),
    "cumprod": lambda x: ops.cumprod(x, axis=1) + x,
    "diff": lambda x: ops.diff(x, axis=1),
    "trapezoid": lambda x: ops.trapezoid(x, axis=1),
    "softmax": lambda x: ops.softmax(x, axis=1),
    "softmax layer": lambda x: layers.Softmax(axis=1)(x),
    "log_softmax": lambda x: ops.log_softmax(x, axis=1),
    "normalize": lambda x: ops.normalize(x, axis=1),
}


@pytest.mark.parametrize("name", OVER_TIME)
def test_over_time(name: str, tmp_path: Path) -> None:
    _skip_what_keras_cannot(name)
    x = keras.Input((TIMES, 5))
    h = layers.Concatenate()([x, dense(4, "a")(x), x])
    y = OVER_TIME[name](h)
    run_growth_test(keras.Model(x, dense(2, "out")(y)), {"a": 6}, tmp_path)


# Over the channels, beside a layer that reads them.
OVER_CHANNELS: dict[str, Callable[[Any], Any]] = {
    "sum": lambda x: ops.sum(x, axis=-1, keepdims=True),
    "sum of squares": lambda x: ops.sum(ops.square(x), axis=(1, 2))[:, None, None],
    "norm": lambda x: ops.norm(x, axis=-1, keepdims=True),
    "shares": lambda x: x / (1.0 + ops.sum(ops.abs(x), axis=-1, keepdims=True)),
    "unit vectors": lambda x: ops.normalize(x, axis=-1),
    "unit vectors of order 1": lambda x: ops.normalize(x, axis=-1, order=1),
    "masking": lambda x: layers.Masking()(x),
}


@pytest.mark.parametrize("name", OVER_CHANNELS)
def test_over_the_channels(name: str, tmp_path: Path) -> None:
    _skip_what_keras_cannot(name)
    x = keras.Input((TIMES, 5))
    h = layers.Concatenate()([x, dense(4, "a")(x), x])
    y = OVER_CHANNELS[name](h)
    y = y if y.shape[-1] == h.shape[-1] else layers.Multiply()([h, y])
    model = keras.Model(x, dense(2, "out")(y))
    # The new channels have to be zero there, so the inverse form is never taken.
    assert kg.plan(model, {"a": 6}, form="inverse").sites[0].form == "outgoing"
    run_growth_test(model, {"a": 6}, tmp_path)


def test_a_sum_alone_can_be_all_that_channels_are_for(tmp_path: Path) -> None:
    x = keras.Input((5,))
    y = ops.sum(dense(4, "a")(x), axis=-1, keepdims=True)
    model = keras.Model(x, dense(2, "out")(layers.Concatenate()([x, y])))
    (site,) = kg.sites(model)
    assert site.consumers == ()
    wider = kg.widen(model, {"a": 6})
    assert kg.verify(model, wider)
    assert wider.get_layer("a").units == 6


def test_a_sum_added_to_all_channels_leaves_no_weight_free() -> None:
    """New channels must start at zero for the sum, yet are not zero after it."""
    x = keras.Input((5,))
    h = dense(4, "a")(x)
    model = keras.Model(x, dense(2, "b")(h + ops.sum(h, axis=-1, keepdims=True)))
    with pytest.raises(kg.GrowthError, match=r"where new ones would not be 0\. Path: a -> sum"):
        kg.widen(model, {"a": 6})


REFUSED: dict[str, tuple[Callable[[Any], Any], str]] = {
    "mean": (lambda x: ops.mean(x, axis=-1), "ops.sum of them by a fixed number"),
    "count": (lambda x: ops.cast(ops.count_nonzero(x, axis=-1), "float32"), "counts from"),
    "any": (lambda x: ops.cast(ops.any(x > 1.0, axis=-1), "float32"), "counts from"),
    "max": (lambda x: ops.max(x, axis=-1), "largest or smallest"),
    "argmax": (lambda x: ops.cast(ops.argmax(x, axis=-1), "float32"), "largest or smallest"),
    "prod": (lambda x: ops.prod(x, axis=-1), "makes it 0"),
    "var": (lambda x: ops.var(x, axis=-1), "how many channels"),
    "std": (lambda x: ops.std(x, axis=(1, 2))[:, None], "how many channels"),
    "logsumexp": (lambda x: ops.logsumexp(x, axis=-1), "exp(0)"),
    "median": (lambda x: ops.median(x, axis=-1), "how many channels"),
    "moments": (lambda x: ops.moments(x, axes=[2])[0], "how many channels"),
    "sort": (lambda x: ops.sort(x, axis=-1)[..., 0], "ranks the channels"),
    "cumsum": (lambda x: ops.cumsum(x, axis=-1)[..., 0], "runs along the channels"),
    "diff": (lambda x: ops.diff(x, axis=-1)[..., 0], "differences of neighbouring"),
    "batch": (lambda x: ops.sum(x, axis=0)[None, ..., 0] + x[..., 0], "over the batch axis"),
    "softmax": (lambda x: ops.softmax(x, axis=-1)[..., 0], "mixes all channels"),
    "softmax layer": (lambda x: layers.Softmax()(x)[..., 0], "mixes all channels"),
    "masking with a value": (lambda x: layers.Masking(1.0)(x)[..., 0], "mask_value=0"),
    "quantiles": (
        lambda x: ops.quantile(x, np.array([0.2, 0.4]), axis=1)[0],
        "in front of the batch",
    ),
    "trapezoid with points": (
        lambda x: ops.trapezoid(x, x=np.arange(TIMES), axis=1),
        "integrates over given points",
    ),
    "a sum of what is not zero": (
        lambda x: ops.sum(ops.sigmoid(x), axis=-1),
        "new ones would not be 0",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    function, message = REFUSED[name]
    x = keras.Input((TIMES, 5))
    h = dense(4, "a")(x)
    y = layers.Flatten()(function(h)[..., None])
    y = layers.Concatenate()([y, layers.Flatten()(h)])
    model = keras.Model(x, dense(2, "out")(y) if None not in y.shape[1:] else y)
    (refusal,) = [r for r in kg.sites(model, refused=True) if r.producer == "a"]
    assert message in refusal.reason
    assert "Path: a -> " in refusal.reason


# --- per-channel layers and ops on images --------------------------------------------------------

ON_IMAGES: dict[str, Callable[[Any], Any]] = {
    "Resizing": lambda x: layers.Resizing(6, 3)(x),
    "Resizing, padded": lambda x: layers.Resizing(6, 6, pad_to_aspect_ratio=True)(x),
    "CenterCrop": lambda x: layers.CenterCrop(3, 3)(x),
    "image.resize": lambda x: ops.image.resize(x, (7, 3), interpolation="nearest"),
    "image.pad_images": lambda x: ops.image.pad_images(x, 1, 2, target_height=6, target_width=8),
    "image.crop_images": lambda x: ops.image.crop_images(x, 1, 2, target_height=2, target_width=2),
    "image.gaussian_blur": lambda x: ops.image.gaussian_blur(x),
    "space_to_depth": lambda x: ops.space_to_depth(x[:, :, :4], 2),
    "moveaxis": lambda x: ops.moveaxis(ops.relu(ops.moveaxis(x, -1, 1)), 1, 3),
    "swapaxes": lambda x: ops.swapaxes(x, -2, 1),
    "stack": lambda x: ops.stack([x, ops.tanh(x)], axis=2)[:, :, 0],
    "stack in front of the channels": lambda x: ops.stack([x, ops.tanh(x)], axis=-2),
    "stack behind the channels": lambda x: ops.stack([x, ops.tanh(x)], axis=-1)[..., 1],
    "hstack": lambda x: ops.hstack([x, ops.tanh(x)]),
    "dstack": lambda x: ops.dstack([x, ops.tanh(x)]),
    "append": lambda x: ops.append(x, ops.tanh(x), axis=-1),
    "append along space": lambda x: ops.append(x, ops.tanh(x), axis=1),
    "broadcast_to": lambda x: ops.broadcast_to(x[:, :1], (4, 3, 5, 10)),
    "clip": lambda x: ops.clip(x, -0.5, 0.5),
    "clip to positive": lambda x: ops.clip(x, 0, 0.5),
    "clip elsewhere": lambda x: ops.clip(x, 0.1, 0.5),
    "threshold": lambda x: ops.threshold(x, 0.3, 0.2) + x,
    "log": lambda x: ops.log(1.5 + ops.tanh(x)),
    "log of what may be zero": lambda x: ops.log(ops.abs(x)),
    "sqrt": lambda x: ops.sqrt(ops.abs(x)),
    "power": lambda x: x**3 + x,
    "root": lambda x: ops.abs(x) ** 0.5,
    "number to the power": lambda x: 2.0 ** ops.tanh(x),
    "exp2": lambda x: ops.exp2(x),
    "cos": lambda x: ops.cos(x),
    "floor": lambda x: ops.floor(x) + x,
    "stop_gradient": lambda x: ops.stop_gradient(x) + x,
    "ones_like": lambda x: ops.ones_like(x) + x,
    "full_like": lambda x: ops.full_like(x, 2.0) + x,
    "where": lambda x: ops.where(x > 0, x, 0.3 * x),
    "where with numbers": lambda x: ops.where(x > 0.2, x, 0.1),
    "where of one tensor": lambda x: ops.where(x > 0.2, 1.0, 0.1) * x,
    "gate by comparison": lambda x: x * ops.cast(ops.logical_and(x > -1, x < 1), "float32"),
    "quotient": lambda x: x / (1.0 + ops.exp(x)),
    "quotient, 0 for 0": lambda x: ops.divide_no_nan(x, 1.0 + ops.square(x)),
    "number over channels": lambda x: 1.0 / (1.0 + ops.abs(x)),
    "remainder": lambda x: ops.mod(x, 0.7),
    "arctan2": lambda x: ops.arctan2(x, 1.0),
    "hypot": lambda x: ops.hypot(x, ops.ones_like(x)),
    "hypot of twice the same": lambda x: ops.hypot(x, x),
    "remainder of channels": lambda x: ops.mod(1.0 + ops.abs(x), 0.5 + ops.square(x)),
    "floor_divide": lambda x: ops.stop_gradient(ops.floor_divide(x, 0.3)) + x,
    "comparison of channels": lambda x: ops.where(x > ops.tanh(x), x, 2.0 * x),
    "vstack": lambda x: ops.vstack([x, ops.tanh(x)])[:4, ...],
    "logaddexp": lambda x: ops.logaddexp(x, 0.0),
    "a number for every channel": lambda x: x * np.linspace(-1, 1, 10, dtype="float32"),
    "added to every channel": lambda x: x + np.linspace(-1, 1, 10, dtype="float32"),
    "every channel divided": lambda x: x / ops.convert_to_tensor(np.arange(1.0, 11.0, dtype="f")),
    "number for every channel, minus": lambda x: ops.subtract(
        np.linspace(-1, 1, 10, dtype="f"), x
    ),
    "maximum by channel": lambda x: ops.maximum(x, np.linspace(-1, 1, 10, dtype="float32")),
    "power by channel": lambda x: ops.abs(x) ** np.arange(1.0, 11.0, dtype="float32") + x,
    "position by position": lambda x: x * np.linspace(-1, 1, 5, dtype="float32")[:, None]
    + np.linspace(-1, 1, 4, dtype="float32")[:, None, None],
    "position and channel": lambda x: x + np.sin(np.arange(50.0, dtype="f")).reshape(5, 10),
}  # fmt: skip


@pytest.mark.parametrize("name", ON_IMAGES)
def test_on_images(name: str, tmp_path: Path) -> None:
    x = keras.Input(image(2), batch_size=4 if name == "broadcast_to" else None)
    h = layers.Concatenate()([x, dense(4, "a")(x), x])
    model = keras.Model(x, dense(2, "out")(ON_IMAGES[name](h)))
    run_growth_test(model, {"a": 6}, tmp_path)


def test_a_constant_by_channel_grows_where_the_channels_are() -> None:
    x = keras.Input((5,))
    h = layers.Concatenate()([x, dense(2, "a")(x), x])
    y = ops.multiply(h, np.arange(12.0, dtype="float32"))
    model = keras.Model(x, dense(2, "b")(y))
    kg.grow_(model, {"a": 4}, seed=0)
    node = next(op for op in model.operations if op.name.startswith("multiply"))
    constant = node._inbound_nodes[0].arguments.args[1]
    wanted = [*range(7), 1, 1, *range(7, 12)]
    np.testing.assert_array_equal(constant, np.array(wanted, "float32"))


@pytest.mark.parametrize("size", [2, (2, 3)])
def test_extract_patches(size: Any) -> None:
    """Keras gives it another name when it is loaded."""
    x = keras.Input(image(2))
    h = layers.Concatenate()([x, dense(4, "a")(x), x])
    model = keras.Model(x, dense(2, "b")(ops.image.extract_patches(h, size)))
    wider = kg.widen(model, {"a": 6}, form="outgoing", seed=0)
    assert kg.verify(model, wider)
    assert wider.get_layer("b").kernel.shape[0] == 12 * (4 if size == 2 else 6)


@pytest.mark.parametrize("name", ["adaptive_average_pool", "adaptive_max_pool"])
def test_adaptive_pools(name: str) -> None:
    """In channels_first, for which alone Keras knows their shapes. It cannot load them again."""
    x = keras.Input((4, 5, 3))
    h = ops.transpose(dense(4, "a")(x), (0, 3, 1, 2))
    h = getattr(ops, name)(h, (2, 2), data_format="channels_first")
    model = keras.Model(x, dense(2, "b")(ops.transpose(h, (0, 2, 3, 1))))
    wider = kg.widen(model, {"a": 6}, form="outgoing", seed=0)
    assert kg.verify(model, wider)
    assert wider.get_layer("b").kernel.shape[0] == 6


def test_repeat_vector(tmp_path: Path) -> None:
    model = chain((5,), dense(4, "a"), layers.RepeatVector(3), dense(2, "b"))
    run_growth_test(model, {"a": 6}, tmp_path)


def test_unfold(tmp_path: Path) -> None:
    x = keras.Input((4, 5, 3))
    h = ops.transpose(conv(2, 4, "a")(x), (0, 3, 1, 2))
    y = ops.transpose(ops.unfold(h, 2), (0, 2, 1))
    run_growth_test(keras.Model(x, dense(2, "b")(y)), {"a": 6}, tmp_path)
