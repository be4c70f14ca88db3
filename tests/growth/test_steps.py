"""The sign rule: first-order loss changes against real finite steps of the grown model."""

import keras
import numpy as np
import pytest
from keras import layers as L

import keras_grow as kg
from keras_grow.growth.statistics import Statistics
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
    statistics = Statistics(make_plan(atlas, {atlas.find("p"): 2}))
    site = statistics.plan.sites[0]
    measured = statistics(x, y)
    v = rng.standard_normal((measured.matrices[site].shape[1], 2))
    predicted = statistics.steps(measured, {site: v})[site]
    fan_in = measured.matrices[site] @ v
    fan_in /= np.linalg.norm(fan_in, axis=0)

    base = loss(model, x, y)
    for row, sign in enumerate((1.0, -1.0)):
        for neuron in range(2):
            grown = kg.widen(model, {"p": atlas.find("p").width + 1}, method=Fixed(
                v[:, neuron], sign * ETA * fan_in[:, neuron]
            ), form="outgoing")  # fmt: skip
            change = (loss(grown, x, y) - base) / ETA
            np.testing.assert_allclose(change, predicted[row, neuron], rtol=0.05, atol=5e-3)


class Fixed:
    """A method that gives one new neuron the weights it is told to."""

    name, needs_statistics, needs_steps, epsilon = "fixed", False, False, ETA

    def __init__(self, fan_out, fan_in):
        self.fan_out, self.fan_in = fan_out, fan_in

    def directions(self, problem, rng):
        return self.fan_out[None]

    def solve(self, problem, directions, steps, rng):
        return kg.methods.Solution(self.fan_out[None], self.fan_in[None])


def loss(model, x, y):
    predicted = np.asarray(keras.ops.convert_to_numpy(model(x)), dtype="float64")
    return float(((predicted - y) ** 2).mean())


def test_the_sign_rule_takes_the_direction_that_lowers_the_loss_more():
    rng = np.random.default_rng(0)
    matrix = rng.standard_normal((5, 4))
    problem = kg.methods.Problem(2, "outgoing", np.ones((3, 4)), np.ones((3, 5)), matrix)
    method = kg.methods.GradMax()
    directions = method.directions(problem, rng)
    # Neuron 0: a step along -M v changes the loss by -1, with -v it would by -3. Neuron 1: -2, -1.
    steps = np.array([[3.0, 1.0], [-1.0, -2.0]])
    chosen = method.solve(problem, directions, steps, rng).fan_out
    np.testing.assert_allclose(np.sign((chosen * directions).sum(axis=1)), [-1, 1])
    assert kg.methods.GradMax(sign_rule=False).needs_steps is False
