"""Bounds on the values of tensors, from what the layers before them are: interval arithmetic.

Relu in front of an insertion makes a relu behind it the identity (Net2DeeperNet, Chen et al. 2016),
and so do other layers whose values are known not to be negative. Bounds hold in inference and in
training. What is not known is unbounded.
"""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_grow import _keras
from keras_grow.graph import Call, Graph, Ref
from keras_grow.rules import activations

Interval = tuple[float, float]
ANY: Interval = (-np.inf, np.inf)

act, layers = keras.activations, keras.layers


def _clip(low: float, high: float) -> Callable[[Interval], Interval]:
    return lambda x: (min(max(x[0], low), high), min(max(x[1], low), high))


def _within(low: float, high: float) -> Callable[[Interval], Interval]:
    return lambda x: (low, high)


_relu = _clip(0.0, np.inf)
_ACTIVATIONS: dict[Any, Callable[[Interval], Interval]] = {
    act.linear: lambda x: x,
    act.relu: _relu,
    act.relu6: _clip(0.0, 6.0),
    act.leaky_relu: lambda x: (x[0] if x[0] >= 0 else x[0] * 0.2, max(x[1], 0.0)),
    act.elu: lambda x: (max(x[0], -1.0), x[1] if x[1] > 0 else 0.0),
    act.sigmoid: _within(0.0, 1.0),
    act.hard_sigmoid: _within(0.0, 1.0),
    act.softmax: _within(0.0, 1.0),
    act.sparsemax: _within(0.0, 1.0),
    act.sparse_sigmoid: _within(0.0, 1.0),
    act.softplus: _within(0.0, np.inf),
    act.squareplus: _within(0.0, np.inf),
    act.sparse_plus: _within(0.0, np.inf),
    act.exponential: _within(0.0, np.inf),
    act.tanh: _within(-1.0, 1.0),
    act.hard_tanh: _clip(-1.0, 1.0),
    act.softsign: _within(-1.0, 1.0),
    act.gelu: _within(-0.18, np.inf),
    act.silu: _within(-0.28, np.inf),
    act.mish: _within(-0.32, np.inf),
}
_OPS: dict[str, Callable[[Interval], Interval]] = {
    "ops.Relu": _relu,
    "ops.Relu6": _clip(0.0, 6.0),
    "ops.Sigmoid": _within(0.0, 1.0),
    "ops.HardSigmoid": _within(0.0, 1.0),
    "ops.Softmax": _within(0.0, 1.0),
    "ops.Softplus": _within(0.0, np.inf),
    "ops.Exp": _within(0.0, np.inf),
    "ops.Absolute": _within(0.0, np.inf),
    "ops.Square": _within(0.0, np.inf),
    "ops.Sqrt": _within(0.0, np.inf),
    "ops.Tanh": _within(-1.0, 1.0),
}


def _names(*names: str) -> Any:
    return tuple(getattr(layers, n) for n in names if hasattr(layers, n))


def _ranked(*names: str) -> Any:
    return _names(*(f"{name}{rank}D" for name in names for rank in (1, 2, 3)))


# Their values are some of the input's, or means of them.
_SELECTING = _ranked(
    "MaxPooling", "AveragePooling", "GlobalMaxPooling", "GlobalAveragePooling", "Cropping",
    "UpSampling", "AdaptiveMaxPooling", "AdaptiveAveragePooling",
) + _names(
    "Flatten", "Reshape", "Permute", "Identity", "RepeatVector", "ActivityRegularization",
)  # fmt: skip
_SELECTING_OPS = {
    f"ops.{name}"
    for name in ("Reshape", "Transpose", "MaxPool", "AveragePool", "Mean", "Max", "Squeeze",
                 "ExpandDims", "Flip", "Roll", "GetItem", "Swapaxes", "Moveaxis")
}  # fmt: skip
_DROPPING = _names("Dropout", "SpatialDropout1D", "SpatialDropout2D", "SpatialDropout3D")
_PADDING = _ranked("ZeroPadding")


def ranges(graph: Graph, entry: Interval = ANY) -> dict[Ref, Interval]:
    """Bounds of every tensor of a graph whose inputs lie within `entry`."""
    known: dict[Ref, Interval] = dict.fromkeys(graph.inputs, entry)
    for call in graph.calls:
        inputs = [known.get(r, ANY) for r in call.inputs]
        found = bounds(call, inputs)
        known.update(dict.fromkeys(call.outputs, found))
    return known


def range_of(graph: Graph, tensor: Any) -> Interval:
    """Bounds of a symbolic tensor of a model, over all calls of the nested model it lies in."""
    found = [
        interval for ref, interval in ranges(graph).items() if any(t is tensor for t in ref.tensors)
    ]
    return _hull(found) if found else ANY


def bounds(call: Call, inputs: list[Interval]) -> Interval:
    """Bounds of what a call gives from bounds of what it is given."""
    op, kind = call.op, _keras.op_kind(call.op)
    first = inputs[0] if inputs else ANY
    if kind in _OPS:
        return _OPS[kind](first)
    if isinstance(op, layers.ReLU):
        return _relu_layer(op, first)
    if isinstance(op, layers.Softmax):
        return (0.0, 1.0)
    if isinstance(op, layers.Activation):
        return _activated(op.activation, first)
    if isinstance(op, _SELECTING) or kind in _SELECTING_OPS:
        return first
    if isinstance(op, _DROPPING):
        return (min(first[0] / (1 - op.rate), 0.0), max(first[1] / (1 - op.rate), 0.0))
    if isinstance(op, _PADDING):
        return _hull([first, (0.0, 0.0)])
    if isinstance(op, (layers.Concatenate, layers.Average)) or kind in (
        "ops.Concatenate",
        "ops.Stack",
    ):
        return _hull(inputs)
    if len(inputs) == len(call.inputs) > 1:
        joined = _joined(op, kind, inputs)
        if joined is not None:
            return joined
    if getattr(op, "activation", None) is not None and isinstance(op, layers.Layer):
        if isinstance(op, layers.RNN) or hasattr(op, "recurrent_activation"):
            return ANY
        return _activated(op.activation, ANY)
    return ANY


def _joined(op: Any, kind: str, inputs: list[Interval]) -> Interval | None:
    if isinstance(op, layers.Add) or kind == "ops.Add":
        return (sum(low for low, _ in inputs), sum(high for _, high in inputs))
    if isinstance(op, layers.Maximum) or kind == "ops.Maximum":
        return (max(low for low, _ in inputs), max(high for _, high in inputs))
    if isinstance(op, layers.Minimum) or kind == "ops.Minimum":
        return (min(low for low, _ in inputs), min(high for _, high in inputs))
    if (isinstance(op, layers.Multiply) or kind == "ops.Multiply") and all(
        low >= 0 for low, _ in inputs
    ):
        return (0.0, np.inf)
    return None


def _activated(function: Any, x: Interval) -> Interval:
    plain = activations.plain(function)
    if isinstance(plain, layers.ReLU):
        return _relu_layer(plain, x)
    known = _ACTIVATIONS.get(plain) if callable(getattr(plain, "__hash__", None)) else None
    return ANY if known is None else known(x)


def _relu_layer(op: Any, x: Interval) -> Interval:
    top = np.inf if op.max_value is None else float(op.max_value)
    if op.negative_slope or op.threshold < 0:
        return (ANY[0], top)
    return _clip(0.0, top)(x)


def _hull(intervals: list[Interval]) -> Interval:
    return (min(low for low, _ in intervals), max(high for _, high in intervals))
