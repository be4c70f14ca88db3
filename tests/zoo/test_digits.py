import sys

import keras
import numpy as np
import pytest

from keras_grow import zoo


def test_shapes_scale_and_split():
    (x, y), (x_test, y_test) = zoo.load_data("digits")
    assert (x.shape, x_test.shape) == ((1437, 8, 8, 1), (360, 8, 8, 1))
    assert (x.dtype, y.dtype) == ("float32", "int32")
    assert (x.min(), x.max()) == (0, 1)
    for digit in range(10):
        share = np.mean(y == digit), np.mean(y_test == digit)
        assert share[0] == pytest.approx(share[1], abs=0.005)
        assert share[0] == pytest.approx(0.1, abs=0.005)


def test_no_test_image_is_trained_on():
    (x, _), (x_test, _) = zoo.load_data("digits")
    assert len(np.unique(np.concatenate([x, x_test]).reshape(1797, 64), axis=0)) == 1797


def test_images_keep_their_labels():
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    known = {image.tobytes(): label for image, label in zip(images, labels, strict=True)}
    for x, y in zoo.load_data("digits", seed=7):
        flat = np.rint(x.reshape(-1, 64) * 16.0).astype("float64")
        assert [known[image.tobytes()] for image in flat] == y.tolist()


def test_the_seed_decides_the_split():
    first, again, other = (zoo.load_data("digits", seed=seed) for seed in (0, 0, 1))
    np.testing.assert_equal(first, again)
    assert (first[1][1] != other[1][1]).any()
    assert first[1][1][:8].tolist() == [7, 6, 3, 7, 7, 3, 2, 8]


def test_channels_first():
    usual = keras.config.image_data_format()
    (x_last, _), _ = zoo.load_data("digits")
    try:
        keras.config.set_image_data_format("channels_first")
        (x, _), _ = zoo.load_data("digits")
    finally:
        keras.config.set_image_data_format(usual)
    assert x.shape == (1437, 1, 8, 8)
    np.testing.assert_array_equal(np.moveaxis(x, 1, -1), x_last)


def test_without_scikit_learn_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match=r'pip install "keras-grow\[zoo\]"'):
        zoo.load_data("digits")


@pytest.mark.parametrize("fraction", [0, 1, 1.5, -0.1])
def test_bad_fractions(fraction):
    with pytest.raises(zoo.ZooError, match=f"test_fraction={fraction}"):
        zoo.load_data("digits", test_fraction=fraction)


def test_bad_seed():
    with pytest.raises(zoo.ZooError, match="seed=-1"):
        zoo.load_data("digits", seed=-1)
