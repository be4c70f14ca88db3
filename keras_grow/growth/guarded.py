"""The one door of every surgery: a change is carried out and found right, or undone.

Wider layers, new layers and bridges, in place or on a copy, alone or in the middle of `fit`: each
is a `Change`, and `guarded` is the only function that carries one out.
"""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from keras import tree

from keras_grow import _backend, _keras
from keras_grow.errors import GrowthError, all_or_nothing
from keras_grow.graph import Graph, graph_of
from keras_grow.graph.outputs import (
    Outputs,
    Report,
    compare,
    random_inputs,
    rounded,
    tolerance_of,
)
from keras_grow.growth.data import Batch
from keras_grow.logs.events import SiteGrowth
from keras_grow.planning import Plan
from keras_grow.planning.cost import Size

# Samples on which outputs before and after are compared.
CHECKED_SAMPLES = 32


class Clock:
    """Adds up seconds by phase."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[phase] = self.seconds.get(phase, 0.0) + time.perf_counter() - start


@dataclass
class Growth:
    """What one surgery did to a model, or would do.

    Attributes:
        sites: a record of each site that became wider, and of each new layer.
        before, after: the model's size, `.parameters` and `.flops` (one sample, forward).
        plan: what was carried out where sites became wider; None for new layers.
        loss: of the growth data; None if nobody looked at it.
        report: outputs after against before; None if they were not compared.
        seconds: by phase: plan, statistics, choice, verification, surgery.
    """

    sites: list[SiteGrowth]
    before: Size
    after: Size
    plan: Plan | None = None
    loss: float | None = None
    report: Report | None = None
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The address of what is new or has grown; several are joined by commas."""
        return ", ".join(site.name for site in self.sites)

    def __str__(self) -> str:
        lines = []
        for site in self.sites:
            how = f"{site.method}, {site.form}"
            if site.width_before:
                lines.append(f"{site.name}: {site.width_before} -> {site.width_after} ({how})")
            else:
                lines.append(f"{site.name}: new, {site.width_after} wide ({how})")
        lines.append(
            f"parameters: {self.before.parameters:,} -> {self.after.parameters:,}, "
            f"FLOPs: {self.before.flops:,.12g} -> {self.after.flops:,.12g}"
        )
        lines.append(f"outputs: {'not compared' if self.report is None else self.report}")
        return "\n".join(lines)


class Change:
    """Something that can be done to a model and taken back. A subclass is one kind of surgery.

    Attributes:
        graph: the model's flattened graph before the change.
        doing: what is done, at the start of a sentence: "Growing conv_1".
        plan, loss: for the `Growth` that comes of it.
        rewires: whether the graph gets other calls.
        may_differ: whether a change of the function was asked for.
    """

    graph: Graph
    doing: str
    plan: Plan | None = None
    loss: float | None = None
    rewires: bool = True
    may_differ: bool = False

    def apply(self, living: _keras.Living, clock: Clock) -> None:
        """Does it.

        Args:
            living: what else is in memory and may hold a part of the model.
        """
        raise NotImplementedError

    def undo(self) -> None:
        """Puts everything back; nothing where nothing was done."""
        raise NotImplementedError

    def settle(self) -> None:
        """What follows once it is known that the outputs are right."""

    def records(self) -> list[SiteGrowth]:
        """What was done, a record for each site or new layer."""
        raise NotImplementedError

    def culprit(self) -> str:
        """Whose mistake it must be if the outputs have changed."""
        return "Please report this model."


@dataclass
class Guard:
    """How a change is watched over.

    Attributes:
        outputs: compares outputs before and after, made fast for repeated use; None compares
            nothing.
        batch: growth data to compare on; random inputs without it.
        living: what else is in memory and may hold a part of the model.
    """

    outputs: Outputs | None
    batch: Batch | None = None
    living: _keras.Living = field(default_factory=_keras.Living)


def guarded(change: Change, guard: Guard, clock: Clock | None = None) -> Growth:
    """Carries a change out, or leaves the model as it was.

    Raises:
        GrowthError: it cannot be done, or would have changed what the model computes.
    """
    clock = clock or Clock()
    model = change.graph.model
    _backend.attach_state(model)
    before = Size.of(change.graph)
    comparison = None
    if guard.outputs is not None:
        with clock("verification"):
            comparison = _Comparison(guard.outputs, change.graph, guard.batch)
    with all_or_nothing(change.undo, f"{change.doing} in model '{model.name}'"):
        change.apply(guard.living, clock)
    graph = graph_of(model) if change.rewires else change.graph
    report = None
    if comparison is not None:
        # A layer may refuse to run as it is now, or memory may be short.
        running = f"Running model '{model.name}' after {change.doing[0].lower()}{change.doing[1:]}"
        with clock("verification"), all_or_nothing(change.undo, running):
            report = comparison.report(graph)
        if not report and not change.may_differ:
            change.undo()
            raise GrowthError(
                f"{change.doing} would have changed what the model computes, so it was undone: "
                f"{report}. {change.culprit()}"
            )
    change.settle()
    return Growth(
        change.records(), before, Size.of(graph), change.plan, change.loss, report, clock.seconds
    )


class _Comparison:
    """The outputs of a model before a change, to hold those after it against."""

    def __init__(self, outputs: Outputs, graph: Graph, batch: Batch | None) -> None:
        self.outputs = outputs
        self.sample = _sample(graph.model, batch)
        if not outputs.serves(graph):
            outputs.renew(graph)
        self.before = outputs(self.sample)
        real = [b for b in self.before if b.dtype.kind == "f" and b.size]
        if real and not any(np.isfinite(b).any() for b in real):
            raise GrowthError(
                f"All outputs of model '{graph.model.name}' are NaN or infinite before it "
                "grows, so nothing can be compared. Check whether training has diverged."
            )

    def report(self, graph: Graph) -> Report:
        """How far the outputs are from what they were."""
        if not self.outputs.serves(graph):
            self.outputs.renew(graph)
        after = self.outputs(self.sample)
        report = compare(self.before, after, tolerance_of(graph.model))
        return report if report else self._against_rounding(after, report)

    def _against_rounding(self, after: list[np.ndarray], report: Report) -> Report:
        """The same report with a tolerance that knows how the model amplifies rounding errors.

        Wider kernels are summed in another order. Deep models multiply such errors: rounding
        their inputs once more, by one unit in the last place, shows how much. Every call rounds
        anew, and independent errors add up as the root of their number. Where that comes to more
        than the outputs (inputs unlike any the model was made for), the comparison says nothing,
        and the plan's own proof stands alone.
        """
        noise = compare(after, self.outputs(rounded(self.sample))).relative
        expected = 2 * noise * math.sqrt(len(self.outputs.graph.calls))
        return replace(report, tolerance=max(report.tolerance, expected))


def _sample(model: Any, batch: Batch | None) -> Any:
    if batch is None:
        # Samples do not meet in inference, so what a fault changes it changes in any of them.
        entries = sum(int(np.prod([d or 16 for d in t.shape[1:]])) for t in model.inputs)
        samples = max(1, min(4, 4096 // max(entries, 1)))
        return _backend.as_tensors(random_inputs(model, seed=0, samples=samples))
    fixed = [t.shape[0] for t in model.inputs if t.shape[0] is not None]  # a stateful model's
    count = min(fixed, default=CHECKED_SAMPLES)
    return _backend.as_tensors(tree.map_structure(lambda a: a[:count], batch[0]))
