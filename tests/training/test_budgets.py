"""Budgets are never passed, nearly used up, and spread evenly."""

import math

import keras
import numpy as np
import pytest
from helpers.fitting import compiled, dense, points
from keras import layers

import keras_grow as kg
from keras_grow.planning import make_plan, survey
from keras_grow.training.budgets import Budget, Room, spread

DATA = points(64)


def conv_net(groups=1):
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(8, 3, activation="relu", name="c1")(inputs)
    x = layers.Conv2D(12, 3, groups=groups, activation="relu", name="c2")(x)
    x = layers.BatchNormalization()(x)
    x = layers.GlobalAveragePooling2D()(x)
    x = layers.Dense(20, activation="relu", name="d")(x)
    return keras.Model(inputs, layers.Dense(3)(x))


def recurrent():
    inputs = keras.Input((5, 3))
    x = layers.LSTM(6, name="l")(inputs)
    return keras.Model(inputs, layers.Dense(2)(x))


MODELS = {
    "dense": dense,
    "conv": conv_net,
    "groups": lambda: conv_net(groups=4),
    "recurrent": recurrent,
}


def cost(atlas, amounts, kind):
    growing = {s: n for s, n in amounts.items() if n}
    if not growing:
        return 0
    plan = make_plan(atlas, growing)
    return plan.added_parameters if kind == "parameters" else plan.added_flops


@pytest.mark.parametrize("kind", ["parameters", "flops"])
@pytest.mark.parametrize("name", MODELS)
def test_a_budget_is_used_up_and_not_passed(name, kind):
    atlas = survey(MODELS[name]())
    sites = atlas.sites
    step = {s: cost(atlas, {s: s.granularity}, kind) for s in sites}
    for budget in np.geomspace(min(step.values()), 60 * max(step.values()), 9):
        amounts = spread(atlas, {s: s.width for s in sites}, Budget(**{kind: budget}).room)
        used = cost(atlas, amounts, kind)
        assert 0 < used <= budget
        assert all(n > 0 and n % s.granularity == 0 for s, n in amounts.items())
        # Not one step more has room, whichever site took it.
        for site in sites:
            wider = {**dict.fromkeys(sites, 0), **amounts}
            wider[site] += site.granularity
            assert cost(atlas, wider, kind) > budget


def test_a_spread_is_the_largest_common_part():
    """Against trying all of them."""
    atlas = survey(conv_net())
    sites = atlas.sites
    for budget in (700, 5000):
        best = 0
        for part in np.arange(0, 8, 1 / 120):
            amounts = {s: math.floor(part * s.width + 1e-9) for s in sites}
            if cost(atlas, amounts, "parameters") > budget:
                break
            best = part
        found = spread(atlas, {s: s.width for s in sites}, Room(parameters=budget))
        assert all(found.get(s, 0) >= math.floor(best * s.width + 1e-9) for s in sites)


def test_few_plans_are_made(monkeypatch):
    from keras_grow.training import budgets

    made = []
    real = budgets.make_plan
    monkeypatch.setattr(budgets, "make_plan", lambda *a: made.append(a) or real(*a))
    atlas = survey(conv_net())
    amounts = spread(atlas, {s: s.width for s in atlas.sites}, Room(parameters=3_000_000))
    assert sum(amounts.values()) > 1000  # thousands of steps to choose among
    assert len(made) < 40


def test_nothing_grows_beyond_what_is_asked():
    atlas = survey(conv_net())
    most = {s: 3 for s in atlas.sites}
    assert spread(atlas, most, Room(parameters=10**9), most) == most
    cut = spread(atlas, most, Room(parameters=200), most)
    assert cut
    assert all(n <= 3 for n in cut.values())


def test_what_is_left_over_goes_to_single_sites():
    """Both sites have the same width, and there is room for one channel only."""
    model = dense(a=4, b=4)
    atlas = survey(model)
    a, b = atlas.sites
    step = min(cost(atlas, {s: 1}, "parameters") for s in (a, b))
    found = spread(atlas, {a: 4, b: 4}, Room(parameters=step))
    assert sum(found.values()) == 1


@pytest.mark.parametrize(
    "arguments", [{}, {"parameters": 5, "flops": 5}, {"parameters": 0}, {"flops": -1.0},
                  {"parameters": float("nan")}, {"parameters": "many"}],
)  # fmt: skip
def test_budgets_are_checked(arguments):
    with pytest.raises(kg.GrowthError, match="one of the two"):
        Budget(**arguments)


# --- selectors with budgets --------------------------------------------------------------------


def grow(selector, model=None, steps=1, **arguments):
    model = model or compiled(dense())
    growth = kg.GrowthCallback(
        DATA, "random", kg.schedules.Every(1, times=steps), selector, verify=False, **arguments
    )
    model.fit(*DATA, batch_size=16, epochs=2, verbose=0, callbacks=[growth])
    return model, growth


@pytest.mark.parametrize("kind", ["parameters", "flops"])
@pytest.mark.parametrize("make", [kg.selectors.All, kg.selectors.RoundRobin])
def test_growth_in_fit_keeps_to_its_budget(make, kind):
    model = compiled(dense(a=8, b=6))
    before = model.count_params(), kg.flops(model)
    _, growth = grow(make(kg.selectors.Budget(**{kind: 400})), model, steps=2)
    assert len(growth.events) == 2
    for event in growth.events:
        added = event.parameters_after - event.parameters_before
        used = added if kind == "parameters" else event.flops_after - event.flops_before
        assert 340 < used <= 400
        assert len(event.sites) == (2 if make is kg.selectors.All else 1)
    assert before[0] == growth.events[0].parameters_before
    assert model.count_params() == growth.events[-1].parameters_after
    assert kg.flops(model) == growth.events[-1].flops_after


def test_round_robin_spends_the_budget_on_the_site_in_turn():
    _, growth = grow(kg.selectors.RoundRobin(kg.selectors.Budget(parameters=100)), steps=3)
    assert [[s.name for s in e.sites] for e in growth.events] == [["a"], ["b"], ["a"]]


@pytest.mark.parametrize(
    "make", [kg.selectors.All, kg.selectors.RoundRobin, kg.selectors.LargestGain]
)
def test_a_budget_too_small_says_so(make):
    model, growth = grow(make(kg.selectors.Budget(parameters=5)), steps=2)
    assert model.count_params() == dense().count_params()
    assert [e.sites for e in growth.events] == [[], []]
    (note,) = growth.events[0].notes
    # a: 5 weights, a bias, 3 weights behind it; b: 4, 1 and 3.
    assert note == (
        "Nothing grows: the budget of 5 parameters is less than the 8 that 1 channel of 'b' take, "
        "the cheapest step."
    )


# --- limits of the callback --------------------------------------------------------------------


def test_max_parameters_cuts_growth_down_and_then_stops_it():
    start = dense().count_params()
    model, growth = grow(kg.selectors.All(3), steps=4, max_parameters=start + 100)
    first, second, third, fourth = growth.events
    assert [(s.width_before, s.width_after) for s in first.sites] == [(4, 7), (3, 6)]
    assert not first.notes
    assert second.sites
    assert start + 85 < second.parameters_after == model.count_params() <= start + 100
    (note,) = second.notes
    assert note.startswith(f"With max_parameters={start + 100}, max_flops=None, new channels were")
    assert "'a' 3 -> " in note
    for event in (third, fourth):
        assert not event.sites
        assert "'a' 3 -> 0" in event.notes[0]
        assert event.parameters_after == event.parameters_before


def test_max_flops_is_never_passed():
    start = kg.flops(compiled(dense()))
    model, growth = grow(kg.selectors.RoundRobin(4), steps=6, max_flops=start * 2)
    assert start * 1.8 < kg.flops(model) <= start * 2
    assert growth.events[-1].flops_after == kg.flops(model)
    assert growth.events[-1].notes


def test_limits_that_are_passed_already_let_nothing_grow():
    model, growth = grow(kg.selectors.All(1), max_parameters=1)
    assert model.count_params() == dense().count_params()
    assert growth.events[0].notes


@pytest.mark.parametrize("name", ["max_parameters", "max_flops"])
def test_limits_are_checked(name):
    with pytest.raises(kg.GrowthError, match=f"{name} must be a positive number"):
        kg.GrowthCallback(DATA, **{name: 0})
