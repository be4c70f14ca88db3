"""Optimizer slots at growth: old entries bit for bit, new ones at their documented value.

The slots are filled with random numbers instead of by training, so that every entry counts and
nothing needs to be compiled. Where old entries lie is worked out here, not asked of keras_grow.
"""

import keras
import numpy as np
import pytest
from fit.harness import compiled, dense, numpy_of, relu_with_slope, same_arrays
from keras import layers, ops

import keras_grow as kg

opt = keras.optimizers

# By name: the optimizer, how many slots each trained variable has, what new entries start at.
CASES = {
    "sgd": (lambda: opt.SGD(0.1), 0, 0.0),
    "sgd momentum": (lambda: opt.SGD(0.1, momentum=0.9), 1, 0.0),
    "adam": (lambda: opt.Adam(), 2, 0.0),
    "adam amsgrad": (lambda: opt.Adam(amsgrad=True), 3, 0.0),
    "adamw": (lambda: opt.AdamW(), 2, 0.0),
    "rmsprop": (lambda: opt.RMSprop(), 1, 0.0),
    "rmsprop centered momentum": (lambda: opt.RMSprop(momentum=0.9, centered=True), 3, 0.0),
    "accumulation": (lambda: opt.SGD(momentum=0.9, gradient_accumulation_steps=4), 2, 0.0),
    "nadam": (lambda: opt.Nadam(), 2, 0.0),
    "adamax": (lambda: opt.Adamax(), 2, 0.0),
    "adadelta": (lambda: opt.Adadelta(), 2, 0.0),
    "lion": (lambda: opt.Lion(), 1, 0.0),
    "lamb": (lambda: opt.Lamb(), 2, 0.0),
    "adagrad": (lambda: opt.Adagrad(initial_accumulator_value=0.25), 1, 0.25),
}


def flattening(channels=3):
    x = inputs = keras.Input((3, 2, 1))
    x = layers.Conv2D(channels, 2, padding="same", activation="tanh", name="a")(x)
    x = layers.Flatten(data_format="channels_last")(x)
    return keras.Model(inputs, layers.Dense(2, name="scores")(x))


def fill(optimizer, trained):
    """Builds the optimizer and gives every slot of a trained variable random values."""
    rng = np.random.default_rng(0)
    optimizer.build(trained)
    shapes = {tuple(v.shape) for v in trained}
    for variable in optimizer.variables:
        if tuple(variable.shape) in shapes and len(variable.shape):
            variable.assign(rng.uniform(1, 2, variable.shape))
    optimizer._iterations.assign(123 * (optimizer.gradient_accumulation_steps or 1))


def slots(optimizer):
    """Slot values in the optimizer's own order; all but the scalars it keeps."""
    return [v for v in numpy_of(optimizer.variables) if v.ndim]


@pytest.mark.parametrize("name", CASES)
def test_slots_of_a_dense_model(name):
    make, count, start = CASES[name]
    model = compiled(dense(), make())
    optimizer = model.optimizer
    fill(optimizer, model.trainable_variables)
    before = slots(optimizer)
    assert len(before) == count * 6
    kg.grow_(model, {"a": 6, "b": 5}, seed=0)
    after = slots(optimizer)
    shapes = [(5, 6), (6,), (6, 5), (5,), (5, 3), (3,)]
    assert model.optimizer is optimizer
    assert int(optimizer.iterations) == 123
    assert sorted(v.shape for v in after) == sorted(shapes * count)
    for old, new in zip(before, after, strict=True):
        kept = tuple(slice(n) for n in old.shape)
        assert new.dtype == old.dtype
        np.testing.assert_array_equal(new[kept], old)
        rest = np.ones(new.shape, bool)
        rest[kept] = False
        assert (new[rest] == np.float32(start)).all()


def test_slots_move_with_the_rows_of_a_flattened_kernel():
    model = compiled(flattening(), opt.SGD(0.1, momentum=0.9))
    fill(model.optimizer, model.trainable_variables)
    old = slots(model.optimizer)[2].reshape(3, 2, 3, 2)
    kg.grow_(model, {"a": 5}, seed=0)
    new = slots(model.optimizer)[2].reshape(3, 2, 5, 2)
    np.testing.assert_array_equal(new[:, :, :3], old)
    assert (new[:, :, 3:] == 0).all()


def test_new_entries_of_the_moving_average_are_the_new_weights():
    model = compiled(dense(), opt.SGD(0.1, use_ema=True, ema_momentum=0.9))
    fill(model.optimizer, model.trainable_variables)
    before = slots(model.optimizer)
    kg.grow_(model, {"a": 6}, seed=0)
    after = slots(model.optimizer)
    weights = numpy_of(model.trainable_variables)
    for old, new, weight in zip(before, after, weights, strict=True):
        kept = tuple(slice(n) for n in old.shape)
        np.testing.assert_array_equal(new[kept], old)
        rest = np.ones(new.shape, bool)
        rest[kept] = False
        np.testing.assert_array_equal(new[rest], weight[rest])
    assert (after[0][:, 4:] != 0).all()  # the fan-in of the new neurons of "a"


def test_loss_scale_optimizer_grows_the_inner_one_and_keeps_its_own_scale():
    inner = opt.Adam()
    model = compiled(dense(), opt.LossScaleOptimizer(inner, initial_scale=64.0))
    model.optimizer.build(model.trainable_variables)
    fill(inner, model.trainable_variables)
    before = slots(inner)
    kg.grow_(model, {"a": 6}, seed=0)
    after = slots(inner)
    assert len(after) == len(before) == 12
    for old, new in zip(before, after, strict=True):
        np.testing.assert_array_equal(new[tuple(slice(n) for n in old.shape)], old)
    assert float(ops.convert_to_numpy(model.optimizer.dynamic_scale)) == 64.0
    assert int(inner.iterations) == 123


def test_layers_that_do_not_grow_keep_their_slots():
    model = compiled(dense(relu=relu_with_slope), opt.Adam())
    with pytest.raises(kg.GrowthError, match="relu_with_slope"):
        kg.grow_(model, {"a": 6})
    fill(model.optimizer, model.trainable_variables)
    before = numpy_of(model.optimizer.variables)
    kg.grow_(model, {"b": 5}, seed=0)
    after = numpy_of(model.optimizer.variables)
    same = [same_arrays([a], [b]) for a, b in zip(before, after, strict=True)]
    # iterations, learning rate, a's kernel and bias twice, the bias of the scores twice
    assert sum(same) == 2 + 4 + 2


def test_an_optimizer_with_unknown_slots_is_refused_and_nothing_changes():
    model = compiled(dense(), opt.Adafactor())
    model.optimizer.build(model.trainable_variables)
    weights, state = numpy_of(model.weights), numpy_of(model.optimizer.variables)
    with pytest.raises(kg.GrowthError, match="Adafactor keeps a slot") as failure:
        kg.grow_(model, {"a": 6})
    assert "Use SGD, Adam, AdamW or RMSprop" in str(failure.value)
    assert same_arrays(weights, numpy_of(model.weights))
    assert same_arrays(state, numpy_of(model.optimizer.variables))
