"""Growth data of every kind, and what is said of what is none."""

import keras
import numpy as np
import pytest
from keras import layers as L

import keras_grow as kg


def points(samples=16):
    rng = np.random.default_rng(0)
    return tuple(rng.standard_normal((samples, n)).astype("float32") for n in (5, 3))


X, Y = points()
BATCHES = [(X[:8], Y[:8]), (X[8:], Y[8:])]


def build():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((5,))
    x = L.Dense(4, activation="relu", name="p")(inputs)
    model = keras.Model(inputs, L.Dense(3, name="c")(x), name="net")
    model.compile("sgd", "mse")
    return model


def grown(data, batches):
    model = build()
    done = kg.grow_(model, {"p": 6}, "gradmax", data, seed=0, batches=batches, form="outgoing")
    return done.loss, np.array(keras.ops.convert_to_numpy(model.get_layer("c").kernel))


def in_turn():
    yield from BATCHES


@pytest.mark.parametrize("batches", [None, 2])
@pytest.mark.parametrize("data", [in_turn, BATCHES])
def test_batches_of_a_generator_function_and_of_a_list(data, batches):
    loss, kernel = grown(data, batches)
    expected_loss, expected = grown((X, Y), 1)
    assert loss == pytest.approx(expected_loss, rel=1e-5)
    np.testing.assert_allclose(kernel, expected, atol=1e-4)


def test_a_generator_function_starts_again():
    growth = kg.GrowthCallback(in_turn, "gradmax", kg.schedules.Every(1, times=3), batches=None)
    build().fit(X, Y, batch_size=4, verbose=0, callbacks=[growth])
    assert [len(event.sites) for event in growth.events] == [1, 1, 1]


def test_a_data_set_without_end_is_refused():
    tf = pytest.importorskip("tensorflow")
    data = tf.data.Dataset.from_tensor_slices((X, Y)).batch(8)
    expected = grown((X, Y), 1)[0]
    assert grown(data, None)[0] == pytest.approx(expected, rel=1e-5)
    assert grown(data.repeat(), 2)[0] == pytest.approx(expected, rel=1e-5)
    with pytest.raises(kg.DataError, match=r"repeats without end.*batches=N.*Received: .*Dataset"):
        grown(data.repeat(), None)


def words():
    return X.astype(str), Y


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (lambda: 3, r"must give batches \(x, y\).*Received: 3 \(int\)"),
        (lambda: None, r"must give batches \(x, y\).*Received: None"),
        (lambda: (1.0, 2.0), r"must give batches \(x, y\).*Received: \(1.0, 2.0\)"),
        (lambda: (X, Y, Y[:, 0], Y), r"must give batches \(x, y\)"),
        ([(X.tolist(), Y)], r"must give batches \(x, y\)"),
        (lambda n: (X, Y), r"called without arguments.*missing a required argument: 'n'"),
        (words, r"growth data's x must be numbers.*type <U"),
        ((X, Y.astype(object)), r"growth data's y must be numbers.*type object"),
        ((X,), "y is missing: pass data"),
        (X, "y is missing: pass data"),
    ],
)
@pytest.mark.parametrize("batches", [1, 2])
def test_what_is_no_batch_is_told(data, message, batches):
    with pytest.raises(kg.DataError, match=message):
        grown(data, batches)
