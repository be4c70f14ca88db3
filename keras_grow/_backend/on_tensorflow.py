"""What is particular to TensorFlow."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import keras
import tensorflow as tf

# A compiled function keeps using the variables it was traced with.
TRACES_HOLD_VARIABLES = True
ATTENTION_NEEDS_ONE_SIZE = False


def lend(target: Any, source: Any) -> Any | None:
    """A variable's memory is its own: `target` gets a copy."""
    target.assign(keras.ops.convert_to_numpy(source))
    return None


def attach_state(model: Any) -> None:
    """Variables hold the state at any time."""


def after_variables_changed(layers: Iterable[Any]) -> None:
    """Nothing is kept a second time."""


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
