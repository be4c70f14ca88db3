"""Warm-up of new weights: they move a part of the optimizer's step, old ones exactly all of it.

What the whole step is comes from a second model of the same widths that is given the same state
before every step. Which entries are new is worked out here, not asked of keras_grow.
"""

import keras
import numpy as np
import pytest
from helpers.fitting import (
    WIDTHS,
    compiled,
    dense,
    give_state,
    numpy_of,
    points,
    relu_with_slope,
    same_arrays,
    state_of,
)
from keras import layers

import keras_grow as kg
from keras_grow.training import warmup as warmup_module
from keras_grow.training.warmup import Warmup

opt = keras.optimizers
X, Y = points(16)

OPTIMIZERS = {
    "sgd momentum": lambda: opt.SGD(0.2, momentum=0.9),
    "adamw": lambda: opt.AdamW(0.05, weight_decay=0.5),
    "adafactor": lambda: opt.Adafactor(0.1),
    "loss scale": lambda: opt.LossScaleOptimizer(opt.Adam(0.05), initial_scale=16.0),
}


def new_of_dense(before, after):
    """Masks of new entries of the weights of `dense()` that grew from widths to widths."""
    a, b = before
    masks = [np.ones(shape, bool) for shape in ((5, after[0]), after[:1], after, after[1:])]
    masks += [np.ones((after[1], 3), bool), np.zeros(3, bool)]
    masks[0][:, :a], masks[1][:a], masks[2][:a, :b], masks[3][:b] = (False,) * 4
    masks[4][:b] = False
    return masks


def step_with_reference(model, reference):
    """One step of both from the same state: weights before, after the whole step, of `model`."""
    if reference.optimizer.built:  # building a LossScaleOptimizer twice doubles its variables
        for old, new in (
            (reference.weights, model.weights),
            (reference.optimizer.variables, model.optimizer.variables),
        ):
            for variable, value in zip(old, numpy_of(new), strict=True):
                variable.assign(value)
    else:
        give_state(reference, state_of(model))
    before = numpy_of(model.trainable_variables)
    model.train_on_batch(X, Y)
    reference.train_on_batch(X, Y)
    return before, numpy_of(reference.trainable_variables)


def assert_part(model, before, whole, ages, steps):
    """New entries, `ages` steps old, moved (age + 1) / steps of the way; old ones all of it."""
    moved = False
    for value, old, new, age in zip(
        numpy_of(model.trainable_variables), before, whole, ages, strict=True
    ):
        held = age < steps - 1
        part = np.minimum((age + 1) / steps, 1.0)
        expected = old + part * (new.astype("float64") - old)
        np.testing.assert_allclose(value[held], expected[held], rtol=1e-6, atol=1e-7)
        np.testing.assert_array_equal(value[~held], new[~held])
        moved |= bool((np.abs(new - old)[held] > 1e-3).any())
    return moved


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_new_weights_move_a_rising_part_of_the_step(name):
    model = compiled(dense(relu="tanh"), OPTIMIZERS[name]())
    model.train_on_batch(X, Y)
    growth = kg.grow_(model, {"a": 6, "b": 5}, seed=0)
    reference = compiled(dense(6, 5, relu="tanh"), OPTIMIZERS[name]())
    steps = 3
    warmup = Warmup(steps)
    assert not warmup.active
    warmup.note(growth.plan)
    new = new_of_dense((4, 3), (6, 5))
    for step in range(steps - 1):
        assert warmup.active
        before, whole = step_with_reference(model, reference)
        warmup.step()
        ages = [np.where(n, step, 1000) for n in new]
        assert assert_part(model, before, whole, ages, steps)
    # Step number `steps` is the whole one.
    assert not warmup.active
    before, whole = step_with_reference(model, reference)
    assert same_arrays(numpy_of(model.trainable_variables), whole)


def test_a_second_growth_during_a_warm_up():
    model = compiled(dense(relu="tanh"), opt.SGD(0.2, momentum=0.9))
    model.train_on_batch(X, Y)
    steps = 4
    warmup = Warmup(steps)
    warmup.note(kg.grow_(model, {"a": 6, "b": 5}, seed=0).plan)
    model.train_on_batch(X, Y)
    warmup.step()
    warmup.note(kg.grow_(model, {"a": 7}, seed=1).plan)
    reference = compiled(dense(7, 5, relu="tanh"), opt.SGD(0.2, momentum=0.9))
    first = new_of_dense((4, 3), (7, 5))
    second = new_of_dense((6, 5), (7, 5))
    ages = [np.where(s, 0, np.where(f, 1, 1000)) for f, s in zip(first, second, strict=True)]
    for step in range(steps - 1):
        assert warmup.active
        before, whole = step_with_reference(model, reference)
        warmup.step()
        assert_part(model, before, whole, [a + step for a in ages], steps)
    assert not warmup.active


def test_rows_of_a_flattened_kernel_and_per_channel_weights():
    x = inputs = keras.Input((3, 3, 1))
    x = layers.Conv2D(2, 2, padding="same", name="a")(x)
    x = layers.BatchNormalization(momentum=0.5, name="norm")(x)
    x = layers.Activation("tanh")(x)
    x = layers.Flatten(data_format="channels_last")(x)
    model = compiled(keras.Model(inputs, layers.Dense(3)(x)), opt.SGD(0.5))
    images = np.random.default_rng(1).standard_normal((16, 3, 3, 1)).astype("float32")
    model.train_on_batch(images, Y)
    warmup = Warmup(100)
    growth = kg.grow_(model, {"a": 3}, method="random", form="outgoing", seed=0)
    for variable in model.trainable_variables:  # from where everything has a gradient
        variable.assign(numpy_of([variable])[0] + 0.3)
    warmup.note(growth.plan)
    before = numpy_of(model.weights)
    model.train_on_batch(images, Y)
    whole = numpy_of(model.weights)
    warmup.step()
    after = numpy_of(model.weights)
    names = [v.path.split("/")[-2] + "/" + v.name for v in model.weights]
    for name, old, new, value in zip(names, before, whole, after, strict=True):
        mask = np.zeros(new.shape, bool)
        if new.shape == (27, 3):  # 9 positions of 3 channels, the last one new
            mask.reshape(9, 3, 3)[:, 2] = True
        elif "moving" not in name and new.shape[-1] == 3 and "dense" not in name:
            mask[..., 2] = True
        np.testing.assert_array_equal(value[~mask], new[~mask], err_msg=name)
        np.testing.assert_allclose(
            value[mask], (old + 0.01 * (new - old))[mask], rtol=1e-5, atol=1e-6, err_msg=name
        )
        if mask.any() and not name.endswith("a/bias"):  # which a normalisation makes useless
            assert (np.abs(new - old)[mask] > 1e-4).any(), name


class Growing(keras.callbacks.Callback):
    """Grows at one step of `fit`, then warms up as a growth callback does."""

    def __init__(self, at, steps):
        super().__init__()
        self.at, self.count, self.warmup, self.slopes = at, 0, Warmup(steps), kg.Slopes()
        self.moved = []

    def on_train_batch_end(self, batch, logs=None):
        self.count += 1
        if self.count == self.at:
            growth = kg.grow_(self.model, {"a": 6}, seed=0, form="outgoing", slopes=self.slopes)
            self.warmup.note(growth.plan)
            self.state = state_of(self.model)
        elif self.warmup.active:
            model = self.model  # on JAX this puts the state of the fit into the variables
            before = numpy_of(model.trainable_variables)
            self.warmup.step()
            self.moved.append((before, numpy_of(model.trainable_variables)))


def test_in_fit_the_next_step_goes_on_from_what_was_held_back():
    """One long warm-up in `fit` against the same by hand on a fresh model."""
    at, steps = 2, 50
    x, y = points(32)
    model = compiled(dense(), opt.SGD(0.2, momentum=0.9))
    growing = Growing(at, steps)
    model.fit(x, y, batch_size=8, epochs=2, shuffle=False, verbose=0, callbacks=[growing])
    fresh = compiled(dense(6, relu=relu_with_slope), opt.SGD(0.2, momentum=0.9))
    give_state(fresh, growing.state)
    new = new_of_dense(tuple(WIDTHS.values()), (6, 3))
    for step in range(8 - at):
        before = numpy_of(fresh.trainable_variables)
        rows = slice((at + step) % 4 * 8, (at + step) % 4 * 8 + 8)
        fresh.train_on_batch(x[rows], y[rows])
        for variable, old, mask in zip(fresh.trainable_variables, before, new, strict=True):
            whole = numpy_of([variable])[0]
            part = (step + 1) / steps
            variable.assign(np.where(mask, old + part * (whole - old), whole))
    for value, expected in zip(numpy_of(model.weights), numpy_of(fresh.weights), strict=True):
        np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-6)
    held, left = growing.moved[-1]
    assert not np.array_equal(held[2][4:], left[2][4:])


def test_a_block_of_steps_moves_the_mean_part():
    model = compiled(dense(relu="tanh"), opt.SGD(0.5))
    warmup = Warmup(10)
    warmup.note(kg.grow_(model, {"b": 5}, seed=0).plan)
    before = numpy_of(model.trainable_variables)
    model.train_on_batch(X, Y)
    whole = numpy_of(model.trainable_variables)
    warmup.step(4)  # parts 0.1, 0.2, 0.3, 0.4
    for value, old, new, mask in zip(
        numpy_of(model.trainable_variables),
        before,
        whole,
        new_of_dense((4, 3), (4, 5)),
        strict=True,
    ):
        np.testing.assert_allclose(value[mask], (old + 0.25 * (new - old))[mask], atol=1e-6)
    warmup.step(5)
    assert not warmup.active


def test_one_step_holds_nothing_back():
    model = compiled(dense(), opt.SGD(0.1))
    warmup = Warmup(1)
    warmup.note(kg.grow_(model, {"a": 6}, seed=0).plan)
    assert not warmup.active
    with pytest.raises(kg.GrowthError, match="steps must be a whole number of 1 or more"):
        Warmup(0)


# --- a warm-up where it is needed -----------------------------------------------------------------


def fitted(optimizer, warmup="auto", steps=12):
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((64, 6)).astype("float32")
    y = np.tanh(x @ rng.standard_normal((6, 4))).astype("float32")
    inputs = keras.Input((6,))
    hidden = keras.layers.Dense(5, activation="relu", name="p")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(4, name="c")(hidden))
    model.compile(optimizer, "mse")
    growth = kg.GrowthCallback(
        (x, y), schedule=kg.schedules.Every(8, times=1), selector=kg.selectors.All(3),
        warmup=warmup,
    )  # fmt: skip
    model.fit(x, y, batch_size=64, epochs=steps, verbose=0, shuffle=False, callbacks=[growth])
    (event,) = growth.events
    fan_out = np.array(keras.ops.convert_to_numpy(model.get_layer("c").kernel))[5:]
    return event, np.abs(fan_out).max()


def test_auto_holds_back_what_would_step_far_beyond_present_weights(monkeypatch):
    monkeypatch.setattr(warmup_module, "UNHURRIED", 0.1)
    event, held = fitted(keras.optimizers.Adam(0.01))
    ratio = event.sites[0].first_step
    assert ratio > 0.1
    monkeypatch.setattr(warmup_module, "STEPS_PER_RATIO", 4 / ratio)
    event, held = fitted(keras.optimizers.Adam(0.01))
    steps = 4
    assert f"new weights move slowly for {steps} steps" in event.notes[0]
    _, same = fitted(keras.optimizers.Adam(0.01), steps)
    np.testing.assert_allclose(held, same, rtol=1e-5)
    _, free = fitted(keras.optimizers.Adam(0.01), 0)
    assert held < 0.9 * free


def test_auto_lets_what_steps_like_present_weights_go():
    event, moved = fitted(keras.optimizers.SGD(0.05, momentum=0.9))
    assert not event.notes
    _, free = fitted(keras.optimizers.SGD(0.05, momentum=0.9), 0)
    np.testing.assert_allclose(moved, free, rtol=1e-6)


@pytest.mark.parametrize(
    ("first_steps", "steps"),
    [((), 0), ((None,), 0), ((12.0, None), 0), ((3.0, 20.0), 50), ((1e6,), 200)],
)
def test_steps_of_warm_up_by_what_is_foreseen(first_steps, steps):
    assert warmup_module.warmup_for(first_steps) == steps


def test_a_warm_up_that_there_is_not_is_refused():
    with pytest.raises(kg.GrowthError, match=r"or 'auto'\. Received: warmup='slow'"):
        kg.GrowthCallback((X, Y), warmup="slow")
