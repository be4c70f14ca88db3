"""What a model is made of, in plain values, by Keras' public interface: layers, sizes, edges."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Part:
    """One layer or op of a model.

    Attributes:
        path: its address, ``outer/inner`` inside nested models.
        kind: its class.
        config: its configuration without its name, as JSON values.
        weights: shapes by name.
        parameters: how many numbers those are.
        inputs: paths of the parts that it reads, in order; a nested model is one part here.
        layer: the object.
        model: whether it is a nested model, whose parts are listed on their own.
    """

    path: str
    kind: str
    config: dict[str, Any]
    weights: dict[str, tuple[int, ...]]
    parameters: int
    inputs: list[str]
    layer: Any = field(repr=False)
    model: bool = False


def parts_of(model: Any) -> dict[str, Part]:
    """All layers and ops of a functional or Sequential model by path, nested ones included."""
    return {part.path: part for part in _parts(model, "")}


def _parts(model: Any, prefix: str) -> Iterator[Part]:
    import keras

    edges = _edges(model)
    for layer in _operations(model):
        path = prefix + layer.name
        nested = isinstance(layer, keras.Model) and bool(layer.layers)
        weights = {} if nested else {_weight_name(v): tuple(v.shape) for v in _weights(layer)}
        yield Part(
            path=path,
            kind=type(layer).__name__,
            config={} if nested else _config(layer),
            weights=weights,
            parameters=0 if nested else sum(_count(shape) for shape in weights.values()),
            inputs=[prefix + name for name in edges.get(layer.name, [])],
            layer=layer,
            model=nested,
        )
        if nested:
            yield from _parts(layer, path + "/")


def _operations(model: Any) -> list[Any]:
    import keras

    if isinstance(model, keras.Sequential):
        return list(model.layers)
    return list(getattr(model, "operations", None) or model.layers)


def _weights(layer: Any) -> list[Any]:
    import keras

    return list(layer.weights) if isinstance(layer, keras.Layer) else []


def _weight_name(variable: Any) -> str:
    # Layers inside a layer (Bidirectional) keep theirs apart by path.
    path = str(variable.path).split("/")
    return "/".join(path[1:]) or str(variable.name)


def _count(shape: tuple[int, ...]) -> int:
    product = 1
    for size in shape:
        product *= int(size)
    return product


def _config(layer: Any) -> dict[str, Any]:
    """A layer's configuration in JSON values; empty where it has none (some ops)."""
    try:
        config = dict(layer.get_config())
    except NotImplementedError:
        return {}
    config.pop("name", None)
    return {key: _plain(value) for key, value in config.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if value is None or isinstance(value, str | int | float | bool):
        return value
    return str(value)


def _edges(model: Any) -> dict[str, list[str]]:
    """Names of what each layer reads, as the model's own configuration lists them."""
    import keras

    if isinstance(model, keras.Sequential):
        names = [layer.name for layer in model.layers]
        return {after: [before] for before, after in itertools.pairwise(names)}
    edges: dict[str, list[str]] = {}
    for layer in model.get_config().get("layers", []):
        found = edges.setdefault(layer["name"], [])
        for name in _histories(layer.get("inbound_nodes", [])):
            found.append(name)
    return edges


def _histories(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        history = value.get("keras_history")
        if isinstance(history, list | tuple) and history:
            yield str(history[0])
            return
        value = list(value.values())
    if isinstance(value, list | tuple):
        for one in value:
            yield from _histories(one)


def inner_ends(parts: dict[str, Part], path: str) -> tuple[list[str], list[str]]:
    """Paths of the first and the last parts inside the nested model at ``path``."""
    import keras

    model = parts[path].layer
    if isinstance(model, keras.Sequential):
        first, last = [model.layers[0].name], [model.layers[-1].name]
    else:
        config = model.get_config()
        first = list(_ends(config.get("input_layers", [])))
        last = list(_ends(config.get("output_layers", [])))
    firsts, lasts = [], []
    for name in first:
        inner = f"{path}/{name}"
        nested = inner in parts and parts[inner].model
        firsts += inner_ends(parts, inner)[0] if nested else [inner]
    for name in last:
        inner = f"{path}/{name}"
        nested = inner in parts and parts[inner].model
        lasts += inner_ends(parts, inner)[1] if nested else [inner]
    return firsts, lasts


def _ends(value: Any) -> Iterator[str]:
    """Layer names in Keras' ``[name, node, tensor]``, alone, in lists or in dicts."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        if len(value) == 3 and isinstance(value[0], str):
            yield value[0]
        else:
            for one in value:
                yield from _ends(one)
