"""Carries a plan out on a live model. Either everything happens or nothing does.

The same `keras.Variable` objects get new values of a new shape, so every layer, tensor, optimizer
and sub-model the user holds stays valid.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import keras
import numpy as np

from keras_grow import _backend, _keras
from keras_grow.apply import slots
from keras_grow.apply.holders import Holders, holders_of, optimizers_training
from keras_grow.apply.partners import keep_apart, pad_partners
from keras_grow.apply.rewiring import Rewiring
from keras_grow.errors import all_or_nothing
from keras_grow.graph import Ref
from keras_grow.planning import Edit, Plan
from keras_grow.planning.arrays import Copying, grown_value

Fans = dict[Edit, list[tuple[np.ndarray, np.ndarray]]]


@dataclass
class Surgery:
    """One plan with the weights chosen for it, ready to be carried out.

    Attributes:
        plan: what grows.
        fan_out, fan_in: by edit, pairs of positions along the grown axis and new weights, as
            `grown_value` takes them. What is left out is zero.
        entries: by per-channel edit, positions and values that are not to be the edit's fill.
        copies: by edit, new entries that are copies of old ones.
        seed: of new weights that may hold anything.
        disposable: the model is given up if something fails: nothing is kept to undo it with.
    """

    plan: Plan
    fan_out: Fans = field(default_factory=dict)
    fan_in: Fans = field(default_factory=dict)
    entries: Fans = field(default_factory=dict)
    copies: dict[Edit, Copying] = field(default_factory=dict)
    seed: int = 0
    disposable: bool = False
    _living: _keras.Living = field(default_factory=_keras.Living, repr=False)
    _holders: Holders = field(default_factory=Holders, repr=False)
    _along: list["Surgery"] = field(default_factory=list, repr=False)
    _traces: list[Any] = field(default_factory=list, repr=False)
    _undo: list[Callable[[], None]] = field(default_factory=list, repr=False)

    def apply(self, living: _keras.Living | None = None) -> None:
        """Changes the model in place.

        Args:
            living: what else is in memory and may hold a part of the model; looked for if left out.

        Raises:
            GrowthError: something failed, memory included; the model is as it was.
        """
        model = self.plan.atlas.graph.model
        _backend.attach_state(model)
        if living is not None:
            self._living = living
        self._holders = holders_of(self.plan, self._living)
        self._along = [self._beside(plan) for plan in self._holders.plans]
        names = ", ".join(s.site.name for s in self.plan.sites)
        with all_or_nothing(self.undo, f"Growing {names} in model '{model.name}'"):
            for surgery in (self, *self._along):
                surgery._grow(self._users())
            self._rewire(model)
            self._refresh()

    def undo(self) -> None:
        """Puts everything back as it was before `apply`."""
        if not self._undo:
            return
        while self._undo:
            self._undo.pop()()
        self._refresh()

    def grown(self, variables: list[Any], values: list[np.ndarray]) -> list[np.ndarray]:
        """Earlier values of the model's variables, grown as the variables were.

        A model with the grown values computes what it computed with the earlier ones.
        """
        edits = self._edits()
        return [
            self._grown_value(variable, value, edits.get(id(variable), []))
            for variable, value in zip(variables, values, strict=True)
        ]

    def _grown_value(self, variable: Any, value: np.ndarray, edits: list[Edit]) -> np.ndarray:
        value = self._rewritten(variable, value)
        if not edits:
            return value
        return grown_value(
            value, edits, self.fan_out, self.fan_in, self.seed, self.entries, self.copies
        )

    def _copied(
        self, edits: dict[int, list[Edit]], variable: Any, value: np.ndarray
    ) -> np.ndarray | None:
        """Other values of a variable, grown as it is; None if nothing of it is copied."""
        own = edits.get(id(variable), [])
        return self._grown_value(variable, value, own) if set(own) & set(self.copies) else None

    def _rewritten(self, variable: Any, value: np.ndarray) -> np.ndarray:
        if id(variable) not in self.plan.rewrites:
            return value
        _, function = self.plan.rewrites[id(variable)]
        return np.asarray(function(value)).astype(value.dtype)

    # --- the steps of apply ----------------------------------------------------------------------

    def _edits(self) -> dict[int, list[Edit]]:
        edits: dict[int, list[Edit]] = {}
        for edit in self.plan.edits:
            edits.setdefault(id(edit.variable), []).append(edit)
        return edits

    def _beside(self, plan: Plan) -> "Surgery":
        """What has to be done in another model, taken back together with this."""
        other = Surgery(plan, seed=self.seed)
        other._living, other._undo = self._living, self._undo
        return other

    def _users(self) -> list[Any]:
        """The model and all that hold layers of it which grow."""
        return [self.plan.atlas.graph.model, *self._holders.models]

    def _grow(self, users: list[Any]) -> None:
        self._variables(self.plan.atlas.graph.model)
        self._sizes()
        self._shapes()
        self._early_stopping(users)

    def _variables(self, model: Any) -> None:
        edits = self._edits()
        changes: list[tuple[Any, np.ndarray]] = []
        values: dict[int, np.ndarray] = {}
        changing = {key: own[0].variable for key, own in edits.items()}
        changing |= {key: variable for key, (variable, _) in self.plan.rewrites.items()}
        self._traces += _backend.traces_of(self._living.traced, changing.values())
        active = optimizers_training(model, changing.values(), self._living)
        if not active:  # one after another: less memory
            for key, variable in changing.items():
                old = _backend.to_numpy(variable)
                self._give(variable, self._grown_value(variable, old, edits.get(key, [])))
            return
        for key, variable in changing.items():
            old = _backend.to_numpy(variable)
            values[key] = self._grown_value(variable, old, edits.get(key, []))
            changes.append((variable, values[key]))
        for optimizer in active:
            changes += slots.grown_slots(
                optimizer, edits, values, self._rewritten, partial(self._copied, edits)
            )
        keys = [_keras.optimizer_keys(optimizer) for optimizer in active]
        for optimizer, own_keys in zip(active, keys, strict=True):
            # Runs last when undoing, after the variables are back.
            self._undo.append(partial(_keras.set_optimizer_keys, optimizer, own_keys))
        for variable, value in changes:
            self._give(variable, value)
        for optimizer, before_keys in zip(active, keys, strict=True):
            _keras.set_optimizer_keys(optimizer, _keras.optimizer_keys(optimizer), before_keys)

    def _give(self, variable: Any, value: np.ndarray) -> None:
        if not self.disposable:
            before = _keras.variable_state(variable)
            self._undo.append(partial(_keras.restore_variable, variable, before))
        _keras.reinitialize(variable, value)

    def _sizes(self) -> None:
        for producer, size in self.plan.sizes:
            made = producer.production
            if made.resize is None:
                self._set(producer.call.op, made.size, size)
        for op, setter in self.plan.setters:
            below = _keras.sublayers(op) if isinstance(op, keras.layers.Layer) else [op]
            for part in below:
                self._undo.append(partial(_keras.restore_snapshot, part, _keras.snapshot(part)))
            setter()

    def _set(self, target: Any, name: str, value: Any) -> None:
        before = getattr(target, name)
        self._undo.append(lambda: setattr(target, name, before))
        setattr(target, name, value)

    def _shapes(self) -> None:
        grown = {ref: (axis, size) for ref, axis, size in self.plan.tensors}
        done = {id(call.op) for call, _ in self.plan.apart}  # these stay as wide as they are
        graph = self.plan.atlas.graph
        for call in graph.calls:
            if id(call.op) in done or not any(r in grown for r in call.inputs):
                continue
            done.add(id(call.op))
            padded = {
                other.inputs[i]: (channels.axis, len(channels))
                for other, i, channels in self.plan.pads
                if other is call
            }
            self._layer_shapes(call.op, call.inputs, {**grown, **padded} if padded else grown)
        for container in graph.containers:
            entry = container.entries[0]
            if any(r in grown for r in entry):
                self._layer_shapes(container.model, entry, grown)
                layers = _keras.input_layers(container.functional)
                for layer, ref in zip(layers, entry, strict=True):
                    if ref in grown and isinstance(layer, keras.layers.InputLayer):
                        shape = layer.batch_shape
                        self._undo.append(partial(_keras.set_batch_shape, layer, shape))
                        _keras.set_batch_shape(layer, _resized(shape, *grown[ref]))
        for ref, (axis, size) in grown.items():
            for tensor in ref.tensors:
                before = tuple(tensor.shape)
                self._undo.append(partial(_keras.set_shape, tensor, before))
                _keras.set_shape(tensor, _resized(before, axis, size))

    def _early_stopping(self, users: list[Any]) -> None:
        """What an `EarlyStopping` would restore: in the old shapes it would fail halfway."""
        for user in users:
            for stopping in self._living.watching(user):
                best = stopping.best_weights
                if best is not None and len(best) == len(user.weights):
                    self._undo.append(partial(setattr, stopping, "best_weights", best))
                    stopping.best_weights = self.grown(user.weights, best)

    def _rewire(self, model: Any) -> None:
        if self.plan.rewires:
            rewiring = Rewiring(model, self._living)
            self._undo.append(rewiring.undo)
            pad_partners(rewiring, self.plan.pads)
            keep_apart(rewiring, self.plan.apart)
            rewiring.finish()

    def _layer_shapes(
        self, layer: Any, inputs: list[Ref], grown: dict[Ref, tuple[int, int]]
    ) -> None:
        """Brings `input_spec` and the shapes that `build` was called with up to date."""
        spec = None if isinstance(layer, keras.Model) else getattr(layer, "input_spec", None)
        if isinstance(spec, keras.layers.InputSpec) and spec.axes and inputs[0] in grown:
            axis, size = grown[inputs[0]]
            new = copy.copy(spec)
            rank = inputs[0].rank
            new.axes = {a: size if a % rank == axis else d for a, d in spec.axes.items()}
            self._undo.append(lambda: setattr(layer, "input_spec", spec))
            layer.input_spec = new
        shapes = _keras.build_shapes(layer)
        if shapes:
            refs = iter(inputs)
            new_shapes = _each_shape(dict(shapes), lambda s: _next_shape(s, refs, grown))
            self._undo.append(lambda: _keras.set_build_shapes(layer, shapes))
            _keras.set_build_shapes(layer, new_shapes)

    def _refresh(self) -> None:
        """What is derived from the variables: backend bookkeeping, compiled functions."""
        users = self._users()
        layers = [layer for user in users for layer in _keras.sublayers(user)]
        _backend.after_variables_changed(layers)
        for user in users:
            _keras.drop_compiled(user)
        for surgery in (self, *self._along):
            _backend.forget_traces(surgery._traces)


def _resized(shape: tuple, axis: int, size: int) -> tuple:
    return (*shape[:axis], size, *shape[axis + 1 :])


def _is_shape(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and all(d is None or isinstance(d, int) for d in value)


def _each_shape(value: Any, change: Callable[[Any], Any]) -> Any:
    if _is_shape(value):
        return change(value)
    if isinstance(value, dict):
        return {k: _each_shape(v, change) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_each_shape(v, change) for v in value)
    return value


def _next_shape(shape: Any, refs: Any, grown: dict[Ref, tuple[int, int]]) -> Any:
    ref = next(refs, None)
    if ref is None or ref not in grown or len(shape) != ref.rank:
        return shape
    return type(shape)(_resized(tuple(shape), *grown[ref]))
