"""Changing a functional graph: what a call reads, what a model gives out."""

from collections.abc import Callable
from typing import Any

import keras
from keras import tree
from keras.src.ops.function import map_graph

from keras_grow._keras.graph import maker

_GRAPH_ATTRIBUTES = (
    "_outputs_struct",
    "_outputs",
    "_nodes",
    "_nodes_by_depth",
    "_operations",
    "_operations_by_depth",
)


def forget_call(node: Any) -> Callable[[], None]:
    """Takes a symbolic call that no graph holds any more off its op; returns what undoes it."""
    nodes = node.operation._inbound_nodes

    def put(calls: list) -> None:
        nodes[:] = calls
        for number, call in enumerate(calls):  # by which a saved model finds the tensors
            for tensor in call.outputs:
                tensor._keras_history = tensor._keras_history._replace(node_index=number)

    before = list(nodes)
    put([other for other in before if other is not node])
    return lambda: put(before)


def swap_input(node: Any, old: Any, new: Any) -> None:
    """Makes a call read the symbolic tensor `new` wherever it read `old`."""
    arguments = node.arguments

    def swapped(x: Any) -> Any:
        return new if x is old else x

    arguments.args, arguments.kwargs = arguments.convert(swapped)
    arguments._flat_arguments = [swapped(x) for x in arguments._flat_arguments]
    arguments.keras_tensors = [swapped(x) for x in arguments.keras_tensors]
    arguments._single_positional_tensor = swapped(arguments._single_positional_tensor)
    followers = old._keras_history.operation._outbound_nodes
    followers[:] = [other for other in followers if other is not node]
    new._keras_history.operation._outbound_nodes.append(node)


def swap_output(functional: Any, old: Any, new: Any) -> None:
    """Makes a functional give out `new` instead of `old`; `remap` must follow."""

    def swapped(x: Any) -> Any:
        return new if x is old else x

    fresh = {
        "_outputs": [swapped(t) for t in functional._outputs],
        "_outputs_struct": tree.map_structure(swapped, functional._outputs_struct),
    }
    vars(functional).update(fresh)


def remap(functional: Any) -> Callable[[], None]:
    """Brings what a functional derives from its nodes up to date; returns what undoes it.

    Layers are tracked in the order of the graph, in which Keras saves and loads weights.
    """
    before = {name: vars(functional)[name] for name in _GRAPH_ATTRIBUTES}
    names = vars(functional).get("output_names")
    graph = map_graph(functional._inputs, functional._outputs)
    fresh = dict(zip(_GRAPH_ATTRIBUTES[2:], graph, strict=True))
    had = functional.layers if isinstance(functional, keras.Model) else None
    vars(functional).update(fresh)
    if had is None:  # a keras.Function, which tracks no layers
        return lambda: vars(functional).update(before)
    vars(functional)["output_names"] = [maker(t).name for t in functional._outputs]
    layers = list(functional._layers)
    undo_layers = set_layers(functional, _in_graph_order(layers, had, functional.layers))

    def undo() -> None:
        undo_layers()
        vars(functional).update(before)
        vars(functional)["output_names"] = names

    return undo


def _in_graph_order(tracked: list, had: list, now: list) -> list:
    """Tracked layers after a change of the graph; what is tracked besides keeps its place."""
    before = {id(layer) for layer in had}
    after = {id(layer) for layer in now}
    if [layer for layer in tracked if id(layer) in before] == had:
        slots = iter(now)
        result: list = []
        for layer in tracked:  # as many of the new order as there were of the old one, in place
            if id(layer) in before:
                following = next(slots, None)
                if following is not None:
                    result.append(following)
            else:
                result.append(layer)
        return result + list(slots)
    result = [layer for layer in tracked if id(layer) not in before or id(layer) in after]
    for i, layer in enumerate(now):
        if all(layer is not other for other in result):
            previous = [k for k, other in enumerate(result) if i and other is now[i - 1]]
            result.insert(previous[0] + 1 if previous else len(result), layer)
    return result


def layers_of(sequential: Any) -> list:
    """The layers of a Sequential model as it lists them itself."""
    return list(sequential._layers)


def set_layers(model: Any, layers: list) -> Callable[[], None]:
    """Gives a model another list of tracked layers; returns what undoes it.

    A Sequential model's own list holds its layers, besides the one its tracker keeps.
    """
    tracker = model._tracker
    store = tracker.config["layers"][1]
    own = model._layers
    before = list(own), list(store), set(tracker.stored_ids["layers"])
    if store is own or own == store:
        kept: list = []
    else:
        kept = [layer for layer in store if all(layer is not other for other in own)]

    def put(own_layers: list, stored: list, ids: set) -> None:
        list.__setitem__(own, slice(None), own_layers)
        if store is not own:
            list.__setitem__(store, slice(None), stored)
        tracker.stored_ids["layers"] = ids

    put(layers, [*kept, *layers], {id(layer) for layer in [*kept, *layers]})
    return lambda: put(*before)


def replace_activation(layer: Any, function: Any) -> Callable[[], None]:
    """Gives a built layer another activation, a function; returns what undoes it.

    An activation that is itself a layer is tracked as one, on PyTorch in the module's own register
    too.
    """
    old = layer.activation
    if not isinstance(old, keras.layers.Layer):
        vars(layer)["activation"] = function
        return lambda: vars(layer).update(activation=old)
    undo_layers = set_layers(layer, [below for below in layer._layers if below is not old])
    modules = vars(layer).get("_modules", {})
    was_module = modules.pop("activation", None) is not None
    vars(layer)["activation"] = function

    def undo() -> None:
        if was_module:
            del vars(layer)["activation"]
            modules["activation"] = old
        else:
            vars(layer)["activation"] = old
        undo_layers()

    return undo
