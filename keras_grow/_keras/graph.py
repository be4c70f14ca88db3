"""Reading a functional graph: nodes, tensors, layers."""

import inspect
from collections.abc import Iterator
from typing import Any

import keras
from keras import tree
from keras.src.models.functional import Functional, functional_like_constructor


def functional_of(model: Any) -> Any | None:
    """The `Functional` that holds the graph of `model`, or None if it has none."""
    if isinstance(model, keras.Sequential):
        return getattr(model, "_functional", None)
    if isinstance(model, Functional) and type(model).call is Functional.call:
        return model
    return None


def functional_class(model: Any) -> Any:
    """The class to copy a functional model with: its own, unless that takes other arguments."""
    return type(model) if functional_like_constructor(type(model)) else Functional


def is_model(op: Any) -> bool:
    return isinstance(op, keras.Model)


def nodes_in_order(functional: Any) -> Iterator[Any]:
    """The nodes of a functional graph, every node after those it depends on."""
    by_depth = functional._nodes_by_depth
    for depth in sorted(by_depth, reverse=True):
        yield from (node for node in by_depth[depth] if node.operation and not node.is_input)


def node_arguments(node: Any) -> tuple[tuple, dict]:
    return node.arguments.args, node.arguments.kwargs


def flat_inputs(functional: Any) -> list:
    return list(functional._inputs)


def flat_outputs(functional: Any) -> list:
    return list(functional._outputs)


def pack_outputs(functional: Any, flat: list) -> Any:
    """Outputs in the structure `model(x)` returns them in."""
    packed = tree.pack_sequence_as(functional._outputs_struct, flat)
    single = isinstance(packed, (list, tuple)) and len(packed) == 1
    return packed[0] if single else packed


def standardize_inputs(functional: Any, inputs: Any) -> list:
    return functional._standardize_inputs(inputs)


def traced(layer: Any, args: tuple, kwargs: dict) -> Any | None:
    """The graph of the calls that `layer.call` makes on the symbolic tensors among its arguments.

    The layer and those below it know nothing of it afterwards.

    Returns:
        A `keras.Function` whose inputs are those tensors in order, or None where the layer cannot
        be called so: its code wants real numbers, or a mask comes with the tensors.
    """
    tensors = [t for t in tree.flatten((args, kwargs)) if isinstance(t, keras.KerasTensor)]
    if any(getattr(t, "_keras_mask", None) is not None for t in tensors):
        return None
    inputs = {id(t): keras.Input(batch_shape=t.shape, dtype=t.dtype) for t in tensors}

    def own(x: Any) -> Any:
        return inputs[id(x)] if isinstance(x, keras.KerasTensor) else x

    # `__call__` keeps what `call` does not take from it.
    if not getattr(layer, "_call_has_context_arg", {}).get("training"):
        kwargs = {name: value for name, value in kwargs.items() if name != "training"}
    below = sublayers(layer)
    before = [(op, len(op._inbound_nodes), len(op._outbound_nodes)) for op in below]
    try:
        outputs = layer.call(*tree.map_structure(own, args), **tree.map_structure(own, kwargs))
        return keras.Function(list(inputs.values()), tree.flatten(outputs))
    except Exception:  # whatever its code says to a tensor without values
        return None
    finally:
        for op, calls, uses in before:
            del op._inbound_nodes[calls:], op._outbound_nodes[uses:]


def attribute_names(layer: Any) -> dict[int, str]:
    """Names of the attributes that hold a layer's own layers, by id of those.

    Unlike the names that Keras makes up for layers they are the same in every copy.
    """
    names: dict[int, str] = {}
    # On PyTorch a layer is a Module, which keeps what it contains in a dict of its own.
    for name, value in {**vars(layer), **vars(layer).get("_modules", {})}.items():
        if isinstance(value, keras.layers.Layer):
            names.setdefault(id(value), name.strip("_"))
        elif isinstance(value, (list, tuple)) and not name.startswith("_"):
            for i, part in enumerate(value):
                if isinstance(part, keras.layers.Layer):
                    names.setdefault(id(part), f"{name}.{i}")
    return names


def input_structure(functional: Any) -> Any:
    return functional._inputs_struct


def takes_training(op: Any) -> bool:
    return "training" in getattr(op, "_call_context_args", {})


def input_layers(functional: Any) -> list:
    return [t._keras_history.operation for t in functional._inputs]


def sublayers(layer: Any) -> list:
    """All layers below `layer`, itself first."""
    return list(layer._flatten_layers())


def all_nodes(functional: Any) -> list:
    """The nodes of a functional graph, those of its inputs included, inputs first."""
    by_depth = functional._nodes_by_depth
    return [node for depth in sorted(by_depth, reverse=True) for node in by_depth[depth]]


def input_tensors(node: Any) -> list:
    return list(node.input_tensors)


def call_count(op: Any) -> int:
    """How often an op was called on symbolic tensors, in any model."""
    return len(op._inbound_nodes)


def set_call_count(op: Any, count: int) -> None:
    """Forgets the symbolic calls of an op made since `call_count` was `count`."""
    for node in op._inbound_nodes[count:]:
        for tensor in node.input_tensors:
            followers = tensor._keras_history.operation._outbound_nodes
            followers[:] = [other for other in followers if other is not node]
    del op._inbound_nodes[count:]


def maker_node(tensor: Any) -> Any:
    """The call that made a symbolic tensor."""
    history = tensor._keras_history
    return history.operation._inbound_nodes[history.node_index]


def maker(tensor: Any) -> Any:
    """The layer or op whose call made a symbolic tensor."""
    return tensor._keras_history.operation


def call_arguments(node: Any) -> dict[str, Any]:
    """The arguments recorded for a layer's call, by the names its `call` gives them."""
    args, kwargs = node_arguments(node)
    bound = inspect.signature(node.operation.call).bind(*args, **kwargs)
    return dict(bound.arguments)


def input_names(node: Any) -> list[str]:
    """By which argument each tensor enters a layer's call, in the order in which they enter."""
    args, kwargs = node_arguments(node)
    names = list(inspect.signature(node.operation.call).parameters)

    def marked(name: str, value: Any) -> Any:
        return tree.map_structure(
            lambda t: name if isinstance(t, keras.KerasTensor) else None, value
        )

    positional = tuple(marked(name, value) for name, value in zip(names, args, strict=False))
    rest = {name: marked(name, value) for name, value in kwargs.items()}
    return [name for name in tree.flatten((positional, rest)) if name is not None]
