"""How the weights of new neurons are chosen."""

from keras_grow.growth.methods.base import (
    METHODS,
    Method,
    MethodLike,
    Problem,
    Scaled,
    Solution,
    names,
    register,
)
from keras_grow.growth.methods.checking import get
from keras_grow.growth.methods.firefly import Firefly
from keras_grow.growth.methods.gradmax import GradMax
from keras_grow.growth.methods.gradmax_opt import GradMaxOpt
from keras_grow.growth.methods.pursuit import Pursuit
from keras_grow.growth.methods.random import Random
from keras_grow.growth.methods.split import Split
from keras_grow.growth.methods.tiny import Tiny
from keras_grow.growth.methods.zeros import Zeros

__all__ = [
    "METHODS",
    "Firefly",
    "GradMax",
    "GradMaxOpt",
    "Method",
    "MethodLike",
    "Problem",
    "Pursuit",
    "Random",
    "Scaled",
    "Solution",
    "Split",
    "Tiny",
    "Zeros",
    "get",
    "names",
    "register",
]
