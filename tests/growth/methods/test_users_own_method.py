"""A user's own object as the method: what it is given, and what is said when it is wrong."""

import copy
import dataclasses
import pickle
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
    """Answers with zeros, but for what it is given."""

    def __init__(self, forms=("outgoing", "inverse"), **solution):
        self.forms = forms
        self.solution = solution

    def solve(self, problem, rng):
        shape = problem.added, problem.fan_out.shape[1]
        found = {"fan_out": np.zeros(shape), "fan_in": np.zeros((problem.added, 7))}
        return kg.methods.Solution(**{**found, **self.solution})


def same_weights(model, weights):
    for old, new in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


TWO = np.zeros(2)
WRONG = [
    ({"fan_out": np.zeros((2, 5))}, r"fan_out .*shape \(2, 3\).*Received: shape \(2, 5\)"),
    ({"fan_in": np.zeros((1, 7))}, r"fan_in .*shape \(2, 7\).*Received: shape \(1, 7\)"),
    ({"fan_in": np.full((2, 7), np.nan)}, r"fan_in .*finite.*Received: values not finite"),
    ({"fan_out": np.full((2, 3), 1j)}, r"fan_out .*real.*Received: values of type complex128"),
    ({"fan_out": "abc"}, r"fan_out .*Received: values of type <U3"),
    ({"fan_in": [[1.0], [1.0, 2.0]]}, r"fan_in as an array of shape \(2, 7\).*Received: \[\[1.0\]"),
    ({"bias": np.ones(9)}, r"bias .*shape \(2,\).*Received: shape \(9,\)"),
    ({"gradient_norm": "large"}, r"gradient_norm that is a number or None.*Received: 'large'"),
    ({"rank": 1.5}, r"rank that is a whole number or None.*Received: 1.5"),
    ({"notes": (3,)}, r"notes that are a tuple of texts.*Received: \(3,\)"),
    ({"forms": ("split",), "parents": TWO}, r"parents and shares together.*Received: shares=None"),
    ({"forms": ("split",), "shares": TWO}, r"parents and shares together.*Received: parents=None"),
    (
        {"forms": ("split",), "parents": [0, 99], "shares": TWO},
        r"parents that are whole numbers from 0 to 3.*Received: .*99",
    ),
    ({"forms": ("split",), "parents": [0, -1], "shares": TWO}, r"parents that are whole numbers"),
    ({"forms": ("split",), "parents": [0, 1.5], "shares": TWO}, r"parents that are whole numbers"),
    ({"forms": ("split",), "parents": TWO, "shares": [1]}, r"shares .*Received: shape \(1,\)"),
]


@pytest.mark.parametrize(("solution", "message"), WRONG)
def test_wrong_answers_are_told(solution, message):
    model = build()
    weights = model.get_weights()
    with pytest.raises(kg.GrowthError, match=f"'smallest' must return (a )?{message}"):
        kg.grow_(model, {"p": 6}, method=Wrong(**solution))
    same_weights(model, weights)


@pytest.mark.parametrize("answer", [None, (np.zeros((2, 3)), np.zeros((2, 7))), 3])
def test_something_else_than_a_solution_is_told(answer):
    class Other(Smallest):
        def solve(self, problem, rng):
            return answer

    kind = {None: "None", 3: r"3 \(int\)"}.get(answer if not isinstance(answer, tuple) else 0)
    message = rf"'smallest' must return a .*Solution. Received: {kind or '.array'}"
    with pytest.raises(kg.GrowthError, match=message):
        kg.grow_(build(), {"p": 6}, method=Other())


def test_copies_outside_the_split_form_are_told():
    """They would change neurons that the plan leaves as they are."""
    wrong = Wrong(parents=[0, 1], shares=[0.5, 0.5])
    with pytest.raises(kg.GrowthError, match=r"'smallest' returned parents.*forms=\('split',\)"):
        kg.grow_(build(), {"p": 6}, method=wrong)


def test_lists_will_do():
    model = build()
    before = model.predict(data()[0], verbose=0)
    rows = np.arange(6.0).reshape(2, 3)
    solution = {"fan_out": rows.tolist(), "fan_in": [[0] * 7] * 2, "notes": "mine"}
    done = kg.grow_(model, {"p": 6}, method=Wrong(**solution), form="outgoing")
    kernel = keras.ops.convert_to_numpy(model.get_layer("c").kernel)
    np.testing.assert_array_equal(kernel[4:], rows)
    np.testing.assert_allclose(model.predict(data()[0], verbose=0), before, rtol=1e-5, atol=1e-6)
    assert done.sites[0].notes == ["mine"]


def test_copies_as_lists():
    model = build()
    x, _ = data()
    before = model.predict(x, verbose=0)
    split = Wrong(("split",), parents=[3, 1], shares=[0.25, 0.5])
    assert kg.grow_(model, {"p": 6}, method=split).report.preserved
    np.testing.assert_allclose(model.predict(x, verbose=0), before, rtol=1e-5, atol=1e-6)


def with_(**attributes):
    method = Smallest()
    for name, value in attributes.items():
        setattr(method, name, value)
    return method


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"name": 3}, "method Smallest needs a name.*Received: name=3"),
        ({"name": ""}, "method Smallest needs a name.*Received: name=''"),
        ({"forms": ()}, r"forms of the method 'smallest' .*Received: forms=\(\)"),
        ({"forms": "outgoing"}, "forms of the method 'smallest' .*Received: forms='outgoing'"),
        ({"forms": ("sideways",)}, "'smallest' .*'outgoing', 'inverse'.*Received: .*'sideways'"),
        ({"forms": 3}, "forms of the method 'smallest' .*Received: forms=3"),
        ({"epsilon": "x"}, "epsilon of the method 'smallest' .*Received: epsilon='x'"),
        ({"epsilon": float("nan")}, "epsilon of the method 'smallest' .*Received: epsilon=nan"),
        ({"needs_gradients": "no"}, "needs_gradients of the method 'smallest'.*='no'"),
        ({"needs_inputs": 2}, "needs_inputs of the method 'smallest'.*=2"),
        ({"sets_bias": 1}, "sets_bias of the method 'smallest'.*=1"),
        ({"solve": 3}, r"method must be .*solve\(problem, rng\)"),
    ],
)
def test_a_wrong_method_is_told_before_anything_is_done(attributes, message):
    for use in (
        lambda method: kg.GrowthCallback(data(), method),
        lambda method: kg.widen(build(), {"p": 6}, method),
        lambda method: kg.bridge(build(), after="p", before="c", method=method, data=data()),
    ):
        with pytest.raises(kg.GrowthError, match=message):
            use(with_(**attributes))


def test_only_a_name_and_solve_are_needed():
    class Least:
        name = "least"

        def solve(self, problem, rng):
            assert problem.gradients is None
            return Smallest().solve(problem, rng)

    assert kg.grow_(build(), {"p": 6}, method=Least(), form="outgoing").report.preserved
    Least.name = None
    with pytest.raises(kg.GrowthError, match="method Least needs a name"):
        kg.methods.get(Least)


SAID = ("name", "forms", "needs_gradients", "needs_inputs", "epsilon", "sets_bias")


def test_what_it_says_of_itself_is_read_once():
    own = with_(forms=["inverse"], needs_inputs=np.True_, epsilon=1, mine="kept")
    found = kg.methods.get(own)
    values = ["smallest", ("inverse",), False, True, 1.0, False]
    assert [getattr(found, name) for name in SAID] == values
    assert [type(getattr(found, name)) for name in SAID] == [str, tuple, bool, bool, float, bool]
    own.epsilon, own.forms = "x", ()
    assert [getattr(found, name) for name in SAID] == values
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.epsilon = 0.0
    assert found.given is own
    assert found.mine == "kept"
    assert not hasattr(found, "yours")
    assert kg.methods.get(found) is found  # though the object would be refused by now
    growth = kg.GrowthCallback(data(), Smallest())
    assert isinstance(growth.method, kg.methods.Method)
    assert isinstance(growth.method.given, Smallest)
    again = pickle.loads(pickle.dumps(copy.deepcopy(found)))
    assert [getattr(again, name) for name in SAID] == values
    assert again.mine == "kept"


def test_what_it_leaves_out_has_the_documented_value():
    class Least:
        name = "least"
        solve = Smallest.solve

    found = kg.methods.get(Least)
    assert [getattr(found, name) for name in SAID] == [
        "least", ("outgoing", "inverse"), False, False, 0.0, False,
    ]  # fmt: skip
    derived = type("Derived", (kg.methods.Method,), {"name": "least", "solve": Smallest.solve})
    for name in SAID:
        assert getattr(kg.methods.get(derived()), name) == getattr(found, name)


def test_our_own_and_what_is_derived_from_them_stay_what_they_are():
    for own in (kg.methods.Tiny(epsilon=0.5), Inspecting(scale=2.0)):
        assert kg.methods.get(own) is own
        assert isinstance(own, kg.methods.Method)
    assert kg.methods.get("gradmax") == kg.methods.GradMax()
    assert kg.methods.names() == sorted(kg.methods.METHODS)


@pytest.mark.parametrize("says", [False, True])
def test_a_site_without_bias_is_refused_before_training_if_it_is_said(says):
    (x, y), model, method = data(), build(bias=False), Wrong(bias=np.ones(2))
    method.sets_bias = says
    growth = kg.GrowthCallback((x, y), method, kg.schedules.Every(1), kg.selectors.All(2))
    with pytest.raises(kg.GrowthError, match=r"'smallest' .*site 'p' has no bias"):
        model.fit(x, y, batch_size=8, verbose=0, callbacks=[growth])
    assert int(model.optimizer.iterations) == (0 if says else 1)


def test_the_kernels_cannot_be_written_to():
    class Writing(Smallest):
        def solve(self, problem, rng):
            problem.fan_out[:] = 0

    model = build()
    weights = model.get_weights()
    with pytest.raises(ValueError, match="read-only"):
        kg.grow_(model, {"p": 6}, method=Writing())
    same_weights(model, weights)


@pytest.mark.parametrize(
    ("solution", "sides"),
    [
        ({"fan_out": np.ones((2, 3)), "fan_in": np.ones((2, 7))}, "both fan-in and fan-out"),
        ({"fan_out": np.ones((2, 3)), "bias": np.ones(2)}, "both bias and fan-out"),
    ],
)
@pytest.mark.parametrize("form", ["outgoing", "inverse"])
def test_a_function_that_changes_is_undone(form, solution, sides):
    """Neither side zero, and no epsilon that would say so."""
    model = build()
    weights = model.get_weights()
    with pytest.raises(kg.GrowthError, match=f"so it was undone.*'smallest' set {sides}.*'p'"):
        kg.grow_(model, {"p": 6}, method=Wrong(**solution), form=form)
    same_weights(model, weights)


@pytest.mark.parametrize("solution", [{"fan_out": np.zeros((2, 5))}, {"fan_out": [["out"]]}])
def test_a_training_does_not_go_on_over_a_wrong_method(solution):
    """Only faults of the machine are passed over."""
    x, y = data(32)
    schedule = kg.schedules.Every(2, times=1)
    growth = kg.GrowthCallback(
        (x, y), Wrong(**solution), schedule, log_dir=None, on_failure="continue"
    )
    with pytest.raises(kg.GrowthError, match="'smallest' must return"):
        build().fit(x, y, batch_size=8, verbose=0, callbacks=[growth])
    assert growth.events == []


@pytest.mark.parametrize("error", [ZeroDivisionError, MemoryError])
def test_an_error_of_its_own_leaves_the_model_alone(error):
    class Failing(Smallest):
        def solve(self, problem, rng):
            raise error("mine")

    model = build()
    weights = model.get_weights()
    with pytest.raises(error, match="mine"):
        kg.grow_(model, {"p": 6}, method=Failing())
    same_weights(model, weights)


def test_what_it_asks_for_is_checked_first():
    class Asking(Smallest):
        needs_gradients = True

    with pytest.raises(kg.GrowthError, match=r"'smallest' looks at gradients.*data=\(x, y\)"):
        kg.grow_(build(), {"p": 6}, method=Asking())
    with pytest.raises(kg.GrowthError, match=r"knows the forms inverse only.*'outgoing'"):
        kg.grow_(build(), {"p": 6}, method=Inspecting(), data=data(), form="outgoing")
