"""Small models, data and recording callbacks that the tests of growth in `fit` share."""

import keras
import numpy as np
from keras import layers, ops

FEATURES, CLASSES = 5, 3
WIDTHS = {"a": 4, "b": 3}


def relu_with_slope(x):
    """Relu with slope 1 at exactly 0, which the grown sites of a model in `fit` have."""
    return ops.where(x < 0, ops.zeros_like(x), x)


def points(samples, seed=0):
    """Random features and labels that depend on them."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((samples, FEATURES)).astype("float32")
    y = (x @ rng.standard_normal((FEATURES, CLASSES))).argmax(axis=1)
    return x, y


def dense(a=WIDTHS["a"], b=WIDTHS["b"], relu="relu", **names):
    """Two hidden layers; "a" and "b" can grow."""
    inputs = keras.Input((FEATURES,), name="features")
    x = layers.Dense(a, activation=relu, name="a")(inputs)
    x = layers.Dense(b, activation="tanh", name="b")(x)
    return keras.Model(inputs, layers.Dense(CLASSES, name="scores")(x), name="net")


def compiled(model, optimizer="sgd", **arguments):
    model.compile(
        optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True), **arguments
    )
    return model


def numpy_of(variables):
    """Copies, so that in-place updates (PyTorch) do not change them later."""
    return [np.array(ops.convert_to_numpy(v)) for v in variables]


class StepLosses(keras.callbacks.Callback):
    """The loss of each training step (or block of steps), from the running mean in the logs."""

    def on_train_begin(self, logs=None):
        self.losses, self.steps = [], []
        self.before_epoch = 0

    def on_epoch_begin(self, epoch, logs=None):
        self.seen, self.total = 0, 0.0

    def on_train_batch_end(self, batch, logs=None):
        total = float(logs["loss"]) * (batch + 1)
        self.losses.append((total - self.total) / (batch + 1 - self.seen))
        self.seen, self.total = batch + 1, total
        self.steps.append(self.before_epoch + batch + 1)

    def on_epoch_end(self, epoch, logs=None):
        self.before_epoch += self.seen


class Snapshot(keras.callbacks.Callback):
    """The whole state of model and optimizer right after growth number `number`."""

    def __init__(self, growth, number=0):
        super().__init__()
        self.growth, self.number, self.step = growth, number, None

    def on_train_batch_end(self, batch, logs=None):
        if self.step is None and len(self.growth.events) > self.number:
            self.step = self.growth.events[self.number].step
            self.state = state_of(self.model)


def state_of(model):
    """Weights, seeds and optimizer variables by kind, as NumPy arrays."""
    seeds = [g.state for layer in model._flatten_layers() for g in layer._seed_generators]
    return {
        "weights": numpy_of(model.weights),
        "seeds": numpy_of(seeds),
        "optimizer": numpy_of(model.optimizer.variables),
    }


def give_state(model, state):
    """Puts what `state_of` read into another model of the same widths."""
    model.optimizer.build(model.trainable_variables)
    seeds = [g.state for layer in model._flatten_layers() for g in layer._seed_generators]
    for variables, values in (
        (model.weights, state["weights"]),
        (seeds, state["seeds"]),
        (model.optimizer.variables, state["optimizer"]),
    ):
        for variable, value in zip(variables, values, strict=True):
            assert tuple(variable.shape) == value.shape, variable.path
            variable.assign(value)


def same_arrays(before, after):
    return len(before) == len(after) and all(
        a.dtype == b.dtype and np.array_equal(a, b) for a, b in zip(before, after, strict=True)
    )


def train_on_batches(model, x, y, batch_size, start, stop):
    """Losses of single steps number `start` to `stop` of an endless unshuffled pass over x, y."""
    losses = []
    steps = len(x) // batch_size
    for step in range(start, stop):
        rows = slice(step % steps * batch_size, (step % steps + 1) * batch_size)
        model.reset_metrics()
        losses.append(float(model.train_on_batch(x[rows], y[rows])))
    return losses


def drive(model, callback, steps, epochs=1):
    """Calls the callback as `fit` would, without training; gives the widths after each step."""
    callback.set_model(model)
    callback.on_train_begin()
    widths = []
    for epoch in range(epochs):
        callback.on_epoch_begin(epoch)
        for batch in range(steps):
            callback.on_train_batch_end(batch, {})
            widths.append(tuple(model.get_layer(n).units for n in "ab"))
        callback.on_epoch_end(epoch, {})
    callback.on_train_end({})
    return widths
