"""Optimizer slots at growth: old entries bit for bit, new ones at their documented value.

The slots are filled with random numbers instead of by training, so that every entry counts and
nothing needs to be compiled. Where old entries lie is worked out here, not asked of keras_grow.
"""

import keras
import numpy as np
import pytest
from helpers.fitting import (
    compiled,
    dense,
    give_state,
    numpy_of,
    points,
    relu_with_slope,
    same_arrays,
    state_of,
)
from keras import layers, ops

import keras_grow as kg

opt = keras.optimizers

# By name: the optimizer, how many slots the 3 kernels and 3 biases have in all, what new entries
# start at: a number, or "weight".
CASES = {
    "sgd": (lambda: opt.SGD(0.1), 0, 0.0),
    "sgd momentum": (lambda: opt.SGD(0.1, momentum=0.9), 6, 0.0),
    "sgd nesterov": (lambda: opt.SGD(0.1, momentum=0.9, nesterov=True), 6, 0.0),
    "adam": (lambda: opt.Adam(), 12, 0.0),
    "adam amsgrad": (lambda: opt.Adam(amsgrad=True), 18, 0.0),
    "adamw": (lambda: opt.AdamW(), 12, 0.0),
    "rmsprop": (lambda: opt.RMSprop(), 6, 0.0),
    "rmsprop centered momentum": (lambda: opt.RMSprop(momentum=0.9, centered=True), 18, 0.0),
    "accumulation": (lambda: opt.SGD(momentum=0.9, gradient_accumulation_steps=4), 12, 0.0),
    "nadam": (lambda: opt.Nadam(), 12, 0.0),
    "adamax": (lambda: opt.Adamax(), 12, 0.0),
    "adadelta": (lambda: opt.Adadelta(), 12, 0.0),
    "lion": (lambda: opt.Lion(), 6, 0.0),
    "lamb": (lambda: opt.Lamb(), 12, 0.0),
    "adagrad": (lambda: opt.Adagrad(initial_accumulator_value=0.25), 6, 0.25),
    # r and c of the kernels, v of all
    "adafactor": (lambda: opt.Adafactor(), 12, 0.0),
    # momentum of all, velocities of the biases and of what AdamW trains
    "muon": (lambda: opt.Muon(exclude_layers=["scores"]), 10, 0.0),
    "ema": (lambda: opt.SGD(use_ema=True), 6, "weight"),
}
HERE = hasattr(opt, "ScheduleFreeAdamW")  # from Keras 3.14 on
SEVERAL = hasattr(opt, "MultiOptimizer")  # from Keras 3.15 on
# Tested by themselves.
OTHERS = {"Ftrl", "ScheduleFreeAdamW", "LossScaleOptimizer", "MultiOptimizer", "Optimizer"}


def test_every_optimizer_of_keras_is_known():
    classes = {
        name
        for name, value in vars(opt).items()
        if isinstance(value, type) and issubclass(value, opt.Optimizer)
    }
    assert classes <= OTHERS | {type(make()).__name__ for make, _, _ in CASES.values()}


def flattening(channels=3):
    x = inputs = keras.Input((3, 2, 1))
    x = layers.Conv2D(channels, 2, padding="same", activation="tanh", name="a")(x)
    x = layers.Flatten(data_format="channels_last")(x)
    return keras.Model(inputs, layers.Dense(2, name="scores")(x))


def fill(optimizer, trained):
    """Builds the optimizer and gives every slot of a trained variable random values."""
    rng = np.random.default_rng(0)
    optimizer.build(trained)
    for variable in optimizer.variables:
        if len(variable.shape):
            variable.assign(rng.uniform(1, 2, variable.shape))
    optimizer._iterations.assign(123 * (optimizer.gradient_accumulation_steps or 1))


def slots(optimizer):
    """Slot values in the optimizer's own order; all but the scalars it keeps."""
    return [v for v in numpy_of(optimizer.variables) if v.ndim]


def assert_grown(before, after, starts):
    """Old entries stand first, unchanged, along every axis; the rest holds `starts`."""
    for old, new, start in zip(before, after, starts, strict=True):
        kept = tuple(slice(n) for n in old.shape)
        assert new.dtype == old.dtype
        np.testing.assert_array_equal(new[kept], old)
        rest = np.ones(new.shape, bool)
        rest[kept] = False
        np.testing.assert_array_equal(new[rest], np.broadcast_to(start, new.shape)[rest])


@pytest.mark.parametrize("name", CASES)
def test_slots_of_a_dense_model(name):
    make, count, start = CASES[name]
    model = compiled(dense(), make())
    optimizer = model.optimizer
    fill(optimizer, model.trainable_variables)
    before = slots(optimizer)
    assert len(before) == count
    kg.grow_(model, {"a": 6, "b": 5}, seed=0)
    after = slots(optimizer)
    assert model.optimizer is optimizer
    assert int(optimizer.iterations) == 123
    fresh = make()
    fresh.build(dense(6, 5).trainable_variables)
    assert [v.shape for v in after] == [v.shape for v in slots(fresh)]
    weights = numpy_of(model.trainable_variables)
    assert_grown(before, after, weights if start == "weight" else [np.float32(start)] * count)
    if start == "weight":
        assert (after[0][:, 4:] != 0).all()  # the fan-in of the new neurons of "a"


@pytest.mark.skipif(not HERE, reason="this Keras has no ScheduleFreeAdamW")
def test_the_iterate_of_schedule_free_adamw_is_the_new_weights():
    model = compiled(dense(), opt.ScheduleFreeAdamW())
    fill(model.optimizer, model.trainable_variables)
    before = slots(model.optimizer)
    kg.grow_(model, {"a": 6, "b": 5}, seed=0)
    weights = numpy_of(model.trainable_variables)
    starts = [start for weight in weights for start in (weight, np.float32(0))]
    assert_grown(before, slots(model.optimizer), starts)


@pytest.mark.parametrize("l1", [0.0, 0.01])
def test_ftrl_does_not_move_new_weights_without_a_gradient(l1):
    """It computes weights from its slots, and would put new ones to zero otherwise."""
    settings = {"l1_regularization_strength": l1, "l2_regularization_strength": 0.02, "beta": 0.1}
    model = compiled(dense(), opt.Ftrl(0.05, initial_accumulator_value=0.3, **settings))
    fill(model.optimizer, model.trainable_variables)
    before = slots(model.optimizer)
    kg.grow_(model, {"a": 6, "b": 5}, seed=0)
    after = slots(model.optimizer)
    assert_grown(before[::2], after[::2], [np.float32(0.3)] * 6)  # accumulators
    assert_grown(before[1::2], after[1::2], after[1::2])  # old entries of `linear`
    weights = numpy_of(model.trainable_variables)
    zeros = [np.zeros_like(w) for w in weights]
    model.optimizer.apply([ops.convert_to_tensor(z) for z in zeros], model.trainable_variables)
    for new, old, shape in zip(
        numpy_of(model.trainable_variables),
        weights,
        [(5, 4), (4,), (4, 3), (3,), (3, 3), (3,)],
        strict=True,
    ):
        rest = np.ones(old.shape, bool)
        rest[tuple(slice(n) for n in shape)] = False
        np.testing.assert_allclose(new[rest], old[rest], rtol=1e-5, atol=1e-7)
    assert (np.abs(weights[0][:, 4:]) > 1e-3).all()


def test_factored_slots_move_with_rows_and_groups():
    """Adafactor's r lacks a kernel's last axis, c the one before."""
    x = inputs = keras.Input((4, 4, 1))
    x = layers.Conv2D(4, 2, padding="same", activation="tanh", name="a")(x)
    x = layers.Conv2D(6, 2, padding="same", groups=2, name="grouped")(x)
    x = layers.Flatten(data_format="channels_last")(x)
    model = compiled(keras.Model(inputs, layers.Dense(2, name="scores")(x)), opt.Adafactor())
    model.optimizer.build(model.trainable_variables)
    fill(model.optimizer, model.trainable_variables)
    before = slots(model.optimizer)
    kg.grow_(model, {"a": 6, "grouped": 8}, seed=0)
    after = slots(model.optimizer)
    # In the order r, c, v of "a"'s kernel, v of its bias, the same of "grouped" and "scores".
    assert [v.shape for v in after] == [
        (2, 2, 1), (2, 2, 6), (2, 2, 1, 6), (6,),
        (2, 2, 3), (2, 2, 8), (2, 2, 3, 8), (8,),
        (128,), (2,), (128, 2), (2,),
    ]  # fmt: skip
    np.testing.assert_array_equal(after[0], before[0])
    channels = [0, 1, 3, 4]  # each group reads two old ones and a new one
    np.testing.assert_array_equal(after[1][..., channels], before[1])
    assert (after[1][..., [2, 5]] == 0).all()
    np.testing.assert_array_equal(after[4], np.pad(before[4], ((0, 0), (0, 0), (0, 1))))
    filters = [0, 1, 2, 4, 5, 6]  # each group has three old ones and a new one
    np.testing.assert_array_equal(after[5][..., filters], before[5])
    assert (after[5][..., [3, 7]] == 0).all()
    rows = after[8].reshape(16, 8)
    np.testing.assert_array_equal(rows[:, filters], before[8].reshape(16, 6))
    assert (rows[:, [3, 7]] == 0).all()
    np.testing.assert_array_equal(after[9], before[9])


def test_slots_move_with_the_rows_of_a_flattened_kernel():
    model = compiled(flattening(), opt.SGD(0.1, momentum=0.9))
    fill(model.optimizer, model.trainable_variables)
    old = slots(model.optimizer)[2].reshape(3, 2, 3, 2)
    kg.grow_(model, {"a": 5}, seed=0)
    new = slots(model.optimizer)[2].reshape(3, 2, 5, 2)
    np.testing.assert_array_equal(new[:, :, :3], old)
    assert (new[:, :, 3:] == 0).all()


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


class Unknown(opt.SGD):
    """Keeps something of its own for every variable, of the variable's shape or another."""

    def __init__(self, learning_rate=0.1, whole=True):
        super().__init__(learning_rate)
        self.whole = whole

    def build(self, variables):
        super().build(variables)
        self.sums = [self.add_variable(v.shape if self.whole else v.shape[:1]) for v in variables]


class Hidden(opt.SGD):
    """Keeps it where no slots are looked for."""

    def build(self, variables):
        super().build(variables)
        self.sums = {v.path: self.add_variable(v.shape, name="sums") for v in variables}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (Unknown, "Unknown keeps a slot 'sums'"),
        (lambda: Unknown(whole=False), "Unknown keeps a slot 'sums'"),
        (Hidden, "Hidden keeps '.*sums' of shape"),
    ],
)
def test_an_optimizer_with_unknown_slots_is_refused_and_nothing_changes(make, message):
    model = compiled(dense(), make())
    model.optimizer.build(model.trainable_variables)
    weights, state = numpy_of(model.weights), numpy_of(model.optimizer.variables)
    with pytest.raises(kg.GrowthError, match=message) as failure:
        kg.grow_(model, {"a": 6})
    assert "Use an optimizer of keras.optimizers" in str(failure.value)
    assert same_arrays(weights, numpy_of(model.weights))
    assert same_arrays(state, numpy_of(model.optimizer.variables))


# --- several optimizers at once -----------------------------------------------------------------


def several(wrapped=False, **names):
    """Adam trains "b" and what is called "new", SGD the rest."""
    both = {"b": opt.Adam(0.02), "new": opt.Adam(0.03)}
    chosen = {**{f"{name}/.*": one for name, one in both.items()}, **names}
    optimizer = opt.MultiOptimizer(opt.OptimizerMap(opt.SGD(0.1, momentum=0.9), chosen))
    return opt.LossScaleOptimizer(optimizer, initial_scale=16.0) if wrapped else optimizer


only_several = pytest.mark.skipif(not SEVERAL, reason="this Keras has no MultiOptimizer")


def goes_on_as(model, fresh, steps=3):
    """Both have the same losses from the same state on."""
    x, y = points(8)
    give_state(fresh, state_of(model))
    model.reset_metrics()
    losses = [[float(net.train_on_batch(x, y)) for net in (model, fresh)] for _ in range(steps)]
    ours, expected = np.transpose(losses)
    np.testing.assert_allclose(ours, expected, rtol=1e-5)
    assert np.ptp(expected) > 1e-3


@only_several
@pytest.mark.parametrize("wrapped", [False, True])
def test_growing_under_several_optimizers(wrapped):
    model = compiled(dense(relu="tanh"), several(wrapped))
    x, y = points(8)
    model.train_on_batch(x, y)
    before = slots(model.optimizer)
    kg.grow_(model, {"a": 6, "b": 5}, seed=0)
    assert_grown(before, slots(model.optimizer), [np.float32(0)] * len(before))
    goes_on_as(model, compiled(dense(6, 5, relu="tanh"), several(wrapped)))


@only_several
def test_a_widened_copy_has_several_optimizers_of_its_own():
    model = compiled(dense(relu="tanh"), several())
    x, y = points(8)
    model.train_on_batch(x, y)
    before = numpy_of(model.optimizer.variables)
    wide = kg.widen(model, {"a": 6}, seed=0)
    assert wide.optimizer.optimizers[0] is not model.optimizer.optimizers[0]
    goes_on_as(wide, compiled(dense(6, relu="tanh"), several()))
    assert same_arrays(before, numpy_of(model.optimizer.variables))


def deeper(name="new"):
    inputs = keras.Input((5,), name="features")
    x = layers.Dense(4, activation="tanh", name="a")(inputs)
    x = layers.Dense(4, name=name)(x)
    x = layers.Dense(3, activation="tanh", name="b")(x)
    return keras.Model(inputs, layers.Dense(3, name="scores")(x), name="net")


@only_several
@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("name", ["new", "other"])
def test_new_layers_under_several_optimizers(name, wrapped):
    """The map says who trains a new layer: an optimizer without work so far, or one with some."""
    model = compiled(dense(relu="tanh"), several(wrapped))
    x, y = points(8)
    model.train_on_batch(x, y)
    kept = {id(v) for v in model.optimizer.variables}
    kg.insert_(model, layers.Dense(4, name=name), after="a")
    assert kept <= {id(v) for v in model.optimizer.variables}
    goes_on_as(model, compiled(deeper(name), several(wrapped)))


@only_several
def test_an_optimizer_for_every_variable():
    def each(variable):
        return opt.SGD(0.1, momentum=0.9) if "kernel" in variable.path else opt.Adam(0.02)

    model = compiled(dense(relu="tanh"), opt.MultiOptimizer(each))
    x, y = points(8)
    model.train_on_batch(x, y)
    kg.insert_(model, layers.Dense(4, name="new"), after="a")
    assert len(model.optimizer.optimizers) == 8
    kg.grow_(model, {"b": 5}, seed=0)
    fresh = compiled(deeper(), opt.MultiOptimizer(each))
    kg.grow_(fresh, {"b": 5}, seed=0)
    goes_on_as(model, fresh)


@only_several
@pytest.mark.backend("torch")
def test_what_cannot_train_a_new_layer_is_refused_and_nothing_changes():
    def each(variable):
        if "new" in variable.path:
            return opt.LossScaleOptimizer(opt.SGD()) if variable.name == "bias" else shared
        return shared

    shared = opt.Adam(0.02)
    model = compiled(dense(), opt.MultiOptimizer(each))
    x, y = points(8)
    model.train_on_batch(x, y)
    before, kept = numpy_of(model.optimizer.variables), list(map(id, model.optimizer.variables))
    with pytest.raises(kg.GrowthError, match="must name an optimizer for 'new/bias'"):
        kg.insert_(model, layers.Dense(4, name="new"), after="a")
    assert kept == list(map(id, model.optimizer.variables))
    assert same_arrays(before, numpy_of(model.optimizer.variables))
    model.train_on_batch(x, y)


def test_muon_that_has_handed_adamw_nothing_takes_up_a_layer_with_a_bias():
    def make():
        return opt.Muon(0.02)

    inputs = keras.Input((5,))
    x = layers.Dense(4, use_bias=False, name="a")(inputs)
    model = keras.Model(inputs, layers.Dense(3, use_bias=False, name="scores")(x))
    compiled(model, make())
    x, y = points(8)
    model.train_on_batch(x, y)
    kg.insert_(model, layers.Dense(4, name="new"), after="a")
    fresh = compiled(keras.models.clone_model(model), make())
    goes_on_as(model, fresh)
