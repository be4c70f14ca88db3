"""The alignment of directions from batches with those from all the data."""

import keras
import numpy as np
import pytest
from keras import layers as L

import keras_grow as kg


def task():
    inputs = keras.Input((8,))
    x = L.Dense(5, activation="relu", name="a")(inputs)
    x = L.Dense(5, activation="sigmoid", name="b")(x)
    model = keras.Model(inputs, L.Dense(3, name="c")(x))
    model.compile("sgd", "mse")
    rng = np.random.default_rng(0)
    for variable in model.trainable_variables:
        variable.assign(rng.standard_normal(variable.shape) * 0.5)
    x = rng.standard_normal((240, 8)).astype("float32")
    return model, x, rng.standard_normal((240, 3)).astype("float32")


def test_alignment_grows_with_the_batch_and_is_one_for_all_data():
    model, x, y = task()
    before = model.get_weights()
    found = kg.alignment(model, (x, y), batch_sizes=(4, 60, 240), k=2, repeats=6)
    assert {f.site for f in found} == {"a", "b"}
    for site in "ab":
        small, large, whole = (f.mean for f in found if f.site == site)
        assert small < large < whole + 1e-9
        assert whole == pytest.approx(1, abs=1e-5)
    low, high = found[0].interval
    assert low < found[0].mean < high
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_alignment_is_the_mean_cosine_of_singular_vectors():
    model, x, y = task()
    (found,) = kg.alignment(model, (x[:20], y[:20]), (20,), k=3, names=["a"], repeats=1)
    assert found.values == (pytest.approx(1, abs=1e-5),)
    assert np.isnan(found.interval[0])


@pytest.mark.parametrize(
    ("change", "part"),
    [({"batch_sizes": (500,)}, "at least as many samples"), ({"k": 0}, "k must be")],
)
def test_refused(change, part):
    model, x, y = task()
    with pytest.raises(kg.GrowthError, match=part):
        kg.alignment(model, (x, y), **{"batch_sizes": (4,), **change})
