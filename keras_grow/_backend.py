"""What differs between the TensorFlow, PyTorch and JAX backends."""

import functools
import inspect
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import keras
import numpy as np


def name() -> str:
    return keras.backend.backend()


def to_numpy(x: Any) -> np.ndarray:
    """Any tensor as a NumPy array of a dtype NumPy computes with."""
    array = np.asarray(keras.ops.convert_to_numpy(x))
    return array.astype("float32") if array.dtype.name in ("bfloat16", "float16") else array


def assign_copy(target: Any, source: Any) -> None:
    """Gives a variable the value of another, in memory of its own.

    On JAX `target.assign(source)` makes both hold one array, and a training step of either model
    takes it away from the other (donation).
    """
    target.assign(np.array(keras.ops.convert_to_numpy(source)))


def lend(target: Any, source: Any) -> Any:
    """Gives a variable the value of another, in the same memory where the backend can.

    Returns:
        What both hold now; None if the target got memory of its own.
    """
    if name() == "tensorflow":
        assign_copy(target, source)
        return None
    value = source.value
    if name() == "torch":
        value = value.detach()
    target._value = value if name() == "jax" else _torch_parameter(value, target.trainable)
    return target._value


def _torch_parameter(value: Any, trainable: bool) -> Any:
    import torch

    needs = trainable and torch.is_floating_point(value)
    return torch.nn.Parameter(value, requires_grad=needs)


def holds(variable: Any, value: Any) -> bool:
    """Whether a variable still holds what `lend` gave it."""
    return variable._value is value


def attach_state(model: Any) -> None:
    """JAX keeps the state outside the variables during `fit`; puts it back into them."""
    if name() == "jax" and hasattr(model, "jax_state_sync"):
        model.jax_state_sync()


def after_variables_changed(layers: Iterable[Any]) -> None:
    """Backend bookkeeping on layers whose variables were re-initialised.

    PyTorch keeps the parameters a second time, in each module's ParameterDict: `zero_grad`
    reads them there, and gradients would accumulate on stale ones.
    """
    if name() == "torch":
        for layer in layers:
            if hasattr(layer, "_torch_params"):
                layer._track_variables()


def traces_hold_variables() -> bool:
    """Whether a compiled function keeps using the variables it was traced with (TensorFlow)."""
    return name() == "tensorflow"


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
    return {"tensorflow": _tf_gradients, "torch": _torch_gradients, "jax": _jax_gradients}[name()](
        forward
    )


def _tf_gradients(forward: Callable) -> tuple[Any, list, Any]:
    import tensorflow as tf

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


def _torch_gradients(forward: Callable) -> tuple[Any, list, Any]:
    import torch

    probed: dict[int, Any] = {}

    def probe(i: int, tensor: Any) -> Any:
        if not tensor.requires_grad:
            tensor = tensor.detach().requires_grad_()
        probed[i] = tensor
        return tensor

    with torch.enable_grad():
        loss, aux = forward(probe)
        sources = [probed[i] for i in range(len(probed))]
        found = torch.autograd.grad(loss, sources, allow_unused=True) if sources else ()
    zeros = [torch.zeros_like(s) if g is None else g for g, s in zip(found, sources, strict=True)]
    return loss.detach(), zeros, aux


def _jax_gradients(forward: Callable) -> tuple[Any, list, Any]:
    import jax

    shapes: dict[int, Any] = {}

    def record(i: int, tensor: Any) -> Any:
        shapes[i] = jax.ShapeDtypeStruct(tensor.shape, tensor.dtype)
        return tensor

    # Shapes first: the gradient by a tensor is the gradient by a zero added to it.
    jax.eval_shape(lambda: _loss_only(forward, record))
    zeros = [jax.numpy.zeros(shapes[i].shape, shapes[i].dtype) for i in range(len(shapes))]

    def with_zeros(offsets: Sequence[Any]) -> tuple[Any, Any]:
        return forward(lambda i, tensor: tensor + offsets[i])

    (loss, aux), found = jax.value_and_grad(with_zeros, has_aux=True)(zeros)
    return loss, found, aux


def _loss_only(forward: Callable, probe: Callable) -> Any:
    return forward(probe)[0]


def compiled(function: Callable, variables: Sequence[Any]) -> Callable:
    """`function(mapping, *arrays)` made fast for repeated calls on arrays of the same shape.

    JAX compiles it, with the values of `variables` as arguments so that they are no constants;
    `mapping` then pairs each variable with its traced value. TensorFlow and PyTorch run it
    eagerly: a growth event happens once per hundreds of steps, and tracing costs more than it
    saves.
    """
    if name() == "jax":
        import jax

        @jax.jit
        def traced(values: list, *arrays: Any) -> Any:
            return function(list(zip(variables, values, strict=True)), *arrays)

        return lambda *arrays: traced([v.value for v in variables], *arrays)
    if name() == "torch":
        import torch

        def quiet(*arrays: Any) -> Any:
            with torch.no_grad():
                return function([], *arrays)

        return quiet
    return lambda *arrays: function([], *arrays)


def fused(function: Callable) -> Callable:
    """Decorator for pure functions of arrays that JAX should compile as one.

    Positional arguments are arrays; keyword arguments are static and hashable. What was compiled
    is used again for all arrays of the same shapes, at every site and every growth.
    """

    @functools.cache
    def jitted() -> Callable:
        import jax

        names = inspect.getfullargspec(function).kwonlyargs
        return jax.jit(function, static_argnames=names)

    @functools.wraps(function)
    def call(*arrays: Any, **static: Any) -> Any:
        return (jitted() if name() == "jax" else function)(*arrays, **static)

    return call


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


def machine_memory() -> int | None:
    """Bytes of memory that the machine has; None where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not on Windows
        return None


def is_machine_fault(error: BaseException) -> bool:
    """Whether an error, or one it came from, says that memory ran out."""
    seen: BaseException | None = error
    while seen is not None:
        text = f"{type(seen).__name__} {seen}"
        if isinstance(seen, MemoryError) or any(
            sign in text for sign in ("RESOURCE_EXHAUSTED", "ResourceExhausted", "OutOfMemory")
        ):
            return True
        if "out of memory" in text.lower() or "can't allocate memory" in text:
            return True
        seen = seen.__cause__
    return False


def attention_needs_one_size() -> bool:
    """Whether the backend's fused attention takes only values as wide as the keys.

    On JAX `keras.ops.dot_product_attention` fails otherwise (Keras 3.15).
    """
    return name() == "jax"


def pullback(function: Callable[[Any], Any], x: Any) -> tuple[Any, Callable[[Any], Any]]:
    """`function(x)`, and what turns weights on its entries into the gradient by x.

    On JAX it runs op by op: what is compiled of an op is used again wherever shapes are the same,
    while every site would be compiled anew as a whole.
    """
    if name() == "jax":
        import jax

        y, pull = jax.vjp(function, x)
        return y, lambda weights: pull(keras.ops.cast(weights, y.dtype))[0]
    if name() == "torch":
        import torch

        with torch.enable_grad():
            at = x.detach().requires_grad_()
            out = function(at)

        def back(weights: Any) -> Any:
            if not out.requires_grad:
                return torch.zeros_like(at)
            found = torch.autograd.grad(
                out, at, weights.to(out.dtype), retain_graph=True, allow_unused=True
            )[0]
            return torch.zeros_like(at) if found is None else found

        return out.detach(), back
    import tensorflow as tf

    with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
        tape.watch(x)
        out = function(x)
    return out, lambda weights: tape.gradient(
        out, x, tf.cast(weights, out.dtype), unconnected_gradients=tf.UnconnectedGradients.ZERO
    )
