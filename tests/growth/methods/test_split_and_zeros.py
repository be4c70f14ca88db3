"""Copies of neurons and neurons of bias alone: where they are exact, and where they are refused."""

import keras
import numpy as np
import pytest
from helpers.growing import assert_close, inputs_of, predict, predict_training, randomize
from keras import layers as L

import keras_grow as kg


def dense(x, units=5, name="p", **options):
    return L.Dense(units, name=name, **options)(x)


def image(x, filters=4, name="p"):
    return L.Conv2D(filters, 3, padding="same", name=name)(x)


def flat(x, units=3):
    return L.Dense(units, name="c")(L.Flatten()(x))


def attention(x):
    x = dense(x, 5, "before")
    return flat(L.MultiHeadAttention(2, 3, name="mha")(x, x))


def concatenated(x):
    y = L.Concatenate()([dense(x), dense(x, 4, "q", activation="tanh")])
    return L.Dense(3)(L.ReLU()(y))


def tied(x):
    y = dense(x, 5, "p", activation="relu")
    y = L.Add()([y, dense(y, 5, "q")])
    return L.Dense(3, name="c")(L.ReLU()(y))


def two_consumers(x):
    y = dense(x, activation="relu")
    return L.Concatenate()([L.Dense(2, name="c")(y), L.Dense(3, name="d", use_bias=False)(y)])


def neighbours(x):
    x = dense(dense(x, activation="relu"), 4, "q", activation="tanh")
    return L.Dense(3)(dense(x, 3, "r"))


CASES = {
    "BatchNorm": ((7,), lambda x: L.Dense(3)(L.ReLU()(L.BatchNormalization()(dense(x)))), {"p": 9}),
    "depthwise": (
        (6, 6, 2),
        lambda x: flat(L.DepthwiseConv2D(3, depth_multiplier=2)(L.ReLU()(image(x)))),
        {"p": 7},
    ),
    "PReLU": ((6, 6, 2), lambda x: flat(L.PReLU(shared_axes=[1, 2])(image(x))), {"p": 7}),
    "Flatten": ((4, 4, 2), lambda x: flat(L.MaxPooling2D(2)(image(x))), {"p": 6}),
    "Concatenate": ((7,), concatenated, {"p": 7, "q": 6}),
    "LSTM": ((5, 3), lambda x: L.Dense(2)(L.LSTM(4, name="p")(x)), {"p": 7}),
    "LSTM that reads": ((5, 3), lambda x: L.LSTM(4, name="c")(dense(x)), {"p": 7}),
    "attention heads": ((5, 4), attention, {"mha.num_heads": 5}),
    "tied producers": ((7,), tied, {"p": 8}),
    "two consumers": ((7,), two_consumers, {"p": 8}),
    "two neighbours at once": ((7,), neighbours, {"p": 8, "q": 6}),
    "three neighbours at once": ((7,), neighbours, {"p": 7, "q": 7, "r": 5}),
    "several copies of one parent": ((7,), lambda x: L.Dense(3)(dense(x, 2)), {"p": 9}),
    "sigmoid": ((7,), lambda x: L.Dense(3)(dense(x, activation="sigmoid")), {"p": 9}),
}


def build(case):
    shape, body, widths = case
    inputs = keras.Input(shape)
    model = keras.Model(inputs, body(inputs))
    randomize(model)
    return model, widths


@pytest.mark.parametrize("case", CASES)
def test_copies_share_what_their_parent_did(case):
    model, widths = build(CASES[case])
    x = inputs_of(model, samples=8)
    before, in_training = predict(model, x), predict_training(model, x)
    count = model.count_params()
    wider = kg.widen(model, widths, method="split", seed=0)
    assert wider.count_params() > count
    assert_close(predict(wider, x), before, 1e-5, case)
    assert_close(predict_training(wider, x), in_training, 1e-5, f"{case}, training=True")
    report = kg.grow_(model, widths, method=kg.methods.Split(), seed=0).report
    assert report.preserved
    assert_close(predict(model, x), predict(wider, x), 1e-6, "in place")


@pytest.mark.parametrize("added", [1, 7])
def test_copies_become_different_neurons(added):
    """A copy with the same part of the fan-out as its parent would stay the same for ever."""
    inputs = keras.Input((7,))
    model = keras.Model(inputs, L.Dense(3, name="c")(dense(inputs, 2, activation="tanh")))
    randomize(model)
    done = kg.grow_(model, {"p": 2 + added}, method="split", seed=0)
    assert done.sites[0].form == "split"
    x = np.random.default_rng(0).standard_normal((32, 7)).astype("float32")
    model.compile(keras.optimizers.SGD(0.1), "mse")
    fan_in = np.array(keras.ops.convert_to_numpy(model.get_layer("p").kernel)).T
    assert len(np.unique(fan_in.round(6), axis=0)) == 2
    model.fit(x, x[:, :3], epochs=10, verbose=0)
    fan_in = np.array(keras.ops.convert_to_numpy(model.get_layer("p").kernel)).T
    for i in range(2 + added):
        for j in range(i):
            assert np.abs(fan_in[i] - fan_in[j]).max() > 1e-4


def test_copies_moved_apart_change_the_function_by_the_square():
    changes = []
    for epsilon in (1e-2, 1e-3):
        inputs = keras.Input((7,))
        model = keras.Model(inputs, L.Dense(3)(dense(inputs, 4, activation="tanh")))
        randomize(model)
        x = inputs_of(model, samples=16)
        before = predict(model, x)[0].astype("float64")
        method = kg.methods.Split(epsilon=epsilon)
        after = predict(kg.widen(model, {"p": 8}, method=method, seed=0), x)[0]
        changes.append(np.abs(after - before).max())
    # Shares are not halves, so there is a part that is linear in epsilon; it goes to zero.
    assert 0 < changes[1] < changes[0] / 5


@pytest.mark.parametrize(
    "layer", [L.LayerNormalization, lambda: L.GroupNormalization(2), L.RMSNormalization]
)
def test_splitting_next_to_a_normalisation_across_channels_is_refused(layer):
    """A copy changes the mean and variance of the others."""
    inputs = keras.Input((7,))
    model = keras.Model(inputs, L.Dense(3)(layer()(dense(inputs, 4))))
    weights = model.get_weights()
    with pytest.raises(kg.GrowthError, match=r"split.*(together|inverse form|channels)"):
        kg.grow_(model, {"p": 8}, method="split", seed=0)
    assert model.get_layer("p").units == 4
    for old, new in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


ZEROS = {
    "bias": lambda x: L.Dense(3)(dense(x, activation="relu")),
    "beta": lambda x: L.Dense(3)(L.ReLU()(L.BatchNormalization(name="bn")(dense(x)))),
    "beta, no bias": lambda x: L.Dense(3)(
        L.ReLU()(L.BatchNormalization(name="bn")(dense(x, use_bias=False)))
    ),
}


@pytest.mark.parametrize("case", ZEROS)
def test_neurons_of_bias_alone(case):
    model, _ = build(((7,), ZEROS[case], {}))
    x = inputs_of(model)
    before = predict(model, x)
    done = kg.grow_(model, {"p": 8}, method=kg.methods.Zeros(bias=2.0), seed=0)
    assert_close(predict(model, x), before, 1e-6, case)
    assert done.sites[0].form == "zeros"
    p = model.get_layer("p")
    biases = p.bias if case == "bias" else model.get_layer("bn").beta
    values = np.array(keras.ops.convert_to_numpy(biases))[5:]
    assert values[0] == 2.0
    assert ((values >= 1.0) & (values <= 3.0)).all()
    assert len(set(values)) == 3
    if case == "beta":  # which a producer's bias would not survive
        assert not np.array(keras.ops.convert_to_numpy(p.bias))[5:].any()


@pytest.mark.parametrize(
    ("body", "lacks"),
    [
        (lambda x: L.Dense(3)(dense(x, use_bias=False)), "no bias.*use_bias=True, or use"),
        (
            lambda x: L.Dense(3)(L.BatchNormalization(center=False)(dense(x))),
            "a batch normalisation without beta.*center=True, or use",
        ),
    ],
)
def test_neurons_of_bias_alone_need_one(body, lacks):
    model, _ = build(((7,), body, {}))
    weights = model.get_weights()
    with pytest.raises(kg.GrowthError, match=f"'zeros' sets the bias.*'p' has {lacks}"):
        kg.grow_(model, {"p": 8}, method="zeros", seed=0)
    for old, new in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize("method", ["split", "zeros"])
@pytest.mark.parametrize("layer", [L.UnitNormalization, L.RMSNormalization])
def test_sites_whose_new_neurons_must_be_zero_are_refused(method, layer):
    inputs = keras.Input((5,))
    x = layer()(L.Dense(4, name="p")(inputs))
    model = keras.Model(inputs, L.Dense(2)(x))
    with pytest.raises(kg.GrowthError, match=r"site 'p'.*size of all channels.*random"):
        kg.grow_(model, {"p": 6}, method=method, seed=0)
    assert model.get_layer("p").units == 4
    assert kg.grow_(model, {"p": 6}, method="random", seed=0).report.preserved


# On JAX Keras leaves the averages deleted when `fit` ends.
@pytest.mark.backend("torch", "tensorflow")
def test_a_split_keeps_the_moving_average_of_the_weights():
    """Keras puts it into the model when `fit` ends."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6,))
    hidden = keras.layers.Dense(4, activation="relu", name="a")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(3, name="b")(hidden))
    model.compile(keras.optimizers.Adam(0.05, use_ema=True, ema_momentum=0.9), "mse")
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((16, 6)), rng.standard_normal((16, 3))
    model.fit(x, y, batch_size=4, epochs=3, verbose=0)

    def averaged():
        now = model.get_weights()
        model.optimizer.finalize_variable_values(model.trainable_variables)
        found = model.predict_on_batch(x)
        model.set_weights(now)
        return found

    for variable in model.trainable_variables:  # unlike the averages
        variable.assign(variable + 0.1)
    before = averaged()
    assert abs(before - model.predict_on_batch(x)).max() > 0.01
    kg.grow_(model, {"a": 7}, "split", seed=0)
    np.testing.assert_allclose(averaged(), before, atol=1e-5)
