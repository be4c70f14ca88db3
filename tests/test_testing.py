"""`keras_grow.testing.time_growth`: every phase has its time, and the model is as it was."""

import keras
import numpy as np
import pytest

import keras_grow as kg
from keras_grow.testing import time_growth


def a_model():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6,))
    x = keras.layers.Dense(4, activation="relu", name="hidden")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(3, name="output")(x))
    model.compile(keras.optimizers.Adam(0.01), "mse")
    return model


def some_data():
    rng = np.random.default_rng(0)
    return rng.standard_normal((16, 6)), rng.standard_normal((16, 3))


@pytest.mark.parametrize("method", ["gradmax", "random"])
@pytest.mark.parametrize("form", ["outgoing", "inverse"])
def test_the_model_is_as_it_was(method, form):
    model, data = a_model(), some_data()
    model.fit(*data, epochs=1, verbose=0)
    state = [*model.variables, *model.optimizer.variables]
    before = [keras.ops.convert_to_numpy(v).copy() for v in state]
    activation = model.get_layer("hidden").activation
    found = time_growth(model, {"hidden": 7}, method, data, form=form, repeats=2)
    assert [*model.variables, *model.optimizer.variables] == state
    for variable, value in zip(state, before, strict=True):
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(variable), value)
    assert model.get_layer("hidden").units == 4
    assert model.get_layer("hidden").activation is activation
    assert [site.width for site in kg.sites(model)] == [4]
    model.fit(*data, epochs=1, verbose=0)
    assert len(found) == 3
    phases = {"survey", "plan", "choice", "verification", "surgery"}
    # New channels of the inverse form have statistics only where there is a normalisation.
    phases |= {"statistics"} if method == "gradmax" else set()
    for seconds in found:
        assert set(seconds) == phases
        assert all(value >= 0 for value in seconds.values())
    assert len({seconds["plan"] for seconds in found}) == 1


def test_the_model_is_as_it_was_after_a_refusal():
    model = a_model()
    with pytest.raises(kg.GrowthError, match="needs data"):
        time_growth(model, {"hidden": 7}, "gradmax")
    with pytest.raises(kg.GrowthError, match="repeats"):
        time_growth(model, {"hidden": 7}, repeats=-1)
    assert [site.width for site in kg.sites(model)] == [4]
