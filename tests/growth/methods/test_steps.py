"""The sign rule: first-order loss changes against real finite steps of the grown model."""

import keras
import numpy as np
import pytest
from helpers.bare import FromMatrix
from keras import layers as L

import keras_grow as kg
from keras_grow.growth.data import Batches
from keras_grow.growth.methods.gradmax import better_signs
from keras_grow.growth.statistics import Recording, measure
from keras_grow.planning import make_plan, survey

ETA = 1e-3


def mlp():
    inputs = keras.Input((6,))
    x = L.Dense(4, activation="relu", name="p")(inputs)
    return keras.Model(inputs, L.Dense(3, name="c")(x))


def convs():
    inputs = keras.Input((6, 6, 2))
    x = L.Conv2D(3, 3, padding="same", name="p")(inputs)
    x = L.Add()([x, L.Conv2D(3, 3, padding="same", name="q")(inputs)])
    x = L.MaxPooling2D(2)(L.LeakyReLU(0.1)(x))
    return keras.Model(inputs, L.Dense(3)(L.Flatten()(L.Conv2D(2, 3, name="c")(x))))


def causal():
    inputs = keras.Input((7, 2))
    x = L.Conv1D(3, 2, padding="causal", dilation_rate=2, activation="relu", name="p")(inputs)
    return keras.Model(inputs, L.Dense(3)(L.Flatten()(L.Conv1D(2, 2, name="c")(x))))


@pytest.mark.parametrize("build", [mlp, convs, causal])
def test_steps_are_the_loss_changes_of_real_steps(build):
    rng = np.random.default_rng(1)
    model = build()
    for variable in model.trainable_variables:
        variable.assign(rng.standard_normal(variable.shape) * 0.5)
    model.compile("sgd", "mse")
    x = rng.standard_normal((8, *model.input_shape[1:])).astype("float32")
    y = rng.standard_normal((8, 3)).astype("float32")
    atlas = survey(model)
    plan = make_plan(atlas, {atlas.find("p"): 2})
    measured = measure(plan, Recording(plan), Batches((x, y, None)))
    gradients = measured.sites[plan.sites[0]]
    v = rng.standard_normal((2, gradients.shape[1]))
    fan_in = gradients.by_fan_in(v)
    fan_in /= np.linalg.norm(fan_in, axis=1, keepdims=True)

    base = loss(model, x, y)
    for sign in (1.0, -1.0):
        predicted = (gradients.one_sided(sign * fan_in) * v).sum(axis=1)
        for neuron in range(2):
            grown = kg.widen(model, {"p": atlas.find("p").width + 1}, method=Fixed(
                v[neuron], sign * ETA * fan_in[neuron]
            ), form="outgoing")  # fmt: skip
            change = (loss(grown, x, y) - base) / ETA
            np.testing.assert_allclose(change, predicted[neuron], rtol=0.05, atol=5e-3)


class Fixed:
    """A user's own method: it gives one new neuron the weights it is told to."""

    name, needs_gradients, epsilon = "fixed", False, ETA

    def __init__(self, fan_out, fan_in):
        self.fan_out, self.fan_in = fan_out, fan_in

    def solve(self, problem, rng):
        return kg.methods.Solution(self.fan_out[None], self.fan_in[None])


def loss(model, x, y):
    predicted = np.asarray(keras.ops.convert_to_numpy(model(x)), dtype="float64")
    return float(((predicted - y) ** 2).mean())


def test_the_sign_rule_takes_the_direction_that_lowers_the_loss_more():
    v = np.eye(2, 4)
    # A step along -M v changes the loss by -1 with the first v, with its opposite by -3; by -2 and
    # -1 with the second.
    along, against = np.diag([3.0, 1.0]), np.diag([-1.0, -2.0])

    class OneSided(FromMatrix):
        def one_sided(self, fan_in):
            assert (fan_in[:2] == -fan_in[2:]).all()
            return np.concatenate([along @ v, against @ v])

    chosen = better_signs(v, OneSided(np.eye(5, 4)))
    np.testing.assert_allclose(chosen, [-v[0], v[1]])
