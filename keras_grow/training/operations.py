"""What one growth event does to the model: widening, a new layer, a bridge.

Each can be tried first (what would it be, what would it cost), cut down to what there is room for,
and carried out. It either succeeds or leaves the model as it was.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from keras_grow import _keras
from keras_grow.apply import Slopes
from keras_grow.growth.data import Batches
from keras_grow.growth.draft import Initialization, Request
from keras_grow.growth.guarded import Growth, Guard, guarded
from keras_grow.growth.methods import Method
from keras_grow.growth.step import check as check_request
from keras_grow.growth.step import decide, grow
from keras_grow.planning import Atlas, Site, make_plan
from keras_grow.surgery.bridging import (
    bridged,
    built_or_widened,
    check_bridge_method,
    known_bridge,
)
from keras_grow.surgery.building import NewBridge
from keras_grow.surgery.inserting import inserted, insertion
from keras_grow.training.budgets import Room, spread
from keras_grow.training.look import Look
from keras_grow.training.selectors.new_layers import NewLayer


class Operation(Protocol):
    """What an event can do."""

    def cut(self, room: Room) -> "tuple[Operation | None, str | None]":
        """As much of it as there is room for, and what was cut, in words."""
        ...

    def preview(self) -> Growth:
        """What it would be. Nothing is changed."""
        ...

    def run(self) -> Growth:
        """Does it."""
        ...


def operation(chosen: Any, look: Look, init: Initialization, guard: Guard) -> Operation:
    """What carries out the choice of a selector.

    Args:
        look: the model as it is.
        init: how new weights are chosen; a bridge may have a method of its own.
        guard: how the change is watched over.
    """
    if isinstance(chosen, NewLayer):
        return PutLayer(look, guard, chosen, chosen.make(chosen.number))
    if not isinstance(chosen, NewBridge):
        return Widen(look, init, guard, dict(chosen))
    init = replace(init, method=chosen.method or init.method)
    hidden = known_bridge(look.model, chosen, guard.living)
    if hidden is None:
        return PutBridge(look, init, guard, chosen, int(init.rng.integers(2**31)))
    site = look.atlas.find(hidden)
    added = -(-chosen.width // site.granularity) * site.granularity
    return Widen(look, init, guard, {site: added}, "bridge")


@dataclass(frozen=True)
class Widen:
    """Sites become wider.

    Attributes:
        amounts: new channels by site.
        kind: "widen", or "bridge" where the site is a bridge.
    """

    look: Look
    init: Initialization
    guard: Guard
    amounts: Mapping[Site, int]
    kind: str = "widen"

    def cut(self, room: Room) -> "tuple[Operation | None, str | None]":
        atlas = self.look.atlas
        if room.used(make_plan(atlas, self.amounts)) <= 1:
            return self, None
        fits = {}
        if room.parameters > 0 and room.flops > 0:
            fits = spread(atlas, {s: float(n) for s, n in self.amounts.items()}, room, self.amounts)
        cuts = [f"'{s.name}' {n} -> {fits.get(s, 0)}" for s, n in self.amounts.items()]
        note = f"new channels were cut: {', '.join(cuts)}"
        return (replace(self, amounts=fits) if fits else None), note

    def preview(self) -> Growth:
        return self._named(decide(self._request()))

    def run(self) -> Growth:
        return self._named(grow(self._request(), self.guard))

    def _request(self) -> Request:
        norms = self.init.norms and not self.look.measured
        return Request(self.look.atlas, self.amounts, replace(self.init, norms=norms))

    def _named(self, done: Growth) -> Growth:
        norms = {}
        if self.init.norms and self.look.measured:  # for the schedule or the selector
            norms = {site.name: self.look.existing_norm(site) for site in self.amounts}
        for record in done.sites:
            record.kind = self.kind
            record.existing_norm = norms.get(record.name, record.existing_norm)
        return done


class _Whole:
    """Base of the operations that put new layers into the graph: all of it or nothing."""

    def cut(self, room: Room) -> "tuple[Operation | None, str | None]":
        tried = self.preview()
        adds = tried.after.parameters - tried.before.parameters
        flops = tried.after.flops - tried.before.flops
        if room.holds(adds, flops):
            return self, None
        return None, (
            f"'{tried.name}', which adds {adds:,} parameters and {flops:,.12g} FLOPs, was left out"
        )

    def preview(self) -> Growth:
        """Found out on a copy."""
        raise NotImplementedError

    def run(self) -> Growth:
        raise NotImplementedError


@dataclass(frozen=True)
class PutLayer(_Whole):
    """A new layer becomes the identity on an edge."""

    look: Look
    guard: Guard
    new: NewLayer
    layer: Any

    def preview(self) -> Growth:
        new, batch = self.new, self.look.batches().first
        args = self.layer, new.after, new.before, new.branch
        return inserted(self.look.model, *args, batch)[1]

    def run(self) -> Growth:
        new, batch = self.new, self.look.batches().first
        args = self.layer, new.after, new.before, new.branch
        change = insertion(self.look.model, *args, batch[0])
        return guarded(change, replace(self.guard, batch=batch))


@dataclass(frozen=True)
class PutBridge(_Whole):
    """A new hidden layer between two layers.

    Attributes:
        seed: of its weights, so that a preview shows what `run` does.
    """

    look: Look
    init: Initialization
    guard: Guard
    new: NewBridge
    seed: int

    def preview(self) -> Growth:
        # Slopes are put into the live model, not into a copy.
        return bridged(self.look.model, self.new, replace(self._init(), slopes=None))[1]

    def run(self) -> Growth:
        return built_or_widened(self.look.model, self.new, self._init(), self.guard)

    def _init(self) -> Initialization:
        first = Batches(self.look.batches().first)
        return replace(self.init, rng=np.random.default_rng(self.seed), batches=first)


def check(chosen: Any, atlas: Atlas, method: Method, form: str, slopes: Slopes) -> None:
    """Whether a method can do what a selector will choose, before training begins.

    No growth data is looked at.

    Raises:
        GrowthError: it cannot.
    """
    amounts = chosen
    if isinstance(chosen, NewBridge):
        method = chosen.method or method
        hidden = known_bridge(atlas.graph.model, chosen, _keras.Living())
        if hidden is None:
            check_bridge_method(method)
            return
        site = atlas.find(hidden)
        amounts = {site: site.granularity}
    if isinstance(amounts, Mapping) and amounts:
        init = Initialization(method, np.random.default_rng(0), form, slopes=slopes)
        check_request(Request(atlas, amounts, init))
