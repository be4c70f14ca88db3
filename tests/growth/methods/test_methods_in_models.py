"""Every method in every form in live models: the function, the gradient, and what training does."""

import functools
import itertools

import keras
import numpy as np
import pytest
from keras import layers as L
from keras import ops

import keras_grow as kg
from keras_grow.graph.outputs import Outputs
from keras_grow.growth.data import Batches
from keras_grow.growth.guarded import Clock, Guard, guarded
from keras_grow.growth.step import Initialization, Request, prepared
from keras_grow.planning import survey

ADDED, SAMPLES = 3, 24
# At which the loss goes down for every method; gradients behind a batch normalisation of zeros
# are 1 / sqrt(0.001) times larger.
RATE = 0.05


def numpy_of(tensor):
    return np.array(ops.convert_to_numpy(tensor))


def dense(batchnorm):
    x = inputs = keras.Input((12,))
    x = L.Dense(6, name="p")(x)
    x = L.BatchNormalization(name="bn")(x) if batchnorm else x
    return keras.Model(inputs, L.Dense(5, name="c")(L.ReLU()(x)))


def conv(batchnorm):
    x = inputs = keras.Input((6, 6, 2))
    x = L.Conv2D(4, 3, padding="same", name="p")(x)
    x = L.BatchNormalization(name="bn")(x) if batchnorm else x
    x = L.Conv2D(3, 3, padding="same", activation="relu", name="c")(L.ReLU()(x))
    return keras.Model(inputs, L.Dense(5, name="out")(L.Flatten()(x)))


@functools.cache
def setting(kind, batchnorm):
    """Weights, data, and what they give for each new neuron at most."""
    rng = np.random.default_rng(1)
    model = {"dense": dense, "conv": conv}[kind](batchnorm)
    weights = []
    for variable in model.weights:
        shape = tuple(variable.shape)
        if "variance" in variable.name:
            value = rng.uniform(0.5, 1.5, shape)
        elif len(shape) > 1:
            value = rng.standard_normal(shape) / np.sqrt(np.prod(shape[:-1]))
        else:
            value = 0.1 * rng.standard_normal(shape) + (variable.name == "gamma")
        weights.append(value.astype("float32"))
    x = rng.standard_normal((SAMPLES, *model.input_shape[1:])).astype("float32")
    y = np.tanh(x.reshape(SAMPLES, -1) @ rng.standard_normal((x[0].size, 5))).astype("float32")
    return weights, x, y


class Grown:
    """A model of a setting, grown by a method and trained for 50 steps."""

    def __init__(self, kind, batchnorm, method, form):
        weights, self.x, self.y = setting(kind, batchnorm)
        self.model = {"dense": dense, "conv": conv}[kind](batchnorm)
        self.model.set_weights(weights)
        compiled = keras.config.backend() == "jax"
        self.model.compile(keras.optimizers.SGD(RATE), "mse", jit_compile=compiled)
        atlas = survey(self.model)
        self.width = atlas.find("p").width
        init = Initialization(
            method, np.random.default_rng(0), form, Batches((self.x, self.y, None)), kg.Slopes()
        )
        request = Request(atlas, {atlas.find("p"): ADDED}, init)
        self.ready = prepared(request, Clock())
        self.loss_before = self.training_loss()
        self.done = guarded(self.ready.wider(), Guard(Outputs(atlas.graph)))
        self.record = self.done.sites[0]

    def training_loss(self):
        """In training mode, without moving any statistics."""
        kept = [(v, numpy_of(v)) for v in self.model.non_trainable_variables]
        predicted = numpy_of(self.model(self.x, training=True))
        for variable, value in kept:
            variable.assign(value)
        return float(((predicted - self.y) ** 2).mean())

    def fans(self):
        """New fan-ins and fan-outs, a row per neuron, and the biases; new neurons are the last."""
        producer, consumer = (self.model.get_layer(n) for n in ("p", "c"))
        fan_in = np.moveaxis(numpy_of(producer.kernel), -1, 0)[self.width :]
        fan_out = np.moveaxis(numpy_of(consumer.kernel), -2, 0)[self.width :]
        return fan_in.reshape(ADDED, -1), fan_out.reshape(ADDED, -1)

    def known(self):
        """What was measured of the site."""
        (site,) = self.done.plan.sites
        return self.ready.data.sites[site]

    def train(self, steps):
        return [float(self.model.train_on_batch(self.x, self.y)) for _ in range(steps)]

    def without(self, neuron):
        """Outputs when nothing reads one of the new neurons, less those when something does."""
        kernel = self.model.get_layer("c").kernel
        value, whole = numpy_of(kernel), numpy_of(self.model(self.x))
        lesser = value.copy()
        np.moveaxis(lesser, -2, 0)[self.width + neuron] = 0.0
        kernel.assign(lesser)
        change = numpy_of(self.model(self.x)) - whole
        kernel.assign(value)
        return np.abs(change).max()


CASES = [
    *[
        (f"{name}, {form}", cls, form)
        for name, cls in kg.methods.METHODS.items()
        for form in cls().forms
    ],
    ("split steepest, split", functools.partial(kg.methods.Split, choice="steepest"), "split"),
]


@pytest.mark.parametrize("batchnorm", [False, True], ids=["plain", "batchnorm"])
@pytest.mark.parametrize("kind", ["dense", "conv"])
@pytest.mark.parametrize(("make", "form"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_a_method_in_a_form(make, form, kind, batchnorm):
    method = make()
    grown = Grown(kind, batchnorm, method, form)
    fan_in, fan_out = grown.fans()

    # The function, in inference and in training.
    if form == "joint":
        assert grown.done.report.relative > 1e-3
        assert grown.training_loss() < grown.loss_before
    else:
        assert grown.done.report.relative < 1e-6
        np.testing.assert_allclose(grown.training_loss(), grown.loss_before, rtol=1e-5)
    if form in ("outgoing", "zeros"):
        assert not fan_in.any()
    if form in ("inverse", "zeros"):
        assert not fan_out.any()

    # One step of plain gradient descent moves what was zero by the gradient.
    losses = grown.train(1)
    moved = [after - before for after, before in zip(grown.fans(), (fan_in, fan_out), strict=True)]
    if form in ("outgoing", "inverse"):
        gradient = -moved[0 if form == "outgoing" else 1] / RATE
        check_gradient(grown, gradient, form, (fan_in, fan_out))

    losses += grown.train(49)
    assert losses[-1] < losses[0]
    moved = [after - before for after, before in zip(grown.fans(), (fan_in, fan_out), strict=True)]
    for side in moved:
        assert (np.abs(side).max(axis=1) > 1e-6).all(), "a new neuron did not learn"
    for neuron in range(ADDED):
        assert grown.without(neuron) > 1e-6, "a new neuron does nothing"
    weights = np.concatenate(grown.fans(), axis=1)
    for one, other in itertools.combinations(weights, 2):
        assert np.abs(one - other).max() > 1e-4, "two new neurons are the same"


def answered(gradients, moment, rows):
    """Norm of the gradient by the fan-outs of neurons whose pre-activations have size 1."""
    rows = rows / np.sqrt(np.einsum("ki,ij,kj->k", rows, moment, rows))[:, None]
    return np.linalg.norm(gradients.finite(rows).value)


def check_gradient(grown, gradient, form, fans):
    """What was promised was had, and it is as large as can be for the methods that say so."""
    name, had = grown.record.method, float(np.linalg.norm(gradient))
    assert had > 0
    if grown.record.gradient_norm is not None:
        np.testing.assert_allclose(had, grown.record.gradient_norm, rtol=1e-3)
    if name == "random":
        return
    known = grown.known()
    free = fans[1] if form == "outgoing" else fans[0]
    norm = np.linalg.norm(free, axis=1).mean()
    rng = np.random.default_rng(0)
    random = []
    if name == "gradmax" and form == "inverse":
        # The largest gradient of what present neurons cannot reach, by answers of one size.
        left = known.unexplained()
        had = answered(left, known.second_moment(), free)
        random = [
            answered(left, known.second_moment(), rng.standard_normal(free.shape))
            for _ in range(20)
        ]
        assert had > 1.1 * np.mean(random)
        return
    for _ in range(5):
        rows = rng.standard_normal(free.shape)
        rows *= norm / np.linalg.norm(rows, axis=1, keepdims=True)
        of = known.by_fan_in(rows) if form == "outgoing" else known.finite(rows).value
        random.append(np.linalg.norm(of))
    if name in ("gradmax", "gradmaxopt"):
        assert had > 1.1 * np.mean(random)
        assert had > max(random)
    if form == "outgoing":
        values = np.linalg.svd(known.matrix, compute_uv=False)[:ADDED]
        best = norm * np.sqrt((values**2).sum())
        # Fan-outs that are not orthogonal may all lie along the top one.
        most = norm * values[0] * np.sqrt(ADDED) if name == "pursuit" else best
        assert had <= most * 1.001
        if name == "gradmax":
            assert had >= 0.99 * best
        if name == "gradmaxopt":
            assert had >= 0.9 * best


@pytest.mark.parametrize("kind", ["dense", "conv"])
def test_statistics_of_batch_normalisation_are_those_of_the_growth_batch(kind):
    """Of neurons that are not zero, whose moving averages would need hundreds of steps."""
    grown = Grown(kind, True, kg.methods.GradMax(), "inverse")
    norm = grown.model.get_layer("bn")
    producer = grown.model.get_layer("p")
    pre = numpy_of(producer(grown.x)).reshape(-1, grown.width + ADDED)[:, grown.width :]
    np.testing.assert_allclose(numpy_of(norm.moving_mean)[-ADDED:], pre.mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(numpy_of(norm.moving_variance)[-ADDED:], pre.var(axis=0), rtol=1e-3)


@pytest.mark.parametrize("seed", range(4))
def test_firefly_leaves_no_neuron_silent(seed):
    """To first order a silent neuron does no harm, so the optimum may well have some."""
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((6,))
    hidden = keras.layers.Dense(4, activation="relu", name="a")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(5, name="b")(hidden))
    model.compile("sgd", "mse")
    rng = np.random.default_rng(seed)
    # All inputs on one side, so that many directions are silent.
    x = np.abs(rng.standard_normal((32, 6))).astype("float32")
    y = rng.standard_normal((32, 5)).astype("float32")
    method = kg.methods.Firefly(steps=30)
    kg.grow_(model, {"a": 8}, method, data=(x, y), seed=seed, form="inverse")
    new = x @ model.get_layer("a").get_weights()[0][:, 4:]
    assert (new.max(axis=0) > 0).all()
