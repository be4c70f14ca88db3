"""Every layer that can be inserted is the identity, trains, saves and loads; the others say why."""

import keras
import numpy as np
import pytest
from helpers.growing import FORMATS, inputs_of, predict, randomize
from keras import layers

import keras_grow as kg


def check(model, layer, tmp_path, tolerance=1e-6, **where):
    """Inserts the layer in a copy and in place; returns the copy."""
    randomize(model)
    model.compile("adam", "mse")
    x = inputs_of(model)
    before = predict(model, x)
    deeper = kg.insert(model, layer, **where)
    scale = max(float(np.abs(b).max()) for b in before)
    for found, wanted in zip(predict(deeper, x), before, strict=True):
        np.testing.assert_allclose(found, wanted, atol=tolerance * scale)
    for found, wanted in zip(predict(model, x), before, strict=True):
        np.testing.assert_array_equal(found, wanted)  # the original is untouched
    assert not {id(v) for v in model.variables} & {id(v) for v in deeper.variables}
    assert len(deeper.variables) > len(model.variables) or not layer.weights
    deeper.train_on_batch(x, np.ones_like(before[0]))
    deeper.save(tmp_path / "deeper.keras")
    loaded = keras.models.load_model(tmp_path / "deeper.keras")
    for found, wanted in zip(predict(loaded, x), predict(deeper, x), strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-6 * scale)
    return deeper


def mlp(activation="relu"):
    inputs = keras.Input((5,))
    x = layers.Dense(6, activation=activation, name="a")(inputs)
    return keras.Model(inputs, layers.Dense(2, name="b")(x))


def image(channels=4, activation="relu", data_format="channels_last"):
    shape = (6, 5, 3) if data_format == "channels_last" else (3, 6, 5)
    inputs = keras.Input(shape)
    options = {"data_format": data_format, "padding": "same"}
    x = layers.Conv2D(channels, 3, activation=activation, name="a", **options)(inputs)
    return keras.Model(inputs, layers.Conv2D(2, 3, name="b", **options)(x))


def sequence(channels=4, activation="relu"):
    inputs = keras.Input((7, 3))
    x = layers.Conv1D(channels, 3, padding="same", activation=activation, name="a")(inputs)
    return keras.Model(inputs, layers.Conv1D(2, 3, name="b")(x))


@keras.saving.register_keras_serializable("tests")
class Scale(layers.Layer):
    """A factor for each channel, as LayerScale has."""

    def build(self, shape):
        self.gamma = self.add_weight(shape=(shape[-1],), initializer="random_normal")

    def call(self, x):
        return x * self.gamma


@keras.saving.register_keras_serializable("tests")
class Shift(layers.Layer):
    """A summand for each channel."""

    def build(self, shape):
        self.beta = self.add_weight(shape=(shape[-1],), initializer="random_normal")

    def call(self, x):
        return x + self.beta


@keras.saving.register_keras_serializable("tests")
class Swap(layers.Layer):
    """No weights, and not the identity."""

    def call(self, x):
        return keras.ops.flip(x, axis=-1)


ON_VECTORS = {
    "dense": lambda: layers.Dense(6),
    "dense relu": lambda: layers.Dense(6, activation="relu"),
    "dense no bias": lambda: layers.Dense(6, use_bias=False),
    "einsum dense": lambda: layers.EinsumDense("ab,bc->ac", output_shape=6, bias_axes="c"),
    "batch norm": lambda: layers.BatchNormalization(),
    "batch norm, no scale": lambda: layers.BatchNormalization(scale=False),
    "prelu": lambda: layers.PReLU(alpha_initializer="random_normal"),
    "relu": lambda: layers.ReLU(),
    "leaky relu": lambda: layers.LeakyReLU(),
    "dropout": lambda: layers.Dropout(0.3, seed=1),
    "noise": lambda: layers.GaussianNoise(0.3, seed=1),
    "scale": Scale,
    "shift": Shift,
    "reshape to the same": lambda: layers.Reshape((6,)),
    "chain": lambda: keras.Sequential([layers.Dense(6, activation="relu"), Scale()]),
}


# Compiling takes long; each of these has something of its own on every backend.
ON_ALL = {"dense relu", "batch norm", "prelu", "dropout", "chain", "conv", "separable", "depthwise"}


def on_all(names):
    """Those not in `ON_ALL` run on PyTorch alone."""
    torch = pytest.mark.backend("torch")
    return [pytest.param(n, marks=() if n in ON_ALL else torch) for n in names]


@pytest.mark.parametrize("name", on_all(ON_VECTORS))
def test_on_vectors(name, tmp_path):
    check(mlp(), ON_VECTORS[name](), tmp_path, after="a")


ON_IMAGES = {
    "conv": lambda f: layers.Conv2D(4, 3, padding="same", data_format=f, activation="relu"),
    "conv even": lambda f: layers.Conv2D(4, (2, 4), padding="same", data_format=f),
    "conv dilated": lambda f: layers.Conv2D(4, 3, padding="same", dilation_rate=2, data_format=f),
    "conv pointwise": lambda f: layers.Conv2D(4, 1, data_format=f),
    "depthwise": lambda f: layers.DepthwiseConv2D(3, padding="same", data_format=f),
    "separable": lambda f: layers.SeparableConv2D(
        4, 3, padding="same", depth_multiplier=2, data_format=f
    ),
    "batch norm": lambda f: layers.BatchNormalization(axis=-1 if f == "channels_last" else 1),
    "spatial dropout": lambda f: layers.SpatialDropout2D(0.3, data_format=f, seed=1),
}


@pytest.mark.parametrize("data_format", FORMATS)
@pytest.mark.parametrize("name", on_all(ON_IMAGES))
def test_on_images(name, data_format, tmp_path):
    model = image(data_format=data_format)
    check(model, ON_IMAGES[name](data_format), tmp_path, after="a")


@pytest.mark.backend("torch", "jax")
def test_grouped_convolution(tmp_path):
    layer = layers.Conv2D(4, 3, padding="same", groups=2)
    check(image(), layer, tmp_path, after="a")


def test_on_sequences(tmp_path):
    check(sequence(), layers.Conv1D(4, 3, padding="causal"), tmp_path, after="a")
    check(sequence(), layers.DepthwiseConv1D(3, padding="same"), tmp_path, after="a")
    check(sequence(), layers.SeparableConv1D(4, 3, padding="same"), tmp_path, after="a")
    check(sequence(), layers.Dense(4), tmp_path, after="a")
    check(sequence(), layers.EinsumDense("abc,cd->abd", (7, 4)), tmp_path, after="a")


def test_on_volumes(tmp_path):
    inputs = keras.Input((4, 3, 2, 2))
    x = layers.Conv3D(3, 2, padding="same", name="a")(inputs)
    model = keras.Model(inputs, layers.GlobalAveragePooling3D()(x))
    check(model, layers.Conv3D(3, 3, padding="same"), tmp_path, after="a")


def residual(channels=4):
    """x + BN(conv(relu(BN(conv(x)))))"""
    inputs = keras.Input((6, 5, channels))
    x = layers.Conv2D(8, 3, padding="same")(inputs)
    x = layers.BatchNormalization()(x)
    x = layers.ReLU()(x)
    x = layers.Conv2D(channels, 3, padding="same")(x)
    x = layers.BatchNormalization(name="last")(x)
    return keras.Model(inputs, layers.Add()([inputs, x]), name="block")


def test_residual_block(tmp_path):
    deeper = check(image(), residual(), tmp_path, after="a")
    block = deeper.get_layer("block")
    gamma = keras.ops.convert_to_numpy(block.get_layer("last").gamma)
    assert gamma.any(), "the last BatchNormalization is zero and has been trained for a step"


def test_residual_block_behind_its_own_relu(tmp_path):
    inputs = keras.Input((6, 5, 4))
    branch = layers.Conv2D(4, 3, padding="same", name="conv")(inputs)
    block = keras.Model(inputs, layers.ReLU()(inputs + branch))
    check(image(), block, tmp_path, after="a")
    with pytest.raises(kg.GrowthError, match=r"only known to lie in \[-inf, inf\]"):
        kg.insert(image(activation=None), block, after="a")


def test_branch_keeps_initial_weights_but_the_last(tmp_path):
    block = keras.Sequential(
        [keras.Input((6, 5, 4)), layers.Conv2D(8, 3, padding="same", activation="relu", name="up"),
         layers.Conv2D(4, 1, name="down")]
    )  # fmt: skip
    kernel = keras.ops.convert_to_numpy(block.get_layer("up").kernel)
    model = image(activation=None)
    deeper = kg.insert(model, block, after="a", branch=True)
    copy = deeper.get_layer(block.name)
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(copy.get_layer("up").kernel), kernel)
    assert not keras.ops.convert_to_numpy(copy.get_layer("down").kernel).any()
    assert keras.ops.convert_to_numpy(block.get_layer("down").kernel).any()
    check(image(activation=None), block, tmp_path, after="a", branch=True)


def test_one_layer_on_a_branch(tmp_path):
    check(mlp("tanh"), layers.Dense(6, activation="tanh"), tmp_path, after="a", branch=True)


NEVER_LEARN = {
    "relu": lambda: layers.Dense(6, activation="relu"),
    "hard_shrink": lambda: layers.Dense(6, activation="hard_shrink"),
    "relu layer": lambda: keras.Sequential([layers.Dense(6), layers.ReLU()]),
    "prelu": lambda: keras.Sequential([layers.Dense(6), layers.PReLU()]),
}


@pytest.mark.parametrize("name", NEVER_LEARN)
def test_a_branch_of_zeros_that_would_get_no_gradient_is_refused(name):
    with pytest.raises(kg.GrowthError, match=r"whose slope at zero is 0.*would never learn"):
        kg.insert(mlp(), NEVER_LEARN[name](), after="a", branch=True)


KNOWN = {
    "relu": lambda: layers.ReLU(),
    "relu6": lambda: layers.ReLU(6.0),
    "sigmoid": lambda: layers.Activation("sigmoid"),
    "softplus": lambda: layers.Activation("softplus"),
    "softmax": lambda: layers.Softmax(),
}


@pytest.mark.backend("torch")
@pytest.mark.parametrize("name", KNOWN)
def test_relu_behind_values_known_not_to_be_negative(name, tmp_path):
    inputs = keras.Input((4, 4, 3))
    x = layers.Conv2D(4, 3, padding="same")(inputs)
    x = KNOWN[name]()(x)
    x = layers.MaxPooling2D(2)(x)
    x = layers.Dropout(0.2, seed=2)(x)
    x = layers.Concatenate()([x, layers.Add()([x, x])])
    x = layers.Flatten(name="flat")(x)
    model = keras.Model(inputs, layers.Dense(3)(x))
    check(model, layers.Dense(32, activation="relu"), tmp_path, after="flat")
    if name in ("relu", "softplus"):
        with pytest.raises(kg.GrowthError, match="applies 'relu6'"):
            kg.insert(model, layers.Dense(32, activation="relu6"), after="flat")
    else:
        # Their sum is at most 12, or 2.
        top = {"relu6": 12.0}.get(name, 2.0)
        kg.insert(model, layers.ReLU(max_value=top / 0.8 + 0.1), after="flat")


@pytest.mark.parametrize("activation", ["tanh", "leaky_relu", "gelu", "elu"])
def test_relu_behind_values_that_may_be_negative(activation):
    with pytest.raises(kg.GrowthError, match="applies 'relu'"):
        kg.insert(mlp(activation), layers.Dense(6, activation="relu"), after="a")


REFUSED = {
    "relu behind linear": (
        lambda: layers.Dense(6, activation="relu"), None, "applies 'relu', and .*no activation"),
    "relu layer behind linear": (lambda: layers.ReLU(), None, "changes negative values"),
    "tanh": (lambda: layers.Dense(6, activation="tanh"), "relu", "applies 'tanh'"),
    "wrong units": (lambda: layers.Dense(7), "relu", r"as there are channels \(6\)"),
    "layer norm": (lambda: layers.LayerNormalization(), "relu", "no weights were found that make "
                   "LayerNormalization '.*' the identity"),
    "swap": (lambda: Swap(), "relu", "no weights were found that make Swap 'swap.*'"),
    "chain of other widths": (
        lambda: keras.Sequential([layers.Dense(9), layers.Dense(6)]), "relu", "branch=True"),
    "rank": (lambda: layers.Reshape((3, 2)), "relu", "has to give the shape it gets"),
    "input": (lambda: layers.InputLayer((6,)), "relu", "has no input"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    make, activation, message = REFUSED[name]
    model = mlp(activation)
    with pytest.raises(kg.GrowthError, match=message):
        kg.insert(model, make(), after="a")
    before = [id(v) for v in model.variables], model.get_config()
    with pytest.raises(kg.GrowthError, match=message):
        kg.insert_(model, make(), after="a")
    assert before == ([id(v) for v in model.variables], model.get_config())


def test_refused_convolutions():
    with pytest.raises(kg.GrowthError, match="padding='same'"):
        kg.insert(image(), layers.Conv2D(4, 3), after="a")
    with pytest.raises(kg.GrowthError, match="strides=1"):
        kg.insert(image(), layers.Conv2D(4, 3, padding="same", strides=2), after="a")
    with pytest.raises(kg.GrowthError, match="no tap right above"):
        kg.insert(image(), layers.Conv2D(4, 2, padding="same", dilation_rate=3), after="a")
    with pytest.raises(kg.GrowthError, match="cannot be made zero"):
        kg.insert(mlp(), layers.Activation("sigmoid"), after="a", branch=True)


def test_batch_normalization_takes_statistics_of_the_data():
    model = mlp("tanh")
    randomize(model)
    x = np.random.default_rng(0).standard_normal((300, 5)).astype("float32") + 1
    deeper = kg.insert(model, layers.BatchNormalization(name="norm"), after="a", data=(x,))
    assert kg.verify(model, deeper, x)
    x = keras.ops.convert_to_tensor(x)
    hidden = predict(keras.Model(model.inputs, model.get_layer("a").output), x)[0]
    norm = deeper.get_layer("norm")
    np.testing.assert_allclose(
        keras.ops.convert_to_numpy(norm.moving_mean), hidden.mean(axis=0), atol=1e-5
    )
    # In training it normalises by the statistics of the batch, which are the same here.
    inference, training = deeper(x), deeper(x, training=True)
    np.testing.assert_allclose(
        keras.ops.convert_to_numpy(training), keras.ops.convert_to_numpy(inference), atol=1e-3
    )


def test_mixed_precision(tmp_path):
    inputs = keras.Input((5,))
    x = layers.Dense(6, activation="relu", name="a", dtype="mixed_bfloat16")(inputs)
    model = keras.Model(inputs, layers.Dense(2, name="b", dtype="float32")(x))
    layer = layers.Dense(6, activation="relu", dtype="mixed_bfloat16")
    check(model, layer, tmp_path, after="a")
