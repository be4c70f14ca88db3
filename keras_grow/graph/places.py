"""Layers of a model by their address, and the edges between them."""

from dataclasses import dataclass, field
from typing import Any

from keras_grow import _keras
from keras_grow.errors import GrowthError, nearest


@dataclass(eq=False)
class Place:
    """A layer or op in the graph that holds its calls.

    Attributes:
        path: its address.
        op: the layer or op.
        functional: the graph that holds its calls.
        owner: the model of that graph: `functional` itself, or a Sequential.
        nodes: its calls there.
        above: the place of the model that holds the graph; None for the outermost.
    """

    path: str
    op: Any
    functional: Any
    owner: Any
    nodes: list[Any]
    above: "Place | None" = field(default=None, repr=False)

    @property
    def outputs(self) -> list[Any]:
        return [tensor for node in self.nodes for tensor in node.outputs]


def places(model: Any) -> dict[str, Place]:
    """Every layer and op of a model by its address, nested models and input layers included."""
    found: dict[str, Place] = {}
    seen: set[int] = set()

    def enter(owner: Any, prefix: str, above: Place | None) -> None:
        functional = _keras.functional_of(owner)
        if id(functional) in seen:
            return
        seen.add(id(functional))
        own: dict[int, Place] = {}
        for node in _keras.all_nodes(functional):
            op = node.operation
            if id(op) in own:
                own[id(op)].nodes.append(node)
                continue
            place = Place(prefix + op.name, op, functional, owner, [node], above)
            own[id(op)] = place
            found.setdefault(place.path, place)
        for place in own.values():
            if _keras.is_model(place.op) and _keras.functional_of(place.op) is not None:
                enter(place.op, place.path + "/", place)

    enter(model, "", None)
    return found


def find(model: Any, name: str) -> Place:
    """The place of a layer's address.

    Raises:
        GrowthError: there is no such layer.
    """
    known = places(model)
    if not isinstance(name, str):
        raise GrowthError(f"Layers are addressed by their name. Received: {name!r}.")
    if name not in known:
        raise GrowthError(
            f"Model '{model.name}' has no layer '{name}'. {nearest(name, known)} "
            "Layers of a nested model are addressed as 'outer/inner'."
        )
    return known[name]


@dataclass(eq=False)
class Edge:
    """A symbolic tensor of one graph and those who read it.

    Attributes:
        tensor: the symbolic tensor.
        readers: the calls that are to be rewired.
        is_output: whether it is to be replaced among the graph's outputs too.
        functional, owner: the graph, and its model.
    """

    tensor: Any
    readers: list[Any]
    is_output: bool
    functional: Any
    owner: Any


def edge(model: Any, after: str, before: str | None) -> Edge:
    """The edge from one layer to another, or to all that read the first.

    An edge that enters or leaves a nested model is found outside of it.

    Raises:
        GrowthError: no such layer or edge, or more than one.
    """
    source = find(model, after)
    if before is None:
        return _all_edges(model, source)
    target = find(model, before)
    tensors, start = source.outputs, source
    chain = _ancestors(target)
    while all(start.functional is not p.functional for p in chain):
        tensors, start = _outwards(tensors, start, target)
    end = target
    while end.functional is not start.functional:
        end = _into(end)
    readers = _reading(end, tensors)
    if not readers and start.above is not None and end is target and _leaves(start, tensors):
        # Within a nested model there is none, but one call of it may follow another.
        tensors, start = _outwards(tensors, start, target)
        end = _into(target)
        readers = _reading(end, tensors)
    read = [t for t in tensors if any(t is x for n in readers for x in _keras.input_tensors(n))]
    if not readers:
        following = sorted(
            {
                n.operation.name
                for n in _keras.all_nodes(source.functional)
                if any(t is x for t in source.outputs for x in _keras.input_tensors(n))
            }
        )
        raise GrowthError(
            f"There is no edge from layer '{after}' to layer '{before}' in model '{model.name}'. "
            f"What '{after}' makes is read by {', '.join(map(repr, following)) or 'no layer'}. "
            f"Received: after={after!r}, before={before!r}."
        )
    if len(read) > 1:
        raise GrowthError(
            f"Layer '{after}' hands several tensors to '{before}' ({len(read)}), so the edge is "
            f"not settled. Received: after={after!r}, before={before!r}."
        )
    return Edge(read[0], readers, False, start.functional, start.owner)


def _reading(place: Place, tensors: list) -> list[Any]:
    """The calls of a layer that read one of the tensors."""
    return [
        node
        for node in place.nodes
        if any(t is x for t in tensors for x in _keras.input_tensors(node))
    ]


def _leaves(place: Place, tensors: list) -> bool:
    return any(t is x for t in _keras.flat_outputs(place.functional) for x in tensors)


def _ancestors(place: Place) -> list[Place]:
    chain = [place]
    while chain[-1].above is not None:
        chain.append(chain[-1].above)
    return chain


def _all_edges(model: Any, source: Place) -> Edge:
    if len(source.outputs) != 1:
        what = "is called" if len(source.nodes) > 1 else "has"
        many = f"{len(source.nodes)} times" if len(source.nodes) > 1 else "several outputs"
        raise GrowthError(
            f"Layer '{source.path}' of model '{model.name}' {what} {many}, so a place after it is "
            "not settled. Name the layer that reads it, too: before=..."
        )
    (tensor,) = source.outputs
    nodes = _keras.all_nodes(source.functional)
    readers = [n for n in nodes if any(tensor is x for x in _keras.input_tensors(n))]
    is_output = any(tensor is t for t in _keras.flat_outputs(source.functional))
    return Edge(tensor, readers, is_output, source.functional, source.owner)


def _outwards(tensors: list, start: Place, target: Place) -> tuple[list, Place]:
    """The tensors of a nested model's call that correspond to `tensors` inside it."""
    outer = start.above
    if outer is None:
        raise GrowthError(f"There is no edge from layer '{start.path}' to layer '{target.path}'.")
    positions = [
        i
        for i, t in enumerate(_keras.flat_outputs(start.functional))
        if any(t is x for x in tensors)
    ]
    if not positions:
        raise GrowthError(
            f"There is no edge from layer '{start.path}' to layer '{target.path}': what "
            f"'{start.path}' makes does not leave the nested model '{outer.path}'."
        )
    return [node.outputs[i] for node in outer.nodes for i in positions], outer


def _into(inner: Place) -> Place:
    """The nested model's call, in place of the layer in it that reads one of the inputs."""
    outer = inner.above
    assert outer is not None
    entries = _keras.flat_inputs(inner.functional)
    used = [
        t
        for t in entries
        if any(t is x for node in inner.nodes for x in _keras.input_tensors(node))
    ]
    others = sorted(
        {
            node.operation.name
            for node in _keras.all_nodes(inner.functional)
            if node.operation is not inner.op
            and any(t is x for t in used for x in _keras.input_tensors(node))
        }
    )
    if used and others:
        raise GrowthError(
            f"What enters the nested model '{outer.path}' is read by "
            f"{', '.join(map(repr, others))} besides '{inner.path}', so this edge cannot be "
            f"changed alone. Name the nested model itself: before='{outer.path}'."
        )
    return outer if used else Place(inner.path, inner.op, outer.functional, outer.owner, [])
