"""Residual streams: tied producers grow together, or one alone beside a zero-padded partner."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from helpers.growing import (
    FORMATS,
    as_array,
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
from keras import layers, ops

import keras_grow as kg


def stream(data_format: str = "channels_last", add: Any = None) -> keras.Model:
    options = {"data_format": data_format}
    axis = 1 if data_format == "channels_first" else -1
    x = inputs = keras.Input(image(2, 3, data_format))
    x = conv(2, 4, "stem", **options)(x)
    for i in range(3):
        h = layers.BatchNormalization(axis=axis)(x)
        h = conv(2, 5, f"up_{i}", activation="relu", **options)(h)
        h = conv(2, 4, f"down_{i}", **options)(h)
        x = (add or layers.Add())([x, h])
    x = layers.GlobalAveragePooling2D(data_format=data_format)(x)
    return keras.Model(inputs, dense(2, "out")(x))


@pytest.mark.parametrize("name", ["stem", "down_0", "down_2"])
def test_naming_any_tied_layer_grows_them_all(name: str, tmp_path: Path) -> None:
    grown = run_growth_test(stream(), {name: 6}, tmp_path, forms=["outgoing"])
    assert [grown.get_layer(n).filters for n in ("stem", "down_0", "down_1", "down_2")] == [6] * 4


def widen_alone(model: keras.Model, widths: dict[str, int], form: str = "auto") -> keras.Model:
    """A widened copy with the widths asked for; the same function, new weights that are used."""
    randomize(model)
    x = inputs_of(model)
    wider = kg.widen(model, widths, alone=True, seed=0, form=form)
    np.testing.assert_allclose(predict(wider, x)[0], predict(model, x)[0], atol=1e-5)
    for name, width in widths.items():
        assert wider.get_layer(name).filters == width
    return wider


@pytest.mark.parametrize("data_format", FORMATS)
@pytest.mark.parametrize(
    ("name", "padded"), [("stem", 3), ("down_0", 3), ("down_1", 2), ("down_2", 1)]
)
def test_one_alone(name: str, padded: int, data_format: str, tmp_path: Path) -> None:
    model = stream(data_format)
    wider = widen_alone(model, {name: 6})
    others = {"stem", "down_0", "down_1", "down_2"} - {name}
    assert {wider.get_layer(n).filters for n in others} == {4}
    assert sum(type(op).__name__ == "Pad" for op in wider.operations) == padded
    wider.save(tmp_path / "wider.keras")
    loaded = keras.models.load_model(tmp_path / "wider.keras")
    x = inputs_of(model)
    np.testing.assert_allclose(predict(loaded, x)[0], predict(wider, x)[0], atol=1e-6)


def test_new_channels_train() -> None:
    wider = widen_alone(stream(), {"down_0": 6}, form="outgoing")
    wider.compile(keras.optimizers.SGD(0.1), "mse")
    before = as_array(wider.get_layer("down_0").kernel)
    x = inputs_of(wider)
    wider.fit(x, np.ones((4, 2), "float32"), verbose=0)
    change = np.abs(as_array(wider.get_layer("down_0").kernel) - before)
    assert (change.max(axis=(0, 1, 2)) > 0).all()


def test_the_rest_can_grow_later_alone_or_together() -> None:
    wider = widen_alone(stream(), {"down_0": 6})
    widest = widen_alone(wider, {"down_0": 9})
    stem = widen_alone(widest, {"stem": 5})
    assert stem.get_layer("down_0").filters == 9  # it is padded in the middle
    together = kg.widen(wider, {"stem": 7})
    assert kg.verify(wider, together)
    widths = [together.get_layer(n).filters for n in ("stem", "down_0", "down_1", "down_2")]
    assert widths == [7, 9, 7, 7]


def test_in_place_with_its_optimizer() -> None:
    model = stream()
    randomize(model)
    model.compile(keras.optimizers.Adam(0.01), "mse")
    x = as_array(inputs_of(model))
    y = np.ones((4, 2), "float32")
    model.fit(x, y, verbose=0)
    before = predict(model, x)[0]
    growth = kg.grow_(model, {"down_1": 6}, alone=True)
    assert growth.report
    np.testing.assert_allclose(predict(model, x)[0], before, atol=1e-5)
    model.fit(x, y, epochs=2, verbose=0)


def test_gradmax_scores_one_alone() -> None:
    model = stream()
    randomize(model)
    model.compile("sgd", "mse")
    x = as_array(inputs_of(model, samples=16))
    y = np.random.default_rng(0).standard_normal((16, 2)).astype("float32")
    growth = kg.grow_(model, {"down_2": 5}, "gradmax", data=(x, y), alone=True)
    assert growth.sites[0].gradient_norm > 0


def test_an_input_is_padded_too() -> None:
    x = keras.Input((4, 5, 3))
    model = keras.Model(x, conv(2, 2, "out")(layers.Add()([x, conv(2, 3, "a")(x)])))
    with pytest.raises(kg.GrowthError, match="joins the channels with the model input"):
        kg.widen(model, {"a": 5})
    widen_alone(model, {"a": 5})


def test_what_is_multiplied_is_not_padded() -> None:
    model = stream(add=layers.Multiply())
    with pytest.raises(kg.GrowthError, match="'down_0' cannot grow alone: 'stem' is tied"):
        kg.widen(model, {"down_0": 6}, alone=True)


def test_a_failure_puts_the_graph_back(monkeypatch: pytest.MonkeyPatch) -> None:
    model = stream()
    text = describe(model)

    def fail(*_: Any) -> None:
        raise RuntimeError("interrupted")

    monkeypatch.setattr("keras_grow.apply.widening.Surgery._refresh", fail)
    with pytest.raises(kg.GrowthError, match="interrupted"):
        kg.grow_(model, {"down_0": 6}, alone=True)
    monkeypatch.undo()
    assert describe(model) == text
    assert not any(type(op).__name__ == "Pad" for op in model.operations)


def test_padding_of_the_channels_passes_later_growth(tmp_path: Path) -> None:
    widths = [[0, 0], [0, 0], [0, 0], [1, 2]]
    model = chain(image(2), conv(2, 4, "a"), lambda t: ops.pad(t, widths), conv(2, 3, "b"))
    run_growth_test(model, {"a": 6}, tmp_path)
