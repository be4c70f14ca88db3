"""Layers that make layers of their own from their config, such as a whole encoder.

Their calls are entered as those of nested models are, and the rules of the layers inside apply.
But such a layer is saved as its config, from which it makes the layers inside anew: their widths
can grow only where the config has a number for them, and that number has to change as well.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

from keras_grow.graph import Call, Container, class_name, open_layers
from keras_grow.rules.registry import rule_for
from keras_grow.rules.space import Channels, Production, Space


@dataclass(frozen=True, eq=False)
class Width:
    """A width inside a layer that its config has a number for.

    Attributes:
        layers: the layers inside that make channels of this width; they grow together.
        set: writes a new width into the attributes from which the config is taken.
        step: by multiples of which it can grow.
    """

    layers: list[Any]
    set: Callable[[int], None]
    step: int = 1


@dataclass(frozen=True, eq=False)
class Inside:
    """What of a layer can grow.

    Attributes:
        widths: inside.
        set_inputs: for a layer whose output has as many channels as its input and whose config has
            that number: writes a new one. None: the input's channels cannot grow.
    """

    widths: list[Width] = field(default_factory=list)
    set_inputs: Callable[[int], None] | None = None


_INSIDES: dict[str, Callable[[Any], Inside]] = {}


def opens(*names: str) -> Callable[[Callable[[Any], Inside]], Callable[[Any], Inside]]:
    """Decorator: the function tells what can grow inside layers of these classes."""

    def wrap(function: Callable[[Any], Inside]) -> Callable[[Any], Inside]:
        open_layers(*names)
        _INSIDES.update(dict.fromkeys(names, function))
        return function

    return wrap


def flow(call: Call, inputs: list[Channels | None], space: Space) -> list:
    """What the rule of a call says, as far as the layers that it is part of let it."""
    owners: list[Container] = []
    owner = call.owner
    while owner is not None:
        owners.insert(0, owner)
        owner = owner.owner
    inner: Any = space
    for owner in owners:
        inner = _Configured(inner, owner)
        inputs = [inner.enter(call, i, x) for i, x in enumerate(inputs)]
    return rule_for(call.op).flow(call, inputs, inner)


# Channels of widths that were met already, by the space that is asked. The layer that a width
# belongs to and its place there tell it apart.
_MET: WeakKeyDictionary[Any, dict[tuple[int, int], Channels]] = WeakKeyDictionary()


class _Configured:
    """A `Space` for the calls inside one layer. It refuses what the layer's config cannot say."""

    def __init__(self, space: Any, owner: Container) -> None:
        self.space = space
        self.owner = owner
        self.inside = _INSIDES[class_name(owner.model)](owner.model)
        self.root: Any = space.root if isinstance(space, _Configured) else space

    def __getattr__(self, name: str) -> Any:
        return getattr(self.space, name)

    def enter(self, call: Call, i: int, x: Channels | None) -> Channels | None:
        """The channels of input `i` of a call, if they may come in from outside."""
        if x is None or all(call.inputs[i] not in entry for entry in self.owner.entries):
            return x
        change = self.inside.set_inputs
        if change is None:
            self.space.refuse(
                call,
                [x],
                f"is part of {self.owner!r}, which makes its layers for as many channels as its "
                "config says",
            )
            return None
        self.space.attribute(call, x, lambda: change(len(x)), f"inputs of {self.owner.path}")
        return x

    def produce(self, call: Call, production: Production) -> Channels | None:
        made = self.space.produce(call, production)
        if made is None:
            return None
        place = self._place(call.op)
        if place is None or production.part:
            self.space.refuse(
                call,
                [made],
                f"is made by {self.owner!r} from its config, which has no number for its width",
            )
            return made
        found = self.inside.widths[place]
        self.space.attribute(
            call, made, lambda: found.set(len(made)), f"config of {self.owner.path}"
        )
        self.space.blocks(call, made, found.step)
        met = _MET.setdefault(self.root, {})
        first = met.setdefault((id(self.owner.model), place), made)
        if first is not made:
            self.space.join(call, [first.at(made.axis), made])
        return made

    def _place(self, op: Any) -> int | None:
        for i, width in enumerate(self.inside.widths):
            if any(layer is op for layer in width.layers):
                return i
        return None
