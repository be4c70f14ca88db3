"""Handwritten digits: 1,797 grey images of 8 x 8 pixels, which come with scikit-learn.

They are the test set of the UCI repository's "Optical Recognition of Handwritten Digits"
(Alpaydin and Kaynak 1998), written by 13 people.
"""

import numpy as np

from keras_grow.zoo._common import channels_first, whole
from keras_grow.zoo.registry import Data, ZooError, register_data


@register_data("digits")
def load_data(seed: int = 0, test_fraction: float = 0.2) -> Data:
    """Load the digits, split at random with the same share of every digit in both parts.

    Args:
        seed: of the split; the same seed gives the same split everywhere.
        test_fraction: share of the 1,797 images in the test set.

    Returns:
        `(x_train, y_train), (x_test, y_test)`: float32 images scaled to [0, 1], of shape
        (n, 8, 8, 1) or (n, 1, 8, 8) by `keras.config.image_data_format()`, and int32 labels of
        shape (n,) from 0 to 9. With the default split, 1,437 to train and 360 to test.

    Raises:
        ImportError: if scikit-learn is not installed.
        ZooError: if an argument is out of range.
    """
    try:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split
    except ImportError as error:
        raise ImportError(
            "The handwritten digits come with scikit-learn, which is not installed. Install it "
            'with: pip install "keras-grow[zoo]"'
        ) from error

    seed = whole("seed", seed, minimum=0)
    # Each part must have room for every one of the ten digits.
    if not 0.01 <= test_fraction <= 0.99:
        raise ZooError(
            f"`test_fraction` must lie between 0.01 and 0.99. "
            f"Received: test_fraction={test_fraction!r}"
        )
    images, labels = load_digits(return_X_y=True)
    x = (images / 16.0).astype("float32").reshape(-1, 8, 8, 1)
    if channels_first():
        x = np.ascontiguousarray(np.moveaxis(x, -1, 1))
    x_train, x_test, y_train, y_test = train_test_split(
        x, labels.astype("int32"), test_size=test_fraction, random_state=seed, stratify=labels
    )
    return (x_train, y_train), (x_test, y_test)
