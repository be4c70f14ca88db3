"""Who else holds what a surgery changes: other models, and optimizers whoever keeps them.

Keras shares layers between models by reference, and nothing knows of all of them. A model over the
same calls (a feature extractor, an encoder, a model in which this one is nested) is right after a
growth of their common layers, since it is made of the very tensors that are brought up to date.
One that reads what they make by kernels of its own (the critic beside an actor) has these widened
along, with zeros. What can be neither is refused, by its name, before anything is touched.
"""

import gc
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from keras_grow import _keras
from keras_grow.apply.slots import optimizers_of
from keras_grow.errors import GrowthError
from keras_grow.graph import Call, Graph, graph_of
from keras_grow.planning import Edit, Plan, Site, SitePlan, make_plan, survey


@dataclass(frozen=True)
class Holders:
    """Living models, besides a plan's own, that hold layers which grow.

    Attributes:
        models: all of them.
        plans: what else has to grow in some of them, beside the plan itself.
    """

    models: list[Any] = field(default_factory=list)
    plans: list[Plan] = field(default_factory=list)


class _Left(Exception):
    """A model that would be left behind. The message says why."""


def holders_of(plan: Plan, living: _keras.Living) -> Holders:
    """Who holds layers that a plan grows.

    Raises:
        GrowthError: one of them would not be right afterwards; nothing has been changed.
    """
    found, _ = _tried(plan, living)
    if found is None:
        # Models that nobody holds any more wait in memory for the collector.
        living.look_again()
        gc.collect()
        found, why = _tried(plan, living)
    if found is None:
        model = plan.atlas.graph.model
        names = ", ".join(f"'{site.site.name}'" for site in plan.sites)
        raise GrowthError(
            f"Growing {names} of model '{model.name}' in place would leave another model behind: "
            f"{why}. Grow a copy, which shares nothing with it (kg.widen), or delete the other "
            "model first."
        )
    return found


def optimizers_training(model: Any, variables: Iterable[Any], living: _keras.Living) -> list[Any]:
    """The model's optimizers and all others in memory that train one of `variables`.

    A training loop of the user's own holds its optimizer itself, and other compiled models over
    the same layers have theirs.
    """
    own = optimizers_of(model)
    known = {id(optimizer) for optimizer in own}
    return own + [o for o in living.training(variables) if id(o) not in known]


def _tried(plan: Plan, living: _keras.Living) -> tuple[Holders | None, str]:
    """The holders, or why there is one that would be left behind."""
    try:
        return _holders(plan, living), ""
    except _Left as left:
        return None, str(left)


def _holders(plan: Plan, living: _keras.Living) -> Holders:
    layers = {id(e.call.op): e.call.op for e in plan.edits if e.call is not None}
    own = _parts(plan.atlas.graph)
    outside = _Outside(plan, set(layers))
    # What grows already, by the plan or along with an earlier model: nothing may grow twice.
    known = {(id(e.variable), e.axis): e for e in plan.edits}
    found = Holders()
    for other in living.using(layers.values()):
        if id(other) in own:
            continue
        try:
            calls = graph_of(other).calls
        except GrowthError as error:
            raise _Left(
                f"{type(other).__name__} '{other.name}' holds layers that grow, and has no graph "
                "that could be looked at"
            ) from error
        found.models.append(other)
        shifted = any(id(v) in plan.rewrites for v in other.variables)
        if shifted or any(outside(call) for call in calls):
            found.plans.append(_along(plan, other, known))
    return found


def _parts(graph: Graph) -> set[int]:
    """The model itself, and those inside it, which are of the same graph."""
    inside = [graph.model, graph.functional]
    for container in graph.containers:
        inside += [container.model, container.functional]
    return {id(part) for part in inside}


class _Outside:
    """Tells whether a call of another model has to do with what grows, and is no call of the graph.

    Args:
        layers: ids of the layers that grow.
    """

    def __init__(self, plan: Plan, layers: set[int]) -> None:
        calls = plan.atlas.graph.calls
        self.layers = layers
        self.tensors = {id(t) for ref, _, _ in plan.tensors for t in ref.tensors}
        self.nodes = {id(call.node) for call in calls}
        # Calls inside of an opened layer are made anew whenever a graph is read.
        self.opened = {id(_opened(call)) for call in calls if call.owner is not None}

    def __call__(self, call: Call) -> bool:
        reads = any(id(t) in self.tensors for ref in call.inputs for t in ref.tensors)
        if not reads and id(call.op) not in self.layers:
            return False
        if call.owner is None:
            return id(call.node) not in self.nodes
        return id(_opened(call)) not in self.opened


def _opened(call: Call) -> Any:
    """The layer of the model in which a call lies that was found by opening it."""
    owner = call.owner
    while owner is not None and owner.owner is not None:
        owner = owner.owner
    return None if owner is None else owner.model


def _along(plan: Plan, other: Any, known: dict[tuple[int, int], Edit]) -> Plan:
    """What has to grow in another model besides what grows already.

    Args:
        known: the edits of that, by variable and axis; the new ones are added.
    """
    atlas = survey(other)
    amounts, forms = {}, {}
    for site in plan.sites:
        own = _same_site(site, atlas.sites, {id(c.op) for c in atlas.graph.calls}, other)
        if own is not None:
            amounts[own], forms[own] = site.added, site.form
    try:
        found = make_plan(atlas, amounts, forms)
    except GrowthError as error:
        raise _Left(f"model '{other.name}' cannot grow along. {error}") from error
    if found.rewires:
        raise _Left(f"model '{other.name}' would need new calls in its graph")
    edits = []
    for edit in found.edits:
        same = known.setdefault((id(edit.variable), edit.axis), edit)
        if same is edit:
            edits.append(edit)
        elif not np.array_equal(same.labels, edit.labels):
            raise _Left(f"model '{other.name}' would need other growth of '{edit.path}'")
    # A stream that is centred for a LayerNormalization is another one for whoever has none.
    shifted = {id(v) for v in other.variables} & plan.rewrites.keys()
    if shifted != found.rewrites.keys() or any(s.form != forms[s.site] for s in found.sites):
        raise _Left(f"model '{other.name}' would need another form of growth")
    return replace(found, edits=edits, rewrites={})


def _same_site(site: SitePlan, candidates: list[Site], ops: set[int], other: Any) -> Site | None:
    """The site of another model that is made by the same layers; None if it has none of them."""
    wanted = {p.key: at for p, at in site.site.members}
    if not any(op in ops for op, _ in wanted):
        return None
    for own in candidates:
        made = {p.key: at for p, at in own.members}
        if made.keys() == wanted.keys() and all(
            np.array_equal(at, wanted[key]) for key, at in made.items()
        ):
            return own
    raise _Left(
        f"in model '{other.name}' '{site.site.name}' cannot grow, or not without other layers"
    )
