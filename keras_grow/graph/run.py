"""Runs a flattened graph call by call, so that a hook can read and change every tensor."""

from collections.abc import Callable
from typing import Any

import keras
from keras import tree

from keras_grow import _keras
from keras_grow.graph.view import Call, Graph, Ref

Hook = Callable[[Call, tuple, dict], Any]


def plain(call: Call, args: tuple, kwargs: dict) -> Any:
    """The hook that only calls."""
    return call.op(*args, **kwargs)


def run(
    graph: Graph, inputs: Any, hook: Hook = plain, training: bool | None = None
) -> tuple[Any, dict[Ref, Any]]:
    """Runs the graph on `inputs` as `model(inputs, training=training)` would.

    Args:
        graph: the flattened graph.
        inputs: a batch in the model's own input structure.
        hook: called as `hook(call, args, kwargs)` for every call; returns the call's outputs.
        training: handed to every layer that takes it, as Keras does; None leaves it out.

    Returns:
        The outputs in the model's own structure, and all tensors by their `Ref`.
    """
    flat = _keras.standardize_inputs(graph.functional, inputs)
    env: dict[Ref, Any] = dict(zip(graph.inputs, flat, strict=True))
    for call in graph.calls:
        args, kwargs = arguments(call, env)
        if training is not None and _keras.takes_training(call.op):
            kwargs["training"] = training
        outputs = hook(call, args, kwargs)
        env.update(zip(call.outputs, tree.flatten(outputs), strict=True))
    result = _keras.pack_outputs(graph.functional, [env[r] for r in graph.outputs])
    return result, env


def arguments(call: Call, env: dict[Ref, Any]) -> tuple[tuple, dict]:
    """The arguments recorded for a call, its symbolic tensors replaced by values from `env`."""

    def fill(x: Any) -> Any:
        return env[call.scope[id(x)]] if isinstance(x, keras.KerasTensor) else x

    args, kwargs = _keras.node_arguments(call.node)
    return tree.map_structure(fill, args), dict(tree.map_structure(fill, kwargs))
