"""A growth that fails halfway leaves the model bit for bit as it was, and `fit` goes on.

Failures are put in at many places: memory that runs out at each of the variables and optimizer
slots in turn, in the gradients, in the data; and faults of other kinds in the later steps.
"""

import json

import keras
import numpy as np
import pytest
from helpers.fitting import (
    StepLosses,
    compiled,
    dense,
    points,
    same_arrays,
    state_of,
    train_on_batches,
)
from keras import layers, ops

import keras_grow as kg
from keras_grow import _keras
from keras_grow.growth.statistics import Recording
from keras_grow.logs.events import read

BATCH, STEPS = 8, 8
DATA = points(BATCH * STEPS)


def branching():
    """Config, `input_spec`, sizes, an op's arguments: everything a surgery changes."""
    x = inputs = keras.Input((4, 4, 2))
    x = layers.Conv2D(3, 3, padding="same", activation="relu", name="a")(x)
    x = layers.BatchNormalization(name="norm")(x)
    x = layers.Add(name="add")([x, layers.Conv2D(3, 1, name="b")(inputs)])
    x = layers.DepthwiseConv2D(2, name="depthwise")(x)
    x = ops.reshape(x, (-1, 3 * 3 * 3))
    return keras.Model(inputs, layers.Dense(2, name="scores")(x), name="net")


def attributes(model):
    """What else a surgery changes, outside the variables."""
    found = {"config": json.dumps(model.get_config(), default=str)}
    for layer in model.layers:
        spec = layer.input_spec
        found[layer.name] = (
            getattr(layer, "units", None),
            getattr(layer, "filters", None),
            None if spec is None else str(getattr(spec, "axes", None)),
            str(layer.get_build_config()),
            [tuple(t.shape) for node in layer._inbound_nodes for t in node.outputs],
            getattr(layer, "activation", None),
        )
    return found


def prepared():
    """A model with an optimizer whose slots are all filled."""
    model = branching()
    model.compile(keras.optimizers.Adam(0.01), "mse")
    model.optimizer.build(model.trainable_variables)
    rng = np.random.default_rng(0)
    for variable in model.optimizer.variables:
        if len(variable.shape):
            variable.assign(rng.uniform(0, 1, variable.shape))
    return model


class Fault:
    """Wraps a function so that call number `at` (from 1) raises, once."""

    def __init__(self, function, at, error):
        self.function, self.at, self.error = function, at, error
        self.calls = 0

    def __call__(self, *args, **kwargs):
        self.calls += 1
        if self.calls == self.at:
            raise self.error
        return self.function(*args, **kwargs)


def faulty(monkeypatch, owner, name, at, error):
    fault = Fault(getattr(owner, name), at, error)
    monkeypatch.setattr(owner, name, lambda *args, **kwargs: fault(*args, **kwargs))
    return fault


# "a" and "b" are tied by the Add. Kernels and biases of a and b, gamma, beta and two statistics of
# the BatchNorm, kernel and bias of the depthwise layer, kernel of the scores: 11 variables, of
# which 9 are trained and have 2 slots each.
VARIABLES = 11 + 2 * 9


@pytest.mark.parametrize("at", [1, 2, 7, 11, 12, 13, 20, VARIABLES])
def test_memory_that_runs_out_at_any_variable_or_slot(at, monkeypatch):
    model = prepared()
    x = np.random.default_rng(1).standard_normal((3, 4, 4, 2)).astype("float32")
    state, config = state_of(model), attributes(model)
    output = ops.convert_to_numpy(model(x))
    fault = faulty(monkeypatch, keras.Variable, "_initialize", at, MemoryError("no room"))
    with pytest.raises(kg.GrowthError, match="failed and was undone") as failure:
        kg.grow_(model, {"a": 5}, seed=0)
    assert fault.calls == at
    for part in ("Growing a", "model 'net'", "Received: MemoryError: no room"):
        assert part in str(failure.value)
    for kind, before in state.items():
        assert same_arrays(before, state_of(model)[kind])
    assert attributes(model) == config
    np.testing.assert_array_equal(ops.convert_to_numpy(model(x)), output)
    # With memory again, the same growth succeeds and changes every variable it should.
    kg.grow_(model, {"a": 5}, seed=0)
    assert fault.calls == at + VARIABLES
    np.testing.assert_allclose(ops.convert_to_numpy(model(x)), output, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "at"),
    [("set_shape", 1), ("set_shape", 6), ("set_build_shapes", 3), ("drop_compiled", 1)],
)
def test_other_failures_in_the_middle_are_undone_and_told(name, at, monkeypatch):
    model = prepared()
    state, config = state_of(model), attributes(model)
    fault = faulty(monkeypatch, _keras, name, at, RuntimeError("a fault"))
    with pytest.raises(kg.GrowthError, match="undone") as failure:
        kg.grow_(model, {"a": 5}, seed=0)
    assert fault.calls >= at
    assert "Received: RuntimeError: a fault" in str(failure.value)
    assert isinstance(failure.value.__cause__, RuntimeError)
    for kind, before in state.items():
        assert same_arrays(before, state_of(model)[kind])
    assert attributes(model) == config


def test_an_interrupt_in_the_middle_is_undone_and_passed_on(monkeypatch):
    model = prepared()
    state, config = state_of(model), attributes(model)
    faulty(monkeypatch, keras.Variable, "_initialize", 9, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        kg.grow_(model, {"a": 5}, seed=0)
    for kind, before in state.items():
        assert same_arrays(before, state_of(model)[kind])
    assert attributes(model) == config


def test_widen_does_not_touch_the_model_when_memory_runs_out(monkeypatch):
    model = prepared()
    state, config = state_of(model), attributes(model)
    with monkeypatch.context() as patch:
        faulty(patch, keras.Variable, "_initialize", 20, MemoryError("no room"))
        with pytest.raises(MemoryError):  # while the copy is made
            kg.widen(model, {"a": 5})
    for kind, before in state.items():
        assert same_arrays(before, state_of(model)[kind])
    assert attributes(model) == config


# --- in fit -------------------------------------------------------------------------------------


def run(growth=None):
    """Losses by step of a run from fixed weights, and its model."""
    model = dense()
    rng = np.random.default_rng(7)
    model.set_weights([rng.normal(0, 0.5, w.shape) for w in model.get_weights()])
    compiled(model, keras.optimizers.Adam(0.02))
    record = StepLosses()
    callbacks = [record] if growth is None else [growth, *growth.beside, record]
    model.fit(*DATA, batch_size=BATCH, epochs=2, shuffle=False, verbose=0, callbacks=callbacks)
    return record, model


@pytest.fixture(scope="module")
def undisturbed():
    record, model = run()
    return record.losses, state_of(model)


def growing(method="random", times=1, data=DATA, **arguments):
    """A growth at step 3; other callbacks can be put in its `beside`."""
    growth = kg.GrowthCallback(
        data, method=method, schedule=kg.schedules.Every(3, times=times), **arguments
    )
    growth.beside = []
    return growth


def assert_undisturbed(growth, record, model, undisturbed, said):
    losses, state = undisturbed
    np.testing.assert_allclose(record.losses, losses, rtol=1e-6)
    for before, after in zip(state["weights"], state_of(model)["weights"], strict=True):
        np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-7)
    (event,) = growth.events
    assert said in event.error
    assert event.step == 3
    assert not event.sites
    assert event.parameters_after == event.parameters_before == model.count_params()
    assert model.get_layer("a").activation is keras.activations.relu


@pytest.mark.parametrize(
    ("at", "error"),
    [
        (2, MemoryError("no room")),  # among the weights
        (12, RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 8 bytes.")),  # the slots
    ],
)
def test_fit_goes_on_unchanged_when_memory_runs_out(at, error, monkeypatch, undisturbed):
    growth = growing()

    class Arm(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            if batch == 2 and not hasattr(self, "fault"):
                self.fault = faulty(monkeypatch, keras.Variable, "_initialize", at, error)

    arm = Arm()
    growth.beside = [arm]
    with pytest.warns(UserWarning, match="Growth at step 3 failed; training goes on"):
        record, model = run(growth)
    assert arm.fault.calls == at
    assert_undisturbed(growth, record, model, undisturbed, str(error))


def test_fit_goes_on_unchanged_when_the_gradients_need_too_much(monkeypatch, undisturbed):
    faulty(monkeypatch, Recording, "__call__", 1, MemoryError("no room"))
    growth = growing("gradmax")
    with pytest.warns(UserWarning, match="no room"):
        record, model = run(growth)
    assert_undisturbed(growth, record, model, undisturbed, "no room")


def test_fit_goes_on_unchanged_when_the_data_does_not_fit(undisturbed):
    def load():
        raise MemoryError("no room")

    growth = growing(data=load)
    with pytest.warns(UserWarning, match="no room"):
        record, model = run(growth)
    assert_undisturbed(growth, record, model, undisturbed, "no room")


def test_a_failed_growth_does_not_keep_the_next_from_succeeding(tmp_path, undisturbed):
    room = iter([False, True])

    def load():
        if not next(room):
            raise MemoryError("no room")
        return DATA

    growth = growing(times=2, data=load, log_dir=tmp_path)
    with pytest.warns(UserWarning, match="no room"):
        record, model = run(growth)
    assert [(e.step, e.error is None) for e in growth.events] == [(3, False), (6, True)]
    assert read(tmp_path) == growth.events
    np.testing.assert_allclose(record.losses[:6], undisturbed[0][:6], rtol=1e-6)
    assert [model.get_layer(n).units for n in "ab"] == [6, 5]
    assert record.losses[-1] < record.losses[0]


def test_on_failure_raise_ends_fit_with_the_model_as_it_was(monkeypatch):
    faulty(monkeypatch, Recording, "__call__", 1, MemoryError("no room"))
    growth = growing("gradmax", on_failure="raise")
    with pytest.raises(MemoryError, match="no room"):
        run(growth)
    assert growth.model.get_layer("a").units == 4
    assert not growth.events


def test_other_failures_in_fit_are_not_hidden(monkeypatch):
    growth = growing(times=2)

    class Arm(keras.callbacks.Callback):
        """Stands before the growth, so that it sees the state right before the second one."""

        def on_train_batch_end(self, batch, logs=None):
            if batch == 5:
                self.state = state_of(self.model)
                faulty(monkeypatch, _keras, "set_shape", 2, RuntimeError("a fault"))

    arm = Arm()
    model = compiled(dense(), keras.optimizers.Adam(0.02))
    with pytest.raises(kg.GrowthError, match="Received: RuntimeError: a fault"):
        model.fit(*DATA, batch_size=BATCH, verbose=0, callbacks=[arm, growth])
    assert [model.get_layer(n).units for n in "ab"] == [6, 5]  # the first growth stands
    for kind, before in arm.state.items():
        assert same_arrays(before, state_of(model)[kind])
    assert model.get_layer("a").activation is keras.activations.relu
    assert np.isfinite(model.fit(*DATA, verbose=0).history["loss"][0])


def test_a_model_that_does_not_run_as_wide_is_as_it_was(monkeypatch):
    """A layer that fails when it is run wider, as those with sizes of their own may."""
    model = branching()
    before, weights = attributes(model), [np.array(w) for w in model.get_weights()]
    plain = layers.BatchNormalization.call

    def call(self, inputs, *args, **kwargs):
        if inputs.shape[-1] != 3:
            raise RuntimeError("not so wide")
        return plain(self, inputs, *args, **kwargs)

    monkeypatch.setattr(layers.BatchNormalization, "call", call)
    with pytest.raises(kg.GrowthError, match=r"as it was\. Received: RuntimeError"):
        kg.grow_(model, {"a": 5})
    assert attributes(model) == before
    assert same_arrays(weights, model.get_weights())
    model(np.zeros((1, 4, 4, 2), "float32"))


class Careless(kg.methods.Random):
    """Forgets that the fan-in of new neurons has to be zero."""

    forms = ("outgoing",)

    def solve(self, problem, rng):
        solution = super().solve(problem, rng)
        solution.fan_in = np.ones_like(solution.fan_in)
        return solution


def test_a_growth_that_would_change_the_outputs_is_undone(undisturbed):
    growth = growing(Careless())
    with pytest.raises(kg.GrowthError, match="would have changed what the model computes"):
        run(growth)
    # It goes on training as if nothing had been tried.
    after = train_on_batches(growth.model, *DATA, BATCH, 3, 2 * STEPS)
    np.testing.assert_allclose(after, undisturbed[0][3:], rtol=1e-5)
    for before, now in zip(
        undisturbed[1]["weights"], state_of(growth.model)["weights"], strict=True
    ):
        np.testing.assert_allclose(now, before, rtol=1e-4, atol=1e-6)
