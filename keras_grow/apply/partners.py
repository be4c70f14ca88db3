"""New calls for what cannot grow along with the channels that reach it.

A layer normalisation over all channels would change with every new one. So the old channels go
on through the layer alone, and the new ones are divided by the same standard deviation: they keep
the scale that their readers are used to, from the first step on and however few they are.

A tensor that does not grow with the one it is added to is padded with zeros (He et al. 2016,
option A).

Both are made of stock Keras parts, which later growths pass like any others.
"""

from functools import partial
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_grow import _keras
from keras_grow.apply.rewiring import Rewiring
from keras_grow.graph import Call
from keras_grow.graph.places import places
from keras_grow.rules import Channels


def keep_apart(rewiring: Rewiring, calls: list[tuple[Call, Channels]]) -> None:
    """Puts a small model in the place of each call; the tensors have grown already.

    Args:
        calls: with the channels that reach them; the new ones are the last.
    """
    if not calls:
        return
    owners = {path: place.owner for path, place in places(rewiring.model).items()}
    graphs = [(f, _keras.all_nodes(f)) for f in rewiring.living.graphs]
    for call, _ in calls:  # first, since calls are known by their number
        rewiring.note(_keras.forget_call(call.node))
    made: dict[int, Any] = {}
    for call, channels in calls:
        (x,), (y,) = _keras.input_tensors(call.node), call.node.outputs
        if id(call.op) not in made:
            old = int((channels.labels >= 0).sum())
            name = rewiring.name(f"{call.op.name}_apart")
            count = _keras.call_count(call.op)
            rewiring.note(partial(_keras.set_call_count, call.op, count))
            made[id(call.op)] = _split(call.op, x, channels.axis, old, name)
        apart = made[id(call.op)]
        result = rewiring.call(apart, x)
        owner = owners[call.path]
        for functional, nodes in graphs:
            if all(node is not call.node for node in nodes):
                continue
            readers = [n for n in nodes if any(t is y for t in _keras.input_tensors(n))]
            rewiring.swap(readers, y, result)
            if any(t is y for t in _keras.flat_outputs(functional)):
                rewiring.swap_output(functional, y, result)
        if isinstance(owner, keras.Sequential):
            rewiring.replace(owner, call.op, apart)


def pad_partners(rewiring: Rewiring, inputs: list[tuple[Call, int, Channels]]) -> None:
    """Pads inputs of calls with zeros.

    Args:
        inputs: a call, the position of the input, and the channels it is to carry.
    """
    for call, position, channels in inputs:
        tensor = _keras.input_tensors(call.node)[position]
        axis = channels.axis - (max(ref.rank for ref in call.inputs) - len(tensor.shape))
        rewiring.swap([call.node], tensor, _padded(tensor, axis, channels.labels))


def _padded(tensor: Any, axis: int, labels: np.ndarray) -> Any:
    """Zeros where `labels` are negative, the tensor's entries elsewhere."""
    old = np.flatnonzero(labels >= 0)
    starts = [0, *(np.flatnonzero(np.diff(old) > 1) + 1).tolist()]
    bounds = [*old[starts[1:]].tolist(), len(labels)]
    parts, done = [], 0
    for start, stop, bound in zip(starts, [*starts[1:], len(old)], bounds, strict=True):
        whole = (start, stop) == (0, len(old))
        part = tensor if whole else tensor[(*(slice(None),) * axis, slice(start, stop))]
        before = int(old[start]) - done
        widths = [(0, 0)] * len(tensor.shape)
        widths[axis] = (before, bound - done - before - (stop - start))
        parts.append(ops.pad(part, widths))
        done = bound
    return parts[0] if len(parts) == 1 else ops.concatenate(parts, axis=axis)


def _split(layer: Any, x: Any, axis: int, old: int, name: str) -> Any:
    inputs = keras.Input(batch_shape=x.shape, dtype=x.dtype)
    before = (slice(None),) * axis
    first, rest = inputs[(*before, slice(None, old))], inputs[(*before, slice(old, None))]
    variance = ops.var(first, axis=layer.axis, keepdims=True)
    scaled = rest * ops.rsqrt(variance + layer.epsilon)
    joined = keras.layers.Concatenate(axis=axis)([layer(first), scaled])
    return keras.Model(inputs, joined, name=name)
