"""New layers and bridges on schedule: the function is kept, training goes on, state and logs."""

import json

import keras
import numpy as np
import pytest
from helpers.fitting import CLASSES, FEATURES, compiled, dense, numpy_of, points, same_arrays
from keras import layers, ops

import keras_grow as kg
from keras_grow.logs import events

pytestmark = pytest.mark.filterwarnings("ignore:The last growth:UserWarning")

DATA = points(64)
S = kg.selectors


def new_dense(number):
    return layers.Dense(4, activation="relu", name=f"new_{number}")


def linear(number):
    return layers.Dense(4, name=f"linear_{number}")


class Watch(keras.callbacks.Callback):
    """Outputs right before and after each growth, and the loss of every step."""

    def __init__(self):
        super().__init__()
        self.outputs = []

    def on_train_batch_end(self, batch, logs=None):
        model = self.model
        self.outputs.append(numpy_of([ops.stop_gradient(model(DATA[0][:16], training=False))])[0])


def fit(selector, schedule=None, model=None, epochs=2, method="random", **arguments):
    growth = kg.GrowthCallback(
        DATA, method, schedule or kg.schedules.Every(2, times=2), selector, **arguments
    )
    before, after = Watch(), Watch()
    model = model or compiled(dense(), keras.optimizers.SGD(0.1, momentum=0.9))
    history = model.fit(
        *DATA, batch_size=16, epochs=epochs, verbose=0, callbacks=[before, growth, after]
    )
    for event in growth.events:
        if event.sites:
            a, b = (w.outputs[event.step - 1] for w in (before, after))
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
            assert event.deviation <= 1e-5
    return model, growth, history


def saved_and_loaded(model, tmp_path):
    model.save(tmp_path / "m.keras")
    again = keras.models.load_model(tmp_path / "m.keras")
    np.testing.assert_allclose(
        again.predict(DATA[0], verbose=0), model.predict(DATA[0], verbose=0), rtol=1e-5, atol=1e-5
    )


# --- insertions --------------------------------------------------------------------------------


def test_layers_are_inserted_one_a_growth_and_train(tmp_path):
    selector = S.Insert(new_dense, after=["a", "a"])
    model, growth, history = fit(selector, kg.schedules.Every(2, times=3), epochs=4,
                                 log_dir=tmp_path / "logs")  # fmt: skip
    assert [e.step for e in growth.events] == [2, 4]  # the third found nothing left
    for number, event in enumerate(growth.events):
        (record,) = event.sites
        assert (record.kind, record.name, record.method) == ("insert", f"new_{number}", "identity")
        assert record.producers == ["a"]
        assert (record.width_before, record.width_after) == (0, 4)
        assert event.parameters_after - event.parameters_before == 4 * 4 + 4
        assert event.flops_after - event.flops_before == 2 * 4 * 4
    assert model.count_params() == growth.events[-1].parameters_after
    assert kg.flops(model) == growth.events[-1].flops_after
    for name in ("new_0", "new_1"):  # they have moved
        kernel = numpy_of([model.get_layer(name).kernel])[0]
        assert np.abs(kernel - np.eye(4)).max() > 1e-3
    assert history.history["loss"][-1] < history.history["loss"][0]
    assert events.read(tmp_path / "logs") == growth.events
    saved_and_loaded(model, tmp_path)


def test_a_branch_is_inserted_between_two_layers():
    selector = S.Insert(lambda n: layers.Dense(4, name="side"), "a", before="b", branch=True)
    model, growth, _ = fit(selector, kg.schedules.Every(2, times=1))
    (record,) = growth.events[0].sites
    assert (record.name, record.consumers, record.method) == ("side", ["b"], "branch")
    assert np.abs(numpy_of([model.get_layer("side").kernel])[0]).max() > 0


def test_a_block_is_inserted_into_a_sequential_model():
    model = keras.Sequential(
        [keras.Input((8, 8, 3)), layers.Conv2D(4, 3, activation="relu", name="c"),
         layers.GlobalAveragePooling2D(), layers.Dense(CLASSES)]
    )  # fmt: skip
    compiled(model, keras.optimizers.Adam(0.01))
    rng = np.random.default_rng(0)
    data = rng.standard_normal((32, 8, 8, 3)).astype("float32"), rng.integers(0, CLASSES, 32)

    def block(number):
        return keras.Sequential(
            [layers.Conv2D(6, 3, padding="same", activation="relu"),
             layers.Conv2D(4, 3, padding="same")], name="block",
        )  # fmt: skip

    growth = kg.GrowthCallback(
        data, "random", kg.schedules.Every(1, times=1), S.Insert(block, "c", branch=True)
    )
    model.fit(*data, batch_size=8, epochs=2, verbose=0, callbacks=[growth])
    (event,) = growth.events
    assert event.deviation <= 1e-5
    assert event.sites[0].name.endswith("block")
    assert isinstance(model, keras.Sequential)
    assert model.count_params() == event.parameters_after > event.parameters_before


def test_widths_can_be_fractions_of_layers_that_came_later():
    """A layer that is inserted has an initial width too."""
    selector = S.InTurn(S.Insert(linear, "b"), S.All(0.5))
    model = compiled(dense(b=4))
    model, growth, _ = fit(selector, kg.schedules.Every(2, times=2), model)
    widths = {s.name: (s.width_before, s.width_after) for s in growth.events[1].sites}
    assert widths["a"] == (4, 6)
    assert any(w == (4, 6) for n, w in widths.items() if n != "a")


@pytest.mark.parametrize(
    ("selector", "method", "kinds"),
    [
        (
            S.InTurn(S.Insert(new_dense, "a"), S.Bridge("features", "scores", 4), S.All(1)),
            "random",
            ["insert", "bridge", "widen"],
        ),
        (S.Bridge("features", "scores", 3), "gradmax", ["bridge", "bridge", "bridge"]),
    ],
)
def test_best_weights_of_early_stopping_compute_what_they_computed(selector, method, kinds):
    """They are those of the first epoch, before any growth, and Keras restores them at the end."""
    kept = []

    class Keep(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            kept.append(self.model.predict(DATA[0], verbose=0))

    stopping = keras.callbacks.EarlyStopping(
        monitor="loss", patience=9, mode="max", restore_best_weights=True
    )
    growth = kg.GrowthCallback(DATA, method, kg.schedules.Every(5, times=3), selector)
    model = compiled(dense(), keras.optimizers.SGD(0.1))
    model.fit(*DATA, batch_size=16, epochs=5, verbose=0, callbacks=[Keep(), growth, stopping])
    assert [e.step for e in growth.events] == [5, 10, 15]
    assert [e.sites[0].kind for e in growth.events] == kinds
    outputs = model.predict(DATA[0], verbose=0)
    np.testing.assert_allclose(outputs, kept[0], rtol=1e-4, atol=1e-5)
    assert not np.allclose(outputs, kept[-1], atol=1e-3)


def test_a_layer_that_is_not_the_identity_leaves_the_model_as_it_was():
    model = compiled(dense(), keras.optimizers.SGD(0.1))
    weights = []

    class Keep(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            weights.append(numpy_of(self.model.weights))

    growth = kg.GrowthCallback(
        DATA, "random", kg.schedules.Every(2),
        S.Insert(lambda n: layers.Dense(4, activation="tanh"), "a"),
    )  # fmt: skip
    with pytest.raises(kg.GrowthError, match="cannot be made the identity"):
        model.fit(*DATA, batch_size=16, verbose=0, callbacks=[Keep(), growth])
    assert len(weights) == 2
    assert same_arrays(weights[-1], numpy_of(model.weights))
    assert len(model.layers) == len(dense().layers)
    model.fit(*DATA, batch_size=16, verbose=0)


# --- bridges -----------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["gradmax", "random"])
def test_a_bridge_is_built_then_widened_and_trains(method, tmp_path):
    selector = S.Bridge("features", "scores", width=5)
    model, growth, history = fit(selector, method=method, epochs=4)
    first, second = (e.sites[0] for e in growth.events)
    assert first.kind == second.kind == "bridge"
    assert first.name == second.name == "features_scores_bridge"
    assert (first.width_before, first.width_after) == (0, 5)
    assert (second.width_before, second.width_after) == (5, 10)
    assert first.method == second.method == method
    hidden = model.get_layer("features_scores_bridge")
    assert hidden.units == 10
    kernel = numpy_of([hidden.kernel])[0]
    assert (np.abs(kernel).max(axis=0) > 0).all()  # relu with zero fan-in: they train
    assert hidden.activation is keras.activations.relu  # the plain one is back
    assert history.history["loss"][-1] < history.history["loss"][0]
    saved_and_loaded(model, tmp_path)


def test_a_bridge_has_a_method_of_its_own():
    _, growth, _ = fit(S.Bridge("features", "scores", method="random"), method="gradmax")
    assert [e.sites[0].method for e in growth.events] == ["random", "random"]


def test_a_bridge_into_a_layer_that_has_grown():
    """Its activation has an explicit slope then, which moves behind the sum with it."""
    selector = S.InTurn(S.All(2, names="b"), S.Bridge("features", "b", 3))
    inputs = keras.Input((FEATURES,), name="features")
    x = layers.Dense(4, activation="tanh", name="a")(inputs)
    x = layers.Dense(3, activation="relu", name="b")(x)
    model = compiled(keras.Model(inputs, layers.Dense(CLASSES, name="scores")(x)))
    slopes = []

    class Look(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            slopes.append([
                layer.activation for layer in self.model.layers if hasattr(layer, "activation")
            ])  # fmt: skip

    growth = kg.GrowthCallback(
        DATA, "random", kg.schedules.Every(2, times=2), selector, form="outgoing"
    )
    model.fit(*DATA, batch_size=16, epochs=2, verbose=0, callbacks=[growth, Look()])
    assert [e.sites[0].kind for e in growth.events] == ["widen", "bridge"]
    assert not any(a is keras.activations.relu for a in slopes[-1])  # explicit during fit
    end = [layer.activation for layer in model.layers if hasattr(layer, "activation")]
    assert end.count(keras.activations.relu) == 2
    assert model.get_layer("b").activation is keras.activations.linear
    assert set(growth.get_state()["grown"]) == {"b_activation", "features_b_bridge"}


def test_a_bridge_that_fails_puts_the_slope_back(monkeypatch):
    from keras_grow.surgery.building import Bridging

    def broken(change, rewiring, ready):
        raise MemoryError("no room")

    monkeypatch.setattr(Bridging, "_fill", broken)
    inputs = keras.Input((FEATURES,), name="features")
    x = layers.Dense(3, activation="relu", name="b")(inputs)
    model = compiled(keras.Model(inputs, layers.Dense(CLASSES, name="scores")(x)))
    seen = []

    class Look(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.append(self.model.get_layer("b").activation)

    growth = kg.GrowthCallback(
        DATA, "random", kg.schedules.Every(1, times=2),
        S.InTurn(S.All(1), S.Bridge("features", "b", 3, activation="tanh")), form="outgoing",
    )  # fmt: skip
    with pytest.warns(UserWarning, match="no room"):
        model.fit(*DATA, batch_size=16, verbose=0, callbacks=[growth, Look()])
    assert growth.events[1].error
    assert not growth.events[1].sites
    assert seen[1] is seen[0] is not keras.activations.relu
    assert model.get_layer("b").activation is keras.activations.relu


# --- in turn -----------------------------------------------------------------------------------


def test_widening_and_deepening_alternate_and_pass_on_their_turn():
    selector = S.InTurn(S.RoundRobin(1), S.Insert(linear, ["b"]))
    model = compiled(dense(b=4))
    _, growth, _ = fit(selector, kg.schedules.Every(1, times=5), model)
    found = [(e.sites[0].kind, e.sites[0].producers[0]) for e in growth.events]
    # Turns of RoundRobin are counted by themselves: a, b, then all sites as they come.
    assert [kind for kind, _ in found] == ["widen", "insert", "widen", "widen", "widen"]
    assert found[0][1] == "a"
    assert found[1][1] == "b"
    assert found[2][1] != "a"


def test_targets_are_approached_over_the_turns_that_are_left():
    selector = S.InTurn(S.All({"a": 10}), S.All({"b": 6}))
    _, growth, _ = fit(selector, kg.schedules.Every(1, times=6), epochs=2)
    widths = [(e.sites[0].name, e.sites[0].width_after) for e in growth.events]
    assert widths == [("a", 6), ("b", 4), ("a", 8), ("b", 5), ("a", 10), ("b", 6)]


def test_state_goes_through_json():
    def make():
        return S.InTurn(S.Insert(new_dense, ["a", "a"]), S.Bridge("features", "scores", times=1))

    first = kg.GrowthCallback(DATA, "random", kg.schedules.Every(2, times=1), make())
    model = compiled(dense())
    model.fit(*DATA, batch_size=16, verbose=0, callbacks=[first])
    second = kg.GrowthCallback(DATA, "random", kg.schedules.Every(2, times=4), make())
    second.set_state(json.loads(json.dumps(first.get_state())))
    model.fit(*DATA, batch_size=16, epochs=3, verbose=0, callbacks=[second])
    names = [(e.sites[0].kind, e.sites[0].name) for e in second.events]
    assert names == [("insert", "new_0"), ("bridge", "features_scores_bridge"), ("insert", "new_1")]


# --- limits and errors -------------------------------------------------------------------------


def test_a_layer_for_which_there_is_no_room_is_left_out():
    model = compiled(dense())
    start = model.count_params()
    selector = S.Insert(new_dense, ["a", "a"])
    model, growth, _ = fit(selector, model=model, max_parameters=start + 25)
    first, second = growth.events
    assert len(first.sites) == 1
    assert not second.sites
    assert second.notes[0].startswith(f"With max_parameters={start + 25}, max_flops=None, 'new_1'")
    assert "adds 20 parameters" in second.notes[0]
    assert model.count_params() == start + 20


def test_a_bridge_for_which_there_is_no_room():
    model = compiled(dense())
    start = model.count_params()
    model, growth, _ = fit(
        S.Bridge("features", "scores", 4), model=model, max_parameters=start + 50
    )
    first, second = growth.events
    assert first.parameters_after == start + 4 * 5 + 4 + 4 * 3
    assert (second.sites[0].width_before, second.sites[0].width_after) == (4, 5)  # cut down
    assert "4 -> 1" in second.notes[0]
    _, growth, _ = fit(S.Bridge("features", "scores", 4), max_parameters=start + 20)
    assert not growth.events[0].sites
    assert "was left out" in growth.events[0].notes[0]


@pytest.mark.parametrize(
    ("make", "parts"),
    [
        (
            lambda: S.Insert(layers.Dense(4), "a"),
            ["function", "only once", "Received: make=<Dense"],
        ),
        (lambda: S.Insert(new_dense, []), ["after must name", "Received: after=[]"]),
        (lambda: S.Insert(new_dense, [3]), ["Received: after=[3]"]),
        (lambda: S.Bridge("a", "b", width=0), ["Received: width=0"]),
        (lambda: S.Bridge("a", "b", times=0), ["Received: times=0"]),
        (lambda: S.Bridge("a", "b", method="rndom"), ["'random'"]),
        (lambda: S.InTurn(), ["InTurn takes selectors", "Received: ()"]),
        (lambda: S.InTurn(S.All(1), 3), ["Received: (<keras_grow"]),
    ],
)
def test_arguments_are_checked(make, parts):
    with pytest.raises(kg.GrowthError) as error:
        make()
    for part in parts:
        assert part in str(error.value)


@pytest.mark.parametrize(
    ("selector", "text"),
    [
        (S.Insert(new_dense, ["a", "zz"]), "no layer 'zz'"),
        (S.Insert(new_dense, "a", before="scores"), "'scores'"),
        (S.Bridge("b", "a"), "cycle"),
        (S.InTurn(S.All(1), S.Bridge("a", "zz")), "no layer 'zz'"),
        (S.Bridge("a", "b", activation="rellu"), "activation='rellu'"),
    ],
)
def test_what_does_not_fit_the_model_is_said_before_training(selector, text):
    growth = kg.GrowthCallback(DATA, "random", selector=selector)
    growth.set_model(compiled(dense()))
    with pytest.raises(kg.GrowthError, match=text):
        growth.on_train_begin()


def test_a_chain_cannot_hold_a_bridge():
    names = {"a": 4, "b": 4, "c": CLASSES}
    parts = [layers.Dense(units, name=name) for name, units in names.items()]
    model = keras.Sequential([keras.Input((FEATURES,)), *parts])
    growth = kg.GrowthCallback(DATA, "random", selector=S.Bridge("a", "c"))
    growth.set_model(compiled(model))
    with pytest.raises(kg.GrowthError, match="a chain, which cannot hold a bridge"):
        growth.on_train_begin()
