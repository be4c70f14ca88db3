"""Calls of ops: their constants and arguments."""

from typing import Any

import keras
import numpy as np
from keras import tree

from keras_grow._keras.graph import node_arguments
from keras_grow._keras.state import auto_config


def op_kind(op: Any) -> str:
    """The registry key of an op that is no layer: 'ops.Relu', or the class name elsewhere."""
    cls = type(op)
    if cls.__module__.startswith(("keras.src.ops.", "keras.src.activations.")):
        return f"ops.{cls.__name__}"
    return f"{cls.__module__}.{cls.__name__}"


def record_reshape(op: Any, newshape: tuple) -> None:
    """Gives an `ops.reshape` node another target, in the op and in the config it is saved with."""
    op.newshape = newshape
    config = auto_config(op)
    if config is not None:
        config["newshape"] = newshape


def constant_of(node: Any) -> tuple[Any, bool]:
    """The constant of a two-argument op, and whether the tensor comes first."""
    args, kwargs = node_arguments(node)
    operands = [*args, *kwargs.values()]
    first = isinstance(operands[0], keras.KerasTensor)
    constant = operands[1] if first else operands[0]
    if isinstance(constant, keras.Variable) or keras.ops.is_tensor(constant):
        constant = keras.ops.convert_to_numpy(constant)
    return constant, first


def pad_width(op: Any, rank: int) -> list[tuple[int, int]]:
    """`ops.pad`'s widths as one pair per axis."""
    return [tuple(p) for p in np.broadcast_to(np.asarray(op.pad_width), (rank, 2)).tolist()]


def pad_constant(node: Any) -> float:
    """What an `ops.pad` call pads with."""
    args, kwargs = node_arguments(node)
    value = args[1] if len(args) > 1 else kwargs.get("constant_values")
    return 0.0 if value is None else float(np.asarray(value).reshape(()))


def argument(node: Any, position: int, name: str) -> Any:
    """What a call was given as its argument at `position`, called `name`; None if nothing."""
    args, kwargs = node_arguments(node)
    return args[position] if len(args) > position else kwargs.get(name)


def set_argument(node: Any, position: int, name: str, value: Any) -> None:
    """Records another constant as an argument of a call; symbolic tensors stay what they are."""
    arguments = node.arguments
    if len(arguments.args) > position:
        before, after = arguments.args[:position], arguments.args[position + 1 :]
        arguments.args = (*before, value, *after)
    else:
        arguments.kwargs = {**arguments.kwargs, name: value}
    arguments._flat_arguments = tree.flatten((arguments.args, arguments.kwargs))


def set_constructor_argument(op: Any, name: str, value: Any) -> None:
    """Changes an attribute of an op, and the constructor argument of that name it is saved with."""
    setattr(op, name, value)
    config = auto_config(op)
    if config is not None:
        config[name] = value


def set_constant(node: Any, value: np.ndarray) -> None:
    """Gives a two-argument op another constant, of the kind that it has now."""
    args, kwargs = node_arguments(node)
    for position, old in enumerate([*args, *kwargs.values()]):
        if isinstance(old, keras.KerasTensor):
            continue
        name = "" if position < len(args) else list(kwargs)[position - len(args)]
        new: Any = value
        if keras.ops.is_tensor(old):
            new = keras.ops.convert_to_tensor(value, dtype=old.dtype)
        elif isinstance(old, np.ndarray):
            new = value.astype(old.dtype)
        elif isinstance(old, (list, tuple)):
            new = value.tolist()
        set_argument(node, position, name, new)
        return


def holds_variable(node: Any) -> bool:
    """Whether a `keras.Variable` is among the arguments of a call."""
    args, kwargs = node_arguments(node)
    return any(isinstance(a, keras.Variable) for a in tree.flatten((args, kwargs)))
