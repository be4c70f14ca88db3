"""Layers that normalise or scale every channel by itself."""

from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest
from helpers.growing import (
    FORMATS,
    as_array,
    assert_close,
    chain,
    conv,
    dense,
    image,
    predict,
    randomize,
    run_growth_test,
)
from keras import layers

import keras_grow as kg


@pytest.mark.parametrize("center", [True, False])
@pytest.mark.parametrize("scale", [True, False])
def test_batch_normalization(center: bool, scale: bool, tmp_path: Path) -> None:
    model = chain(
        image(2),
        conv(2, 4, "a"),
        layers.BatchNormalization(center=center, scale=scale),
        layers.ReLU(),
        conv(2, 2, "b"),
    )
    run_growth_test(model, {"a": 6}, tmp_path, trains=(center and scale) or None)


@pytest.mark.parametrize("data_format", FORMATS[1:])
def test_batch_normalization_channels_first(data_format: str, tmp_path: Path) -> None:
    model = chain(
        image(2, data_format=data_format),
        conv(2, 4, "a", data_format=data_format),
        layers.BatchNormalization(axis=1),
        conv(2, 2, "b", data_format=data_format),
    )
    run_growth_test(model, {"a": 6}, tmp_path)


def test_batch_normalization_renorm_and_frozen(tmp_path: Path) -> None:
    frozen = layers.BatchNormalization(trainable=False)
    model = chain((5,), dense(4, "a"), layers.BatchNormalization(), frozen, dense(2, "b"))
    grown = run_growth_test(model, {"a": 6}, tmp_path)
    assert [len(layer.trainable_weights) for layer in grown.layers if "batch" in layer.name] == [
        2,
        0,
    ]


def test_batch_normalization_keeps_order_of_weights() -> None:
    """Weights are saved by position: a swap of gamma and beta would load without an error."""
    model = chain((5,), dense(4, "a"), layers.BatchNormalization(name="bn"), dense(2, "b"))
    names = [v.path for v in model.weights]
    kg.grow_(model, {"a": 6})
    assert [v.path for v in model.weights] == names
    gamma, beta, mean, variance = (as_array(v) for v in model.get_layer("bn").weights)
    np.testing.assert_array_equal(gamma, np.ones(6))
    np.testing.assert_array_equal(beta, np.zeros(6))
    np.testing.assert_array_equal(mean, np.zeros(6))
    np.testing.assert_array_equal(variance, np.ones(6))


RESCALING: dict[str, tuple[Callable[[], layers.Layer], str]] = {
    "scale": (lambda: layers.Rescaling(0.5), "outgoing"),
    "offset": (lambda: layers.Rescaling(2.0, offset=0.3), "inverse"),
}


@pytest.mark.parametrize("name", RESCALING)
def test_rescaling(name: str, tmp_path: Path) -> None:
    layer, form = RESCALING[name]
    model = chain((5,), dense(4, "a"), layer(), dense(2, "b"))
    assert kg.plan(model, {"a": 6}).sites[0].form == form
    run_growth_test(model, {"a": 6}, tmp_path)


@pytest.mark.parametrize("invert", [False, True])
def test_normalization_adapted(invert: bool, tmp_path: Path) -> None:
    layer = layers.Normalization(invert=invert)
    layer.adapt(np.random.default_rng(0).normal(2.0, 3.0, (50, 2, 4)).astype("float32"))
    model = chain((2, 5), dense(4, "a"), layer, dense(2, "b"))
    run_growth_test(model, {"a": 6}, tmp_path)


def test_normalization_of_a_later_adapted_layer() -> None:
    """A layer adapted to its statistics keeps them for the old channels."""
    layer = layers.Normalization(name="norm")
    model = chain((5,), dense(4, "a"), layer, dense(2, "b"))
    randomize(model)
    x = np.random.default_rng(0).normal(2.0, 3.0, (6, 5)).astype("float32")
    before, mean = predict(model, x), as_array(layer.mean)
    kg.grow_(model, {"a": 6})
    np.testing.assert_array_equal(as_array(layer.mean)[..., :4], mean)
    np.testing.assert_array_equal(as_array(layer.variance)[..., 4:], 1.0)
    assert_close(predict(model, x), before, 1e-5, "after growth")


def test_normalization_by_one_scalar(tmp_path: Path) -> None:
    layer = layers.Normalization(axis=None, mean=1.5, variance=4.0)
    model = chain((5,), dense(4, "a"), layer, dense(2, "b"))
    assert kg.plan(model, {"a": 6}).sites[0].form == "inverse"
    run_growth_test(model, {"a": 6}, tmp_path)


def test_constants_of_every_channel_are_refused() -> None:
    for layer in (
        layers.Rescaling([1.0, 2.0, 3.0, 4.0]),
        layers.Normalization(mean=[0.0] * 4, variance=[1.0] * 4),
    ):
        model = chain((5,), dense(4, "a"), layer, dense(2, "b"))
        (refusal,) = kg.sites(model, refused=True)[:1]
        assert type(layer).__name__ in refusal.reason
        with pytest.raises(kg.GrowthError, match=type(layer).__name__):
            kg.widen(model, {"a": 6})


def test_normalizing_another_axis_is_refused() -> None:
    model = chain((4, 5), dense(4, "a"), layers.BatchNormalization(axis=1), dense(2, "b"))
    with pytest.raises(kg.GrowthError, match=r"BatchNormalization .* axis 1"):
        kg.widen(model, {"a": 6})
    assert keras.ops.shape(model.get_layer("a").kernel) == (5, 4)
