"""A user's own object as the method: what it is given, and what is said when it is wrong."""

from dataclasses import dataclass, field

import keras
import numpy as np
import pytest
from keras import layers as L

import keras_grow as kg


def build(bias=True):
    inputs = keras.Input((7,))
    x = L.Dense(4, activation="tanh", name="p", use_bias=bias)(inputs)
    model = keras.Model(inputs, L.Dense(3, name="c")(x))
    model.compile("sgd", "mse")
    return model


def data(samples=16):
    rng = np.random.default_rng(0)
    return tuple(rng.standard_normal((samples, n)).astype("float32") for n in (7, 3))


class Smallest:
    """No more than it needs: a name, and the new weights."""

    name = "smallest"
    needs_gradients = False

    def solve(self, problem, rng):
        fan_out = rng.standard_normal((problem.added, problem.fan_out.shape[1]))
        return kg.methods.Solution(fan_out, np.zeros((problem.added, problem.fan_in.shape[1])))


@dataclass(frozen=True)
class Inspecting(kg.methods.Scaled):
    """Keeps what it was given, and takes the inverse form."""

    name = "inspecting"
    forms = ("inverse",)
    needs_gradients = True
    needs_inputs = True
    seen: list = field(default_factory=list)

    def solve(self, problem, rng):
        self.seen.append(problem)
        directions = rng.standard_normal((problem.added, problem.fan_in.shape[1]))
        fan_out, fan_in = self.finished(problem, directions, rng)
        norm = float(np.linalg.norm(problem.known.finite(fan_in).value))
        return kg.methods.Solution(fan_out, fan_in, gradient_norm=norm, notes=("mine",))


def test_a_method_of_five_lines():
    model = build()
    done = kg.grow_(model, {"p": 6}, method=Smallest(), seed=0, form="outgoing")
    assert done.report.preserved
    assert done.sites[0].method == "smallest"
    kernel = keras.ops.convert_to_numpy(model.get_layer("c").kernel)
    expected = np.random.default_rng(0).standard_normal((2, 3))
    np.testing.assert_allclose(kernel[4:], expected, rtol=1e-6)


def test_what_a_method_is_given():
    model, (x, y) = build(), data()
    kernels = [np.array(keras.ops.convert_to_numpy(model.get_layer(n).kernel)) for n in "pc"]
    method = Inspecting()
    done = kg.grow_(model, {"p": 6}, method=method, data=(x, y), seed=0, slopes=kg.Slopes())
    (problem,) = method.seen
    assert (problem.added, problem.form) == (2, "inverse")
    assert problem.smooth  # tanh has no kink
    np.testing.assert_array_equal(problem.fan_in, kernels[0].T)
    np.testing.assert_array_equal(problem.fan_out, kernels[1])
    known = problem.known
    assert known.shape == (7, 3)
    assert known.exact
    # M of a dense layer: the mean over samples of input times gradient by the consumer.
    hidden = np.tanh(x @ kernels[0])
    error = 2 * (hidden @ kernels[1] - y) / y.size
    np.testing.assert_allclose(known.matrix, x.T @ error, atol=1e-6)
    np.testing.assert_allclose(known.second_moment(), x.T @ x / len(x), rtol=1e-5, atol=1e-6)
    fan_in = np.random.default_rng(1).standard_normal((3, 7))
    np.testing.assert_allclose(
        known.finite(fan_in).value, np.tanh(fan_in @ x.T) @ error, rtol=1e-4, atol=1e-6
    )
    assert done.sites[0].notes == ["mine"]
    assert done.sites[0].form == "inverse"


def test_it_works_in_fit():
    model, (x, y) = build(), data(32)
    schedule = kg.schedules.Every(2, times=1)
    callback = kg.GrowthCallback((x, y), method=Smallest(), schedule=schedule)
    model.fit(x, y, batch_size=8, epochs=1, verbose=0, callbacks=[callback])
    (event,) = callback.events
    assert event.error is None
    assert event.sites[0].method == "smallest"
    assert model.get_layer("p").units > 4


class Wrong(Smallest):
    def __init__(self, **solution):
        self.solution = solution

    def solve(self, problem, rng):
        shape = problem.added, problem.fan_out.shape[1]
        found = {"fan_out": np.zeros(shape), "fan_in": np.zeros((problem.added, 7))}
        return kg.methods.Solution(**{**found, **self.solution})


@pytest.mark.parametrize(
    ("solution", "message"),
    [
        ({"fan_out": np.zeros((2, 5))}, r"fan_out .*shape \(2, 3\).*Received: shape \(2, 5\)"),
        ({"fan_in": np.zeros((1, 7))}, r"fan_in .*shape \(2, 7\).*Received: shape \(1, 7\)"),
        ({"fan_in": np.full((2, 7), np.nan)}, r"fan_in .*finite.*Received: values not finite"),
    ],
)
def test_wrong_answers_are_told(solution, message):
    model = build()
    with pytest.raises(kg.GrowthError, match=f"'smallest' must return a {message}"):
        kg.grow_(model, {"p": 6}, method=Wrong(**solution))
    assert model.get_layer("p").units == 4


def test_a_function_that_changes_is_undone():
    """Neither side zero, and no epsilon that would say so."""
    model = build()
    ones = Wrong(fan_out=np.ones((2, 3)), fan_in=np.ones((2, 7)))
    weights = model.get_weights()
    with pytest.raises(kg.GrowthError, match="changed what the model computes, so it was undone"):
        kg.grow_(model, {"p": 6}, method=ones, form="outgoing")
    for old, new in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize("error", [ZeroDivisionError, MemoryError])
def test_an_error_of_its_own_leaves_the_model_alone(error):
    class Failing(Smallest):
        def solve(self, problem, rng):
            raise error("mine")

    model = build()
    weights = model.get_weights()
    with pytest.raises(error, match="mine"):
        kg.grow_(model, {"p": 6}, method=Failing())
    for old, new in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_what_it_asks_for_is_checked_first():
    class Asking(Smallest):
        needs_gradients = True

    with pytest.raises(kg.GrowthError, match=r"'smallest' looks at gradients.*data=\(x, y\)"):
        kg.grow_(build(), {"p": 6}, method=Asking())
    with pytest.raises(kg.GrowthError, match=r"knows the forms inverse only.*'outgoing'"):
        kg.grow_(build(), {"p": 6}, method=Inspecting(), data=data(), form="outgoing")
