"""What a careful reader must not refuse: Keras 2's .h5 files, and models of every kind of layer."""

import copy
import json

import h5py
import keras
import numpy as np
import pytest

from keras_grow.tools.modelfile import load_model
from keras_grow.tools.modelfile.legacy import upgrade_model, upgrade_training

L = keras.layers

VARIANCE = {"class_name": "GlorotUniform", "config": {"seed": None}}


def rewrite(path, edit, training=None):
    """Change an .h5 file's configuration into what another version of Keras wrote."""
    with h5py.File(path, "r+") as tensors:
        config = json.loads(tensors.attrs["model_config"])
        edit(config)
        tensors.attrs["model_config"] = json.dumps(config)
        if training is not None:
            tensors.attrs["training_config"] = json.dumps(training)


@pytest.mark.parametrize(
    ("layer", "shape", "extra"),
    [
        (lambda: L.DepthwiseConv2D(3), (6, 6, 2), {"groups": 1, "kernel_initializer": VARIANCE}),
        (
            lambda: L.SeparableConv2D(3, 3),
            (6, 6, 2),
            {"groups": 1, "kernel_regularizer": None, "kernel_constraint": None},
        ),
        (lambda: L.Conv2DTranspose(3, 3), (6, 6, 2), {"groups": 1}),
        (lambda: L.LSTM(3), (5, 2), {"time_major": False, "implementation": 2}),
        (lambda: L.GRU(3), (5, 2), {"time_major": False, "implementation": 1}),
        (
            lambda: L.BatchNormalization(),
            (5, 2),
            {"axis": [2], "fused": None, "virtual_batch_size": None, "adjustment": None},
        ),
        (lambda: L.BatchNormalization(), (5, 2), {"mode": 0}),
        (lambda: L.Dense(3), (4,), {"dtype": {"class_name": "Policy",
                                              "config": {"name": "float32"}}}),
    ],
)  # fmt: skip
def test_settings_that_keras_3_has_no_more(tmp_path, layer, shape, extra):
    path = tmp_path / "old.h5"
    model = keras.Sequential([keras.Input(shape), layer()])
    model.save(path)
    rewrite(path, lambda c: c["config"]["layers"][-1]["config"].update(extra))
    before = path.read_bytes()
    with pytest.raises((TypeError, ValueError, AttributeError)):
        keras.saving.load_model(path, compile=False)  # or this test is for nothing
    loaded = load_model(path)
    for a, b in zip(model.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert path.read_bytes() == before


def test_settings_that_mean_something_are_left_to_keras():
    config = {"class_name": "LSTM", "config": {"units": 3, "time_major": True}}
    assert upgrade_model(config) == config
    config = {"class_name": "DepthwiseConv2D", "config": {"groups": 2}}
    assert upgrade_model(config) == config


def test_an_upgrade_changes_a_copy():
    config = {"class_name": "LSTM", "config": {"units": 3, "time_major": False}}
    kept = copy.deepcopy(config)
    assert upgrade_model(config) == {"class_name": "LSTM", "config": {"units": 3}}
    assert config == kept


def test_training_settings_of_keras_2(tmp_path, capsys):
    path = tmp_path / "old.h5"
    keras.Sequential([keras.Input((4,)), L.Dense(3), L.Dense(2)]).save(path)
    training = {
        "loss": "mse",
        "metrics": ["mae"],
        "loss_weights": None,
        "sample_weight_mode": None,
        "optimizer_config": {
            "class_name": "SGD",
            "config": {"lr": 0.125, "momentum": 0.5, "decay": 0.25, "nesterov": True},
        },
    }
    rewrite(path, lambda c: None, training)
    model = load_model(path, compile=True)
    assert float(model.optimizer.learning_rate) == 0.125
    assert model.optimizer.momentum == 0.5
    assert "decay=0.25" in capsys.readouterr().err
    loss = model.evaluate(np.ones((2, 4)), np.zeros((2, 2)), verbose=0)
    expected = np.mean(model.predict_on_batch(np.ones((2, 4), "float32")) ** 2)
    assert np.ravel(loss)[0] == pytest.approx(expected, rel=1e-4)


def test_upgraded_training_settings():
    upgraded, lost = upgrade_training({"loss": {"a": "mse"}, "metrics": [["MAE"], "accuracy"]})
    assert upgraded["loss"] == {"a": "mean_squared_error"}
    assert upgraded["metrics"] == [["mean_absolute_error"], "accuracy"]
    assert not lost


@pytest.mark.every_backend
def test_an_optimizer_with_a_state_in_an_h5_file_still_trains(tmp_path, capsys):
    path = tmp_path / "trained.h5"
    model = keras.Sequential([keras.Input((4,)), L.Dense(3), L.Dense(2)])
    model.compile("adam", "mean_squared_error")
    model.fit(np.ones((4, 4)), np.zeros((4, 2)), verbose=0)
    model.save(path)
    loaded = load_model(path, compile=True)
    assert "optimizer's state" in capsys.readouterr().err
    before = loaded.get_weights()
    loaded.fit(np.ones((4, 4)), np.zeros((4, 2)), verbose=0)
    assert any((a != b).any() for a, b in zip(before, loaded.get_weights(), strict=True))


def every_kind():
    """Functional models whose layers need something else than a kernel to be built."""
    image, words = (8, 8, 4), (6,)

    def chain(shape, *layers, dtype="float32"):
        inputs = x = keras.Input(shape, dtype=dtype)
        for layer in layers:
            x = layer(x)
        return keras.Model(inputs, x)

    def attention():
        x = keras.Input((5, 8))
        y = L.MultiHeadAttention(2, 4)(x, x)
        y = L.GroupQueryAttention(4, 2, 2)(y, y)
        return keras.Model(x, L.LayerNormalization()(L.Add()([x, y])))

    def shared():
        dense, x, y = L.Dense(3), keras.Input((4,)), keras.Input((4,))
        block = keras.Sequential([keras.Input((3,)), L.Dense(3), L.Dropout(0.5)])
        return keras.Model([x, y], keras.ops.add(block(dense(x)), block(dense(y))))

    return {
        "attention": attention,
        "shared": shared,
        "recurrent": lambda: chain(
            words,
            L.Embedding(20, 4),
            L.Bidirectional(L.LSTM(3, return_sequences=True)),
            L.GRU(3, return_sequences=True),
            L.TimeDistributed(L.Dense(4)),
            L.SimpleRNN(2),
            dtype="int32",
        ),
        "stacked": lambda: chain((5, 4), L.RNN([L.LSTMCell(3), L.GRUCell(2)])),
        "images": lambda: chain(
            image,
            L.RandomFlip(),
            L.RandomRotation(0.1),
            L.Rescaling(2.0),
            L.Resizing(6, 6),
            L.SpectralNormalization(L.Conv2D(4, 3)),
            L.GroupNormalization(2),
            L.GaussianNoise(0.1),
            L.SpatialDropout2D(0.1),
            L.PReLU(shared_axes=[1, 2]),
            L.SeparableConv2D(4, 3),
            L.UnitNormalization(),
        ),
        "volume": lambda: chain((2, 4, 4, 4, 2), L.ConvLSTM3D(2, 2)),
        "film": lambda: chain((3, 6, 6, 2), L.ConvLSTM2D(2, 3, return_sequences=True)),
        "adapted": lambda: chain((4,), L.Normalization(mean=1.0, variance=4.0), L.Dense(2)),
        "categories": lambda: chain(
            (1,), L.Discretization(bin_boundaries=[0.0, 1.0]), L.CategoryEncoding(4)
        ),
        "einsum": lambda: chain(
            (4, 6), L.EinsumDense("abc,cd->abd", (None, 3)), L.RMSNormalization()
        ),
        "policy": lambda: chain((4,), L.Dense(3, dtype="mixed_bfloat16"), L.Dense(2)),
        "long": lambda: chain((4,), *(L.Dense(4) for _ in range(20))),
    }  # fmt: skip


@pytest.mark.parametrize("kind", every_kind())
@pytest.mark.parametrize("ending", [".keras", ".h5"])
def test_models_of_every_kind_of_layer_load(tmp_path, kind, ending):
    path = tmp_path / f"model{ending}"
    model = every_kind()[kind]()
    model.save(path)
    if ending == ".h5":
        try:
            keras.saving.load_model(path, compile=False)
        except Exception as error:
            pytest.skip(f"Keras itself cannot read it: {str(error)[:100]}")
    loaded = load_model(path)
    for a, b in zip(model.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_weighing_leaves_nothing_behind(tmp_path):
    """Automatic names and the variables of models made afterwards are as if it had not been."""
    path = tmp_path / "model.keras"
    keras.Sequential([keras.Input((4,)), L.Dense(3), L.Dense(2)]).save(path)
    keras.utils.clear_session(free_memory=False)
    load_model(path)
    assert keras.Sequential([keras.Input((4,)), L.Dense(2)]).layers[0].name == "dense"
    with keras.StatelessScope():
        later = L.Dense(2)
        later.build((None, 4))
    assert later.kernel.shape == (4, 2)
    assert np.isfinite(np.asarray(keras.ops.convert_to_numpy(later.kernel))).all()


def test_nested_models_load(tmp_path):
    model = keras.Sequential([keras.Input((4,)), L.Dense(4)])
    for _ in range(25):
        model = keras.Sequential([keras.Input((4,)), model])
    model.save(tmp_path / "deep.keras")
    assert load_model(tmp_path / "deep.keras").count_params() == 20
