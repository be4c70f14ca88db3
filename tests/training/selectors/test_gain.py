"""`LargestGain` picks the sites whose new weights truly get the largest gradient."""

import keras
import numpy as np
import pytest
from helpers.fitting import CLASSES, FEATURES, compiled, dense, numpy_of, points
from keras import layers

import keras_grow as kg

DATA = points(48)
RATE = 1e-2


def tower(seed):
    """Three hidden layers of different widths; which gains most depends on the weights."""
    rng = np.random.default_rng(seed)
    inputs = keras.Input((FEATURES,))
    x = layers.Dense(6, activation="tanh", name="a")(inputs)
    x = layers.Dense(5, activation="tanh", name="b")(x)
    x = layers.Dense(8, activation="tanh", name="c")(x)
    model = keras.Model(inputs, layers.Dense(CLASSES, name="scores")(x))
    model.set_weights([rng.normal(0, rng.choice([0.4, 1.2]), w.shape) for w in model.get_weights()])
    return compiled(model, keras.optimizers.SGD(RATE))


def true_gain(seed, name, added):
    """Squared gradient norm by the new fan-in, from what one step of SGD moves; parameters; FLOPs.

    Biases are left out: their gradient is that of a fan-in from a constant, which M does not hold.
    """
    model = tower(seed)
    before = model.count_params(), kg.flops(model)
    width = model.get_layer(name).units
    method = kg.methods.GradMax(sign_rule=False)
    wider = kg.widen(model, {name: width + added}, method, data=DATA, seed=0)
    (kernel,) = numpy_of([wider.get_layer(name).kernel])
    assert not kernel[:, width:].any()
    wider.train_on_batch(*DATA)
    (moved,) = numpy_of([wider.get_layer(name).kernel])
    norm = np.linalg.norm(moved[:, width:]) / RATE
    return norm**2, wider.count_params() - before[0], kg.flops(wider) - before[1]


def chosen(seed, **arguments):
    model = tower(seed)
    growth = kg.GrowthCallback(
        DATA,
        schedule=kg.schedules.Every(1, times=1),
        selector=kg.selectors.LargestGain(**arguments),
        verify=False,
        dry_run=True,
    )
    growth.set_model(model)
    growth.on_train_begin()
    growth.on_epoch_begin(0)
    growth.on_train_batch_end(0, {})
    growth.on_train_end()
    (event,) = growth.events
    return event


@pytest.mark.parametrize(("added", "seeds"), [(1, (3, 5)), (2, (0,))])
def test_the_largest_true_gain_wins(added, seeds):
    winners = {by: [] for by in ("gradient", "parameter", "flop")}
    for seed in seeds:
        truth = {name: true_gain(seed, name, added) for name in "abc"}
        for by, cost in (("gradient", None), ("parameter", 1), ("flop", 2)):
            value = {n: t[0] / (1 if cost is None else t[cost]) for n, t in truth.items()}
            best = max(value, key=value.get)
            event = chosen(seed, amount=added, by=by)
            assert [s.name for s in event.sites] == [best]
            assert event.sites[0].width_after - event.sites[0].width_before == added
            for name, (gain, _, _) in truth.items():
                assert event.scores[name]["gradient_norm"] ** 2 == pytest.approx(gain, rel=2e-3)
            winners[by].append(best)
    if len(seeds) > 1:  # it is no fixed choice, and the cost matters
        assert winners["gradient"] == ["c", "b"]
        assert winners["parameter"] == winners["flop"] == ["c", "c"]


def test_several_sites_and_limits():
    event = chosen(0, amount=2)
    order = sorted("abc", key=lambda n: -event.scores[n]["gradient_norm"])
    assert [s.name for s in event.sites] == order[:1]
    both = chosen(0, amount=2, sites=2)
    assert {s.name for s in both.sites} == set(order[:2])
    assert len(chosen(0, sites=5).sites) == 3
    limited = chosen(0, names=order[1:])
    assert [s.name for s in limited.sites] == [order[1]]
    assert set(limited.scores) == set(order[1:])


def test_targets_and_fractions():
    event = chosen(0, amount={"a": 6, "b": 6, "c": 12})
    assert set(event.scores) == {"b", "c"}  # a is there
    event = chosen(0, amount=0.5)
    assert {n: s["added"] for n, s in event.scores.items()} == {"a": 3, "b": 3, "c": 4}


def test_a_budget_is_spent_on_the_best_sites():
    budget = kg.selectors.Budget(parameters=200)
    event = chosen(0, amount=budget)
    assert len(event.sites) == 1
    assert 180 < event.parameters_after - event.parameters_before <= 200
    # Each was ranked by what it would grow by if the budget were its own.
    per = {"a": FEATURES + 1 + 5, "b": 6 + 1 + 8, "c": 5 + 1 + CLASSES}
    assert {n: s["added"] for n, s in event.scores.items()} == {n: 200 // p for n, p in per.items()}
    event = chosen(0, amount=budget, sites=2)
    assert len(event.sites) == 2
    assert 180 < event.parameters_after - event.parameters_before <= 200


def test_equal_sites_are_taken_in_the_order_of_the_graph():
    def build():
        inputs = keras.Input((FEATURES,))
        parts = [layers.Dense(4, activation="tanh", name=n)(inputs) for n in ("one", "two")]
        parts = [
            layers.Dense(CLASSES, name=f"{n}_out")(p) for n, p in zip("ab", parts, strict=True)
        ]
        model = keras.Model(inputs, layers.Add()(parts))
        first = model.get_layer("one").get_weights()
        model.get_layer("two").set_weights(first)
        model.get_layer("b_out").set_weights(model.get_layer("a_out").get_weights())
        return compiled(model)

    growth = kg.GrowthCallback(
        DATA, schedule=lambda moment: moment.step == 1, selector=kg.selectors.LargestGain(1)
    )
    model = build()
    first = kg.sites(model)[0].name
    model.fit(*DATA, batch_size=24, verbose=0, callbacks=[growth])
    assert [s.name for s in growth.events[0].sites] == [first]


def test_sites_without_gradients_are_left_out_with_the_reason():
    inputs = keras.Input((FEATURES,))
    x = layers.Dense(4, activation="sigmoid", name="a")(inputs)
    x = layers.Dense(3, activation="tanh", name="b")(x)
    model = compiled(keras.Model(inputs, layers.Dense(CLASSES)(x)))
    growth = kg.GrowthCallback(
        DATA, schedule=lambda moment: moment.step == 1, selector=kg.selectors.LargestGain(1)
    )
    model.fit(*DATA, batch_size=24, verbose=0, callbacks=[growth])
    (event,) = growth.events
    assert [s.name for s in event.sites] == ["b"]
    assert set(event.scores) == {"b"}
    assert set(event.skipped) == {"a"}
    assert event.skipped["a"]


def test_nothing_grows_where_no_site_has_a_gradient():
    inputs = keras.Input((FEATURES,))
    x = layers.Dense(4, activation="sigmoid", name="a")(inputs)
    model = compiled(keras.Model(inputs, layers.Dense(CLASSES)(x)))
    growth = kg.GrowthCallback(
        DATA, "random", lambda moment: moment.step == 1, kg.selectors.LargestGain(1)
    )
    model.fit(*DATA, batch_size=24, verbose=0, callbacks=[growth])
    (event,) = growth.events
    assert not event.sites
    assert event.notes == ["Nothing grows: no site's new channels would get a gradient."]
    assert set(event.skipped) == {"a"}


def test_what_was_looked_at_is_what_grows():
    """Schedule, selector and method see the same batches, so predictions come true."""
    model = compiled(dense(relu="tanh"), keras.optimizers.SGD(0.05))
    growth = kg.GrowthCallback(
        DATA,
        kg.methods.GradMax(sign_rule=False),
        kg.schedules.OnSpectrum(1e-9, steps=1, times=3),
        kg.selectors.LargestGain(2),
        batch_size=16,
        batches=2,
    )
    model.fit(*DATA, batch_size=12, verbose=0, callbacks=[growth])
    assert len(growth.events) == 3
    for event in growth.events:
        (site,) = event.sites
        score = event.scores[site.name]
        assert site.gradient_norm == pytest.approx(score["gradient_norm"], rel=1e-4)
        assert score["existing_norm"] > 0


@pytest.mark.parametrize(
    ("arguments", "text"),
    [({"by": "size"}, "Received: by='size'"), ({"sites": 0}, "Received: sites=0")],
)
def test_arguments_are_checked(arguments, text):
    with pytest.raises(kg.GrowthError, match=text):
        kg.selectors.LargestGain(**arguments)
