"""`growth_check`: small, grown and big side by side, and what became of new neurons."""

import json
import math

import keras
import numpy as np
import pytest
from keras import layers as L

import keras_grow as kg
from keras_grow.training.trial import GrowthCheck, Trial
from keras_grow.training.vitality import Watched


def data(samples=96):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((samples, 6)).astype("float32")
    y = np.tanh(x @ rng.standard_normal((6, 8))) @ rng.standard_normal((8, 3))
    return x, y.astype("float32")


def net(width=2):
    inputs = keras.Input((6,))
    x = L.Dense(width, activation="relu", name="hidden")(inputs)
    model = keras.Model(inputs, L.Dense(3, name="out")(x))
    model.compile(keras.optimizers.SGD(0.05, momentum=0.9), "mse")
    return model


def weights_of(model):
    return [np.array(keras.ops.convert_to_numpy(w)) for w in model.weights]


@pytest.fixture(scope="module")
def found():
    model = net()
    before = weights_of(model)
    check = kg.growth_check(
        model, {"hidden": 8}, data(), validation_data=data(32), epochs=6, batch_size=16, seeds=2
    )
    for old, new in zip(before, weights_of(model), strict=True):
        np.testing.assert_array_equal(old, new)
    return check


def test_the_three_train_side_by_side(found):
    assert [(t.arm, t.seed) for t in found.trials] == [
        (arm, seed) for seed in (0, 1) for arm in ("small", "grown", "big")
    ]
    for small, grown, big in zip(*map(found.of, ("small", "grown", "big")), strict=True):
        # The same weights and batches up to the growth.
        np.testing.assert_allclose(small.losses[:3], grown.losses[:3], rtol=1e-4)
        assert abs(small.losses[3] - grown.losses[3]) > 1e-4
        assert small.losses[0] != big.losses[0]
        assert (small.parameters, grown.parameters, big.parameters) == (23, 83, 83)
        np.testing.assert_allclose(grown.spike, grown.losses[3] / grown.losses[2], rtol=1e-5)
        np.testing.assert_allclose(grown.train, grown.losses[-1], rtol=1e-5)
        assert grown.form == ("inverse",)
        assert grown.first_step > 0
        assert small.vitality is None
    assert found.of("small")[0].losses != found.of("small")[1].losses


def test_what_follows_is_what_the_trainings_say(found):
    small, grown, big = (
        np.mean([t.train for t in found.of(arm)]) for arm in ("small", "grown", "big")
    )
    np.testing.assert_allclose(found.closed, (small - grown) / (small - big))
    np.testing.assert_allclose(found.difference[0], grown - small)
    assert bool(found) == (grown < small and found.spike <= 1.05)
    text = str(found)
    assert f"{grown:.4g}" in text
    assert "gradmax, SGD, 2 seeds" in text
    assert f"{found.closed:.0%} of the gap" in text
    assert json.loads(json.dumps(found.to_dict()))["trials"][1]["arm"] == "grown"


def test_new_neurons_are_looked_after(found):
    for trial in found.of("grown"):
        seen = trial.vitality
        assert seen.steps == 18  # the rest of the training
        assert 0 < seen.alive <= 1
        assert seen.present_angle > 0


def test_what_is_known_is_not_trained_again(found):
    model = net()
    again = kg.growth_check(
        model, {"hidden": 8}, data(), validation_data=data(32), epochs=6, batch_size=16, seeds=2,
        method="random", known=found,
    )  # fmt: skip
    for arm in ("small", "big"):
        assert again.of(arm) == found.of(arm)
    assert again.of("grown") != found.of("grown")
    assert again.names[0] == "random"


def test_functions_that_make_models():
    found = kg.growth_check(net, lambda: net(4), data(), epochs=2, batch_size=48, seeds=[3])
    assert [t.parameters for t in found.trials] == [23, 43, 43]
    assert math.isnan(found.mean("grown", "test"))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"at": 1.5}, "at must lie between 0 and 1. Received: at=1.5"),
        ({"seeds": []}, "at least one seed"),
        ({"epochs": 1}, "epochs must be"),
        ({"at": 1e-9}, "no step to grow at: training has 4 steps"),
        ({"data": 7}, r"\(x, y\) or \(x, y, sample_weight\)"),
        ({"widths": 7}, "a Keras model or a function"),
        ({"widths": {"hidden": 2}}, "can only become wider"),
        ({"model": "uncompiled"}, "must be compiled"),
    ],
)
def test_what_cannot_be_checked_is_refused(arguments, says):
    model = net()
    if arguments.get("model") == "uncompiled":
        model = keras.Model(model.inputs, model.outputs)
    settings = {"widths": {"hidden": 4}, "data": data(), "epochs": 2, "batch_size": 48}
    settings |= {k: v for k, v in arguments.items() if k != "model"}
    with pytest.raises(kg.GrowthError, match=says):
        kg.growth_check(model, settings.pop("widths"), settings.pop("data"), **settings)


def trial(arm, seed, train, spike=1.0):
    return Trial(arm, seed, (1.0, train), spike, train, None, 10, 0.0)


@pytest.mark.parametrize(
    ("grown", "spike", "helps", "closed"),
    [(0.5, 1.0, True, 0.5), (0.5, 1.2, False, 0.5), (1.1, 1.0, False, -0.1)],
)
def test_helping_means_lower_without_a_spike(grown, spike, helps, closed):
    trials = [trial("small", 0, 1.0), trial("grown", 0, grown, spike), trial("big", 0, 0.0)]
    found = GrowthCheck(tuple(trials), 0.5, ("gradmax", "SGD"))
    assert bool(found) is helps
    np.testing.assert_allclose(found.closed, closed)
    assert ("Growing helps here" in str(found)) is helps


def test_a_dead_neuron_is_seen():
    """The first of four new neurons is made silent for all inputs."""
    keras.utils.set_random_seed(0)
    model = net(3)

    class Spoil(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if growth.step == 4:
                hidden = self.model.get_layer("hidden")
                bias = np.array(keras.ops.convert_to_numpy(hidden.bias))
                bias[3] = -1e6
                hidden.bias.assign(bias)

    growth = Watched(
        data(), settled=3, schedule=kg.schedules.Every(2, times=1), selector=kg.selectors.All(4)
    )
    x, y = data()
    model.fit(x, y, batch_size=16, epochs=1, verbose=0, callbacks=[growth, Spoil()])
    assert growth.vitality.steps == 3
    np.testing.assert_allclose(growth.vitality.alive, 0.75)
