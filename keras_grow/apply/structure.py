"""New calls in the graph of a live model. Either everything happens or nothing does.

Layers, variables and optimizer slots that were there stay the objects they are. A new call is made
by calling a layer on a symbolic tensor of the graph; then the calls that are to read its result are
rewired, and every functional in memory which holds one of them is brought up to date: sub-models
built on the same tensors compute what they computed.
"""

import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import keras
import numpy as np

from keras_grow import _backend, _keras
from keras_grow.apply.new_variables import extend_optimizer
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


def _saves_its_graph(model: Any) -> bool:
    functional = _keras.functional_of(model)
    return functional is not model or _keras.functional_class(model) is type(model)


class Rewiring:
    """Changes the graph of a live model step by step; `finish` makes it valid, `undo` drops it.

    Args:
        model: the outermost model.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.new_layers: list[Any] = []
        self._undo: list[Callable[[], None]] = []
        self._rewired: set[int] = set()
        self._changed_outputs: list[Any] = []
        self._names: set[str] | None = None

    # --- steps -----------------------------------------------------------------------------------

    def note(self, back: Callable[[], None]) -> None:
        """Adds a step that somebody else has done, by what undoes it."""
        self._undo.append(back)

    def name(self, wanted: str) -> str:
        """`wanted`, or with a number behind it, so that no layer of the model has it."""
        if self._names is None:
            self._names = {place.op.name for place in places(self.model).values()}
        name, count = wanted, 1
        while name in self._names:
            name, count = f"{wanted}_{count}", count + 1
        self._names.add(name)
        return name

    def call(self, layer: Any, inputs: Any) -> Any:
        """Calls a layer on symbolic tensors of the graph."""
        count = _keras.call_count(layer)
        self._undo.append(partial(_keras.set_call_count, layer, count))
        if isinstance(layer, keras.layers.Layer):
            self.new_layers.append(layer)
        return layer(inputs)

    def swap(self, nodes: Iterable[Any], old: Any, new: Any) -> None:
        """Makes calls read `new` where they read `old`."""
        for node in nodes:
            self._undo.append(partial(_keras.swap_input, node, new, old))
            _keras.swap_input(node, old, new)
            self._rewired.add(id(node))

    def swap_output(self, functional: Any, old: Any, new: Any) -> None:
        """Makes a graph give out `new` instead of `old`."""
        self._undo.append(partial(_keras.swap_output, functional, new, old))
        _keras.swap_output(functional, old, new)
        self._changed_outputs.append(functional)

    def chain(self, sequential: Any, layer: Any, position: int) -> None:
        """Puts a layer into a Sequential's list of layers (its graph is changed besides)."""
        layers = list(sequential._layers)
        layers.insert(position, layer)
        self._undo.append(_keras.set_layers(sequential, layers))

    def replace(self, sequential: Any, old: Any, new: Any) -> None:
        """Puts one layer for another into a Sequential's list of layers."""
        layers = [new if layer is old else layer for layer in sequential._layers]
        self._undo.append(_keras.set_layers(sequential, layers))

    def assign(self, variable: Any, value: np.ndarray) -> None:
        before = _backend.to_numpy(variable).copy()
        self._undo.append(partial(variable.assign, before))
        variable.assign(value.astype(before.dtype))

    def attribute(self, target: Any, name: str, value: Any) -> None:
        before = vars(target)[name]
        self._undo.append(lambda: vars(target).update({name: before}))
        vars(target)[name] = value

    # --- the end ---------------------------------------------------------------------------------

    def map(self) -> None:
        """Brings every graph up to date, so that the model can run; `finish` must follow."""
        changed = {id(f) for f in self._changed_outputs}
        for functional in _keras.living_graphs():
            nodes = _keras.all_nodes(functional)
            if id(functional) in changed or any(id(n) in self._rewired for n in nodes):
                self._undo.append(_keras.remap(functional))
        self._changed_outputs.clear()
        self._rewired.clear()

    def finish(self) -> None:
        """Brings every graph, optimizer and compiled function up to date."""
        self.map()
        users = self._users()
        for user in users:
            self._undo.extend(extend_optimizer(user))
        self._early_stopping(users)
        self._refresh(users)
        for user in (m for m in users if not _saves_its_graph(m)):
            warnings.warn(
                f"Model '{user.name}' is saved by the arguments of its constructor "
                f"({type(user).__name__}), so a saved file will not hold the new layers. Surgery "
                "that makes a copy (without the trailing underscore) gives a plain functional "
                "model, whose file does.",
                stacklevel=2,
            )

    def undo(self) -> None:
        """Puts everything back as it was."""
        if not self._undo:
            return
        users = self._users()
        while self._undo:
            self._undo.pop()()
        self._refresh(users)

    def _users(self) -> list[Any]:
        """Living models with one of the new layers, the model itself first."""
        found = _keras.models_using(self.new_layers) if self.new_layers else []
        return [self.model, *(m for m in found if m is not self.model)]

    def _early_stopping(self, users: list[Any]) -> None:
        """Weights that an `EarlyStopping` would restore, kept in step with the model's."""
        new = {id(v) for layer in self.new_layers for v in layer.weights}
        for user in users:
            for stopping in _keras.living_early_stoppings(user):
                best = stopping.best_weights
                if best is None or len(best) == len(user.weights):
                    continue
                old = iter(best)
                kept = [_backend.to_numpy(v) if id(v) in new else next(old) for v in user.weights]
                self._undo.append(partial(setattr, stopping, "best_weights", best))
                stopping.best_weights = kept

    def _refresh(self, users: list[Any]) -> None:
        layers = [layer for user in users for layer in _keras.sublayers(user)]
        _backend.after_variables_changed(layers)
        for user in users:
            _keras.drop_compiled(user)
