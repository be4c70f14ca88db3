"""What differs between the TensorFlow, PyTorch and JAX backends: a file for each.

Each has the same functions; which are used is settled here, once, when Keras has its backend.
"""

import functools
import importlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import keras
import numpy as np

from keras_grow import _keras
from keras_grow._backend.machine import is_machine_fault, machine_memory

_on: Any = importlib.import_module(f"keras_grow._backend.on_{keras.backend.backend()}")


def name() -> str:
    return keras.backend.backend()


def to_numpy(x: Any) -> np.ndarray:
    """Any tensor as a NumPy array of a dtype NumPy computes with."""
    array = np.asarray(keras.ops.convert_to_numpy(x))
    return array.astype("float32") if array.dtype.name in ("bfloat16", "float16") else array


def as_tensors(data: Any) -> Any:
    """Growth data as backend tensors; PyTorch ones on the default device."""
    return keras.tree.map_structure(
        lambda x: None if x is None else keras.ops.convert_to_tensor(x), data
    )


def matrix_product(a: Any, b: Any) -> Any:
    """a (n, p) transposed times b (n, q), accumulated in float32 or better."""
    a, b = (keras.ops.cast(t, "float32") if _low(t) else t for t in (a, b))
    return keras.ops.matmul(keras.ops.transpose(a), b)


def _low(tensor: Any) -> bool:
    return keras.backend.standardize_dtype(tensor.dtype) in ("float16", "bfloat16")


# --- variables ---------------------------------------------------------------------------------


def assign_copy(target: Any, source: Any) -> None:
    """Gives a variable the value of another, in memory of its own.

    On JAX `target.assign(source)` makes both hold one array, and a training step of either model
    takes it away from the other (donation).
    """
    target.assign(np.array(keras.ops.convert_to_numpy(source)))


def lend(target: Any, source: Any) -> Any | None:
    """Gives a variable the value of another, in the same memory where the backend can.

    Returns:
        What both hold now; None if the target got memory of its own.
    """
    return _on.lend(target, source)


def holds(variable: Any, value: Any) -> bool:
    """Whether a variable still holds what `lend` gave it."""
    return _keras.value_of(variable) is value


def attach_state(model: Any) -> None:
    """Puts what the backend keeps outside the variables during `fit` back into them."""
    _on.attach_state(model)


def after_variables_changed(layers: Iterable[Any]) -> None:
    """Backend bookkeeping on layers whose variables were re-initialised."""
    _on.after_variables_changed(layers)


def traces_of(functions: Iterable[Any], variables: Iterable[Any]) -> list[Any]:
    """Of functions that TensorFlow traces, those that would go on with the variables as they are.

    A trace holds the backend's variables; a training step that was traced before a growth would
    train dead ones, without a word.
    """
    return _on.traces_of(functions, variables)


def forget_traces(functions: Iterable[Any]) -> None:
    """Has functions traced anew when they are next called."""
    _on.forget_traces(functions)


# --- computing ---------------------------------------------------------------------------------


def gradients(
    forward: Callable[[Callable[[int, Any], Any]], tuple[Any, Any]],
) -> tuple[Any, list[Any], Any]:
    """Runs `forward(probe)` and differentiates its loss by every probed tensor.

    Args:
        forward: returns (scalar loss, anything else). It must pass each tensor of interest
            through `probe(i, tensor)`, i counting from 0 in a fixed order, and go on with the
            result.

    Returns:
        The loss, the gradients by probe number, and the second value `forward` returned.
    """
    return _on.gradients(forward)


def compiled(function: Callable, variables: Sequence[Any]) -> Callable:
    """`function(mapping, *arrays)` made fast for repeated calls on arrays of the same shape.

    `mapping` pairs each of `variables` with its value in the call, where they are no constants.
    """
    return _on.compiled(function, variables)


def fused(function: Callable) -> Callable:
    """Decorator for pure functions of arrays that JAX should compile as one.

    Positional arguments are arrays; keyword arguments are static and hashable. What was compiled
    is used again for all arrays of the same shapes, at every site and every growth.
    """
    return functools.wraps(function)(_on.fused(function))


def pullback(function: Callable[[Any], Any], x: Any) -> tuple[Any, Callable[[Any], Any]]:
    """`function(x)`, and what turns weights on its entries into the gradient by x."""
    return _on.pullback(function, x)


def attention_needs_one_size() -> bool:
    """Whether the backend's fused attention takes only values as wide as the keys."""
    return _on.ATTENTION_NEEDS_ONE_SIZE
