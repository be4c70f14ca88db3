"""What is particular to JAX."""

import inspect
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import keras

from keras_grow import _keras

# `keras.ops.dot_product_attention` fails otherwise (Keras 3.15).
ATTENTION_NEEDS_ONE_SIZE = True


def lend(target: Any, source: Any) -> Any | None:
    lent = source.value
    _keras.set_value(target, lent)
    return lent


def attach_state(model: Any) -> None:
    """The state lies outside the variables during `fit`; puts it back into them."""
    if hasattr(model, "jax_state_sync"):
        model.jax_state_sync()


def after_variables_changed(layers: Iterable[Any]) -> None:
    """Nothing is kept a second time."""


def traces_of(functions: Iterable[Any], variables: Iterable[Any]) -> list[Any]:
    """Nothing that is traced holds variables."""
    return []


def forget_traces(functions: Iterable[Any]) -> None:
    """There are none."""


def gradients(forward: Callable) -> tuple[Any, list, Any]:
    shapes: dict[int, Any] = {}

    def record(i: int, tensor: Any) -> Any:
        shapes[i] = jax.ShapeDtypeStruct(tensor.shape, tensor.dtype)
        return tensor

    # Shapes first: the gradient by a tensor is the gradient by a zero added to it.
    jax.eval_shape(lambda: forward(record)[0])
    zeros = [jax.numpy.zeros(shapes[i].shape, shapes[i].dtype) for i in range(len(shapes))]

    def with_zeros(offsets: Sequence[Any]) -> tuple[Any, Any]:
        return forward(lambda i, tensor: tensor + offsets[i])

    (loss, aux), found = jax.value_and_grad(with_zeros, has_aux=True)(zeros)
    return loss, found, aux


def compiled(function: Callable, variables: Sequence[Any]) -> Callable:
    """Compiles it with the values of `variables` as arguments, so that they are no constants."""

    @jax.jit
    def traced(values: list, *arrays: Any) -> Any:
        return function(list(zip(variables, values, strict=True)), *arrays)

    return lambda *arrays: traced([v.value for v in variables], *arrays)


def fused(function: Callable) -> Callable:
    names = inspect.getfullargspec(function).kwonlyargs
    return jax.jit(function, static_argnames=names)


def pullback(function: Callable[[Any], Any], x: Any) -> tuple[Any, Callable[[Any], Any]]:
    """Runs op by op: what is compiled of an op is used again wherever shapes are the same, while
    every site would be compiled anew as a whole.
    """
    y, pull = jax.vjp(function, x)
    return y, lambda weights: pull(keras.ops.cast(weights, y.dtype))[0]
