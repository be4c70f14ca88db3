"""What Pursuit puts into a model, judged by formulas of its own in float64."""

import keras
import numpy as np
import pytest

import keras_grow as kg

FEATURES, HIDDEN, CLASSES, SAMPLES = 10, 6, 4, 100  # samples: of one growth batch


def model_of(first, second):
    inputs = keras.Input((first.shape[0],))
    x = keras.layers.Dense(first.shape[1], activation="relu", use_bias=False, name="hidden")(inputs)
    outputs = keras.layers.Dense(second.shape[1], use_bias=False, name="output")(x)
    model = keras.Model(inputs, outputs)
    model.set_weights([first, second])
    model.compile(keras.optimizers.SGD(0.1), "mse")
    return model


def task_of(seed=0):
    """Kernels of a teacher, and data labelled by it."""
    rng = np.random.default_rng(seed)
    first, second = rng.uniform(-1, 1, (FEATURES, HIDDEN)), rng.uniform(-1, 1, (HIDDEN, CLASSES))
    x = rng.standard_normal((SAMPLES, FEATURES))
    return first, second, x, np.maximum(x @ first, 0) @ second


def explained(fan_in, present, x, residual):
    """The squared error that a least-squares fit removes if a neuron with each fan-in is there.

    Args:
        fan_in: (inputs, k), each judged alone.
        present: hidden units that are there, (samples, width).
    """
    own, sizes, _ = np.linalg.svd(present, full_matrices=False)
    own = own[:, sizes > 1e-9 * sizes[0]]

    def rest(values):
        return values - own @ (own.T @ values)

    new = rest(np.maximum(x @ fan_in, 0))
    return ((new.T @ rest(residual)) ** 2).sum(axis=1) / (new**2).sum(axis=0)


@pytest.mark.parametrize("form", ["inverse", "outgoing"])
def test_the_neuron_that_is_missing_is_found(form):
    """All but one of the teacher's neurons: what is left to explain is exactly that one."""
    first, second, x, y = task_of()
    model = model_of(first[:, 1:], second[1:])
    method = kg.methods.Pursuit(candidates=16, steps=20)
    kg.grow_(model, {"hidden": HIDDEN}, method, data=(x, y), seed=0, form=form)
    kernels = model.get_weights()
    # In the outgoing form the fan-out is what can be seen, in the inverse form the fan-in.
    wanted, found = (first[:, 0], kernels[0][:, -1])
    if form == "outgoing":
        wanted, found = second[0], kernels[1][-1]
    cosine = wanted @ found / (np.linalg.norm(wanted) * np.linalg.norm(found))
    assert cosine > 0.999


def test_every_new_neuron_explains_more_than_any_of_many_others():
    first, second, x, y = task_of(1)
    rng = np.random.default_rng(2)
    first, second = first[:, :3] + 0.3 * rng.standard_normal((FEATURES, 3)), second[:3]
    model = model_of(first, second)
    kg.grow_(model, {"hidden": 5}, "pursuit", data=(x, y), seed=0, form="inverse")
    chosen = model.get_weights()[0][:, 3:]
    present = np.maximum(x @ first, 0)
    residual = y - present @ second
    for number in range(2):
        fan_in = chosen[:, number : number + 1]
        left, _, _ = np.linalg.svd(x.T @ residual, full_matrices=False)
        others = np.concatenate([left, -left, rng.standard_normal((FEATURES, 2000))], axis=1)
        best = explained(others, present, x, residual).max()
        assert explained(fan_in, present, x, residual)[0] > 1.1 * best
        present = np.concatenate([present, np.maximum(x @ fan_in, 0)], axis=1)
