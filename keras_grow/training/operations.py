"""What one growth event does to the model: widening, a new layer, a bridge.

Each can be tried first (what would it be, what would it cost), cut down to what there is room for,
and carried out. It either succeeds or leaves the model as it was.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from keras import tree

from keras_grow import _backend
from keras_grow.apply import Slopes
from keras_grow.graph import Graph, graph_of
from keras_grow.graph.outputs import Outputs, compare, tolerance_of
from keras_grow.graph.places import places
from keras_grow.growth import history
from keras_grow.growth.methods import Method
from keras_grow.growth.step import CHECKED_SAMPLES, GrowthStep
from keras_grow.logs.events import SiteGrowth
from keras_grow.planning import Atlas, Plan, Site, make_plan, survey
from keras_grow.planning.cost import graph_flops
from keras_grow.planning.plan import OUTGOING
from keras_grow.surgery import insert, insert_
from keras_grow.surgery.bridging import bridged, bridged_, check_bridge, check_bridge_method
from keras_grow.training.budgets import Room, spread
from keras_grow.training.look import Look
from keras_grow.training.selectors.new_layers import NewBridge, NewLayer


@dataclass
class Setting:
    """What the callback lends to an operation.

    Attributes:
        look: the model as it is.
        method, form: how new weights are chosen.
        rng: the only source of randomness.
        slopes: explicit slopes that are in place.
        outputs: compares outputs before and after; None if nothing is compared.
        stoppings: `EarlyStopping` callbacks, whose best weights grow along.
        norms: whether to note the gradient norm of the weights that sites had before.
    """

    look: Look
    method: Method
    form: str
    rng: np.random.Generator
    slopes: Slopes
    outputs: Outputs | None
    stoppings: list[Any]
    norms: bool = False

    @property
    def model(self) -> Any:
        return self.look.model

    @property
    def graph(self) -> Graph:
        return self.look.atlas.graph


@dataclass
class Outcome:
    """What an operation did, or would do.

    Attributes:
        sites: a record of each site or new layer.
        parameters, flops: what it adds.
        loss: of the growth data; None where not computed.
        deviation: of the outputs; None if not compared.
        seconds: by phase.
        tolerance: up to which the outputs count as the same.
    """

    sites: list[SiteGrowth]
    parameters: int
    flops: float
    loss: float | None = None
    deviation: float | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    tolerance: float | None = None


class Operation(Protocol):
    """What an event can do.

    Attributes:
        plan: of the sites that have become wider, once they have; None for new layers.
    """

    plan: Plan | None

    def cut(self, room: Room) -> "tuple[Operation | None, str | None]":
        """As much of it as there is room for, and what was cut, in words."""
        ...

    def preview(self) -> Outcome:
        """What it would be. Nothing is changed."""
        ...

    def run(self) -> Outcome:
        """Does it."""
        ...


class Widen:
    """Sites become wider.

    Args:
        amounts: new channels by site.
        kind: "widen", or "bridge" where the site is a bridge.
        method: instead of the setting's.
    """

    def __init__(
        self,
        setting: Setting,
        amounts: Mapping[Site, int],
        kind: str = "widen",
        method: Method | None = None,
    ) -> None:
        self.setting = setting
        self.amounts = dict(amounts)
        self.kind = kind
        self.method = method or setting.method
        self.plan: Plan | None = None  # what was carried out

    def cut(self, room: Room) -> "tuple[Operation | None, str | None]":
        atlas = self.setting.look.atlas
        if room.used(make_plan(atlas, self.amounts)) <= 1:
            return self, None
        fits = {}
        if room.parameters > 0 and room.flops > 0:
            fits = spread(atlas, {s: float(n) for s, n in self.amounts.items()}, room, self.amounts)
        cuts = [f"'{s.name}' {n} -> {fits.get(s, 0)}" for s, n in self.amounts.items()]
        note = f"new channels were cut: {', '.join(cuts)}"
        return (Widen(self.setting, fits, self.kind, self.method) if fits else None), note

    def preview(self) -> Outcome:
        step = self._step()
        done = step.decide()
        plan = done.plan
        return Outcome(
            self._records(done.sites), plan.added_parameters, plan.added_flops,
            done.loss, None, done.seconds,
        )  # fmt: skip

    def run(self) -> Outcome:
        model, graph = self.setting.model, self.setting.graph
        before = model.count_params(), graph_flops(graph)
        step = self._step()
        done = step.run()
        self.plan = done.plan
        for stopping in self.setting.stoppings:
            if stopping.best_weights is not None:
                # They have the old shapes; restoring them would fail halfway.
                kept = step.surgery.grown(model.weights, stopping.best_weights)
                stopping.best_weights = kept
        return Outcome(
            self._records(done.sites),
            model.count_params() - before[0],
            graph_flops(graph) - before[1],
            done.loss,
            None if done.report is None else done.report.relative,
            done.seconds,
            None if done.report is None else done.report.tolerance,
        )

    def _step(self) -> GrowthStep:
        own = self.setting
        return GrowthStep(
            own.look.atlas, self.amounts, self.method, own.rng, own.look.batches(),
            own.slopes, own.outputs, own.form, norms=own.norms and not own.look.measured,
        )  # fmt: skip

    def _records(self, records: list[SiteGrowth]) -> list[SiteGrowth]:
        norms = {}
        if self.setting.norms and self.setting.look.measured:  # for the schedule or the selector
            norms = {site.name: self.setting.look.existing_norm(site) for site in self.amounts}
        for record in records:
            record.kind = self.kind
            record.existing_norm = norms.get(record.name, record.existing_norm)
        return records


class _Structural:
    """Base of the operations that put new layers into the graph."""

    plan: Plan | None = None

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self._tried: Outcome | None = None

    def cut(self, room: Room) -> "tuple[Operation | None, str | None]":
        tried = self.preview()
        if room.holds(tried.parameters, tried.flops):
            return self, None
        (record,) = tried.sites
        return None, (
            f"'{record.name}', which adds {tried.parameters:,} parameters and "
            f"{tried.flops:,.12g} FLOPs, was left out"
        )

    def preview(self) -> Outcome:
        if self._tried is None:  # found out on a copy
            with history.held():
                copy, name = self._copy()
            self._tried = self._outcome(copy, name)
        return self._tried

    def run(self) -> Outcome:
        outputs, sample, before = self.setting.outputs, None, []
        if outputs is not None:
            sample = self._sample()
            if not outputs.serves(self.setting.graph):
                outputs.renew(self.setting.graph)
            before = outputs(sample)
        cost = self.setting.model.count_params(), graph_flops(self.setting.graph)
        with history.held():
            name = self._change()
        done = self._outcome(self.setting.model, name, cost)
        if outputs is not None:
            outputs.renew(graph_of(self.setting.model))
            report = compare(before, outputs(sample), tolerance_of(self.setting.model))
            done.deviation, done.tolerance = report.relative, report.tolerance
        return done

    def _copy(self) -> tuple[Any, str]:
        """A changed copy of the model, and the path of the new layer in it."""
        raise NotImplementedError

    def _change(self) -> str:
        """Changes the model; the path of the new layer."""
        raise NotImplementedError

    def _record(self, name: str, width: int) -> SiteGrowth:
        raise NotImplementedError

    def _outcome(self, after: Any, name: str, cost: tuple[int, float] | None = None) -> Outcome:
        if cost is None:
            cost = self.setting.model.count_params(), graph_flops(self.setting.graph)
        atlas = survey(after)
        width = next((p.width for p in atlas.producers.values() if p.path == name), 0)
        return Outcome(
            [self._record(name, width)],
            after.count_params() - cost[0],
            graph_flops(atlas.graph) - cost[1],
        )

    def _sample(self) -> Any:
        model = self.setting.model
        fixed = [t.shape[0] for t in model.inputs if t.shape[0] is not None]
        count = min(fixed, default=CHECKED_SAMPLES)
        first = self.setting.look.batches().first
        return _backend.as_tensors(tree.map_structure(lambda a: a[:count], first[0]))


class PutLayer(_Structural):
    """A new layer becomes the identity on an edge."""

    def __init__(self, setting: Setting, new: NewLayer) -> None:
        super().__init__(setting)
        self.new = new
        self.layer = new.make(new.number)

    def _where(self) -> dict[str, Any]:
        batch = self.setting.look.batches().first
        new = self.new
        return {"after": new.after, "before": new.before, "branch": new.branch, "data": batch}

    def _copy(self) -> tuple[Any, str]:
        known = set(places(self.setting.model))
        copy = insert(self.setting.model, self.layer, **self._where())
        kind = type(self.layer)
        added = {p: place.op for p, place in places(copy).items() if p not in known}
        return copy, next((p for p, op in added.items() if type(op) is kind), min(added))

    def _change(self) -> str:
        insert_(self.setting.model, self.layer, **self._where())
        after = places(self.setting.model)
        return next(p for p, place in after.items() if place.op is self.layer)

    def _record(self, name: str, width: int) -> SiteGrowth:
        new = self.new
        return SiteGrowth(
            name=name,
            producers=[new.after],
            consumers=[] if new.before is None else [new.before],
            width_before=0,
            width_after=width,
            method="branch" if new.branch else "identity",
            form="zeros" if new.branch else "identity",
            kind="insert",
        )


class PutBridge(_Structural):
    """A new hidden layer between two layers."""

    def __init__(self, setting: Setting, new: NewBridge) -> None:
        super().__init__(setting)
        self.new = new
        self.method = new.method or setting.method
        self._form = OUTGOING
        self.seed = int(setting.rng.integers(2**31))

    def _arguments(self) -> dict[str, Any]:
        new = self.new
        return {
            "after": new.after, "before": new.before, "width": new.width,
            "activation": new.activation, "method": self.method, "seed": self.seed,
            "data": self.setting.look.batches().first, "form": self.setting.form,
        }  # fmt: skip

    def _copy(self) -> tuple[Any, str]:
        copy, made = bridged(self.setting.model, **self._arguments())
        self._form = made.form
        return copy, made.name

    def _change(self) -> str:
        slopes, graph = self.setting.slopes, self.setting.graph
        # The activation of `before` moves behind the sum, and its explicit slope with it.
        sloped = [c for c in graph.calls if c.path == self.new.before and id(c.op) in slopes.ops]
        if not sloped:
            return self._build()
        old = {id(c.op) for c in graph.calls}
        slopes.remove(keep=slopes.ops - {id(sloped[0].op)})
        try:
            name = self._build()
        except BaseException:
            slopes.install(sloped[0])
            raise
        for call in graph_of(self.setting.model).calls:
            if id(call.op) not in old:
                slopes.install(call)
        return name

    def _build(self) -> str:
        arguments = self._arguments()
        made = bridged_(self.setting.model, slopes=self.setting.slopes, **arguments)
        self._form = made.form
        return made.name

    def _record(self, name: str, width: int) -> SiteGrowth:
        return SiteGrowth(
            name=name,
            producers=[self.new.after],
            consumers=[self.new.before],
            width_before=0,
            width_after=width,
            method=self.method.name,
            form=self._form,
            kind="bridge",
        )


def check(chosen: Any, atlas: Atlas, method: Method, form: str, slopes: Slopes) -> None:
    """Whether a method can do what a selector will choose, before training begins.

    No growth data is looked at.

    Raises:
        GrowthError: it cannot.
    """
    amounts = chosen
    if isinstance(chosen, NewBridge):
        method = chosen.method or method
        hidden = check_bridge(
            atlas.graph.model, after=chosen.after, before=chosen.before,
            activation=chosen.activation,
        )  # fmt: skip
        if hidden is None:
            check_bridge_method(method)
            return
        site = atlas.find(hidden)
        amounts = {site: site.granularity}
    if isinstance(amounts, Mapping) and amounts:
        rng = np.random.default_rng(0)
        GrowthStep(atlas, amounts, method, rng, slopes=slopes, form=form).check()


def operation(chosen: Any, setting: Setting) -> Operation:
    """What carries out the choice of a selector."""
    if isinstance(chosen, NewLayer):
        return PutLayer(setting, chosen)
    if isinstance(chosen, NewBridge):
        return _bridge(setting, chosen)
    return Widen(setting, chosen)


def _bridge(setting: Setting, new: NewBridge) -> Operation:
    hidden = check_bridge(
        setting.model, after=new.after, before=new.before, activation=new.activation
    )
    if hidden is None:
        return PutBridge(setting, new)
    site = setting.look.atlas.find(hidden)
    added = -(-new.width // site.granularity) * site.granularity
    return Widen(setting, {site: added}, "bridge", new.method)
