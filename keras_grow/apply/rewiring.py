"""New calls in the graph of a live model. Either everything happens or nothing does.

Layers, variables and optimizer slots that were there stay the objects they are. A new call is made
by calling a layer on a symbolic tensor of the graph; then the calls that are to read its result are
rewired, and every functional in memory which holds one of them is brought up to date: sub-models
built on the same tensors compute what they computed.
"""

import warnings
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import keras
import numpy as np

from keras_grow import _backend, _keras
from keras_grow.apply.new_slots import extend_loose, extend_optimizer
from keras_grow.apply.slots import optimizers_of, with_inner
from keras_grow.graph.places import places


def _saves_its_graph(model: Any) -> bool:
    functional = _keras.functional_of(model)
    return functional is not model or _keras.functional_class(model) is type(model)


class Rewiring:
    """Changes the graph of a live model step by step; `finish` makes it valid, `undo` drops it.

    Args:
        model: the outermost model.
        living: what else is in memory and may hold a part of it.
    """

    def __init__(self, model: Any, living: _keras.Living) -> None:
        self.model = model
        self.living = living
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
        layers = _keras.layers_of(sequential)
        layers.insert(position, layer)
        self._undo.append(_keras.set_layers(sequential, layers))

    def replace(self, sequential: Any, old: Any, new: Any) -> None:
        """Puts one layer for another into a Sequential's list of layers."""
        layers = [new if layer is old else layer for layer in _keras.layers_of(sequential)]
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
        for functional in self.living.graphs:
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
        new = {id(v) for layer in self.new_layers for v in layer.weights}
        if new:
            self._loose_optimizers(users, new)
            self._early_stopping(users, new)
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
        found = self.living.using(self.new_layers)
        return [self.model, *(m for m in found if m is not self.model)]

    def _loose_optimizers(self, users: list[Any], new: set[int]) -> None:
        """Optimizers that a training loop of the user's own holds.

        Args:
            new: ids of the new variables.
        """
        optimizers = self.living.optimizers
        others = {id(one) for user in users for one in optimizers_of(user)}
        # What lies inside another is reached through that.
        others |= {id(one) for outer in optimizers for one in with_inner(outer)[1:]}
        for optimizer in (one for one in optimizers if id(one) not in others):
            for user in users:
                self._undo.extend(extend_loose(optimizer, user, new))

    def _early_stopping(self, users: list[Any], new: set[int]) -> None:
        """Weights that an `EarlyStopping` would restore, kept in step with the model's."""
        for user in users:
            for stopping in self.living.watching(user):
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
        # A training step of the user's own that was traced knows nothing of new variables.
        held = [v for user in users for v in user.variables]
        _backend.forget_traces(_backend.traces_of(self.living.traced, held))
