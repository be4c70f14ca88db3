"""What people train with goes on through growth: each against what it must be, worked out by hand.

Schedules of the learning rate, moving averages, gradient accumulation and clipping, loss scaling,
weight decay with exclusions, constraints and regularisers, and every optimizer of Keras.
"""

import keras
import numpy as np
import pytest
from helpers.fitting import compiled, give_state, numpy_of, points, same_arrays, state_of
from keras import layers, ops

import keras_grow as kg

opt = keras.optimizers
X, Y = points(32)
OLD, NEW = (4, 3), (6, 5)
BATCHES = [(X[i : i + 8], Y[i : i + 8]) for i in range(0, 32, 8)]
# Compiled steps are tested in test_continuation.py; without compiling these take seconds less.
EAGER = {"run_eagerly": keras.config.backend() != "torch"}


def net(widths=OLD, **arguments):
    """Two hidden layers without kinks, so that nothing has to be put in place for growth."""
    inputs = keras.Input((5,), name="features")
    x = layers.Dense(widths[0], activation="tanh", name="a", **arguments)(inputs)
    x = layers.Dense(widths[1], activation="tanh", name="b", **arguments)(x)
    return keras.Model(inputs, layers.Dense(3, name="scores")(x), name="net")


def trained(optimizer, steps=3, **arguments):
    model = compiled(net(**arguments), optimizer, **EAGER)
    train(model, steps)
    return model


def train(model, steps, start=0):
    losses = []
    for step in range(start, start + steps):
        model.reset_metrics()
        losses.append(float(model.train_on_batch(*BATCHES[step % len(BATCHES)])))
    return losses


def grow(model, form="auto"):
    kg.grow_(model, dict(zip("ab", NEW, strict=True)), seed=0, form=form)


def new_entries():
    """Masks of what is new in each weight of the grown net."""
    (a, b), (wide_a, wide_b) = OLD, NEW
    masks = [np.ones(s, bool) for s in ((5, wide_a), (wide_a,), NEW, (wide_b,), (wide_b, 3), (3,))]
    masks[0][:, :a] = masks[1][:a] = masks[2][:a, :b] = masks[3][:b] = False
    masks[4][:b] = masks[5][:] = False
    return masks


def gradients(model, batch):
    """Of every weight, from one step of plain gradient descent on a copy."""
    widths = tuple(model.get_layer(n).units for n in "ab")
    copy = compiled(net(widths), opt.SGD(1.0), **EAGER)
    copy.set_weights(model.get_weights())
    copy.train_on_batch(*batch)
    return [a - b for a, b in zip(model.get_weights(), copy.get_weights(), strict=True)]


# --- every optimizer ----------------------------------------------------------------------------

OPTIMIZERS = {
    "SGD": lambda: opt.SGD(0.1, momentum=0.9, nesterov=True),
    "RMSprop": lambda: opt.RMSprop(0.01, momentum=0.5, centered=True),
    "Adam": lambda: opt.Adam(0.02, amsgrad=True),
    "AdamW": lambda: opt.AdamW(0.02, weight_decay=0.5),
    "Adadelta": lambda: opt.Adadelta(5.0),
    "Adagrad": lambda: opt.Adagrad(0.1),
    "Adamax": lambda: opt.Adamax(0.02),
    "Adafactor": lambda: opt.Adafactor(0.1),
    "Nadam": lambda: opt.Nadam(0.02),
    "Ftrl": lambda: opt.Ftrl(0.1, l2_regularization_strength=0.001),
    "Lion": lambda: opt.Lion(0.01),
    "Lamb": lambda: opt.Lamb(0.02),
    "Muon": lambda: opt.Muon(0.02, exclude_layers=["scores"]),
    "ScheduleFreeAdamW": lambda: opt.ScheduleFreeAdamW(0.02),
    "LossScaleOptimizer": lambda: opt.LossScaleOptimizer(opt.Adam(0.02), initial_scale=8.0),
    "MultiOptimizer": lambda: opt.MultiOptimizer(
        opt.OptimizerMap(opt.SGD(0.1, momentum=0.9), {"b/.*": opt.Adam(0.02)})
    ),
}


def test_all_optimizers_are_here():
    classes = {k for k, v in vars(opt).items() if isinstance(v, type)}
    assert {c for c in classes if issubclass(getattr(opt, c), opt.Optimizer)} - {
        "Optimizer"
    } <= set(OPTIMIZERS)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training_goes_on_as_that_of_a_bigger_model_with_the_state_put_in(name):
    if not hasattr(opt, name):
        pytest.skip(f"this Keras has no {name}")
    model = trained(OPTIMIZERS[name]())
    before = numpy_of(model.optimizer.variables)
    outputs = model.predict_on_batch(X)
    grow(model)
    np.testing.assert_allclose(model.predict_on_batch(X), outputs, rtol=1e-5, atol=1e-6)
    state = state_of(model)
    for old, new in zip(before, state["optimizer"], strict=True):
        np.testing.assert_array_equal(new[tuple(slice(n) for n in old.shape)], old)
    fresh = compiled(net(NEW), OPTIMIZERS[name](), **EAGER)
    give_state(fresh, state)
    # Four steps: Lion may take one there and one back.
    losses, expected = train(model, 4, start=3), train(fresh, 4, start=3)
    np.testing.assert_allclose(losses, expected, rtol=1e-4)
    assert np.ptp(expected) > 1e-3
    for value, same, earlier, new in zip(
        model.get_weights(), fresh.get_weights(), state["weights"], new_entries(), strict=True
    ):
        np.testing.assert_allclose(value, same, rtol=1e-3, atol=1e-5)
        assert not new.any() or (np.abs(value - earlier)[new] > 1e-6).any()


# --- learning rates -----------------------------------------------------------------------------


class Steps(keras.callbacks.Callback):
    """Weights before the first step and after every one, and the learning rate of every step."""

    def on_train_begin(self, logs=None):
        self.weights, self.rates = [numpy_of(self.model.trainable_variables)], []

    def on_train_batch_begin(self, batch, logs=None):
        self.rates.append(float(ops.convert_to_numpy(self.model.optimizer.learning_rate)))

    def on_train_batch_end(self, batch, logs=None):
        self.weights.append(numpy_of(self.model.trainable_variables))


def fit_and_grow(model, at=3, epochs=3, callbacks=()):
    """Three epochs of four steps with a growth after step `at`."""
    growth = kg.GrowthCallback(
        (X, Y),
        method="random",
        schedule=kg.schedules.Every(at, times=1),
        selector=kg.selectors.All(amount=2),
    )
    steps = Steps()
    both = [growth, steps, *callbacks]
    model.fit(X, Y, batch_size=8, epochs=epochs, shuffle=False, verbose=0, callbacks=both)
    assert len(growth.events) == 1
    assert [model.get_layer(n).units for n in "ab"] == list(NEW)
    return steps


def assert_steps_of_gradient_descent(model, steps, at, rates):
    """Every recorded step was one of plain gradient descent with the rate it should have."""
    np.testing.assert_allclose(steps.rates, rates, rtol=1e-5)
    for step, (before, after) in enumerate(zip(steps.weights[:-1], steps.weights[1:], strict=True)):
        if step + 1 == at:
            continue  # `after` has grown
        twin = net(OLD if step < at else NEW)
        twin.set_weights(before)
        for old, new, gradient in zip(
            before, after, gradients(twin, BATCHES[step % 4]), strict=True
        ):
            np.testing.assert_allclose(new, old - rates[step] * gradient, rtol=1e-4, atol=1e-5)


def test_a_schedule_of_the_learning_rate_goes_on():
    schedule = opt.schedules.PiecewiseConstantDecay([1, 4, 6], [0.1, 0.5, 0.2, 0.4])
    model = compiled(net(), opt.SGD(schedule))
    steps = fit_and_grow(model, at=4)
    # Step number s has the rate of s - 1 iterations: up to 1, up to 4, up to 6, later.
    rates = [0.1] * 2 + [0.5] * 3 + [0.2] * 2 + [0.4] * 5
    assert_steps_of_gradient_descent(model, steps, 4, rates)


def test_reduce_on_plateau_goes_on():
    """No epoch counts as better, so it halves the rate after two epochs and each second one."""
    plateau = keras.callbacks.ReduceLROnPlateau(
        monitor="loss", factor=0.5, patience=2, min_delta=100.0
    )
    model = compiled(net(), opt.SGD(0.4))
    steps = fit_and_grow(model, at=6, epochs=5, callbacks=[plateau])
    # Growth is in the second epoch. The first is the best, 2 and 3 are no better.
    rates = [0.4] * 12 + [0.2] * 8
    assert_steps_of_gradient_descent(model, steps, 6, rates)
    assert float(ops.convert_to_numpy(model.optimizer.learning_rate)) == pytest.approx(0.1)


# --- moving averages, accumulation, clipping, loss scale ----------------------------------------


@pytest.mark.parametrize("overwrite", [None, 5])
def test_a_moving_average_of_the_weights_goes_on(overwrite):
    optimizer = opt.SGD(0.3, use_ema=True, ema_momentum=0.8, ema_overwrite_frequency=overwrite)
    model = compiled(net(), optimizer)
    steps = fit_and_grow(model, at=3)
    averages = steps.weights[1]  # the first step starts from the weights
    for step, weights in enumerate(steps.weights[2:], start=2):
        if overwrite is not None and step % overwrite == 0:
            averages = weights  # which the average had been written to before they were recorded
            continue
        moved = []
        for average, weight in zip(averages, weights, strict=True):
            kept = tuple(slice(n) for n in average.shape)
            new = weight.copy()  # where it has grown just now, after the step
            new[kept] = 0.8 * average + 0.2 * weight[kept]
            moved.append(new)
        averages = moved
    # `fit` ends with the averages in the weights.
    for value, expected in zip(numpy_of(model.trainable_variables), averages, strict=True):
        np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-6)
    last = np.concatenate([w.ravel() for w in steps.weights[-1]])
    if overwrite is None:
        final = np.concatenate([w.ravel() for w in numpy_of(model.trainable_variables)])
        assert np.abs(last - final).max() > 1e-2


def test_growth_within_a_window_of_accumulated_gradients_loses_nothing():
    model = compiled(net(), opt.SGD(0.5, gradient_accumulation_steps=4), **EAGER)
    train(model, 4)  # one whole window
    small = [gradients(model, BATCHES[i]) for i in (0, 1)]
    train(model, 2)
    grow(model)
    weights = model.get_weights()
    wide = [gradients(model, BATCHES[i]) for i in (2, 3)]
    train(model, 1, start=2)
    assert same_arrays(weights, model.get_weights())  # the window is not over
    train(model, 1, start=3)
    for i, (before, after) in enumerate(zip(weights, model.get_weights(), strict=True)):
        total = wide[0][i] + wide[1][i]
        kept = tuple(slice(n) for n in small[0][i].shape)
        total[kept] += small[0][i] + small[1][i]
        np.testing.assert_allclose(after, before - 0.5 * total / 4, rtol=1e-4, atol=1e-6)
        assert np.abs(total).max() > 1e-2


def clip_each(gradients):
    return [g * min(1.0, 0.05 / np.linalg.norm(g)) for g in gradients]


def clip_all(gradients):
    norm = np.sqrt(sum(np.sum(g**2) for g in gradients))
    return [g * min(1.0, 0.05 / norm) for g in gradients]


def clip_values(gradients):
    return [np.clip(g, -0.05, 0.05) for g in gradients]


@pytest.mark.parametrize(
    ("name", "clipped"),
    [("clipnorm", clip_each), ("global_clipnorm", clip_all), ("clipvalue", clip_values)],
)
def test_gradients_are_clipped_at_their_grown_shapes(name, clipped):
    model = trained(opt.SGD(0.5, **{name: 0.05}))
    grow(model)
    before = model.get_weights()
    whole = gradients(model, BATCHES[3])
    expected = clipped(whole)
    assert max(np.abs(a - b).max() for a, b in zip(whole, expected, strict=True)) > 1e-2
    train(model, 1, start=3)
    for value, old, gradient in zip(model.get_weights(), before, expected, strict=True):
        np.testing.assert_allclose(value, old - 0.5 * gradient, rtol=1e-4, atol=1e-6)


def test_loss_scaling_skips_steps_and_doubles_after_a_growth_as_before():
    inner = opt.SGD(0.5, momentum=0.9)
    optimizer = opt.LossScaleOptimizer(inner, initial_scale=64.0, dynamic_growth_steps=5)
    model = compiled(net(), optimizer, **EAGER)
    train(model, 3)
    grow(model)

    def scale():
        return float(ops.convert_to_numpy(optimizer.dynamic_scale))

    assert scale() == 64.0
    train(model, 2, start=3)  # five good steps, three of them before the growth
    assert scale() == 128.0
    weights, slots = model.get_weights(), numpy_of(inner.variables)
    model.train_on_batch(np.full_like(X[:8], np.inf), Y[:8])
    assert scale() == 64.0
    assert same_arrays(weights, model.get_weights())
    assert same_arrays(slots, numpy_of(inner.variables))
    momenta = numpy_of(inner.momentums)
    whole = gradients(model, BATCHES[1])
    train(model, 1, start=1)
    for value, old, momentum, gradient in zip(
        model.get_weights(), weights, momenta, whole, strict=True
    ):
        np.testing.assert_allclose(
            value, old + 0.9 * momentum - 0.5 * gradient, rtol=1e-4, atol=1e-5
        )


# --- weight decay, constraints, regularisers ----------------------------------------------------


@pytest.mark.parametrize("by", ["variable", "name", "both"])
def test_exclusions_from_weight_decay_hold_for_grown_variables(by):
    model = compiled(net(), opt.SGD(0.1, weight_decay=0.5), **EAGER)
    kernel = model.get_layer("a").kernel
    model.optimizer.exclude_from_weight_decay(
        var_list=None if by == "name" else [kernel],
        var_names=None if by == "variable" else ["bias"],
    )
    train(model, 2)
    for variable in model.trainable_variables:
        variable.assign(numpy_of([variable])[0] + 0.5)
    grow(model)
    before = model.get_weights()
    zeros = [ops.zeros(v.shape) for v in model.trainable_variables]
    model.optimizer.apply(zeros, model.trainable_variables)
    for variable, old, new in zip(
        model.trainable_variables, before, model.get_weights(), strict=True
    ):
        excluded = (variable is kernel and by != "name") or (
            variable.name == "bias" and by != "variable"
        )
        np.testing.assert_allclose(new, old * (1.0 if excluded else 0.95), rtol=1e-6)
        assert np.abs(old).max() > 0.1


RULES = {
    "max norm": (lambda: keras.constraints.MaxNorm(0.7), lambda k: np.linalg.norm(k, axis=0) - 0.7),
    "unit norm": (lambda: keras.constraints.UnitNorm(), lambda k: np.linalg.norm(k, axis=0) - 1),
    "non-negative": (lambda: keras.constraints.NonNeg(), lambda k: -k),
}


@pytest.mark.parametrize("name", RULES)
def test_constraints_hold_for_grown_kernels(name):
    make, excess = RULES[name]
    model = trained(opt.SGD(0.3), kernel_constraint=make())
    outputs = model.predict_on_batch(X)
    grow(model, form="inverse")
    np.testing.assert_allclose(model.predict_on_batch(X), outputs, rtol=1e-5, atol=1e-6)
    before = model.get_weights()
    whole = gradients(model, BATCHES[0])
    train(model, 1)
    for layer, old, gradient in zip("ab", before[::2], whole[::2], strict=False):
        kernel = numpy_of([model.get_layer(layer).kernel])[0]
        assert excess(kernel).max() < 1e-5
        step = old - 0.3 * gradient
        expected = ops.convert_to_numpy(make()(ops.convert_to_tensor(step)))
        np.testing.assert_allclose(kernel, expected, rtol=1e-4, atol=1e-5)
    losses = train(model, 24)
    assert np.mean(losses[-4:]) < np.mean(losses[:4])


def test_regularisers_count_new_weights():
    arguments = {"kernel_regularizer": keras.regularizers.L2(0.1)}
    model = trained(opt.SGD(0.3), **arguments)
    outputs = model.predict_on_batch(X)
    grow(model)
    np.testing.assert_allclose(model.predict_on_batch(X), outputs, rtol=1e-5, atol=1e-6)
    before = model.get_weights()
    penalty = sum(0.1 * (k**2).sum() for k in before[:4:2])
    assert float(ops.convert_to_numpy(sum(model.losses))) == pytest.approx(penalty, rel=1e-5)
    plain = gradients(model, BATCHES[0])
    train(model, 1)
    for i, (old, new, gradient) in enumerate(zip(before, model.get_weights(), plain, strict=True)):
        if i in (0, 2):
            gradient = gradient + 0.2 * old
        np.testing.assert_allclose(new, old - 0.3 * gradient, rtol=1e-4, atol=1e-5)
