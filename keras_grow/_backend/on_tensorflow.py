"""What is particular to TensorFlow."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_grow import _keras

ATTENTION_NEEDS_ONE_SIZE = False


def lend(target: Any, source: Any) -> Any | None:
    """A variable's memory is its own: `target` gets a copy."""
    target.assign(keras.ops.convert_to_numpy(source))
    return None


def attach_state(model: Any) -> None:
    """Variables hold the state at any time."""


def after_variables_changed(layers: Iterable[Any]) -> None:
    """Nothing is kept a second time."""


def traces_of(functions: Iterable[Any], variables: Iterable[Any]) -> list[Any]:
    """Those `tf.function`s of which a trace uses one of the variables, which it holds on to."""
    handles = {id(_keras.value_of(v).handle) for v in variables}
    found = []
    for function in functions:
        traces = function._function_cache.values()
        if any(id(used) in handles for one in traces for used in one.graph.external_captures):
            found.append(function)
    return found


def forget_traces(functions: Iterable[Any]) -> None:
    """Has them traced anew at their next call, as at the first; variables they made stay theirs."""
    for function in functions:
        cache, captures = function._function_cache, function._function_captures
        function._function_cache = type(cache)()
        function._function_captures = type(captures)()
        for config in (function._variable_creation_config, function._no_variable_creation_config):
            if config is not None:
                config.function_cache = function._function_cache
                config.function_captures = function._function_captures


def gradients(forward: Callable) -> tuple[Any, list, Any]:
    probed: dict[int, Any] = {}
    with tf.GradientTape(watch_accessed_variables=False) as tape:

        def probe(i: int, tensor: Any) -> Any:
            tensor = tf.identity(tensor)
            tape.watch(tensor)
            probed[i] = tensor
            return tensor

        loss, aux = forward(probe)
    sources = [probed[i] for i in range(len(probed))]
    found = tape.gradient(loss, sources, unconnected_gradients=tf.UnconnectedGradients.ZERO)
    # Those by rows that are looked up are sparse.
    return loss, [tf.convert_to_tensor(gradient) for gradient in found], aux


def compiled(function: Callable, variables: Sequence[Any]) -> Callable:
    """Runs eagerly: a growth happens once in hundreds of steps, and tracing costs more."""
    return lambda *arrays: function([], *arrays)


def fused(function: Callable) -> Callable:
    return function


def pullback(function: Callable[[Any], Any], x: Any) -> tuple[Any, Callable[[Any], Any]]:
    with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
        tape.watch(x)
        out = function(x)
    return out, lambda weights: tape.gradient(
        out, x, tf.cast(weights, out.dtype), unconnected_gradients=tf.UnconnectedGradients.ZERO
    )
