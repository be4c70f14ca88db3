"""Growth at the very end of a fit: said aloud, and mended by training on."""

import warnings

import keras
import numpy as np
import pytest

import keras_grow as kg


def test_growth_at_the_last_step_is_warned_about_and_trains_in_the_next_fit():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((5,))
    hidden = keras.layers.Dense(4, activation="relu", name="hidden")
    model = keras.Model(inputs, keras.layers.Dense(3)(hidden(inputs)))
    model.compile(keras.optimizers.SGD(0.1), "mse")
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((8, 5)), rng.standard_normal((8, 3))
    growth = kg.GrowthCallback((x, y), schedule=kg.schedules.Every(2, times=1))
    with pytest.warns(UserWarning, match="at step 2, was the end of training"):
        model.fit(x, y, batch_size=8, epochs=2, verbose=0, callbacks=[growth])
    assert not np.array(hidden.kernel)[:, 4:].any()
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        model.fit(x, y, batch_size=8, epochs=2, verbose=0, callbacks=[growth])
    assert np.array(hidden.kernel)[:, 4:].any()
    assert hidden.activation is keras.activations.relu
