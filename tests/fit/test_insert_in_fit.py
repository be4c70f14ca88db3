"""A layer inserted during `fit`: training goes on as that of a fresh model given the same state."""

import keras
import numpy as np
import pytest
from helpers.fitting import (
    CLASSES,
    FEATURES,
    StepLosses,
    compiled,
    give_state,
    numpy_of,
    points,
    state_of,
    train_on_batches,
)
from keras import layers, optimizers

import keras_grow as kg

BATCH, STEPS, INSERT_AT = 8, 16, 5


def net(deep=False, name="net"):
    """Two hidden layers; with what is inserted in the tests between them if `deep`."""
    inputs = keras.Input((FEATURES,), name="features")
    x = layers.Dense(4, activation="relu", name="a")(inputs)
    if deep:
        x = new_dense()(x)
        x = new_norm()(x)
    x = layers.Dense(3, activation="tanh", name="b")(x)
    return keras.Model(inputs, layers.Dense(CLASSES, name="scores")(x), name=name)


def new_dense():
    return layers.Dense(4, activation="relu", name="new")


def new_norm():
    return layers.BatchNormalization(momentum=0.5, name="norm")


class Inserting(keras.callbacks.Callback):
    """Inserts both layers at one step and keeps the state right after it."""

    def __init__(self, data, at=INSERT_AT):
        super().__init__()
        self.data, self.at, self.step, self.state = data, at, 0, None

    def on_train_batch_end(self, batch, logs=None):
        self.step += 1
        if self.step != self.at:
            return
        before = [id(v) for v in self.model.variables]
        slots = state_of(self.model)["optimizer"]
        kg.insert_(self.model, new_dense(), after="a")
        kg.insert_(self.model, new_norm(), after="new", data=self.data)
        assert set(before) <= {id(v) for v in self.model.variables}
        self.state = state_of(self.model)
        self.slots = slots


def adamw(model):
    optimizer = optimizers.AdamW(0.02, weight_decay=2.0)
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    return optimizer


OPTIMIZERS = {
    "adam ema": lambda m: optimizers.Adam(
        0.02, amsgrad=True, use_ema=True, ema_momentum=0.8, ema_overwrite_frequency=3
    ),
    "adamw": adamw,
    "sgd accumulation": lambda m: optimizers.SGD(0.1, momentum=0.9, gradient_accumulation_steps=3),
    "loss scale": lambda m: optimizers.LossScaleOptimizer(
        optimizers.Adam(0.02), initial_scale=256.0, dynamic_growth_steps=4
    ),
    "nadam": lambda m: optimizers.Nadam(0.02),
    "adafactor": lambda m: optimizers.Adafactor(0.05),
    "muon": lambda m: optimizers.Muon(0.02),
    "rmsprop": lambda m: optimizers.RMSprop(0.005, momentum=0.9, centered=True),
}
# Compiling takes long on JAX.
ON_ALL = {"adam ema", "loss scale"}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(n, marks=() if n in ON_ALL else pytest.mark.backend("torch"))
        for n in OPTIMIZERS
    ],
)
def test_training_goes_on(name):
    data = points(BATCH * STEPS)
    model = net()
    compiled(model, OPTIMIZERS[name](model))
    inserting, record = Inserting(data), StepLosses()
    model.fit(*data, batch_size=BATCH, shuffle=False, verbose=0, callbacks=[inserting, record])
    fresh = net(deep=True)
    compiled(fresh, OPTIMIZERS[name](fresh))
    give_state(fresh, inserting.state)
    expected = train_on_batches(fresh, *data, BATCH, INSERT_AT, STEPS)
    np.testing.assert_allclose(record.losses[INSERT_AT:], expected, rtol=1e-4)
    assert np.ptp(expected) > 1e-2
    new = [v for v in model.trainable_variables if v.path.startswith(("new", "norm"))]
    assert len(new) == 4
    start = dict(zip((v.path for v in model.weights), inserting.state["weights"], strict=True))
    for variable in new:
        moved = np.abs(keras.ops.convert_to_numpy(variable) - start[variable.path])
        assert moved.max() > 1e-4, variable.path


def test_old_slots_keep_their_values_and_new_ones_start_fresh(tmp_path):
    data = points(BATCH * STEPS)
    model = compiled(net(), optimizers.Adam(0.02, use_ema=True))
    model.fit(*data, batch_size=BATCH, epochs=1, verbose=0)
    old = {v.path: value for v, value in zip(
        model.optimizer.variables, numpy_of(model.optimizer.variables), strict=True
    )}  # fmt: skip
    kg.insert_(model, new_dense(), after="a")
    fresh = compiled(net_with_dense(), optimizers.Adam(0.02, use_ema=True))
    fresh.optimizer.build(fresh.trainable_variables)
    assert [tuple(v.shape) for v in model.optimizer.variables] == [
        tuple(v.shape) for v in fresh.optimizer.variables
    ]
    checked = 0
    for variable in model.optimizer.variables:
        value = keras.ops.convert_to_numpy(variable)
        if variable.path in old:
            np.testing.assert_array_equal(value, old[variable.path])
            checked += 1
        elif "average" in variable.path:
            kernel = "kernel" in variable.path
            np.testing.assert_array_equal(value, np.eye(4) if kernel else np.zeros(4))
        else:
            assert not value.any()
    assert checked == len(old)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    for a, b in zip(model.optimizer.variables, loaded.optimizer.variables, strict=True):
        np.testing.assert_array_equal(*numpy_of([a, b]))


def net_with_dense():
    inputs = keras.Input((FEATURES,), name="features")
    x = layers.Dense(4, activation="relu", name="a")(inputs)
    x = new_dense()(x)
    x = layers.Dense(3, activation="tanh", name="b")(x)
    return keras.Model(inputs, layers.Dense(CLASSES, name="scores")(x))


def test_early_stopping_restores_the_best_weights():
    data = points(BATCH * STEPS)
    model = compiled(net(), optimizers.SGD(0.1))
    stopping = keras.callbacks.EarlyStopping(
        monitor="loss", patience=1, mode="max", restore_best_weights=True
    )
    inserting = Inserting(data, at=STEPS + 3)
    model.fit(
        *data, batch_size=BATCH, epochs=5, shuffle=False, verbose=0,
        callbacks=[stopping, inserting],
    )  # fmt: skip
    assert inserting.state is not None
    # The best epoch was the first one, before the insertion: its weights, the new ones as inserted.
    again = compiled(net(), optimizers.SGD(0.1))
    assert len(model.get_weights()) == len(again.get_weights()) + 6
    np.testing.assert_array_equal(
        keras.ops.convert_to_numpy(model.get_layer("new").kernel), np.eye(4)
    )


def test_frozen_layers_keep_their_slots():
    data = points(BATCH * STEPS)
    model = compiled(net(), optimizers.SGD(0.02, momentum=0.9))
    model.fit(*data, batch_size=BATCH, verbose=0)
    slot = model.optimizer.momentums[0]
    model.get_layer("a").trainable = False
    kg.insert_(model, new_dense(), after="a")
    copy = kg.insert(model, layers.Dense(4), after="a")
    assert model.optimizer.momentums[0] is slot
    assert len(model.optimizer.momentums) == len(model.trainable_variables) + 2
    np.testing.assert_array_equal(*numpy_of([copy.optimizer.momentums[0], slot]))
    model.get_layer("a").trainable = True
    model.train_on_batch(data[0][:BATCH], data[1][:BATCH])
