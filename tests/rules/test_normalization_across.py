"""Normalisations over the channels themselves: layer, RMS, group and unit normalisation."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers
from rules.harness import FORMATS, chain, conv, dense, image, predict, randomize, run_growth_test

import keras_grow as kg


@pytest.mark.parametrize(
    ("shape", "axis", "activation"),
    [((3,), -1, None), ((5, 3), -1, "tanh"), ((5, 3), (1, 2), None), ((5, 3), (-1,), "relu")],
)
def test_rms(shape: tuple, axis: Any, activation: str | None, tmp_path: Path) -> None:
    norm = layers.RMSNormalization(axis=axis, epsilon=0.01, name="norm")
    model = chain(shape, dense(6, "a", activation=activation), norm, dense(4, "b"))
    run_growth_test(model, {"a": 9}, tmp_path, forms=["outgoing"])
    assert norm.epsilon == pytest.approx(0.01 * 6 / 9)
    assert kg.plan(model, {"a": 12}).sites[0].form == "outgoing"


def test_rms_needs_zeros() -> None:
    norm = layers.RMSNormalization()
    model = chain((3,), dense(6, "a", activation="sigmoid"), norm, dense(4, "b"))
    for form in ("outgoing", "inverse"):
        with pytest.raises(kg.RefusedError, match="must arrive as exact zeros"):
            kg.plan(model, {"a": 9}, form=form)


@pytest.mark.backend("jax", "tensorflow")  # Keras fails on torch for any axis but the last
@pytest.mark.parametrize("center", [True, False])
def test_layer_normalization_along_another_axis(center: bool, tmp_path: Path) -> None:
    norm = layers.LayerNormalization(axis=1, center=center)
    model = chain((5, 3), dense(6, "a"), norm, dense(4, "b"))
    run_growth_test(model, {"a": 9}, tmp_path)


@pytest.mark.parametrize("data_format", FORMATS)
def test_group(data_format: str, tmp_path: Path) -> None:
    axis = 1 if data_format == "channels_first" else -1
    norm = layers.GroupNormalization(3, axis=axis)
    options = {"data_format": data_format}
    model = chain(
        image(2, 3, data_format), conv(2, 6, "a", **options), norm, conv(2, 4, "b", **options)
    )
    assert kg.sites(model)[0].granularity == 2
    with pytest.raises(kg.GrowthError, match="grows in steps of 2"):
        kg.widen(model, {"a": 9})
    run_growth_test(model, {"a": 10}, tmp_path)
    assert norm.groups == 5


def test_instance(tmp_path: Path) -> None:
    norm = layers.GroupNormalization(-1)
    model = chain(image(2), conv(2, 4, "a"), norm, conv(2, 4, "b"))
    run_growth_test(model, {"a": 7}, tmp_path)
    assert norm.groups == 7


def test_groups_that_new_channels_would_split_are_refused() -> None:
    x = keras.Input(image(2))
    both = layers.Concatenate()([conv(2, 3, "a")(x), conv(2, 5, "b")(x)])
    model = keras.Model(x, conv(2, 2, "c")(layers.GroupNormalization(2, name="gn")(both)))
    with pytest.raises(kg.RefusedError, match=r"'gn' works on blocks of 4 channels"):
        kg.widen(model, {"a": 7})


@pytest.mark.parametrize("axis", [-1, (1, 2)])
def test_unit(axis: Any, tmp_path: Path) -> None:
    model = chain((5, 3), dense(6, "a"), layers.UnitNormalization(axis=axis), dense(4, "b"))
    run_growth_test(model, {"a": 9}, tmp_path, forms=["outgoing"])


def test_a_lone_new_channel_cannot_be_made_a_unit() -> None:
    model = chain((5, 3), dense(6, "a"), layers.UnitNormalization(axis=1), dense(4, "b"))
    with pytest.raises(kg.GrowthError, match="no gradient could be trusted"):
        kg.widen(model, {"a": 9})


# --- layer normalisation ---------------------------------------------------------------------


def pre_norm(blocks: int = 2, **options: Any) -> keras.Model:
    """A residual stream that only layer normalisations read."""
    x = inputs = keras.Input((4, 3))
    x = dense(6, "embed")(x)
    for i in range(blocks):
        h = layers.LayerNormalization(epsilon=0.1, name=f"norm_{i}", **options)(x)
        h = dense(8, f"up_{i}", activation="gelu")(h)
        x = layers.Add()([x, dense(6, f"down_{i}")(h)])
    x = layers.LayerNormalization(name="last", **options)(x)
    return keras.Model(inputs, dense(3, "out")(layers.GlobalAveragePooling1D()(x)))


def test_a_stream_of_linear_writers_is_centred(tmp_path: Path) -> None:
    model = pre_norm()
    (stream,) = [s for s in kg.sites(model) if "embed" in s.producers]
    assert set(stream.producers) == {"embed", "down_0", "down_1"}
    run_growth_test(model, {"down_1": 10}, tmp_path, forms=["outgoing"])
    assert len(model.layers) == len(pre_norm().layers)
    assert model.get_layer("norm_0").epsilon == pytest.approx(0.1 * 6 / 10)
    for name in ("embed", "down_0", "down_1"):
        kernel = model.get_layer(name).get_weights()[0]
        assert abs(kernel.mean()) < 0.02
    again = kg.widen(model, {"embed": 11})
    assert kg.verify(model, again)


def test_centring_keeps_the_moving_average_of_the_weights() -> None:
    model = pre_norm()
    randomize(model)
    model.compile(keras.optimizers.SGD(0.01, use_ema=True, ema_momentum=0.5), "mse")
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((8, 4, 3)), rng.standard_normal((8, 3))
    model.fit(x, y, epochs=2, verbose=0)
    averaged = kg.widen(model, {"embed": 6 + 3})
    for m in (model, averaged):
        m.optimizer.finalize_variable_values(m.trainable_variables)
    np.testing.assert_allclose(predict(averaged, x)[0], predict(model, x)[0], atol=1e-5)
