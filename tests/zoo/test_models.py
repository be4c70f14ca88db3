"""The convolutional models: parameters counted by hand, shapes, data formats, training."""

import keras
import numpy as np
import pytest

from keras_grow import zoo


@pytest.fixture
def restore_data_format():
    usual = keras.config.image_data_format()
    yield
    keras.config.set_image_data_format(usual)


def can_run_channels_first():
    # TensorFlow's convolutions on the CPU take channels_last only.
    return keras.config.backend() != "tensorflow"


# --- convnet ------------------------------------------------------------------------------------


def test_convnet_parameters():
    w = 6
    expected = (
        (9 * 1 * w + w)
        + (9 * w * w + w)
        + (9 * w * 2 * w + 2 * w)
        + (2 * 2 * 2 * w * 10 + 10)  # two poolings: 8 x 8 -> 2 x 2
    )
    assert zoo.build("convnet", width=w).count_params() == expected
    # Batch normalization: 4 values per channel instead of the bias.
    batch = zoo.build("convnet", width=w, normalization="batch")
    assert batch.count_params() == expected + 3 * (w + w + 2 * w)


@pytest.mark.parametrize("normalization", ["none", "batch"])
@pytest.mark.parametrize("data_format", ["channels_first", "channels_last"])
def test_convnet_in_both_data_formats(data_format, normalization, restore_data_format):
    keras.config.set_image_data_format(data_format)
    model = zoo.build("convnet", width=3, channels=2, normalization=normalization, seed=0)
    shape = (2, 8, 8) if data_format == "channels_first" else (8, 8, 2)
    assert model.input_shape == (None, *shape)
    assert model.output_shape == (None, 10)
    assert model.get_layer("conv3").filters == 6
    if normalization == "batch":
        assert model.get_layer("norm3").gamma.shape == (6,)
    if data_format == "channels_last" or can_run_channels_first():
        assert np.isfinite(model.predict(np.ones((2, *shape), "float32"), verbose=0)).all()


def test_convnet_learns_the_digits():
    (x, y), (x_test, y_test) = zoo.load_data("digits")
    model = zoo.build("convnet", width=8, seed=0)
    model.compile(
        keras.optimizers.Adam(3e-3),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    model.fit(x, y, batch_size=64, epochs=6, verbose=0)
    _, accuracy = model.evaluate(x_test, y_test, verbose=0)
    assert accuracy > 0.9


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 0}, "Received: width=0"),
        ({"image_size": 3}, "at least 4.*image_size=3"),
        ({"normalization": None}, "normalization=None"),
    ],
)
def test_convnet_bad_arguments(options, message):
    with pytest.raises(zoo.ZooError, match=message):
        zoo.build("convnet", **options)


# --- wide_resnet --------------------------------------------------------------------------------


def by_hand(depth, k, block_width, batch):
    """Trainable parameters, summed up from the definition of the network."""
    n = (depth - 4) // 6
    total = 3 * 3 * 3 * 16  # stem
    before = 16
    for base in (16, 32, 64):
        filters = base * k
        inner = int(filters * block_width)
        for _ in range(n):
            total += 2 * before  # first normalization
            total += 9 * before * inner + 9 * inner * filters
            total += 2 * inner if batch else 0
            total += before * filters if before != filters else 0  # shortcut
            before = filters
    return total + 2 * before + before * 10 + 10  # last normalization, logits


def trainable(model):
    return sum(int(np.prod(w.shape)) for w in model.trainable_weights)


def test_wrn_28_1_has_the_published_size():
    """0.37 million: 367,024 in convolutions, 1,824 in normalizations, 650 in the last layer."""
    model = zoo.build("wide_resnet", depth=28, k=1, normalization="batch")
    assert trainable(model) == 367_024 + 1_824 + 650 == 369_498
    assert by_hand(28, 1, 1.0, batch=True) == 369_498
    assert len([x for x in model.layers if x.name.endswith("_conv1")]) == 12
    # Convolutions: 24 in the blocks, the stem, a shortcut in the second and the third group.
    assert len([x for x in model.layers if isinstance(x, keras.layers.Conv2D)]) == 27


@pytest.mark.parametrize("block_width", [0.25, 0.3, 1.0, 2])
@pytest.mark.parametrize("normalization", ["none", "batch"])
@pytest.mark.parametrize(("depth", "k"), [(10, 1), (10, 3), (16, 2)])
def test_wide_resnet_parameters(depth, k, block_width, normalization):
    model = zoo.build(
        "wide_resnet", depth=depth, k=k, block_width=block_width, normalization=normalization
    )
    assert trainable(model) == by_hand(depth, k, block_width, normalization == "batch")


def test_sizes_of_the_wide_resnet_paper():
    """Zagoruyko and Komodakis 2016, table 4: millions of parameters, rounded there."""
    published = {(40, 1): 0.6, (40, 2): 2.2, (40, 4): 8.9, (16, 8): 11.0, (28, 10): 36.5}
    for (depth, k), millions in published.items():
        assert by_hand(depth, k, 1.0, batch=True) / 1e6 == pytest.approx(millions, abs=0.06)


def test_block_width_shrinks_the_first_convolution_of_every_block_only():
    """Section 4.2: "we only shrink the first convolutional layer at every block"."""
    small = zoo.build("wide_resnet", depth=16, k=1, block_width=0.25)
    full = zoo.build("wide_resnet", depth=16, k=1)
    for layer in full.layers:
        if isinstance(layer, keras.layers.Conv2D):
            ratio = 4 if layer.name.endswith("_conv1") else 1
            assert layer.filters == ratio * small.get_layer(layer.name).filters
    assert [small.get_layer(f"block{g}_2_conv1").filters for g in (1, 2, 3)] == [4, 8, 16]


@pytest.mark.parametrize("data_format", ["channels_first", "channels_last"])
def test_wide_resnet_in_both_data_formats(data_format, restore_data_format):
    keras.config.set_image_data_format(data_format)
    model = zoo.build("wide_resnet", depth=10, image_size=8, normalization="batch", seed=0)
    shape = (3, 8, 8) if data_format == "channels_first" else (8, 8, 3)
    assert model.input_shape == (None, *shape)
    # 8 -> 8 -> 4 -> 2
    assert model.get_layer("block3_1_add").output.shape[2] == 2
    assert trainable(model) == by_hand(10, 1, 1.0, batch=True)
    if data_format == "channels_last" or can_run_channels_first():
        assert np.isfinite(model.predict(np.ones((2, *shape), "float32"), verbose=0)).all()


def test_wide_resnet_trains_with_regularization():
    model = zoo.build("wide_resnet", depth=10, image_size=8, block_width=0.25, l2=2e-4, seed=0)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(16, 8, 8, 3)).astype("float32"), rng.integers(10, size=16)
    if keras.config.image_data_format() == "channels_first":
        x = np.moveaxis(x, -1, 1)
    trained = [keras.ops.convert_to_numpy(w) for w in model.trainable_weights]
    penalty = 2e-4 * sum(float((w**2).sum()) for w in trained)
    assert float(keras.ops.convert_to_numpy(sum(model.losses))) == pytest.approx(penalty, rel=1e-5)
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    losses = model.fit(x, y, batch_size=16, epochs=5, verbose=0).history["loss"]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth": 27}, r"6n \+ 4.*nearest are 22 and 28. Received: depth=27"),
        ({"depth": 4}, "Received: depth=4"),
        ({"k": 0}, "Received: k=0"),
        ({"block_width": 0.05}, "at least one of the first group's 16 channels.*0.05"),
        ({"normalization": "group"}, "normalization='group'"),
        ({"classes": 0}, "Received: classes=0"),
    ],
)
def test_wide_resnet_bad_arguments(options, message):
    with pytest.raises(zoo.ZooError, match=message):
        zoo.build("wide_resnet", **options)
