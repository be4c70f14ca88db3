"""GradMax against the best possible: the true mixed second derivative, then a dense SVD."""

import keras
import numpy as np
import pytest
from helpers.autodiff import gradient_by, mixed_second_derivative
from keras import layers as L

import keras_grow as kg
from keras_grow.growth.data import Batches
from keras_grow.growth.guarded import Clock, Guard, guarded
from keras_grow.growth.step import Initialization, Request, prepared
from keras_grow.planning import survey

K = 2


def conv(filters, size=3, **kw):
    return L.Conv2D(filters, size, **{"padding": "same", **kw})


def head(x, units=2):
    return L.Dense(units, name="out")(L.GlobalAveragePooling2D()(x))


def two(size, first=None, second=None, between=()):
    """conv 'p' -> `between` -> conv 'c' on size x size maps of 2 channels."""

    def build():
        x = inputs = keras.Input((size, size, 2))
        x = conv(3, activation="relu", name="p", **(first or {}))(x)
        for layer in between:
            x = layer()(x)
        # The position of every pixel matters to the loss, so borders cannot average out.
        x = conv(2, name="c", **(second or {}))(x)
        return keras.Model(inputs, L.Dense(2, name="out")(L.Flatten()(x)))

    return build


def dense():
    inputs = keras.Input((7,))
    x = L.Dense(4, activation="relu", name="p")(inputs)
    return keras.Model(inputs, L.Dense(5, name="c")(x))


def dense_batchnorm():
    inputs = keras.Input((7,))
    x = L.Activation("relu")(L.BatchNormalization()(L.Dense(4, name="p")(inputs)))
    return keras.Model(inputs, L.Dense(5, name="c")(x))


def flatten_dense():
    inputs = keras.Input((5, 5, 2))
    x = L.MaxPooling2D(2)(conv(3, activation="relu", name="p")(inputs))
    return keras.Model(inputs, L.Dense(3, name="c")(L.Flatten()(x)))


def pooled_dense():
    inputs = keras.Input((6, 6, 2))
    x = conv(3, activation="relu", name="p")(inputs)
    x = L.Concatenate()([L.GlobalAveragePooling2D()(x), L.GlobalMaxPooling2D()(x)])
    return keras.Model(inputs, L.Dense(3, name="c")(x))


def residual():
    inputs = keras.Input((6, 6, 2))
    x = conv(3, name="p")(inputs)
    y = conv(3, name="q")(L.ReLU()(x))
    x = L.Add()([x, y])
    return keras.Model(inputs, head(conv(4, name="c")(L.ReLU()(x)), 3))


def several_consumers():
    inputs = keras.Input((6, 6, 2))
    x = conv(3, activation="tanh", name="p")(inputs)
    a, b = conv(2, 1, name="c")(x), conv(2, strides=2, name="d")(x)
    return keras.Model(inputs, L.Concatenate()([head(a, 2), L.Dense(2)(L.Flatten()(b))]))


def gated():
    """Squeeze-and-excite: the gate's channels grow with the convolution's."""
    inputs = keras.Input((6, 6, 2))
    x = conv(4, activation="relu", name="p")(inputs)
    gate = L.Dense(3, activation="relu", name="squeeze")(L.GlobalAveragePooling2D()(x))
    gate = L.Reshape((1, 1, 4))(L.Dense(4, activation="sigmoid", name="gate")(gate))
    return keras.Model(inputs, head(conv(3, name="c")(L.Multiply()([x, gate])), 3))


def shared():
    first, second = keras.Input((5,)), keras.Input((5,))
    producer = L.Dense(3, activation="relu", name="p")
    consumer = L.Dense(4, name="c")
    outputs = [consumer(producer(x)) for x in (first, second)]
    return keras.Model([first, second], L.Concatenate()(outputs))


def separable():
    inputs = keras.Input((6, 6, 2))
    x = L.SeparableConv2D(3, 3, padding="same", activation="relu", name="p")(inputs)
    x = L.SeparableConv2D(2, 3, strides=2, depth_multiplier=2, padding="same", name="c")(x)
    return keras.Model(inputs, L.Dense(2)(L.Flatten()(x)))


def conv1d_causal():
    inputs = keras.Input((9, 2))
    x = L.Conv1D(3, 3, padding="causal", activation="elu", name="p")(inputs)
    x = L.Conv1D(2, 2, padding="causal", dilation_rate=2, name="c")(x)
    return keras.Model(inputs, L.Dense(2)(L.Flatten()(x)))


def einsum():
    inputs = keras.Input((4, 3))
    x = L.EinsumDense("abc,cd->abd", (4, 5), bias_axes="d", activation="relu", name="p")(inputs)
    x = L.Reshape((4, 1, 5))(x)
    x = L.EinsumDense("abed,dec->abc", (4, 2), bias_axes="c", name="c")(x)
    return keras.Model(inputs, L.Dense(2)(L.Flatten()(x)))


def einsum_of_several_letters():
    inputs = keras.Input((4, 2, 3))
    x = L.EinsumDense("abcd,cdf->abf", (4, 5), activation="tanh", name="p")(inputs)
    x = L.EinsumDense("abf,bfe->aeb", (3, 4), name="c")(x)
    return keras.Model(inputs, L.Dense(2)(L.Flatten()(x)))


def transposed(first, second):
    def build():
        inputs = keras.Input((4, 5, 2))
        x = L.Conv2DTranspose(3, 3, activation="relu", name="p", **first)(inputs)
        x = L.Conv2DTranspose(2, 2, name="c", **second)(x)
        return keras.Model(inputs, L.Dense(2, name="out")(L.Flatten()(x)))

    return build


def depthwise():
    return L.DepthwiseConv2D(3, padding="same", activation="relu6")


CASES = {
    "dense": dense,
    "dense, BatchNorm": dense_batchnorm,
    "conv 4x4": two(4),
    "conv 8x8": two(8),
    "conv 32x32": two(32),
    "conv valid": two(8, {"padding": "valid"}, {"padding": "valid"}),
    "conv stride 2": two(8, {"strides": 2}, {"strides": 2}),
    "conv stride 2, odd": two(7, {}, {"strides": 2}),
    "conv stride 2, valid": two(9, {"strides": 2, "padding": "valid"}, {"padding": "valid"}),
    "conv dilation 2": two(8, {"dilation_rate": 2}, {"dilation_rate": 2}),
    "conv 1x1 then 5x5": two(6, {"size": 1}, {"size": 5}),
    "conv, BatchNorm, conv": two(6, {}, {}, [L.BatchNormalization]),
    "conv, depthwise, conv": two(6, {}, {}, [depthwise]),
    "conv, depthwise stride 2, conv": two(
        6, {}, {}, [lambda: L.DepthwiseConv2D(3, strides=2, padding="same", depth_multiplier=2)]
    ),
    "conv, max pool, conv": two(8, {}, {}, [lambda: L.MaxPooling2D(2)]),
    "conv, max pool same, conv": two(7, {}, {}, [lambda: L.MaxPooling2D(3, 2, padding="same")]),
    "conv, average pool, conv": two(8, {}, {}, [lambda: L.AveragePooling2D(2)]),
    "conv, pad, upsample, crop, conv": two(
        4, {}, {}, [lambda: L.ZeroPadding2D(1), lambda: L.UpSampling2D(2), L.Cropping2D]
    ),
    "conv, flatten, dense": flatten_dense,
    "conv, global pools, dense": pooled_dense,
    "residual group": residual,
    "several consumers": several_consumers,
    "squeeze and excite": gated,
    "shared layers": shared,
    "separable": separable,
    "conv1d causal": conv1d_causal,
    "einsum": einsum,
    "einsum of several letters": einsum_of_several_letters,
    "transposed same": transposed({"padding": "same"}, {"padding": "same", "strides": 2}),
    # TensorFlow's transposed convolutions on the CPU know no dilation.
    "transposed valid": transposed(
        {"strides": 2}, {} if keras.config.backend() == "tensorflow" else {"dilation_rate": 2}
    ),
}


def prepare(build):
    model = build()
    rng = np.random.default_rng(0)
    for variable in model.trainable_variables:
        variable.assign(rng.standard_normal(variable.shape) * 0.5)
    samples = 6
    x = [rng.standard_normal((samples, *t.shape[1:])).astype("float32") for t in model.inputs]
    y = rng.standard_normal((samples, *model.output.shape[1:])).astype("float32")
    model.compile("sgd", "mse")
    return model, x if len(x) > 1 else x[0], y


@pytest.mark.parametrize("case", CASES)
def test_gradient_of_new_fan_in_is_the_largest_possible(case):
    model, x, y = prepare(CASES[case])
    atlas = survey(model)
    init = Initialization(
        kg.methods.GradMax(), np.random.default_rng(0), "outgoing", Batches((x, y, None)),
        kg.Slopes(),
    )  # fmt: skip
    ready = prepared(Request(atlas, {atlas.find("p"): K}, init), Clock())
    done = guarded(ready.wider(), Guard(None))
    (site,) = done.plan.sites
    ours = ready.data.sites[site].matrix

    # What is really had: the backend differentiates the grown model.
    kernels = [w.edit.variable for w in site.writes]
    run = gradient_by(model, x, y, kernels)
    had = [
        np.moveaxis(g, w.edit.axis, 0)[w.columns] for g, w in zip(run(), site.writes, strict=True)
    ]
    norm = np.sqrt(sum(float((g**2).sum()) for g in had))
    np.testing.assert_allclose(done.sites[0].gradient_norm, norm, rtol=1e-2)

    # What could be had under the same constraint.
    fan_out = [np.moveaxis(np.array(s.edit.variable), s.edit.axis, 0)[s.rows] for s in site.reads]
    per_neuron = np.sqrt(sum((f.reshape(K, -1) ** 2).sum(axis=1) for f in fan_out))
    np.testing.assert_allclose(per_neuron, per_neuron[0], rtol=1e-4)
    zero_new_fan_out(site)
    true = mixed_second_derivative(run, done.plan)
    best = np.linalg.svd(true, compute_uv=False)[:K]
    assert norm >= 0.99 * per_neuron[0] * np.sqrt((best**2).sum())
    assert ours.shape == true.shape
    np.testing.assert_allclose(ours, true, atol=2e-4 * np.abs(true).max())


def zero_new_fan_out(site):
    for slot in site.reads:
        value = np.array(slot.edit.variable)
        np.moveaxis(value, slot.edit.axis, 0)[slot.rows] = 0.0
        slot.edit.variable.assign(value)
