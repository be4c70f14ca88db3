"""One growth step, from sites and a method to a grown model: the way every public call takes."""

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from keras_grow import _backend
from keras_grow.apply import Slopes, Surgery
from keras_grow.errors import GrowthError, RefusedError, all_or_nothing
from keras_grow.graph import Call, graph_of
from keras_grow.growth.data import Batch
from keras_grow.growth.events import SiteGrowth
from keras_grow.growth.methods import Method, Problem, Solution
from keras_grow.growth.outputs import (
    Outputs,
    Report,
    compare,
    random_inputs,
    rounded,
    tolerance_of,
)
from keras_grow.growth.statistics import Measured, Statistics
from keras_grow.planning import Atlas, Plan, Site, SitePlan, make_plan
from keras_grow.planning.arrays import split_groups
from keras_grow.planning.plan import INVERSE, OUTGOING
from keras_grow.rules import LIKE_OLD, is_custom

# Samples on which outputs before and after a growth are compared.
CHECKED_SAMPLES = 32
# Offline, new relu neurons found by gradients get a fan-in this part of the others': too small to
# change the function, but on the side of zero where relu has a slope.
NUDGE = 1e-7
NUDGE_DOUBLE = 1e-15  # in float64


@dataclass
class Growth:
    """What one growth step did.

    Attributes:
        plan: what was carried out.
        sites: a record of each site.
        loss: of the growth batch; None if the method needs no gradients.
        report: outputs after against before; None if not checked.
        seconds: by phase: plan, statistics, choice, verification, surgery.
    """

    plan: Plan
    sites: list[SiteGrowth]
    loss: float | None
    report: Report | None
    seconds: dict[str, float] = field(default_factory=dict)


class GrowthStep:
    """One growth of some sites of a live model. `run()` does it; the phases are its methods.

    Args:
        atlas: a survey of the model as it is.
        amounts: new channels by site.
        method: how new weights are chosen.
        rng: the only source of randomness.
        batch: growth data; needed by methods that look at gradients.
        slopes: where activations with an explicit slope at zero are put in place. Without it
            (offline) new neurons are made so that the plain activation trains them: the inverse
            form, or for gradient methods a fan-in of `NUDGE`.
        outputs: checks outputs before and after on `batch`, and undoes the growth if they differ.
        form: "outgoing", "inverse" or "auto".
        disposable: the model is given up if growth fails, so its old weights need not be kept.
    """

    def __init__(
        self,
        atlas: Atlas,
        amounts: Mapping[Site, int],
        method: Method,
        rng: np.random.Generator,
        batch: Batch | None = None,
        slopes: Slopes | None = None,
        outputs: Outputs | None = None,
        form: str = "auto",
        disposable: bool = False,
    ) -> None:
        self.disposable = disposable
        self.atlas = atlas
        self.model = atlas.graph.model
        self.amounts = amounts
        self.method = method
        self.rng = rng
        self.batch = batch
        self.slopes = slopes
        self.outputs = outputs
        self.form = form
        self.seconds: dict[str, float] = {}
        self.measured: Measured | None = None
        self.report: Report | None = None

    def run(self) -> Growth:
        """Grows the model in place.

        Raises:
            GrowthError: it cannot be done; the model is as it was.
        """
        _backend.attach_state(self.model)
        phases = (self.prepare, self.measure, self.choose, self.operate, self.install)
        for phase in phases:
            phase()
        sites = [_record(s, self.method, solution) for s, solution in self.solutions.items()]
        loss = None if self.measured is None else self.measured.loss
        return Growth(self.plan, sites, loss, self.report, self.seconds)

    def prepare(self) -> None:
        """Makes the plan and, where gradients are wanted, what computes them."""
        with self._phase("plan"):
            forms = _forms(self.atlas, self.amounts, self.method, self.slopes, self.form)
            self.plan = make_plan(self.atlas, self.amounts, forms)
            self.stuck = {s for c in self.plan.activations.values() for s in self.plan.passing(c)}
            self.statistics = None
            if self.method.needs_statistics:
                self._check_gradients()
                self.statistics = Statistics(self.plan)

    def measure(self) -> None:
        """One forward and backward pass for all sites."""
        if self.statistics is not None:
            assert self.batch is not None
            with self._phase("statistics"):
                self.measured = self.statistics(*self.batch)

    def choose(self) -> None:
        """Lets the method choose the new weights of every site."""
        self.surgery = Surgery(self.plan, disposable=self.disposable)
        if any(edit.fill is LIKE_OLD for edit in self.plan.edits):
            self.surgery.seed = int(self.rng.integers(2**31))
        self.solutions: dict[SitePlan, Solution] = {}
        measured = self.measured
        if self.statistics is None or measured is None:
            with self._phase("choice"):
                for site in self.plan.sites:  # one after another: each copies its kernels
                    problem = self.problem(site, None)
                    directions = self.method.directions(problem, self.rng)
                    self._solve(site, problem, directions, None)
            return
        with self._phase("choice"):
            problems = {s: self.problem(s, measured.matrices[s]) for s in self.plan.sites}
            found = {s: self.method.directions(p, self.rng) for s, p in problems.items()}
        steps: dict[SitePlan, np.ndarray] = {}
        if self.method.needs_steps:
            with self._phase("statistics"):
                wanted = {s: d.T for s, d in found.items() if len(d)}
                steps = self.statistics.steps(measured, wanted)
        with self._phase("choice"):
            for site, problem in problems.items():
                self._solve(site, problem, found[site], steps.get(site))

    def _solve(
        self, site: SitePlan, problem: Problem, directions: np.ndarray, step: np.ndarray | None
    ) -> None:
        solution = self.method.solve(problem, directions, step, self.rng)
        self.solutions[site] = solution
        fan_in = solution.fan_in
        offline = self.slopes is None and site.form == OUTGOING
        if offline and site.site in self.stuck and not fan_in.any():
            fan_in = _nudged(problem, solution, self.rng)
        _place(self.surgery, site, solution.fan_out, fan_in)

    def problem(self, site: SitePlan, matrix: np.ndarray | None) -> Problem:
        """What the method is to solve at one site."""
        return problem_of(site, matrix)

    def operate(self) -> None:
        """Carries the plan out and checks that the outputs are the same, or undoes it."""
        if self.outputs is None:
            with self._phase("surgery"):
                self.surgery.apply()
            return
        with self._phase("verification"):
            sample = _sample(self.model, self.batch)
            if not self.outputs.serves(self.atlas.graph):
                self.outputs.renew(self.atlas.graph)
            before = self.outputs(sample)
        with self._phase("surgery"):
            self.surgery.apply()
        names = ", ".join(s.name for s in self.amounts)
        # A layer may refuse to run as wide as that, or memory may be short.
        running = f"Running model '{self.model.name}' after growing {names}"
        with self._phase("verification"), all_or_nothing(self.surgery.undo, running):
            if self.plan.rewires:
                self.outputs.renew(graph_of(self.model))
            after = self.outputs(sample)
            self.report = compare(before, after, tolerance_of(self.model))
            if not self.report:
                self.report = self._against_rounding(sample, after, self.report)
        if not self.report and not getattr(self.method, "epsilon", 0.0):
            self.surgery.undo()
            raise GrowthError(
                f"Growing {names} would have changed what the model computes, so it was undone: "
                f"{self.report}. {self._culprit()}"
            )

    def _culprit(self) -> str:
        """Whose mistake it must be."""
        ops = [call.op for call in self.atlas.graph.calls]
        own = {type(op).__name__ for op in ops if is_custom(op)}
        if own:
            return f"Your own rule for {', '.join(sorted(own))} is probably wrong."
        return "Please report this model."

    def _against_rounding(self, sample: Any, after: list[np.ndarray], report: Report) -> Report:
        """The same report with a tolerance that knows how the model amplifies rounding errors.

        Wider kernels are summed in another order. Deep models multiply such errors: rounding
        their inputs once more, by one unit in the last place, shows how much. Every call rounds
        anew, and independent errors add up as the root of their number. Where that comes to more
        than the outputs (inputs unlike any the model was made for), the comparison says nothing,
        and the plan's own proof stands alone.
        """
        assert self.outputs is not None
        noise = compare(after, self.outputs(rounded(sample))).relative
        expected = 2 * noise * math.sqrt(len(self.atlas.graph.calls))
        return replace(report, tolerance=max(report.tolerance, expected))

    def install(self) -> None:
        """Gives the activations that new channels pass at zero their explicit slope."""
        if self.slopes is not None:
            for call in self.plan.activations.values():
                self.slopes.install(call)

    def _check_gradients(self) -> None:
        name, model = self.method.name, self.model
        if self.batch is None:
            raise GrowthError(
                f"The method '{name}' looks at gradients and needs data to take them on. "
                "Pass data=(x, y), or use method='random'."
            )
        if not getattr(model, "compiled", False):
            raise GrowthError(
                f"The method '{name}' needs the gradient of a loss, but model '{model.name}' is "
                "not compiled. Call model.compile(optimizer, loss) first, or use method='random'."
            )
        for site in self.plan.sites:
            if site.form == INVERSE:
                raise GrowthError(
                    f"The method '{name}' cannot grow site '{site.site.name}': its activation "
                    "does not map 0 to 0, so a zero fan-in would change the function. Use "
                    "method='random' there, or leave it out with names=."
                )

    @contextmanager
    def _phase(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


def _forms(
    atlas: Atlas, amounts: Mapping[Site, int], method: Method, slopes: Slopes | None, form: str
) -> dict[Site, str]:
    if form not in ("auto", OUTGOING, INVERSE):
        raise GrowthError(f"form must be 'auto', 'outgoing' or 'inverse'. Received: form={form!r}")
    if form != "auto":
        return dict.fromkeys(amounts, form)
    if method.needs_statistics:
        return dict.fromkeys(amounts, OUTGOING)

    def never_trains(call: Call) -> bool:
        return slopes is None or not slopes.helps(call)

    # A neuron with zero fan-in would never train where nothing gives it a slope at zero (offline
    # behind relu; always behind tanh_shrink, or multiplied by itself): leave its fan-out zero.
    plan = make_plan(atlas, amounts)
    dead = {
        site
        for call in plan.activations.values()
        if never_trains(call)
        for site in plan.passing(call)
    }
    forms = {site: INVERSE if site in dead else OUTGOING for site in amounts}
    if dead and not _possible(atlas, amounts, forms):
        for site in dead:
            one = {site: amounts[site]}
            forms[site] = INVERSE if _possible(atlas, one, {site: INVERSE}) else OUTGOING
    return forms


def _possible(atlas: Atlas, amounts: Mapping[Site, int], forms: Mapping[Site, str]) -> bool:
    try:
        make_plan(atlas, amounts, forms)
    except RefusedError:  # new channels must be zero here, for example for RMSNormalization
        return False
    return True


def problem_of(site: SitePlan, matrix: np.ndarray | None) -> Problem:
    """One site as arrays: a row per neuron, its weights in all free consumers (or producers)."""
    out = [_old_rows(slot.edit, slot.old_rows) for slot in _fan_out_slots(site)]
    into = [_old_rows(slot.edit, slot.old_columns) for slot in site.writes]
    empty = np.zeros((site.site.width, 0))
    return Problem(
        site.added, site.form, _side_by_side(out or [empty]), _side_by_side(into), matrix
    )


def _old_rows(edit: Any, places: np.ndarray) -> np.ndarray:
    """Present rows of a kernel, all of one channel side by side: (channels, entries)."""
    rows = _kernel_rows(edit)
    if places.shape[1] > 1 or len(places) != len(rows) or (np.diff(places[:, 0]) != 1).any():
        rows = rows[places]  # a copy, which whole kernels do without
    return rows.reshape(len(places), -1)


def _side_by_side(parts: list[np.ndarray]) -> np.ndarray:
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)


def _fan_out_slots(site: SitePlan) -> list:
    return [s for s in site.reads if s.free or site.form == INVERSE]


def _kernel_rows(edit: Any) -> np.ndarray:
    """The present kernel with the growing axis first."""
    kernel = _backend.to_numpy(edit.variable)
    if edit.groups > 1:
        kernel = split_groups(kernel, edit.groups)
    return np.moveaxis(kernel, edit.axis, 0)


def _place(surgery: Surgery, site: SitePlan, fan_out: np.ndarray, fan_in: np.ndarray) -> None:
    """Cuts the rows of a solution into the pieces of each kernel."""
    start = 0
    for slot in _fan_out_slots(site):
        rest = _kernel_rows_shape(slot.edit)
        size = slot.rows.shape[1] * int(np.prod(rest))
        part = fan_out[:, start : start + size].reshape(*slot.rows.shape, *rest)
        start += size
        if slot.free and part.any():
            surgery.fan_out.setdefault(slot.edit, []).append((slot.rows, part))
    start = 0
    for write in site.writes:
        rest = _kernel_rows_shape(write.edit)
        size = write.columns.shape[1] * int(np.prod(rest))
        part = fan_in[:, start : start + size].reshape(*write.columns.shape, *rest)
        start += size
        if part.any():
            surgery.fan_in.setdefault(write.edit, []).append((write.columns, part))


def _kernel_rows_shape(edit: Any) -> tuple:
    shape = list(edit.variable.shape)
    if edit.groups > 1:
        shape[-1] //= edit.groups
    del shape[edit.axis]
    return tuple(shape)


def _nudged(problem: Problem, solution: Solution, rng: np.random.Generator) -> np.ndarray:
    """A tiny fan-in where the plain activation has no slope at 0.

    It points along the first gradient step, or anywhere where gradients are not known.
    """
    if problem.matrix is None:
        step = rng.standard_normal(solution.fan_in.shape)
    else:
        step = -(problem.matrix @ solution.fan_out.T).T
    norms = np.linalg.norm(step, axis=1, keepdims=True)
    unit = np.divide(step, norms, out=np.zeros_like(step), where=norms > 0)
    nudge = NUDGE_DOUBLE if problem.fan_in.dtype == np.float64 else NUDGE
    return unit * nudge * float(np.linalg.norm(problem.fan_in, axis=1).mean())


def _sample(model: Any, batch: Batch | None) -> Any:
    if batch is None:
        # Samples do not meet in inference, so what a fault changes it changes in any of them.
        entries = sum(int(np.prod([d or 16 for d in t.shape[1:]])) for t in model.inputs)
        samples = max(1, min(4, 4096 // max(entries, 1)))
        return _backend.as_tensors(random_inputs(model, seed=0, samples=samples))
    from keras import tree

    fixed = [t.shape[0] for t in model.inputs if t.shape[0] is not None]  # a stateful model's
    count = min(fixed, default=CHECKED_SAMPLES)
    return _backend.as_tensors(tree.map_structure(lambda a: a[:count], batch[0]))


def _record(site: SitePlan, method: Method, solution: Solution) -> SiteGrowth:
    return SiteGrowth(
        name=site.site.name,
        producers=list(site.site.producers),
        consumers=list(site.site.consumers),
        width_before=site.site.width,
        width_after=site.width,
        method=method.name,
        form=site.form,
        singular_values=[float(s) for s in solution.singular_values],
        gradient_norm=solution.gradient_norm,
        rank=solution.rank,
    )
