"""A bridge between any two layers: function kept, the best first gradient, trains, saves, loads."""

import keras
import numpy as np
import pytest
from helpers.autodiff import gradient_by
from helpers.fitting import (
    StepLosses,
    compiled,
    give_state,
    points,
    relu_with_slope,
    state_of,
    train_on_batches,
)
from helpers.growing import describe, inputs_of, predict, randomize
from keras import layers

import keras_grow as kg
from keras_grow import _keras


def mlp(activation="relu"):
    inputs = keras.Input((7,), name="in")
    x = layers.Dense(6, activation="relu", name="a")(inputs)
    x = layers.Dense(5, activation="tanh", name="x")(x)
    x = layers.BatchNormalization(name="bn")(x)
    x = layers.Dense(4, activation=activation, name="b")(x)
    return keras.Model(inputs, layers.Dense(3, name="out")(x), name="mlp")


def maps(*between, data_format="channels_last", rank=2, last=None):
    sizes = (9, 8, 6)[:rank]
    shape = (*sizes, 2) if data_format == "channels_last" else (2, *sizes)
    options = {"data_format": data_format}
    x = inputs = keras.Input(shape)
    conv = getattr(layers, f"Conv{rank}D")
    x = conv(3, 3, padding="same", activation="relu", name="a", **options)(x)
    for layer in between:
        x = layer(options)(x)
    x = (last or (lambda o: conv(4, 3, padding="same", activation="relu", name="b", **o)))(options)(
        x
    )
    if len(x.shape) > 2:
        x = getattr(layers, f"GlobalAveragePooling{rank}D")(**options)(x)
    return keras.Model(inputs, layers.Dense(2, name="out")(x))


def conv(*args, **kw):
    return lambda o: layers.Conv2D(*args, **o, **kw)


def words():
    inputs = keras.Input((6,), dtype="int32")
    x = layers.Embedding(5, 4, name="a")(inputs)
    x = layers.LSTM(5, return_sequences=True, name="lstm")(x)
    x = layers.Dense(3, activation="tanh", name="b")(x)
    x = layers.GlobalAveragePooling1D()(x)
    return keras.Model(inputs, layers.Dense(2, name="out")(x))


def words_to_vector():
    inputs = keras.Input((6,), dtype="int32")
    x = layers.Embedding(5, 4, name="a")(inputs)
    x = layers.LSTM(5, name="lstm")(x)
    return keras.Model(inputs, layers.Dense(3, name="b")(x))


MODELS = {
    "dense": mlp,
    "dense from the input": lambda: mlp(),
    "conv same": lambda: maps(conv(5, 1)),
    "conv valid": lambda: maps(conv(5, 3)),
    "conv two valid": lambda: maps(conv(5, 3), last=conv(4, 3, activation="relu", name="b")),
    "conv strides": lambda: maps(conv(5, 3, padding="same", strides=2)),
    "conv strides 3, 2": lambda: maps(conv(5, 3, padding="same", strides=(3, 2))),
    "pooling": lambda: maps(lambda o: layers.MaxPooling2D(2, **o)),
    "valid and pooling": lambda: maps(conv(5, 3), lambda o: layers.MaxPooling2D(2, **o)),
    "pointwise": lambda: maps(conv(5, 3), last=conv(4, 1, activation="relu", name="b")),
    "separable": lambda: maps(
        last=lambda o: layers.SeparableConv2D(4, 3, activation="relu", name="b", **o)
    ),
    "pooled to dense": lambda: maps(
        lambda o: layers.GlobalMaxPooling2D(**o),
        last=lambda o: layers.Dense(4, activation="relu", name="b"),
    ),
    "conv 1": lambda: maps(rank=1),
    "conv 3": lambda: maps(rank=3),
    "sequences": words,
    "sequence to vector": words_to_vector,
}


def check(model, tmp_path, after="a", before="b", **options):
    randomize(model)
    compiled_for(model)
    x = inputs_for(model)
    y = np.random.default_rng(2).standard_normal((16, model.output_shape[-1])).astype("float32")
    before_growth = predict(model, x)
    bridged = kg.bridge(model, after=after, before=before, width=2, data=(x, y), **options)
    for found, wanted in zip(predict(bridged, x), before_growth, strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-5 * np.abs(wanted).max())
    assert not {id(v) for v in model.variables} & {id(v) for v in bridged.variables}
    new = [la for la in bridged.layers if "_bridge" in la.name and la.weights]
    assert len(new) == 2
    start = [np.array(keras.ops.convert_to_numpy(v)) for v in new[0].weights + new[1].weights]
    for _ in range(2):
        bridged.train_on_batch(x, y)
    now = [keras.ops.convert_to_numpy(v) for v in new[0].weights + new[1].weights]
    moved = [float(np.abs(p - q).max()) for p, q in zip(start, now, strict=True)]
    assert min(moved) > 1e-6, moved
    bridged.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(predict(loaded, x)[0], predict(bridged, x)[0], atol=1e-5)
    assert describe(loaded) == describe(bridged)
    assert all(type(la).__module__.startswith("keras.src") for la in bridged.layers)
    return bridged


def compiled_for(model):
    model.compile(keras.optimizers.SGD(0.01, momentum=0.9), "mse")


def inputs_for(model):
    if "int" in model.inputs[0].dtype:
        return np.random.default_rng(1).integers(0, 5, (16, *model.input_shape[1:]))
    return keras.ops.convert_to_numpy(inputs_of(model, samples=16))


# Compiling takes long, and the paths are the same on all backends.
ON_ALL = {"dense", "conv strides", "pooled to dense", "sequences"}


def on_all(names, chosen):
    """Those not chosen run on PyTorch alone."""
    torch = pytest.mark.backend("torch")
    return [pytest.param(n, marks=() if n in chosen else torch) for n in names]


@pytest.mark.parametrize("name", on_all(MODELS, ON_ALL))
def test_paths(name, tmp_path):
    after = "in" if name == "dense from the input" else "a"
    check(MODELS[name](), tmp_path, after=after, seed=0)


@pytest.mark.backend("torch")
def test_channels_first(tmp_path):
    model = maps(conv(5, 3), lambda o: layers.MaxPooling2D(2, **o), data_format="channels_first")
    check(model, tmp_path, seed=0)


@pytest.mark.parametrize("activation", on_all(["relu", "sigmoid", "tanh"], ["sigmoid"]))
def test_random(activation, tmp_path):
    check(mlp(), tmp_path, method="random", activation=activation, seed=1)


@pytest.mark.backend("torch")
def test_activations_of_the_consumer(tmp_path):
    for activation in (None, "softmax", layers.LeakyReLU(0.1)):
        check(mlp(activation), tmp_path, method="random", seed=1)
    with pytest.raises(kg.GrowthError, match="a layer with weights"):
        kg.bridge(mlp(layers.PReLU()), after="a", before="b", method="random")


OPTIMAL = {
    "dense": mlp,
    "conv strides": MODELS["conv strides"],
    "pooled to dense": MODELS["pooled to dense"],
}


@pytest.mark.parametrize("name", OPTIMAL)
def test_the_first_gradient_is_the_best_possible(name):
    """Each unit's gradient, against singular values of the true mixed second derivative."""
    width = 2
    model = OPTIMAL[name]()
    randomize(model)
    compiled_for(model)
    x = inputs_for(model)
    y = np.random.default_rng(2).standard_normal((16, model.output_shape[-1])).astype("float32")
    options = {"after": "a", "before": "b", "width": width, "seed": 0, "form": "outgoing"}
    bridged = kg.bridge(model, activation="tanh", data=(x, y), **options)
    hidden, out = (_keras.kernel_of(bridged.get_layer(n)) for n in ("a_b_bridge", "a_b_bridge_out"))
    fan_in, fan_out = (keras.ops.convert_to_numpy(v) for v in (hidden, out))
    assert not fan_in.any()
    # By unit: the entries of the second kernel that read it.
    chosen = np.moveaxis(fan_out, -2, 0).reshape(width, -1)
    gradient = gradient_by(bridged, x, y, [hidden])

    def by_unit():
        return gradient()[0].reshape(-1, width).T

    found = np.linalg.norm(by_unit(), axis=1) / np.linalg.norm(chosen, axis=1)
    columns = []
    for entry in range(chosen.shape[1]):
        rows = np.zeros_like(chosen)
        rows[0, entry] = 1.0
        shape = np.moveaxis(fan_out, -2, 0).shape
        out.assign(np.moveaxis(rows.reshape(shape), 0, -2))
        columns.append(by_unit()[0])
    best = np.linalg.svd(np.stack(columns, axis=1), compute_uv=False)
    np.testing.assert_allclose(found, best[:width], rtol=1e-3)
    assert best[0] > 1.05 * best[1]  # so that the comparison can tell


def test_norms_are_those_of_the_layers_own_initial_weights():
    model = mlp()
    wide = kg.bridge(model, after="a", before="b", width=50, method="random", seed=0)
    kernel = keras.ops.convert_to_numpy(wide.get_layer("a_b_bridge").kernel)
    limit = np.sqrt(6 / (6 + 50))
    norms = np.linalg.norm(kernel, axis=0)
    assert norms.min() == pytest.approx(norms.max(), rel=1e-5)
    assert norms[0] == pytest.approx(limit / np.sqrt(3) * np.sqrt(6), rel=0.15)


def test_a_bridge_that_exists_grows(tmp_path):
    model = mlp()
    first = kg.bridge(model, after="a", before="b", width=2, method="random", seed=0)
    second = kg.bridge(first, after="a", before="b", width=3, method="random", seed=0)
    assert second.get_layer("a_b_bridge").units == 5
    assert kg.verify(model, second)
    other = kg.bridge(
        first, after="a", before="b", width=3, activation="tanh", method="random", seed=0
    )
    assert other.get_layer("a_b_bridge").units == 2
    assert other.get_layer("a_b_bridge_1").units == 3
    assert kg.verify(model, other)
    # A layer between the two is one as well (Appendix A), if it has the activation.
    between = kg.bridge(mlp(), after="in", before="x", width=2, method="random", seed=0)
    assert between.get_layer("a").units == 8
    assert len(between.layers) == len(mlp().layers)


def test_sequential_becomes_functional(tmp_path):
    model = keras.Sequential(
        [keras.Input((7,)), layers.Dense(6, activation="relu", name="a"),
         layers.Dense(5, activation="tanh", name="x"), layers.Dense(4, name="b")], name="chain"
    )  # fmt: skip
    compiled_for(model)
    x = inputs_for(model)
    model.train_on_batch(x, np.ones((16, 4)))
    bridged = check(model, tmp_path, seed=0)
    assert type(bridged).__name__ == "Functional"
    assert bridged.name == "chain"
    assert isinstance(model, keras.Sequential)
    with pytest.raises(kg.GrowthError, match="a chain, which cannot hold a bridge"):
        kg.bridge_(model, after="a", before="b", method="random")
    # What is only made wider stays a chain.
    kg.bridge_(model, after="a", before="b", activation="tanh", width=1, method="random")
    assert model.get_layer("x").units == 6


def test_in_place_with_sub_models(tmp_path):
    model = mlp()
    randomize(model)
    compiled_for(model)
    x = inputs_for(model)
    y = np.ones((16, 3), "float32")
    model.train_on_batch(x, y)
    shallow = keras.Model(model.input, model.get_layer("x").output)
    features = keras.Model(model.input, model.get_layer("b").output)
    head = keras.Model(model.input, layers.Dense(2)(model.get_layer("b").output))
    every = (model, shallow, features, head)
    before, held = [predict(m, x)[0] for m in every], [id(v) for v in model.variables]
    slots = {id(v): keras.ops.convert_to_numpy(v).copy() for v in model.optimizer.variables}
    name = kg.bridge_(model, after="a", before="b", width=2, data=(x, y), seed=0).name
    assert name == "a_b_bridge"
    for each, wanted in zip(every, before, strict=True):
        np.testing.assert_allclose(predict(each, x)[0], wanted, atol=1e-5 * np.abs(wanted).max())
    assert set(held) < {id(v) for v in model.variables}
    kept = [v for v in model.optimizer.variables if id(v) in slots]
    assert len(kept) == len(slots)
    for v in kept:
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(v), slots[id(v)])
    model.train_on_batch(x, y)
    for each in every[2:]:  # they go through the bridge
        assert any(la.name == "a_b_bridge" for la in each.layers)
        again = keras.Model.from_config(each.get_config())
        again.set_weights(each.get_weights())
        np.testing.assert_allclose(predict(again, x)[0], predict(each, x)[0], atol=1e-6)


def test_inside_a_nested_model(tmp_path):
    inner = mlp()
    inputs = keras.Input((7,))
    model = keras.Model(inputs, layers.Dense(2)(inner(inputs)))
    randomize(model)
    x = inputs_for(model)
    before = predict(model, x)[0]
    assert (
        kg.bridge_(model, after="mlp/a", before="mlp/b", method="random").name == "mlp/a_b_bridge"
    )
    np.testing.assert_allclose(predict(model, x)[0], before, atol=1e-5)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(predict(loaded, x)[0], before, atol=1e-5)


class Bridging(keras.callbacks.Callback):
    def __init__(self, data, at, **options):
        super().__init__()
        self.data, self.at, self.step, self.options = data, at, 0, options

    def on_train_batch_end(self, batch, logs=None):
        self.step += 1
        if self.step == self.at:
            kg.bridge_(self.model, data=self.data, seed=0, **self.options)
            self.state = state_of(self.model)


@pytest.mark.parametrize("slopes", [False, True])
def test_in_fit(slopes):
    """Training goes on as that of a fresh model with the bridge and the same state."""
    batch, steps, at = 8, 16, 5
    data = points(batch * steps)

    def net(bridge=None):
        inputs = keras.Input((5,))
        a = layers.Dense(4, activation="relu", name="a")(inputs)
        x = layers.Dense(4, activation="tanh", name="x")(a)
        if bridge is None:
            b = layers.Dense(3, activation="relu", name="b")(x)
        else:
            hidden = layers.Dense(2, activation=bridge, name="a_b_bridge")(a)
            b = layers.Dense(3, name="b")(x)
            out = layers.Dense(3, use_bias=False, name="a_b_bridge_out")(hidden)
            b = layers.Activation("relu")(layers.Add()([b, out]))
        return keras.Model(inputs, layers.Dense(3, name="scores")(b))

    model = compiled(net(), keras.optimizers.Adam(0.02))
    kept = kg.Slopes() if slopes else None
    form = "outgoing" if slopes else "auto"
    bridging = Bridging(data, at, after="a", before="b", width=2, slopes=kept, form=form)
    record = StepLosses()
    model.fit(*data, batch_size=batch, shuffle=False, verbose=0, callbacks=[bridging, record])
    fresh = compiled(net(relu_with_slope if slopes else "relu"), keras.optimizers.Adam(0.02))
    give_state(fresh, bridging.state)
    expected = train_on_batches(fresh, *data, batch, at, steps)
    np.testing.assert_allclose(record.losses[at:], expected, rtol=1e-4)
    hidden = keras.ops.convert_to_numpy(model.get_layer("a_b_bridge").kernel)
    assert np.abs(hidden).max() > 1e-2
    if kept is not None:
        assert len(kept) == 1
        kept.remove()
        assert model.get_layer("a_b_bridge").activation is keras.activations.relu


SIZES = [
    # From, to, the consumer's kernel; then kernels, strides and paddings.
    ((28,), (28,), (3,), (3, 1, "same", "same")),
    ((28,), (14,), (3,), (3, 2, "same", "same")),
    ((28,), (26,), (3,), (3, 1, "same", "valid")),
    ((28,), (24,), (3,), (3, 1, "valid", "valid")),
    ((28,), (13,), (3,), (3, 2, "valid", "same")),
    ((32,), (28,), (5,), (5, 1, "same", "valid")),
    ((32,), (24,), (5,), (5, 1, "valid", "valid")),
    ((None,), (None,), (3,), (3, 1, "same", "same")),
]


@pytest.mark.parametrize(("start", "end", "kernel", "expected"), SIZES)
def test_strides_and_paddings(start, end, kernel, expected):
    from keras_grow.surgery.paths import _convolutions

    first, second = _convolutions(start, end, kernel)
    size, stride, one, two = expected
    assert first == {"kernel_size": (size,), "strides": (stride,), "padding": one}
    assert second == {"kernel_size": (size,), "padding": two}


ERRORS = [
    ({"after": "b", "before": "a"}, "would make a cycle"),
    ({"after": "b", "before": "b"}, "would make a cycle"),
    ({"after": "z", "before": "b"}, "no layer 'z'"),
    ({"after": "a", "before": "bn"}, "'bn' is a BatchNormalization"),
    ({"after": "a", "before": "b", "width": 0}, "width must be"),
    ({"after": "a", "before": "b", "method": "gradmax"}, r"needs data=\(x, y\)"),
    ({"after": "a", "before": "b", "method": "best"}, "no growth method 'best'"),
    ({"after": "a", "before": "b", "method": "split"}, "no neurons yet that could be split"),
]


@pytest.mark.parametrize(("arguments", "message"), ERRORS)
def test_refused(arguments, message):
    model = mlp()
    compiled_for(model)
    model.train_on_batch(np.ones((4, 7)), np.ones((4, 3)))
    before = [id(v) for v in model.variables], model.get_config()
    slots = [id(v) for v in model.optimizer.variables]
    for function in (kg.bridge, kg.bridge_):
        with pytest.raises(kg.GrowthError, match=message):
            function(model, **{"method": "random", **arguments})
    assert before == ([id(v) for v in model.variables], model.get_config())
    assert slots == [id(v) for v in model.optimizer.variables]


def test_no_path():
    inputs = keras.Input((4, 4, 3))
    x = layers.Conv2D(3, 3, padding="same", name="a")(inputs)
    x = layers.UpSampling2D(2)(x)
    x = layers.Conv2D(3, 3, padding="same", name="b")(x)
    flat = layers.Dense(5, name="flat")(layers.GlobalAveragePooling2D()(x))
    y = layers.Conv2D(2, 1, name="c")(layers.Reshape((1, 1, 5))(flat))
    model = keras.Model(inputs, y)
    for after, before in (("a", "b"), ("flat", "c")):
        with pytest.raises(kg.GrowthError, match="No dense or convolutional path"):
            kg.bridge(model, after=after, before=before, method="random")


def test_shared_consumers_are_refused_in_place():
    model = mlp()
    other_in = keras.Input((5,))
    other = keras.Model(other_in, model.get_layer("b")(other_in), name="other")
    with pytest.raises(kg.GrowthError, match="is also called in model 'other'"):
        kg.bridge_(model, after="a", before="b", method="random")
    x = inputs_for(model)
    assert kg.verify(model, kg.bridge(model, after="a", before="b", method="random"), x)
    assert other.layers


@pytest.mark.parametrize(
    "where",
    [
        "keras_grow.apply.rewiring.extend_optimizer",
        "keras_grow.surgery.building.Bridging._fill",
        "keras_grow.growth.guarded.compare",
    ],
)
def test_a_failure_leaves_everything_as_it_was(where, monkeypatch):
    model = mlp()
    features = keras.Model(model.input, model.get_layer("b").output)
    randomize(model)
    compiled_for(model)
    x, y = inputs_for(model), np.ones((16, 3), "float32")
    model.train_on_batch(x, y)
    before = predict(model, x), predict(features, x), model.get_config(), state_of(model)

    def fail(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(where, fail)
        with pytest.raises(KeyboardInterrupt):
            kg.bridge_(model, after="a", before="b", data=(x, y))
    assert model.get_config() == before[2]
    np.testing.assert_array_equal(predict(model, x)[0], before[0][0])
    np.testing.assert_array_equal(predict(features, x)[0], before[1][0])
    for key, values in state_of(model).items():
        for p, q in zip(values, before[3][key], strict=True):
            np.testing.assert_array_equal(p, q)
    assert model.get_layer("b").activation is keras.activations.relu
    model.train_on_batch(x, y)
    kg.bridge_(model, after="a", before="b", data=(x, y))


@pytest.mark.parametrize("activation", ["nope", 3])
def test_an_unknown_activation_is_refused_by_name(activation):
    with pytest.raises(kg.GrowthError, match=f"activation={activation!r}"):
        kg.bridge(mlp(), after="a", before="b", activation=activation, method="random")


def test_a_bridge_of_zeros_has_biases_that_let_it_learn():
    model = mlp()
    model.compile(keras.optimizers.SGD(0.1), "mse")
    bridged = kg.bridge(model, after="a", before="b", width=3, method="zeros", seed=0)
    hidden = bridged.get_layer("a_b_bridge")
    assert (keras.ops.convert_to_numpy(hidden.bias) > 0).all()
    x = np.random.default_rng(0).standard_normal((8, *model.input_shape[1:]))
    for _ in range(3):
        bridged.train_on_batch(x, np.ones((8, *model.output_shape[1:])))
    assert (keras.ops.convert_to_numpy(hidden.kernel) != 0).any()


def test_the_form_of_a_bridge():
    x = np.random.default_rng(0).standard_normal((8, *mlp().input_shape[1:])).astype("float32")
    model = mlp()
    for form in ("outgoing", "inverse"):
        bridged = kg.bridge(model, after="a", before="b", method="random", seed=0, form=form)
        kernel = keras.ops.convert_to_numpy(bridged.get_layer("a_b_bridge").kernel)
        assert (np.abs(kernel).max() > 1e-3) == (form == "inverse")
        assert kg.verify(model, bridged, x)
    with pytest.raises(kg.GrowthError, match=r"joint.*changes.*Received: form='joint'"):
        kg.bridge(model, after="a", before="b", method="tiny", form="joint")
    with pytest.raises(kg.GrowthError, match=r"form must be.*Received: form='sideways'"):
        kg.bridge(model, after="a", before="b", method="random", form="sideways")
