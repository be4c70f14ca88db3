"""`GrowthCallback`: when, where and how much it grows, on which data, its state and its log."""

import json
import warnings

import keras
import numpy as np
import pytest
from helpers.fitting import (
    CLASSES,
    FEATURES,
    Snapshot,
    StepLosses,
    compiled,
    dense,
    drive,
    give_state,
    numpy_of,
    points,
    relu_with_slope,
    same_arrays,
    state_of,
    train_on_batches,
)
from keras import layers, ops

import keras_grow as kg
from keras_grow.growth.data import Batches, GrowthData
from keras_grow.growth.statistics import Recording, measure
from keras_grow.logs import events
from keras_grow.planning import make_plan, survey

# `drive` often ends with a growth; the warning of it has a test of its own.
pytestmark = pytest.mark.filterwarnings("ignore:The last growth:UserWarning")

DATA = points(64)


def random_growth(schedule, selector, **arguments):
    """No gradients and no check of outputs: nothing needs to be compiled."""
    return kg.GrowthCallback(
        DATA, method="random", schedule=schedule, selector=selector, verify=False, **arguments
    )


# --- schedules ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"steps": 3}, [3, 6, 9, 12]),
        ({"steps": 3, "start": 5}, [5, 8, 11]),
        ({"steps": 3, "start": 1, "times": 2}, [1, 4]),
        ({"steps": 1, "times": 3}, [1, 2, 3]),
    ],
)
def test_every_grows_at_its_steps_across_epochs(arguments, expected):
    growth = random_growth(kg.schedules.Every(**arguments), kg.selectors.All(1, names=["a"]))
    widths = drive(compiled(dense()), growth, steps=4, epochs=3)
    assert [e.step for e in growth.events] == expected
    assert [e.epoch for e in growth.events] == [(step - 1) // 4 for step in expected]
    assert [w[0] for w in widths] == [4 + sum(s <= i + 1 for s in expected) for i in range(12)]
    assert growth.step == 12


def test_every_counts_blocks_of_steps():
    """With steps_per_execution=4, Keras calls back after steps 3, 7, 11 (counted from 0)."""
    growth = random_growth(kg.schedules.Every(6), kg.selectors.All(1))
    growth.set_model(compiled(dense()))
    growth.on_train_begin()
    for epoch in range(2):
        growth.on_epoch_begin(epoch)
        for batch in (3, 7, 11):
            growth.on_train_batch_end(batch)
    assert [e.step for e in growth.events] == [8, 12, 20, 24]


# --- selectors ----------------------------------------------------------------------------------

EACH = kg.schedules.Every(1, times=4)


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        (kg.selectors.All(2), [(6, 5), (8, 7), (10, 9), (12, 11)]),
        # Of the initial width, rounded, but at least one channel.
        (kg.selectors.All(0.5), [(6, 5), (8, 7), (10, 9), (12, 11)]),
        (kg.selectors.All(0.1), [(5, 4), (6, 5), (7, 6), (8, 7)]),
        # Targets are approached in equal parts and never passed.
        (kg.selectors.All({"a": 12}), [(6, 3), (8, 3), (10, 3), (12, 3)]),
        (kg.selectors.All({"a": 10, "b": 5}), [(6, 4), (8, 5), (9, 5), (10, 5)]),
        (kg.selectors.All({"a": 4, "b": 7}), [(4, 4), (4, 5), (4, 6), (4, 7)]),
        (kg.selectors.All(1, names="b"), [(4, 4), (4, 5), (4, 6), (4, 7)]),
        (kg.selectors.All(1, pattern="[a]*"), [(5, 3), (6, 3), (7, 3), (8, 3)]),
        (kg.selectors.RoundRobin(2), [(6, 3), (6, 5), (8, 5), (8, 7)]),
        (kg.selectors.RoundRobin(0.25), [(5, 3), (5, 4), (6, 4), (6, 5)]),
        (kg.selectors.RoundRobin({"a": 8, "b": 5}), [(6, 3), (6, 4), (8, 4), (8, 5)]),
        (kg.selectors.RoundRobin(1, names=["b", "a"]), [(4, 4), (5, 4), (5, 5), (6, 5)]),
    ],
)
def test_selectors(selector, expected):
    growth = random_growth(EACH, selector)
    assert drive(compiled(dense()), growth, steps=5) == [*expected, expected[-1]]


@pytest.mark.parametrize("make", [kg.selectors.All, kg.selectors.RoundRobin])
def test_a_model_as_target(make):
    target = dense(a=11, b=6)
    model = compiled(dense())
    growth = random_growth(kg.schedules.Every(1, times=6), make(target))
    drive(model, growth, steps=8)
    assert [tuple(v.shape) for v in model.weights] == [tuple(v.shape) for v in target.weights]


def test_nothing_happens_once_all_targets_are_reached():
    growth = random_growth(kg.schedules.Every(1), kg.selectors.All({"a": 6}))
    assert drive(compiled(dense()), growth, steps=4) == [(6, 3)] * 4
    assert len(growth.events) == 1


def test_fractions_are_of_the_width_at_the_start_of_the_first_fit():
    model = compiled(dense())
    growth = random_growth(kg.schedules.Every(1), kg.selectors.All(0.5, names="a"))
    drive(model, growth, steps=2)
    assert drive(model, growth, steps=2) == [(10, 3), (12, 3)]


# --- growth data --------------------------------------------------------------------------------


def batch_of(data, model=None, number=0, batch_size=16):
    graph = survey(model or dense()).graph
    return GrowthData(data, batch_size, seed=0).batch(number, graph)


def test_arrays_are_drawn_differently_for_each_event_and_the_same_again():
    x, y, w = points(64)[0], np.arange(64), np.arange(64) / 64
    first = batch_of((x, y, w))
    assert len(first[1]) == 16 == len(set(first[1]))
    np.testing.assert_array_equal(first[0], x[first[1]])  # rows stay together
    np.testing.assert_array_equal(first[2], np.float32(w[first[1]]))
    np.testing.assert_array_equal(batch_of((x, y, w))[1], first[1])
    assert set(batch_of((x, y, w), number=1)[1]) != set(first[1])
    np.testing.assert_array_equal(batch_of((x, y), batch_size=64)[1], y)


def test_a_py_dataset_gives_batch_after_batch():
    class Batches(keras.utils.PyDataset):
        def __len__(self):
            return 4

        def __getitem__(self, i):
            return DATA[0][i * 16 :][:16], DATA[1][i * 16 :][:16]

    data = Batches()
    for number, i in ((0, 0), (1, 1), (5, 1)):
        x, y, w = batch_of(data, number=number)
        np.testing.assert_array_equal(x, DATA[0][i * 16 :][:16])
        np.testing.assert_array_equal(y, DATA[1][i * 16 :][:16])
        assert w is None


def test_a_function_and_a_generator_give_batches():
    x, y, _ = batch_of(lambda: (DATA[0][:5], DATA[1][:5]))
    np.testing.assert_array_equal(x, DATA[0][:5])
    np.testing.assert_array_equal(y, DATA[1][:5])

    def batches():
        for i in range(2):
            yield DATA[0][i * 8 :][:8], DATA[1][i * 8 :][:8]

    data = GrowthData(batches(), 16, seed=0)
    graph = survey(dense()).graph
    np.testing.assert_array_equal(data.batch(0, graph)[0], DATA[0][:8])
    np.testing.assert_array_equal(data.batch(1, graph)[0], DATA[0][8:16])
    with pytest.raises(kg.DataError, match="empty"):  # a generator cannot start again
        data.batch(2, graph)


@pytest.mark.backend("tensorflow")
def test_a_tf_dataset_starts_again_at_its_end():
    import tensorflow as tf

    dataset = tf.data.Dataset.from_tensor_slices(DATA).batch(32)
    data = GrowthData(dataset, 16, seed=0)
    graph = survey(dense()).graph
    for start in (0, 32, 0):
        x, y, _ = data.batch(0, graph)
        np.testing.assert_array_equal(x, DATA[0][start:][:32])
        np.testing.assert_array_equal(y, DATA[1][start:][:32])


@pytest.mark.backend("torch")
def test_a_torch_dataloader_starts_again_at_its_end():
    import torch

    pairs = torch.utils.data.TensorDataset(*(torch.as_tensor(a) for a in DATA))
    data = GrowthData(torch.utils.data.DataLoader(pairs, batch_size=32), 16, seed=0)
    graph = survey(dense()).graph
    for start in (0, 32, 0):
        x, y, _ = data.batch(0, graph)
        np.testing.assert_array_equal(x, DATA[0][start:][:32])
        np.testing.assert_array_equal(y, DATA[1][start:][:32])


# --- losses -------------------------------------------------------------------------------------


def one_event(model, data, selector=None, method=None):
    """The event of one GradMax growth of "a", without training."""
    growth = kg.GrowthCallback(
        data,
        method=method or kg.methods.GradMax(sign_rule=False),
        schedule=kg.schedules.Every(1, times=1),
        selector=selector or kg.selectors.All(2, names="a"),
        verify=False,
    )
    growth.set_model(model)
    growth.on_train_begin()
    growth.on_epoch_begin(0)
    growth.on_train_batch_end(0)
    growth.on_train_end()
    (event,) = growth.events
    return event


def small(seed=0, cls=keras.Model, **arguments):
    """One hidden layer with given weights, so that two of them are the same model."""
    rng = np.random.default_rng(seed)
    inputs = keras.Input((FEATURES,), name="features")
    hidden = layers.Dense(4, activation="tanh", name="a", **arguments)(inputs)
    model = cls(inputs, layers.Dense(CLASSES, name="scores")(hidden))
    model.set_weights([rng.standard_normal(w.shape) for w in model.get_weights()])
    return model


def cubic(y_true, y_pred):
    return ops.sum(ops.abs(y_pred - y_true) ** 3, axis=-1)


def test_a_loss_function_of_the_users_own_with_sample_weights():
    x = DATA[0][:32]
    y = np.random.default_rng(1).standard_normal((32, CLASSES)).astype("float32")
    w = np.linspace(0, 2, 32, dtype="float32")
    model = small()
    model.compile("sgd", cubic)
    expected = float((w * (np.abs(model.predict(x, verbose=0) - y) ** 3).sum(-1)).mean())
    weighted = one_event(model, (x, y, w))
    assert weighted.loss == pytest.approx(expected, rel=1e-5)
    # The loss divides by the number of samples, so weights of 2 double the gradients.
    plain, double = small(), small()
    plain.compile("sgd", cubic)
    double.compile("sgd", cubic)
    spectrum = one_event(plain, (x, y)).sites[0].singular_values
    doubled = one_event(double, (x, y, np.full(32, 2.0))).sites[0].singular_values
    assert doubled == pytest.approx([2 * s for s in spectrum], rel=1e-4, abs=1e-6)
    assert weighted.sites[0].singular_values != pytest.approx(spectrum, rel=1e-2)


def test_several_inputs_and_outputs_by_name_with_loss_weights():
    def build():
        first, second = keras.Input((FEATURES,), name="first"), keras.Input((2,), name="second")
        hidden = layers.Dense(4, activation="tanh", name="a")(first)
        both = layers.Concatenate()([hidden, second])
        outputs = {"u": layers.Dense(2, name="u")(both), "v": layers.Dense(1, name="v")(both)}
        return keras.Model({"first": first, "second": second}, outputs)

    rng = np.random.default_rng(0)
    x = {"second": rng.standard_normal((16, 2)), "first": rng.standard_normal((16, FEATURES))}
    y = {"u": rng.standard_normal((16, 2)), "v": rng.standard_normal((16, 1))}
    model = build()
    model.compile("sgd", {"u": "mse", "v": "mae"}, loss_weights={"u": 3.0, "v": 0.5})
    predicted = model.predict(x, verbose=0)
    mse = ((predicted["u"] - y["u"]) ** 2).mean()
    mae = np.abs(predicted["v"] - y["v"]).mean()
    event = one_event(model, (x, y), method="gradmax")
    assert event.loss == pytest.approx(3 * mse + 0.5 * mae, rel=1e-5)
    assert sorted(event.sites[0].consumers) == ["u", "v"]
    assert event.sites[0].gradient_norm > 0
    again = model.predict(x, verbose=0)
    for name in y:
        np.testing.assert_allclose(again[name], predicted[name], rtol=1e-5, atol=1e-5)


def test_regularization_is_part_of_the_loss():
    model = small(kernel_regularizer=keras.regularizers.L2(0.1))
    model.compile("sgd", "mse")
    x, y = DATA[0][:16], np.ones((16, CLASSES), "float32")
    expected = ((model.predict(x, verbose=0) - y) ** 2).mean()
    expected += 0.1 * (numpy_of(model.weights)[0] ** 2).sum()
    assert one_event(model, (x, y)).loss == pytest.approx(expected, rel=1e-5)


class Tripled(keras.Model):
    """Functional, with a loss and a training step of its own."""

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return 3.0 * super().compute_loss(x, y, y_pred, sample_weight, training)

    def train_step(self, *arguments):
        self.traced = True
        return super().train_step(*arguments)


def test_growth_sees_the_loss_of_a_functional_subclass():
    plain, tripled = small(), small(cls=Tripled)
    seen = []
    for model in (plain, tripled):
        compiled(model)
        event = one_event(model, DATA)
        seen.append([event.loss, *event.sites[0].singular_values])
    assert seen[0][1] > 0
    assert seen[1] == pytest.approx([3 * s for s in seen[0]], rel=1e-4, abs=1e-6)


def test_a_functional_subclass_with_its_own_loss_and_step_grows_in_fit():
    x, y = DATA

    def build(a, activation):
        inputs = keras.Input((FEATURES,))
        hidden = layers.Dense(a, activation=activation, name="a")(inputs)
        model = Tripled(inputs, layers.Dense(CLASSES)(hidden))
        return compiled(model, keras.optimizers.SGD(0.05, momentum=0.9))

    model = build(4, "relu")
    growth = random_growth(kg.schedules.Every(2, times=1), kg.selectors.All(2))
    snapshot, record = Snapshot(growth), StepLosses()
    model.fit(x, y, batch_size=16, shuffle=False, verbose=0, callbacks=[growth, snapshot, record])
    assert model.traced
    fresh = build(6, relu_with_slope)
    give_state(fresh, snapshot.state)
    after = train_on_batches(fresh, x, y, 16, 2, 4)
    np.testing.assert_allclose(record.losses[2:], after, rtol=1e-4)


# --- statistics ---------------------------------------------------------------------------------


def noisy():
    inputs = keras.Input((FEATURES,))
    x = layers.GaussianNoise(0.1, seed=1)(inputs)
    x = layers.Dense(4, activation="relu", name="a")(x)
    x = layers.BatchNormalization()(x)
    x = layers.Dropout(0.5, seed=2)(x)
    x = layers.Dense(3, activation="relu", name="b")(x)
    return keras.Model(inputs, layers.Dense(CLASSES)(x))


def everything(model):
    """All variables: weights, BatchNorm statistics, seeds, metrics, optimizer."""
    state = state_of(model)
    return [*state["weights"], *state["seeds"], *state["optimizer"],
            *numpy_of(model.metrics_variables)]  # fmt: skip


def test_the_statistics_pass_leaves_no_trace():
    x, y = DATA
    model = compiled(noisy(), keras.optimizers.Adam(0.01), metrics=["accuracy"])
    model.train_on_batch(x, y)
    state, before = state_of(model), everything(model)
    model.train_on_batch(x, y)
    expected = state_of(model)
    assert not same_arrays(state["seeds"], expected["seeds"])
    give_state(model, state)
    model.reset_metrics()
    clean = everything(model)
    atlas = survey(model)
    plan = make_plan(atlas, dict.fromkeys(atlas.sites, 1))
    measured = measure(plan, Recording(plan), Batches((x, y, None)))
    assert len(measured.sites) == 2
    assert all(np.abs(gradients.matrix).max() > 0 for gradients in measured.sites.values())
    assert same_arrays(everything(model), clean)
    assert not same_arrays(clean, before)  # the metrics differ: the comparison sees them
    assert not model.losses
    # The next step draws the same masks and noise and ends at the same weights.
    model.train_on_batch(x, y)
    assert all(same_arrays(state_of(model)[kind], expected[kind]) for kind in expected)


# --- a whole fit --------------------------------------------------------------------------------


class Reader(keras.callbacks.Callback):
    """Reads the log and the new neurons' weights after every step."""

    def __init__(self, growth, folder):
        super().__init__()
        self.growth, self.folder = growth, folder
        self.lines, self.fan_in, self.activations = [], [], []

    def on_train_batch_end(self, batch, logs=None):
        path = self.folder / events.FILE_NAME
        self.lines.append(len(path.read_text().splitlines()) if path.exists() else 0)
        layer = self.model.get_layer("a")
        self.fan_in.append(numpy_of([layer.kernel])[0][:, 4:])
        self.activations.append(layer.activation)


@pytest.mark.parametrize("method", ["gradmax", "random"])
def test_relu_neurons_with_zero_fan_in_train_and_events_are_written_at_once(method, tmp_path):
    x, y = DATA
    model = compiled(dense(), keras.optimizers.SGD(0.1))
    growth = kg.GrowthCallback(
        DATA,
        method=method,
        schedule=kg.schedules.Every(2, times=1),
        log_dir=tmp_path / "logs",
    )
    reader = Reader(growth, tmp_path / "logs")
    model.fit(x, y, batch_size=16, epochs=2, verbose=0, callbacks=[growth, reader])
    assert reader.lines == [0] + [1] * 7
    assert [f.shape[1] for f in reader.fan_in] == [0] + [2] * 7
    assert (reader.fan_in[1] == 0).all()
    assert (np.abs(reader.fan_in[2]).max(axis=0) > 0).all()  # one step later
    assert (np.abs(reader.fan_in[-1]).max(axis=0) > 1e-3).all()
    # The explicit slope is in place from the growth to the end of fit, under the plain name.
    relu = keras.activations.relu
    assert [a is relu for a in reader.activations] == [True] + [False] * 7
    assert keras.activations.serialize(reader.activations[-1]) == "relu"
    assert model.get_layer("a").activation is relu
    (event,) = growth.events
    assert event.parameters_before == dense().count_params()
    assert event.parameters_after == dense(6, 5).count_params() == model.count_params()
    assert event.flops_after == kg.flops(model) > event.flops_before
    assert event.deviation <= 1e-5
    assert [(s.name, s.width_before, s.width_after) for s in event.sites] == [
        ("a", 4, 6),
        ("b", 3, 5),
    ]
    assert events.read(tmp_path / "logs") == growth.events


# --- state --------------------------------------------------------------------------------------


def comparable(callback):
    return [{**e.to_dict(), "seconds": None, "time": None} for e in callback.events]


def test_a_run_continued_from_its_state_has_the_same_events(tmp_path):
    def start(state=None):
        growth = kg.GrowthCallback(
            DATA,
            method=kg.methods.GradMax(sign_rule=False),
            schedule=kg.schedules.Every(2, start=1, times=3),
            selector=kg.selectors.All(0.5, names="a"),
            batch_size=16,
            seed=5,
            log_dir=tmp_path,
            verify=False,
        )
        if state is not None:
            growth.set_state(json.loads(state))
        return growth

    whole, model = start(), compiled(dense())
    other = compiled(dense())
    other.set_weights(model.get_weights())
    drive(model, whole, steps=3, epochs=2)
    assert [e.step for e in whole.events] == [1, 3, 5]
    first = start()
    drive(other, first, steps=2, epochs=1)
    second = start(json.dumps(first.get_state()))
    drive(other, second, steps=2, epochs=2)
    assert comparable(second) == comparable(whole)
    assert second.get_state().keys() == whole.get_state().keys()
    assert same_arrays(numpy_of(model.weights), numpy_of(other.weights))
    # Each event of the parts was written once.
    assert [e.step for e in events.read(tmp_path)] == [1, 3, 5, 1, 3, 5]


def test_explicit_slopes_are_put_back_in_place_from_the_state():
    model = compiled(dense())
    first = random_growth(kg.schedules.Every(1, times=1), kg.selectors.All(1))
    drive(model, first, steps=1)
    assert model.get_layer("a").activation is keras.activations.relu
    second = random_growth(kg.schedules.Every(1, times=1), kg.selectors.All(1))
    second.set_state(first.get_state())
    second.set_model(model)
    second.on_train_begin()
    assert model.get_layer("a").activation is not keras.activations.relu
    assert model.get_layer("b").activation is keras.activations.tanh
    second.on_train_end()
    assert model.get_layer("a").activation is keras.activations.relu


def test_a_growth_at_the_very_end_warns_that_its_neurons_have_not_trained():
    def grow_at(step):
        growth = random_growth(kg.schedules.Every(step, times=1), kg.selectors.All(1))
        drive(compiled(dense()), growth, steps=4)
        assert len(growth.events) == 1

    with pytest.warns(UserWarning, match="The last growth, at step 4, was the end of training"):
        grow_at(4)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        grow_at(3)


def test_the_log_survives_a_line_cut_off_by_a_crash(tmp_path):
    growth = random_growth(kg.schedules.Every(1), kg.selectors.All(1), log_dir=tmp_path)
    drive(compiled(dense()), growth, steps=2)
    path = tmp_path / events.FILE_NAME
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    assert events.read(tmp_path) == growth.events[:1]
    # The resumed run appends to the same file.
    events.append(tmp_path, growth.events[1])
    assert events.read(tmp_path) == growth.events
    assert path.read_bytes() == whole


def test_an_interrupted_fit_leaves_no_explicit_slope_after_the_next():
    class Stop(Exception):
        pass

    def stop(batch, logs):
        raise Stop

    model = compiled(dense(), keras.optimizers.SGD(0.1))
    growth = random_growth(kg.schedules.Every(1, times=1), kg.selectors.All(1))
    for number in range(2):
        callbacks = [growth]
        if number == 0:
            callbacks.append(keras.callbacks.LambdaCallback(on_train_batch_end=stop))
        try:
            model.fit(*DATA, verbose=0, callbacks=callbacks)
        except Stop:
            assert number == 0
            assert model.get_layer("a").activation is not keras.activations.relu
    assert model.get_layer("a").activation is keras.activations.relu
