"""Keras objects in memory, found through the garbage collector."""

import gc
from typing import Any

import keras
from keras.src.ops.function import Function

from keras_grow._keras.graph import all_nodes, sublayers


def models_using(layers: list) -> list:
    """Every living Keras model that contains one of `layers`, found through the collector."""
    wanted = {id(layer) for layer in layers}
    found = []
    classes = _subclasses(keras.Model)
    for candidate in _living(classes):
        if type(candidate) in classes and getattr(candidate, "built", False):
            try:
                below = sublayers(candidate)
            except AttributeError:  # a model whose __init__ has not finished
                continue
            if any(id(layer) in wanted for layer in below):
                found.append(candidate)
    return found


def _living(classes: set[type]) -> list:
    """All objects of these classes.

    `gc.get_referrers(*classes)` takes half the time, but asks every object in memory what it
    refers to, and extension types of other packages have crashed over that.
    """
    return [o for o in gc.get_objects() if type(o) in classes]


def _subclasses(cls: type) -> set[type]:
    found: set[type] = {cls}
    direct: list[type] = cls.__subclasses__()
    for below in direct:
        found |= _subclasses(below)
    return found


def early_stoppings(callback: Any) -> list:
    """The `EarlyStopping` callbacks of the `fit` that `callback` takes part in.

    Keras gives a callback no way to the others, so the lists it stands in are looked for.
    """
    lists = [holder for holder in gc.get_referrers(callback) if isinstance(holder, list)]
    found = {id(c): c for holder in lists for c in holder}
    return [c for c in found.values() if isinstance(c, keras.callbacks.EarlyStopping)]


def living_graphs() -> list:
    """Every functional graph in memory, found through the collector."""
    classes = _subclasses(Function)
    return [f for f in _living(classes) if "_nodes_by_depth" in vars(f)]


def living_early_stoppings(model: Any) -> list:
    """The `EarlyStopping` callbacks that watch `model`."""
    classes = _subclasses(keras.callbacks.EarlyStopping)
    found = _living(classes)
    return [c for c in found if getattr(c, "_model", None) is model]


def readers_of(tensor: Any, graphs: list | None = None) -> list:
    """The calls in graphs (all in memory) that read a symbolic tensor."""
    found: dict[int, Any] = {}
    for functional in living_graphs() if graphs is None else graphs:
        for node in all_nodes(functional):
            if any(tensor is t for t in node.input_tensors):
                found[id(node)] = node
    return list(found.values())
