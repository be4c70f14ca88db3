"""Random weights under which a deep model's outputs mean something.

Fresh models have trivial biases, statistics and scales, which hide mistakes: a mean of 0 or a
gamma of 1 in the wrong place changes nothing. Wholly random ones let activations vanish or
overflow after some dozens of layers. So kernels are drawn with the variance 2 / fan-in, and the
statistics of batch normalisation are those of a real batch, a little off.
"""

from typing import Any

import keras
import numpy as np

from keras_grow.testing import sublayers

_SPREAD = 0.1


def randomize(model: Any, inputs: Any, seed: int = 0) -> None:
    """Gives every float weight of `model` a random value; `inputs` is a batch for it."""
    rng = np.random.default_rng(seed)
    for layer in sublayers(model):
        for variable in _own_variables(layer):
            if keras.backend.is_float_dtype(variable.dtype):
                variable.assign(_draw(layer, variable, rng))
    _settle(model, inputs)
    for layer in sublayers(model):
        if isinstance(layer, keras.layers.BatchNormalization) and layer.built:
            spread = np.sqrt(_array(layer.moving_variance))
            shape = spread.shape
            mean = _array(layer.moving_mean) + _SPREAD * spread * rng.standard_normal(shape)
            layer.moving_mean.assign(mean)
            # Not zero: a channel that is constant on this batch may not be on another.
            variance = spread**2 * rng.uniform(0.8, 1.25, shape) + 1e-2
            layer.moving_variance.assign(variance)


def _own_variables(layer: Any) -> list:
    """Trainable ones that are no sublayer's."""
    if isinstance(layer, keras.Model):
        return []
    _, *below = sublayers(layer)
    others = {id(v) for one in below for v in one.variables}
    return [v for v in layer.variables if v.trainable and id(v) not in others]


def _draw(layer: Any, variable: Any, rng: np.random.Generator) -> np.ndarray:
    shape = tuple(variable.shape)
    name = variable.name
    if len(shape) >= 2 and "gamma" not in name and "scale" not in name:
        return rng.standard_normal(shape) * np.sqrt(2.0 / _fan_in(layer, name, shape))
    centre = 1.0 if name in ("gamma", "scale", "layer_scale") else 0.0
    return centre + _SPREAD * rng.standard_normal(shape)


def _fan_in(layer: Any, name: str, shape: tuple) -> float:
    if isinstance(layer, keras.layers.Embedding):
        return 2.0
    if "depthwise" in name or "DepthwiseConv" in type(layer).__name__:
        return float(np.prod(shape[:-2]))
    return float(np.prod(shape[:-1]))


def _settle(model: Any, inputs: Any) -> None:
    """One pass in training mode which leaves the batch's own statistics in every BatchNorm."""
    norms = [x for x in sublayers(model) if isinstance(x, keras.layers.BatchNormalization)]
    if not norms:
        return
    before = [(n, n.momentum) for n in norms]
    for norm in norms:
        norm.momentum = 0.0
    model(inputs, training=True)
    for norm, momentum in before:
        norm.momentum = momentum


def _array(variable: Any) -> np.ndarray:
    return np.asarray(keras.ops.convert_to_numpy(variable), dtype="float64")
