"""Normalisations over the channels themselves: layer, RMS, group and unit normalisation."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from helpers.growing import (
    FORMATS,
    all_layers,
    chain,
    conv,
    dense,
    describe,
    image,
    inputs_of,
    predict,
    randomize,
    run_growth_test,
)
from keras import layers

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
        with pytest.raises(kg.GrowthError, match="must arrive as exact zeros"):
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
    with pytest.raises(kg.GrowthError, match=r"'gn' works on blocks of 4 channels"):
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


def post_norm() -> keras.Model:
    """Layer normalisations whose inputs cannot be centred: their own outputs enter the sum."""
    x = inputs = keras.Input((4, 3))
    x = dense(6, "embed")(x)
    for i in range(2):
        h = dense(6, f"down_{i}")(dense(8, f"up_{i}", activation="relu")(x))
        x = layers.LayerNormalization(name=f"norm_{i}")(layers.Add()([x, h]))
    return keras.Model(inputs, dense(3, "out")(x))


def sequential() -> keras.Model:
    norm = layers.LayerNormalization(name="norm_0")
    parts = [keras.Input((4, 3)), dense(6, "embed", activation="gelu"), norm, dense(3, "out")]
    return keras.Sequential(parts)


def several_axes() -> keras.Model:
    norm = layers.LayerNormalization(axis=(1, 2, 3), name="norm_0")
    return chain(image(2), conv(2, 6, "embed"), norm, conv(2, 3, "out"))


def shared() -> keras.Model:
    a, b = keras.Input((3,)), keras.Input((3,))
    embed, norm = dense(6, "embed", activation="tanh"), layers.LayerNormalization(name="norm_0")
    both = layers.Concatenate()([norm(embed(a)), norm(embed(b))])
    return keras.Model([a, b], dense(3, "out")(both))


def nested() -> keras.Model:
    norm = layers.LayerNormalization(name="norm_0", center=False, scale=False)
    inner = chain((4, 6), layers.ReLU(), norm)
    return chain((4, 3), dense(6, "embed"), inner, dense(3, "out"))


def convnext_block() -> keras.Model:
    x = inputs = keras.Input(image(2))
    x = conv(2, 6, "embed")(x)
    h = layers.DepthwiseConv2D(3, padding="same")(x)
    h = layers.LayerNormalization(name="norm_0", epsilon=1e-6)(h)
    h = dense(6, "down")(dense(8, "up", activation="gelu")(h))
    x = layers.Add()([x, h])
    return keras.Model(inputs, dense(3, "out")(layers.GlobalAveragePooling2D()(x)))


APART = [post_norm, sequential, several_axes, shared, nested, convnext_block]


@pytest.mark.parametrize("build", APART)
def test_old_channels_are_normalised_apart(build: Any, tmp_path: Path) -> None:
    model = build()
    run_growth_test(model, {"embed": 9}, tmp_path)
    (again,) = [s for s in kg.sites(model) if "embed" in s.producers]
    assert again.width == 9
    names = [layer.name for layer in all_layers(model)]
    run_growth_test(model, {"embed": 11}, tmp_path, forms=["outgoing"])
    assert [layer.name for layer in all_layers(model)] == names  # nothing more is put in


def test_new_channels_keep_the_scale_of_the_old() -> None:
    model = sequential()
    randomize(model)
    kg.grow_(model, {"embed": 7}, form="outgoing")
    kernel, bias = model.get_layer("embed").get_weights()
    kernel[:, 6] = 0.5
    model.get_layer("embed").set_weights([kernel, bias])
    embedded = keras.Model(model.inputs, [model.layers[0].output, model.layers[-1].input])
    x = np.random.default_rng(0).standard_normal((2, 4, 3)).astype("float32")
    before, after = predict(embedded, x)
    spread = np.sqrt(
        before[..., :6].var(axis=-1, keepdims=True) + model.layers[1].layers[-2].epsilon
    )
    np.testing.assert_allclose(after[..., 6:], before[..., 6:] / spread, rtol=1e-4)


def test_sub_models_and_layers_that_the_user_holds_stay_right() -> None:
    model = convnext_block()
    randomize(model)
    norm = model.get_layer("norm_0")
    head = keras.Model(model.input, norm.output)
    x = np.random.default_rng(0).standard_normal((2, *image(2))).astype("float32")
    old, whole = predict(head, x)[0], predict(model, x)[0]
    kg.grow_(model, {"embed": 9})
    np.testing.assert_allclose(predict(model, x)[0], whole, atol=1e-5)
    new = predict(head, x)[0]
    np.testing.assert_allclose(new[..., :6], old, atol=1e-5)
    assert new.shape[-1] == 9
    assert any(norm is layer for layer in all_layers(model))


def test_in_the_middle_of_a_fit() -> None:
    model = convnext_block()
    randomize(model)
    model.compile(keras.optimizers.Adam(1e-3), "mse")
    rng = np.random.default_rng(0)
    x = rng.standard_normal((32, *image(2))).astype("float32")
    y = rng.standard_normal((32, 3)).astype("float32")
    growth = kg.GrowthCallback(
        (x, y), "random", kg.schedules.Every(2, times=2), kg.selectors.All(3, names=["embed"])
    )
    model.fit(x, y, batch_size=8, epochs=2, verbose=0, callbacks=[growth])
    assert [e.sites[0].width_after for e in growth.events] == [9, 12]
    assert all(e.deviation < 1e-5 for e in growth.events)
    kernel, _ = model.get_layer("embed").get_weights()
    assert (np.abs(kernel[..., 6:]).max(axis=(0, 1, 2)) > 0).all()


def test_a_failure_puts_the_graph_back(monkeypatch: pytest.MonkeyPatch) -> None:
    model = convnext_block()
    randomize(model)
    before, text = predict(model, inputs_of(model)), describe(model)

    def fail(*_: Any) -> None:
        raise MemoryError("no room")

    monkeypatch.setattr("keras_grow.apply.widening.Surgery._refresh", fail)
    with pytest.raises(kg.GrowthError, match="no room"):
        kg.grow_(model, {"embed": 9})
    monkeypatch.undo()
    assert describe(model) == text
    for old, new in zip(before, predict(model, inputs_of(model)), strict=True):
        np.testing.assert_array_equal(old, new)


def test_groups_of_a_convolution_that_the_normalisation_does_not_have() -> None:
    x = keras.Input(image(2))
    norm = layers.GroupNormalization(1, name="gn")
    model = keras.Model(x, conv(2, 2, "b")(norm(conv(2, 4, "a", groups=1)(conv(2, 4, "c")(x)))))
    assert [s.name for s in kg.sites(model)] == ["c", "a"]
    grouped = keras.Model(x, conv(2, 2, "b")(norm(conv(2, 4, "d", groups=2)(conv(2, 4, "e")(x)))))
    (refusal,) = [r for r in kg.sites(grouped, refused=True) if r.producer == "d"]
    assert "inside of old blocks" in refusal.reason
