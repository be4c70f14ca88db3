"""A method that cannot be used at a site is found out when `fit` begins, not when it grows."""

import keras
import numpy as np
import pytest
from keras import layers as L

import keras_grow as kg

S = kg.selectors
NEVER = kg.schedules.Every(10_000)


def words(samples=8):
    rng = np.random.default_rng(0)
    x = rng.integers(0, 9, (samples, 6)).astype("int32")
    return x, rng.standard_normal((samples, 3)).astype("float32")


def model_of(recurrent=False, bias=True):
    inputs = keras.Input((6,), dtype="int32")
    x = L.Embedding(9, 4, name="emb")(inputs)
    if recurrent:
        x = L.LSTM(5, name="rnn")(x)
    else:
        x = L.GlobalAveragePooling1D()(L.Dense(5, activation="relu", name="td")(x))
    x = L.Dense(6, activation="relu", name="h", use_bias=bias)(x)
    model = keras.Model(inputs, L.Dense(3, name="out")(x), name="net")
    model.compile("sgd", "mse")
    return model


def fit(model, method, selector, schedule=NEVER, **options):
    x, y = words()
    growth = kg.GrowthCallback((x, y), method, schedule, selector, **options)
    model.fit(x, y, batch_size=4, verbose=0, callbacks=[growth])
    return growth


def refused(message, model, method, selector, schedule=NEVER, **options):
    weights, steps = model.get_weights(), int(model.optimizer.iterations)
    with pytest.raises(kg.GrowthError, match=message) as found:
        fit(model, method, selector, schedule, **options)
    assert int(model.optimizer.iterations) == steps
    for old, new in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    return str(found.value)


@pytest.mark.parametrize("dry", [False, True])
@pytest.mark.parametrize("method", ["gradmax", "gradmaxopt", "tiny", "firefly", "pursuit"])
def test_gradients_at_an_embedding(method, dry):
    text = refused(
        r"site 'emb'.*no rule for the gradient.*method='random'.*names=\['td', 'h'\]",
        model_of(), method, S.All(2), dry_run=dry,
    )  # fmt: skip
    assert f"Received: method='{method}'" in text
    fit(model_of(), method, S.All(2, names=["td", "h"]))  # as it was told
    fit(model_of(), "random", S.All(2))


def test_all_sites_are_named():
    refused(r"site 'emb'.*LSTM 'rnn'.*The same at 'rnn'.*names=\['h'\]", model_of(True), "gradmax",
            S.All(2))  # fmt: skip


def test_zeros_without_bias():
    text = refused("'zeros'.*site 'emb' has no bias", model_of(), "zeros", S.All(2))
    assert "use_bias" not in text  # which an Embedding does not have
    refused(
        "'zeros'.*site 'h' has no bias.*use_bias=True, or use method='random'.*names= or pattern=",
        model_of(bias=False), "zeros", S.All(2, pattern="[th]*"),
    )  # fmt: skip


def test_what_comes_in_turn():
    model = model_of()
    refused("site 'emb'", model, "gradmax", S.RoundRobin(2))
    refused("site 'emb'", model, "gradmax", S.InTurn(S.All(2, names=["h"]), S.All(2)))
    # One growth only, and not there.
    once = kg.schedules.Every(10_000, times=1)
    fit(model, "gradmax", S.RoundRobin(2, names=["h", "emb"]), once)
    refused("site 'emb'", model, "gradmax", S.RoundRobin(2, names=["emb", "h"]), once)
    fit(model, "gradmax", S.InTurn(S.All(2, names=["h"]), S.All(2)), once)


def test_what_picks_sites_by_itself_is_left_alone():
    """LargestGain leaves out sites without gradients, and one's own selector may."""

    class Own(S.Selector):
        def select(self, occasion):
            return {occasion.atlas.find("h"): 2}

    for selector in (S.LargestGain(2), Own()):
        growth = fit(model_of(), "gradmax", selector, kg.schedules.Every(1, times=1))
        assert growth.events[0].sites[0].name in ("td", "h")


def test_a_bridge_cannot_split():
    bridge = S.Bridge("td", "out", 4)
    inputs = keras.Input((6,))
    x = L.Dense(5, activation="relu", name="td")(inputs)
    x = L.Dense(4, activation="tanh", name="h")(x)
    model = keras.Model(inputs, L.Dense(3, name="out")(x))
    model.compile("sgd", "mse")
    refused("no neurons yet that could be split", model, "split", bridge)
    fit(model, "split", S.Bridge("td", "out", 4, method="random"))


def test_normalisation_across_channels_cannot_be_split():
    inputs = keras.Input((6,))
    x = L.LayerNormalization()(L.Dense(5, activation="relu", name="td")(inputs))
    model = keras.Model(inputs, L.Dense(3, name="out")(x))
    model.compile("sgd", "mse")
    refused("Site 'td' cannot be grown by splitting.*method='random'", model, "split", S.All(2))


def test_a_finished_schedule_is_not_looked_at():
    model = model_of()
    x, y = words()
    growth = kg.GrowthCallback((x, y), "random", kg.schedules.Every(1, times=1), S.All(2))
    model.fit(x, y, batch_size=4, verbose=0, callbacks=[growth])
    growth.method = kg.methods.GradMax()
    model.fit(x, y, batch_size=4, verbose=0, callbacks=[growth])
