"""After growth in `fit`, training goes on as that of a fresh model given the same state would.

The fresh model is built by the same builder with the new widths, so nothing of the surgery is in
it: stale variables or gradients, lost moments and wrong optimizer bookkeeping all show as losses
that drift apart.
"""

import keras
import numpy as np
import pytest
from helpers.fitting import (
    Snapshot,
    StepLosses,
    compiled,
    dense,
    give_state,
    points,
    relu_with_slope,
    train_on_batches,
)
from keras import layers, ops

import keras_grow as kg

BATCH, STEPS, GROW_AT = 8, 16, 7
AFTER = 20

optimizers = keras.optimizers


def adamw(model, names=("bias",)):
    optimizer = optimizers.AdamW(0.02, weight_decay=2.0)
    optimizer.exclude_from_weight_decay(
        var_list=[model.get_layer("a").kernel], var_names=list(names)
    )
    return optimizer


OPTIMIZERS = {
    "sgd momentum, schedule": lambda m: optimizers.SGD(
        optimizers.schedules.ExponentialDecay(0.1, 5, 0.7), momentum=0.9
    ),
    "sgd nesterov, gradient accumulation": lambda m: optimizers.SGD(
        0.1, momentum=0.9, nesterov=True, gradient_accumulation_steps=3
    ),
    "adam amsgrad, ema": lambda m: optimizers.Adam(
        0.02, amsgrad=True, use_ema=True, ema_momentum=0.8, ema_overwrite_frequency=3
    ),
    "adamw with exclusions": adamw,
    "rmsprop centered momentum": lambda m: optimizers.RMSprop(0.005, momentum=0.9, centered=True),
    "loss scale adam": lambda m: optimizers.LossScaleOptimizer(
        optimizers.Adam(0.02), initial_scale=256.0, dynamic_growth_steps=4
    ),
}


def grow_in_fit(model, data, amount=2, grow_at=GROW_AT, method="random", epochs=2, **callback):
    """Trains with one growth in the middle; returns losses, the state right after it, callback."""
    growth = kg.GrowthCallback(
        data,
        method=method,
        schedule=kg.schedules.Every(grow_at, times=1),
        selector=kg.selectors.All(amount=amount),
        **callback,
    )
    record, snapshot = StepLosses(), Snapshot(growth)
    model.fit(
        *data,
        batch_size=BATCH,
        epochs=epochs,
        shuffle=False,
        verbose=0,
        callbacks=[growth, snapshot, record],
    )
    assert len(growth.events) == 1
    assert growth.events[0].error is None
    return record, snapshot, growth


def assert_goes_on(record, snapshot, fresh, data):
    """Checks every loss after the growth against those of `fresh`, continued from the snapshot."""
    give_state(fresh, snapshot.state)
    expected = train_on_batches(fresh, *data, BATCH, snapshot.step, record.steps[-1])
    after = [i for i, step in enumerate(record.steps) if step > snapshot.step]
    # One entry a block of steps: compare means over the blocks.
    block = (record.steps[-1] - snapshot.step) // len(after)
    expected = np.reshape(expected, (len(after), block)).mean(axis=1)
    assert len(after) * block >= AFTER
    np.testing.assert_allclose(np.array(record.losses)[after], expected, rtol=1e-4)
    # The comparison can tell models apart: the loss moves by much more than the tolerance.
    assert np.ptp(expected) > 1e-2


# Compiling takes long on JAX, and test_slots.py has these there too.
NOT_ON_JAX = {"rmsprop centered momentum"}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(n, marks=pytest.mark.backend("tensorflow", "torch") if n in NOT_ON_JAX else ())
        for n in OPTIMIZERS
    ],
)
def test_optimizers_go_on(name):
    data = points(BATCH * STEPS)
    model = dense()
    compiled(model, OPTIMIZERS[name](model))
    record, snapshot, _ = grow_in_fit(model, data, verify=False)
    assert [model.get_layer(n).units for n in "ab"] == [6, 5]
    fresh = dense(a=6, b=5, relu=relu_with_slope)
    compiled(fresh, OPTIMIZERS[name](fresh))
    assert_goes_on(record, snapshot, fresh, data)
    steps = record.steps[-1]
    done = model.optimizer.iterations
    if name == "loss scale adam":
        done = model.optimizer.inner_optimizer.iterations
    assert int(done) == (steps // 3 if "accumulation" in name else steps)
    if "schedule" in name:
        rate = float(ops.convert_to_numpy(model.optimizer.learning_rate))
        assert rate == pytest.approx(0.1 * 0.7 ** (steps / 5), rel=1e-5)


MODES = {
    "XLA": ("tensorflow", {"jit_compile": True}),
    "tf steps": ("tensorflow", {"steps_per_execution": 4, "jit_compile": False}),
    "tf eager": ("tensorflow", {"run_eagerly": True}),
    "jax eager": ("jax", {"run_eagerly": True}),
    "jax steps": ("jax", {"steps_per_execution": 2}),
}


@pytest.mark.parametrize(
    "arguments",
    [pytest.param(a, id=name, marks=pytest.mark.backend(b)) for name, (b, a) in MODES.items()],
)
def test_ways_of_running_go_on(arguments):
    data = points(BATCH * STEPS)
    model = compiled(dense(), optimizers.SGD(0.1, momentum=0.9), **arguments)
    record, snapshot, _ = grow_in_fit(model, data)
    assert len(record.steps) == 2 * STEPS // arguments.get("steps_per_execution", 1)
    fresh = compiled(dense(a=6, b=5, relu=relu_with_slope), optimizers.SGD(0.1, momentum=0.9))
    assert_goes_on(record, snapshot, fresh, data)


def convolutional(a=3, b=3, relu="relu"):
    """BatchNorm, ReLU layer, Dropout, pooling, Flatten; "a" and "b" can grow."""
    x = inputs = keras.Input((6, 6, 2))
    x = layers.Conv2D(a, 3, padding="same", use_bias=False, name="a")(x)
    x = layers.BatchNormalization(momentum=0.6)(x)
    x = layers.ReLU()(x) if relu == "relu" else layers.Lambda(relu)(x)
    x = layers.AveragePooling2D(2)(x)
    x = layers.Dropout(0.4, seed=3)(x)
    x = layers.Flatten()(x)
    x = layers.Dense(b, activation=relu, name="b")(x)
    return keras.Model(inputs, layers.Dense(3)(x))


def test_batchnorm_dropout_flatten_go_on():
    rng = np.random.default_rng(0)
    y = np.arange(BATCH * STEPS) % 3
    x = (rng.standard_normal((len(y), 6, 6, 2)) + y[:, None, None, None] / 2).astype("float32")
    model = compiled(convolutional(), optimizers.SGD(0.05, momentum=0.9))
    record, snapshot, _ = grow_in_fit(model, (x, y))
    fresh = convolutional(a=5, b=5, relu=relu_with_slope)
    compiled(fresh, optimizers.SGD(0.05, momentum=0.9))
    assert_goes_on(record, snapshot, fresh, (x, y))


@pytest.mark.backend("tensorflow", "torch")
def test_two_growths_go_on_from_the_second():
    data = points(BATCH * STEPS)
    model = compiled(dense(), optimizers.Adam(0.02))
    growth = kg.GrowthCallback(
        data,
        method="random",
        schedule=kg.schedules.Every(3, times=2),
        selector=kg.selectors.All(amount=1),
    )
    record, snapshot = StepLosses(), Snapshot(growth, number=1)
    model.fit(
        *data,
        batch_size=BATCH,
        epochs=2,
        shuffle=False,
        verbose=0,
        callbacks=[growth, snapshot, record],
    )
    assert [e.step for e in growth.events] == [3, 6]
    fresh = compiled(dense(a=6, b=5, relu=relu_with_slope), optimizers.Adam(0.02))
    assert_goes_on(record, snapshot, fresh, data)
