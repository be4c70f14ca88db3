"""Arguments that are nearly right are told, not taken for something else or left to NumPy."""

import time

import keras
import numpy as np
import pytest
from helpers.fitting import compiled, dense, points

import keras_grow as kg

DATA = points(64)
S = kg.selectors
OFF = kg.schedules.Every(1000)


def fit(growth, rate=0.1):
    model = compiled(dense(), keras.optimizers.SGD(rate))
    model.fit(*DATA, batch_size=16, verbose=0, shuffle=False, callbacks=[growth])
    return model


def align(**options):
    return kg.alignment(compiled(dense()), DATA, **{"batch_sizes": (16,), "repeats": 2, **options})


def grow(**options):
    return kg.grow_(compiled(dense()), {"a": 7}, **options)


def state_of(schedule=OFF, **changed):
    return {**kg.GrowthCallback(DATA, schedule=schedule).get_state(), **changed}


def restored(state):
    growth = kg.GrowthCallback(DATA, schedule=OFF)
    growth.set_state(state)


SLIPS = {
    "after": (lambda: S.Insert(lambda n: None, after=3), r"after must name.*Received: after=3"),
    "branch": (lambda: S.Insert(lambda n: None, "a", branch="no"), r"branch must be True.*'no'"),
    "Widening": (lambda: S.Widening(2), r"selects nothing. Use All\(2\)"),
    "sign_rule": (lambda: kg.methods.GradMax(sign_rule="yes"), "sign_rule must be True.*'yes'"),
    "dry_run": (lambda: kg.GrowthCallback(DATA, dry_run="no"), "dry_run must be True.*'no'"),
    "verify": (lambda: kg.GrowthCallback(DATA, verify="x"), "verify must be True.*'x'"),
    "When": (lambda: kg.schedules.When(lambda: True), r"one argument.*Received: function="),
    "function": (lambda: kg.GrowthCallback(DATA, schedule=lambda: True), "one argument"),
    "no sizes": (lambda: align(batch_sizes=()), r"batch_sizes must be.*Received: batch_sizes=\(\)"),
    "size": (lambda: align(batch_sizes=8), r"batch_sizes must be.*Received: batch_sizes=8"),
    "seed": (lambda: align(seed="x"), "seed must be a whole number.*'x'"),
    "k": (lambda: align(k=100), r"Site '.*' has no more than \d+ directions.*Received: k=100"),
    "a model": (lambda: kg.alignment(3, DATA), "works on Keras models"),
    "slopes": (lambda: grow(slopes=3), "slopes must be .*Received: slopes=3"),
    "batches": (lambda: grow(batches=0), "batches must be a whole number of 1.*batches=0"),
    "alone": (lambda: grow(alone="x"), "alone must be True.*'x'"),
    "state 3": (lambda: restored(3), r"value of GrowthCallback.get_state\(\).*Received: 3"),
    "no state": (lambda: restored(None), r"value of GrowthCallback.get_state\(\).*Received: None"),
    "step": (lambda: restored(state_of(step="x")), "'step' in the state must be.*Received: 'x'"),
    "count": (lambda: restored(state_of(count=float("nan"))), "'count' in .*Received: nan"),
    "schedule": (
        lambda: restored(state_of(kg.schedules.OnPlateau())),
        r"another schedule: this one's, Every, remembers \[\].*Received: .*'best'",
    ),
}


@pytest.mark.parametrize("slip", SLIPS)
def test_a_slip_is_told(slip):
    act, message = SLIPS[slip]
    with pytest.raises(kg.GrowthError, match=message):
        act()


def test_names_may_be_one_name():
    assert [a.site for a in align(names="a")] == ["a"]


@pytest.mark.parametrize("answer", [np.array([True, False]), "yes", [], np.zeros(0)])
def test_an_answer_that_is_neither_true_nor_false(answer):
    with pytest.raises(kg.GrowthError, match=r"must answer True or False.*Received: "):
        fit(kg.GrowthCallback(DATA, "random", lambda moment: answer))


@pytest.mark.parametrize("answer", [True, 1, np.bool_(True), np.array(True), np.array([1.0])])
def test_answers_that_are_true(answer):
    growth = kg.GrowthCallback(DATA, "random", kg.schedules.When(lambda m: answer, times=1))
    fit(growth)
    assert len(growth.events) == 1
    assert not kg.schedules.When(lambda m: None).due(kg.schedules.Moment(1))


def test_absurd_growth_is_refused_at_once():
    start = time.perf_counter()
    growth = kg.GrowthCallback(DATA, "random", kg.schedules.Every(1), S.All(10**7))
    with pytest.raises(kg.GrowthError, match=r"'a' by 10,000,000.* more than the .* GiB"):
        fit(growth)
    assert time.perf_counter() - start < 20


@pytest.mark.every_backend
@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_outputs_that_are_nan_are_no_proof():
    model = compiled(dense())
    model.set_weights([w * np.nan for w in model.get_weights()])
    with pytest.raises(kg.GrowthError, match=r"All outputs.*NaN.*before it grows.*diverged"):
        kg.grow_(model, {"a": 7})
    assert kg.verify(model, model).preserved


def test_a_fresh_seed():
    first, second = (kg.GrowthCallback(DATA, seed=None) for _ in range(2))
    assert first.seed != second.seed


def test_targets_that_are_reached_already():
    widths = {layer.name: layer.units for layer in dense().layers if hasattr(layer, "units")}
    with pytest.warns(UserWarning, match=r"has its target widths already.*not channels to add"):
        fit(kg.GrowthCallback(DATA, "random", OFF, S.All({"a": widths["a"]})))
