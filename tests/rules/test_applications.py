"""The layers that keras.applications brings along."""

from pathlib import Path

import keras
import pytest
from helpers.growing import chain, conv, dense, image, run_growth_test
from keras import layers

from keras_grow import _keras

CUSTOM = {"LayerScale": _keras.LayerScale, "CustomScaleLayer": _keras.CustomScaleLayer,
          "StochasticDepth": _keras.StochasticDepth}  # fmt: skip


@pytest.fixture(autouse=True)
def _loadable():
    with keras.saving.custom_object_scope(CUSTOM):
        yield


def test_layer_scale(tmp_path: Path) -> None:
    scale = _keras.LayerScale(0.5, 6, name="scale")
    model = chain(image(2), conv(2, 6, "a"), scale, conv(2, 4, "b"))
    grown = run_growth_test(model, {"a": 9}, tmp_path)
    assert grown.get_layer("scale").get_config()["projection_dim"] == 9


def test_scaled_sum(tmp_path: Path) -> None:
    inputs = keras.Input(image(2))
    x = conv(2, 6, "a")(inputs)
    y = conv(2, 6, "b", activation="relu")(x)
    x = _keras.CustomScaleLayer(0.17)([x, y])
    model = keras.Model(inputs, conv(2, 4, "out")(x))
    run_growth_test(model, {"a": 9}, tmp_path)
    assert model.get_layer("b").filters == 9


def test_stochastic_depth(tmp_path: Path) -> None:
    drop = _keras.StochasticDepth(0.3)
    model = chain((5, 3), dense(6, "a"), drop, layers.Activation("tanh"), dense(4, "b"))
    run_growth_test(model, {"a": 9}, tmp_path, same_in_training=False)
