"""`run_growth_test` as our tests run it, and small parts to build its models from."""

import os
from collections.abc import Callable
from typing import Any

import keras
import pytest
from keras import layers

import keras_grow as kg
from keras_grow import testing
from keras_grow.testing import (  # noqa: F401  (tests take them from here)
    all_layers,
    as_array,
    assert_close,
    assert_saves,
    at,
    describe,
    deviation,
    inputs_of,
    predict,
    predict_training,
    randomize,
)

BACKEND = keras.config.backend()
# Where a training step is compiled (about a second for each case), only the cases that ask for one
# take it, unless KERAS_GROW_TEST_ALL is set.
# Likewise, layers of which there is one for each rank are tried with rank 2 alone.
ALL = BACKEND == "torch" or bool(os.environ.get("KERAS_GROW_TEST_ALL"))
RANKS = (1, 2, 3) if ALL else (2,)
# TensorFlow's convolutions on the CPU know channels_last only.
FORMATS = ("channels_last",) if BACKEND == "tensorflow" else ("channels_last", "channels_first")


def run_growth_test(model: keras.Model, widths: Any, *args: Any, **options: Any) -> keras.Model:
    """`keras_grow.testing.run_growth_test`, with a training step only where that is quick."""
    options.setdefault("trains", ALL)
    return testing.run_growth_test(model, widths, *args, **options)


# --- models ------------------------------------------------------------------------------------


def chain(shape: tuple, *steps: Callable, **options: Any) -> keras.Model:
    """A functional model of layers (or functions on tensors) one after another."""
    tensor = inputs = keras.Input(shape, **options)
    for step in steps:
        tensor = step(tensor)
    return keras.Model(inputs, tensor)


def dense(units: int, name: str, **options: Any) -> Any:
    return layers.Dense(units, name=name, **options)


def conv(rank: int, filters: int, name: str, size: int = 2, **options: Any) -> Any:
    """A convolution over `rank` spatial axes."""
    options = {"padding": "same", **options}
    return getattr(layers, f"Conv{rank}D")(filters, size, name=name, **options)


SPACE = (4, 5, 3)  # lengths of the spatial axes; different, so that a swapped axis is seen


def image(rank: int, channels: int = 3, data_format: str = "channels_last") -> tuple:
    """Shape of one sample with `rank` spatial axes."""
    if data_format == "channels_first":
        return (channels, *SPACE[:rank])
    return (*SPACE[:rank], channels)


def assert_refused(model: keras.Model, message: str) -> None:
    """The layer "a" cannot grow: both the list of refusals and the attempt say why."""
    (refusal,) = [r for r in kg.sites(model, refused=True) if r.producer == "a"]
    assert message in refusal.reason
    with pytest.raises(kg.GrowthError) as caught:
        kg.widen(model, {"a": 6})
    assert message in str(caught.value)
