"""Carries a plan out: in place on a live, compiled model, or on a copy."""

from keras_grow.apply.copying import copy_model
from keras_grow.apply.inplace import Surgery
from keras_grow.apply.slopes import Slopes

__all__ = ["Slopes", "Surgery", "copy_model"]
