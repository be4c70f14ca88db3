"""Growth in `fit` beside everything else that refers to the model: nothing the user holds breaks.

One training run with many callbacks is shared by most tests here; each looks at one of them.
"""

import csv
import json
import shutil
import sys
import zipfile
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from helpers.fitting import CLASSES, FEATURES, compiled, numpy_of, points, same_arrays, state_of
from keras import layers, ops

import keras_grow as kg

BATCH, STEPS, EPOCHS = 8, 6, 4
GROW_AT = 8  # the second step of the second epoch
RATE = 0.05


def small(a=4, b=3):
    """A relu as argument, one as layer, BatchNorm and Dropout; "a" and "b" can grow."""
    x = inputs = keras.Input((FEATURES,), name="features")
    x = layers.Dense(a, activation="relu", name="a")(x)
    x = layers.Dropout(0.2, seed=1, name="drop")(x)
    x = layers.Dense(b, name="b")(x)
    x = layers.BatchNormalization(name="norm")(x)
    x = layers.ReLU(name="relu")(x)
    return keras.Model(inputs, layers.Dense(CLASSES, name="scores")(x), name="net")


def one_growth(data, amount=2, at=GROW_AT, **arguments):
    return kg.GrowthCallback(
        data,
        method="random",
        schedule=kg.schedules.Every(at, times=1),
        selector=kg.selectors.All(amount=amount),
        form="outgoing",
        **arguments,
    )


class Features(keras.callbacks.Callback):
    """Runs the user's own sub-models in the middle of fit, one step at a time."""

    def __init__(self, models, x):
        super().__init__()
        self.models, self.x, self.step = models, x, 0

    def on_train_begin(self, logs=None):
        self.seen = {}

    def on_train_batch_end(self, batch, logs=None):
        self.step += 1
        if self.step in (GROW_AT, GROW_AT + 2):
            assert self.model is not None  # on JAX this puts the state into the variables
            self.seen[self.step] = [m.predict(self.x, verbose=0) for m in self.models]


class States(keras.callbacks.Callback):
    """The model's state and architecture at the end of each epoch."""

    def on_train_begin(self, logs=None):
        self.weights, self.configs = [], []

    def on_epoch_end(self, epoch, logs=None):
        self.weights.append(numpy_of(self.model.weights))
        self.configs.append(self.model.get_config())


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A fit with one growth in its second epoch, and all that was held from before it."""
    keras.utils.set_random_seed(0)
    folder = tmp_path_factory.mktemp("run")
    x, y = points(BATCH * STEPS)
    model = compiled(small(), keras.optimizers.SGD(RATE, momentum=0.9), metrics=["accuracy"])
    held = SimpleNamespace(
        layers={layer.name: layer for layer in model.layers},
        tensors={name: model.get_layer(name).output for name in ("a", "relu")},
        optimizer=model.optimizer,
        extractor=keras.Model(model.input, model.get_layer("a").output),
        around=keras.Sequential([keras.Input((FEATURES,)), model, layers.Softmax()]),
    )
    models = [held.extractor, held.around]
    for each in models:
        each.predict(x, verbose=0)
    growth = one_growth((x, y))
    before, after, states = Features(models, x), Features(models, x), States()
    history = model.fit(
        x,
        y,
        batch_size=BATCH,
        epochs=EPOCHS,
        verbose=0,
        shuffle=False,
        validation_data=(x[:16], y[:16]),
        callbacks=[
            before,
            growth,
            after,
            states,
            keras.callbacks.ModelCheckpoint(folder / "{epoch}.keras"),
            keras.callbacks.ModelCheckpoint(
                folder / "{epoch}.weights.h5", save_weights_only=True, save_freq=STEPS
            ),
            keras.callbacks.CSVLogger(folder / "log.csv"),
            keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate * 0.9),
            keras.callbacks.ReduceLROnPlateau(
                monitor="loss", factor=0.5, patience=1, min_delta=100.0
            ),
            keras.callbacks.TerminateOnNaN(),
            keras.callbacks.BackupAndRestore(folder / "backup"),
        ],
    )
    assert [e.step for e in growth.events] == [GROW_AT]
    return SimpleNamespace(
        model=model, held=held, x=x, y=y, growth=growth, before=before.seen, after=after.seen,
        states=states, history=history, folder=folder,
    )  # fmt: skip


def predictions(model, x):
    return model.predict(x, verbose=0)


# --- objects ------------------------------------------------------------------------------------


def test_layers_tensors_and_optimizer_are_the_same_objects(run):
    assert {layer.name: layer for layer in run.model.layers} == run.held.layers
    assert run.model.get_layer("a").output is run.held.tensors["a"]
    assert run.model.optimizer is run.held.optimizer
    assert run.held.layers["a"].units == 6
    assert run.held.tensors["a"].shape == (None, 6)
    assert run.held.tensors["relu"].shape == (None, 5)
    assert run.held.extractor.output_shape == (None, 6)


def test_sub_models_show_the_grown_features_in_the_middle_of_fit(run):
    (old, old_around), (new, new_around) = run.before[GROW_AT], run.after[GROW_AT]
    assert (old.shape[1], new.shape[1]) == (4, 6)
    np.testing.assert_allclose(new[:, :4], old, rtol=1e-5, atol=1e-6)
    assert (new[:, 4:] == 0).all()  # zero fan-in
    # A model around the whole one computes the same.
    np.testing.assert_allclose(new_around, old_around, rtol=1e-5, atol=1e-6)
    # Two steps on, the new channels have moved, and both see the current weights.
    extracted, around = run.after[GROW_AT + 2]
    assert (np.abs(extracted[:, 4:]).max(axis=0) > 0).all()
    assert not np.allclose(extracted[:, :4], old)
    assert not np.allclose(around, old_around)


def test_sub_models_see_the_current_weights_after_fit(run):
    kernel, bias = numpy_of(run.model.get_layer("a").weights)
    expected = np.maximum(run.x @ kernel + bias, 0)
    np.testing.assert_allclose(predictions(run.held.extractor, run.x), expected, atol=1e-5)
    softmax = ops.convert_to_numpy(ops.softmax(predictions(run.model, run.x)))
    np.testing.assert_allclose(predictions(run.held.around, run.x), softmax, atol=1e-6)
    # A new sub-model of the old tensors is as good.
    again = keras.Model(run.model.input, run.held.tensors["a"])
    np.testing.assert_allclose(predictions(again, run.x), expected, atol=1e-5)


def test_plain_activations_are_back_after_fit(run):
    assert run.model.get_layer("a").activation is keras.activations.relu
    assert "call" not in vars(run.model.get_layer("relu"))


# --- callbacks ----------------------------------------------------------------------------------


def test_checkpoints_hold_the_model_of_their_time(run):
    for epoch, (a, b) in enumerate([(4, 3), (6, 5), (6, 5), (6, 5)]):
        loaded = keras.models.load_model(run.folder / f"{epoch + 1}.keras")
        assert (loaded.get_layer("a").units, loaded.get_layer("b").units) == (a, b)
        assert same_arrays(numpy_of(loaded.weights), run.states.weights[epoch])
        assert loaded.get_layer("a").activation is keras.activations.relu
        fresh = small(a, b)
        fresh.load_weights(run.folder / f"{epoch + 1}.weights.h5")
        assert same_arrays(numpy_of(fresh.weights), run.states.weights[epoch])


def test_checkpoints_name_nothing_of_keras_grow(run):
    with zipfile.ZipFile(run.folder / "2.keras") as archive:
        config = archive.read("config.json").decode()
    assert "keras_grow" not in config
    found = {
        c["config"]["name"]: c["config"].get("activation")
        for c in json.loads(config)["config"]["layers"]
    }
    assert found["a"] == "relu"
    assert found["b"] == "linear"


def test_a_checkpoint_of_the_middle_loads_without_keras_grow(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "keras_grow", None)
    loaded = keras.models.load_model(run.folder / "2.keras")
    model = small(6, 5)
    model.set_weights(run.states.weights[1])
    np.testing.assert_allclose(
        ops.convert_to_numpy(loaded(run.x)), ops.convert_to_numpy(model(run.x)), rtol=1e-5
    )
    # Compile settings and optimizer state came along: it can be trained on.
    assert loaded.optimizer.iterations == 2 * STEPS
    loaded.evaluate(run.x, run.y, verbose=0)


def test_history_and_csv_log_have_every_epoch_with_validation(run):
    history = run.history.history
    for name in ("loss", "accuracy", "val_loss", "val_accuracy", "learning_rate"):
        assert len(history[name]) == EPOCHS
        assert np.isfinite(history[name]).all()
    with open(run.folder / "log.csv") as file:
        rows = list(csv.DictReader(file))
    assert [float(r["loss"]) for r in rows] == pytest.approx(history["loss"])
    assert [float(r["val_loss"]) for r in rows] == pytest.approx(history["val_loss"])


def test_validation_inside_fit_uses_the_grown_weights(run):
    last = run.model.evaluate(run.x[:16], run.y[:16], verbose=0, return_dict=True)
    assert last["loss"] == pytest.approx(run.history.history["val_loss"][-1], rel=1e-5)


def test_learning_rate_callbacks_go_on_through_the_growth(run):
    expected, rate = [], RATE
    for epoch in range(EPOCHS):
        rate *= 0.9
        expected.append(rate)  # logged before the plateau's reduction
        rate *= 1 if epoch == 0 else 0.5
    assert run.history.history["learning_rate"] == pytest.approx(expected, rel=1e-5)
    assert float(ops.convert_to_numpy(run.held.optimizer.learning_rate)) == pytest.approx(
        rate, rel=1e-5
    )


# --- after fit ----------------------------------------------------------------------------------


def test_configs_describe_the_model_of_their_time(run):
    for config, weights in zip(run.states.configs, run.states.weights, strict=True):
        made = keras.Model.from_config(config)
        made.set_weights(weights)
        assert made.get_layer("a").activation is keras.activations.relu
    np.testing.assert_allclose(
        predictions(made, run.x), predictions(run.model, run.x), rtol=1e-5, atol=1e-6
    )


def test_summary_and_counts_show_the_new_widths(run):
    wide = small(6, 5)
    assert run.model.count_params() == wide.count_params()
    lines, expected = [], []
    run.model.summary(print_fn=lines.append, line_length=80)
    wide.summary(print_fn=expected.append, line_length=80)
    # The part with the layers; the rest counts the optimizer's variables too.
    assert lines[0].split("Total")[0] == expected[0].split("Total")[0]
    assert "(None, 6)" in lines[0]


def test_graph_drawing_shows_the_new_widths(run):
    dot = keras.utils.model_to_dot(run.model, show_shapes=True, show_layer_activations=True)
    text = dot.to_string()
    assert "(None, 6)" in text
    assert "(None, 5)" in text
    assert "(None, 4)" not in text


@pytest.mark.skipif(shutil.which("dot") is None, reason="graphviz is not installed")
def test_plot_model_writes_a_file(run, tmp_path):
    keras.utils.plot_model(run.model, tmp_path / "model.png", show_shapes=True)
    assert (tmp_path / "model.png").stat().st_size > 1000


def test_evaluate_predict_and_a_second_fit_go_on(run):
    steps = int(run.held.optimizer.iterations)
    before = run.model.evaluate(run.x, run.y, verbose=0)[0]
    weights = numpy_of(run.model.trainable_variables)
    history = run.model.fit(run.x, run.y, batch_size=BATCH, epochs=1, verbose=0)
    assert int(run.held.optimizer.iterations) == steps + STEPS
    moved = numpy_of(run.model.trainable_variables)
    assert all(not np.array_equal(a, b) for a, b in zip(weights, moved, strict=True))
    assert run.model.evaluate(run.x, run.y, verbose=0)[0] < before + 0.1
    assert np.isfinite(history.history["loss"][0])


# --- callbacks that keep weights ----------------------------------------------------------------


class Record(keras.callbacks.Callback):
    """Predictions at the end of the epoch whose weights will be restored."""

    def __init__(self, x, epoch):
        super().__init__()
        self.x, self.epoch = x, epoch

    def on_epoch_end(self, epoch, logs=None):
        if epoch == self.epoch:
            self.predictions = predictions(self.model, self.x)


def test_early_stopping_restores_best_weights_from_before_the_growth():
    x, y = points(BATCH * STEPS)
    model = compiled(small(), keras.optimizers.Adam(0.02))
    record = Record(x, 0)
    stopping = keras.callbacks.EarlyStopping(
        monitor="loss", mode="max", patience=1, restore_best_weights=True
    )
    growth = one_growth((x, y), at=GROW_AT - 1)
    model.fit(
        x, y, batch_size=BATCH, epochs=EPOCHS, verbose=0, callbacks=[record, stopping, growth]
    )
    assert len(growth.events) == 1
    assert stopping.stopped_epoch == 1  # the loss only falls, so the first epoch is "best"
    assert stopping.best_epoch == 0
    assert model.get_layer("a").units == 6
    np.testing.assert_allclose(predictions(model, x), record.predictions, rtol=1e-5, atol=1e-6)


def test_backup_and_restore_goes_on_with_a_model_of_the_grown_widths(tmp_path):
    x, y = points(BATCH * STEPS)
    arguments = {"batch_size": BATCH, "epochs": 3, "verbose": 0, "shuffle": False}

    class Killed(Exception):
        pass

    class Kill(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 1:
                self.state = state_of(self.model)
                raise Killed

    growth, kill = one_growth((x, y)), Kill()
    model = compiled(small(), keras.optimizers.SGD(RATE, momentum=0.9))
    backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
    with pytest.raises(Killed):
        model.fit(x, y, **arguments, callbacks=[backup, growth, kill])

    class Begin(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if not hasattr(self, "epoch"):
                self.epoch, self.state = epoch, state_of(self.model)

    resumed, begin = one_growth((x, y)), Begin()
    resumed.set_state(json.loads(json.dumps(growth.get_state())))
    again = compiled(small(6, 5), keras.optimizers.SGD(RATE, momentum=0.9))
    again.fit(
        x, y, **arguments,
        callbacks=[keras.callbacks.BackupAndRestore(tmp_path / "backup"), resumed, begin],
    )  # fmt: skip
    assert begin.epoch == 2
    for kind in ("weights", "optimizer"):
        assert same_arrays(begin.state[kind], kill.state[kind])
    assert len(resumed.events) == 1
    assert resumed.step == 3 * STEPS
    assert not (tmp_path / "backup").exists()
