"""Functions of the values that new channels have at growth, NaN where they are not known.

For `Channels.mapped` what becomes of them, for `Space.require` what must hold of them.
"""

from collections.abc import Callable

import numpy as np

from keras_grow.rules.space import UNKNOWN

Values = Callable[[np.ndarray], np.ndarray]


def is_zero(values: np.ndarray) -> np.ndarray:
    return values == 0


def not_zero(values: np.ndarray) -> np.ndarray:
    """True of values that are not known as well."""
    return ~(values == 0)


def same(values: np.ndarray) -> np.ndarray:
    return values


def unknown(values: np.ndarray) -> np.ndarray:
    return np.full(values.shape, UNKNOWN)


def zero_stays(values: np.ndarray) -> np.ndarray:
    return np.where(values == 0, 0.0, UNKNOWN)


def zero_becomes(value: float) -> Values:
    return lambda values: np.where(values == 0, value, UNKNOWN)


def constant(value: float) -> Values:
    """Of equal entries; what is not known may not be equal everywhere."""
    return lambda values: np.where(np.isnan(values), UNKNOWN, value)
