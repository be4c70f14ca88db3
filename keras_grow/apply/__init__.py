"""Carries a plan out: in place on a live, compiled model, or on a copy."""

from keras_grow.apply.copying import copy_model
from keras_grow.apply.slopes import Slopes
from keras_grow.apply.widening import Surgery

__all__ = ["Slopes", "Surgery", "copy_model"]
