"""Concatenations: where new channels land, and who must grow together."""

from pathlib import Path

import keras
import pytest
from helpers.growing import FORMATS, conv, dense, image, run_growth_test
from keras import layers

import keras_grow as kg


def test_concatenate_puts_new_channels_in_the_middle(tmp_path: Path) -> None:
    x = keras.Input((5,))
    branches = [dense(3, n, activation="relu")(x) for n in "abc"]
    y = layers.Concatenate()([branches[0], x, *branches[1:]])
    model = keras.Model(x, dense(2, "out")(layers.BatchNormalization()(y)))
    run_growth_test(model, {"a": 5, "b": 4}, tmp_path, trains=True)


@pytest.mark.parametrize("data_format", FORMATS)
def test_concatenate_of_images_then_flatten(data_format: str, tmp_path: Path) -> None:
    options = {"data_format": data_format}
    x = keras.Input(image(2, data_format=data_format))
    a, b = conv(2, 4, "a", **options)(x), conv(2, 3, "b", **options)(x)
    y = layers.Concatenate(axis=-1 if data_format == "channels_last" else 1)([a, b, a])
    model = keras.Model(x, dense(2, "out")(layers.Flatten(data_format=data_format)(y)))
    run_growth_test(model, {"a": 6, "b": 4}, tmp_path)


def test_concatenate_along_another_axis_ties(tmp_path: Path) -> None:
    x = keras.Input((2, 5))
    a, b = dense(4, "a")(x), dense(4, "b", activation="relu")(x)
    model = keras.Model(x, dense(2, "out")(layers.Concatenate(axis=1)([a, b])))
    assert kg.sites(model)[0].producers == ("a", "b")
    run_growth_test(model, {"a": 6}, tmp_path)


def test_add_of_concatenations_splits_a_producer_into_sites(tmp_path: Path) -> None:
    """c's first channels are tied to a, its last to b; each part grows by itself."""
    x = keras.Input((5,))
    a, b, c = dense(2, "a")(x), dense(3, "b")(x), dense(5, "c")(x)
    y = layers.Add()([layers.Concatenate()([a, b]), c])
    model = keras.Model(x, dense(2, "out")(y))
    assert [s.producers for s in kg.sites(model)] == [("a", "c"), ("b", "c")]
    with pytest.raises(kg.GrowthError, match=r"'c' belong to 2 sites .* 'a' or 'b'"):
        kg.widen(model, {"c": 7})
    run_growth_test(model, {"a": 4, "b": 4}, tmp_path)
    assert model.get_layer("c").units == 8
