"""One growth step, from sites and a method to a grown model: the way every public call takes."""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn

import numpy as np

from keras_grow import _backend
from keras_grow.apply import Slopes, Surgery
from keras_grow.errors import GrowthError, all_or_nothing
from keras_grow.graph import graph_of
from keras_grow.graph.outputs import Outputs, Report, compare, random_inputs, rounded, tolerance_of
from keras_grow.growth.amplitude import LineSearch
from keras_grow.growth.data import Batch, Batches
from keras_grow.growth.first_step import FirstStep, bounded
from keras_grow.growth.forms import flat_sites, forms_for, planned
from keras_grow.growth.methods import Method, Problem, Solution
from keras_grow.growth.methods.base import JOINT, SPLIT, ZEROS
from keras_grow.growth.methods.checking import checked, sides_set
from keras_grow.growth.penalties import check_penalties
from keras_grow.growth.problem import (
    bias_slots,
    has_moments,
    place,
    place_moments,
    problem_of,
    way_out,
)
from keras_grow.growth.statistics import Measured, Recording, SiteGradients, measure, unit
from keras_grow.growth.statistics.shadows import SiteShadows
from keras_grow.logs.events import SiteGrowth
from keras_grow.planning import Atlas, Plan, Site, SitePlan, make_plan
from keras_grow.planning.plan import INVERSE, OUTGOING
from keras_grow.rules import LIKE_OLD, NoSlope, is_custom

# Samples on which outputs before and after a growth are compared.
CHECKED_SAMPLES = 32
# Offline, new relu neurons found by gradients get a fan-in this part of the others': too small to
# change the function, but on the side of zero where relu has a slope.
NUDGE = 1e-7
NUDGE_DOUBLE = 1e-15  # in float64
# New channels of plans that are made only to see what a large one would cost.
SMALL_PLAN = 200


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
        batches: growth data; needed by methods that look at gradients. Outputs are compared on
            the first.
        slopes: where activations with an explicit slope at zero are put in place. Without it
            (offline) new neurons are made so that the plain activation trains them: the inverse
            form, or for gradient methods a fan-in of `NUDGE`.
        outputs: checks outputs before and after on `batch`, and undoes the growth if they differ.
        form: "auto", or one of `methods.base.FORMS` that the method knows.
        disposable: the model is given up if growth fails, so its old weights need not be kept.
        norms: also find the gradient norm of the weights that sites have now, for which the
            backward pass differentiates by more: up to one or two training steps.
    """

    def __init__(
        self,
        atlas: Atlas,
        amounts: Mapping[Site, int],
        method: Method,
        rng: np.random.Generator,
        batches: Batches | None = None,
        slopes: Slopes | None = None,
        outputs: Outputs | None = None,
        form: str = "auto",
        disposable: bool = False,
        norms: bool = False,
    ) -> None:
        self.disposable = disposable
        self.norms = norms
        self.atlas = atlas
        self.model = atlas.graph.model
        self.amounts = amounts
        self.method = method
        self.rng = rng
        self.batches = batches
        self.slopes = slopes
        self.outputs = outputs
        self.form = form
        self.seconds: dict[str, float] = {}
        self.measured: Measured | None = None
        self.first_steps: dict[SitePlan, FirstStep | None] = {}
        self.report: Report | None = None

    def run(self) -> Growth:
        """Grows the model in place.

        Raises:
            GrowthError: it cannot be done; the model is as it was.
        """
        self._through(self.prepare, self.measure, self.choose, self.operate, self.install)
        return self._growth()

    def decide(self) -> Growth:
        """What `run` would do, new weights chosen; nothing is changed.

        Raises:
            GrowthError: it cannot be done.
        """
        self._through(self.prepare, self.measure, self.choose)
        return self._growth()

    def _through(self, *phases: Callable[[], None]) -> None:
        _backend.attach_state(self.model)
        for phase in phases:
            phase()

    def _growth(self) -> Growth:
        sites = [
            _record(site, self._form(site), self.method, solution)
            for site, solution in self.solutions.items()
        ]
        looked = self.measured if self.method.needs_gradients else None
        if looked is not None and self.norms:
            for record, site in zip(sites, self.solutions, strict=True):
                record.existing_norm = looked.weight_norm(site.site.kernels)
        for record, site in zip(sites, self.solutions, strict=True):
            step = self.first_steps.get(site)
            if step is not None:
                record.first_step, record.first_reach = step.ratio, step.reach
            if self.form == OUTGOING and record.form == INVERSE:
                what = "no gradient" if site.site in self.flat else "a value that is not zero"
                record.notes.append(f"the inverse form was taken: zero fan-ins have {what} here")
        loss = None if looked is None else looked.loss
        return Growth(self.plan, sites, loss, self.report, self.seconds)

    def check(self) -> None:
        """Whether the method can grow these sites, as far as can be told without growth data.

        Raises:
            GrowthError: it cannot, at some of them; the message names them all.
        """
        self._make_plan()
        if not self.method.needs_gradients:
            return
        reasons: dict[SitePlan, str] = {}
        for site in self.plan.sites:
            try:
                SiteShadows(self.plan, site).check()
            except NoSlope as reason:
                reasons[site] = str(reason)
        if reasons:
            self._no_slope(next(iter(reasons)), next(iter(reasons.values())), list(reasons))

    def _make_plan(self) -> None:
        _check_room(self.atlas, self.amounts)
        self.forms = forms_for(self.atlas, self.amounts, self.method, self.slopes, self.form)
        self.plan = make_plan(self.atlas, self.amounts, planned(self.forms))
        self.flat = self._flat_sites()
        if self.flat:
            self.forms.update(dict.fromkeys(self.flat, INVERSE))
            self.plan = make_plan(self.atlas, self.amounts, planned(self.forms))
        self.stuck = {s for c in self.plan.activations.values() for s in self.plan.passing(c)}
        for site in self.plan.sites:
            self._check_form(site)
            if self.method.sets_bias:
                bias_slots(site, self.method.name)

    def prepare(self) -> None:
        """Makes the plan and, where gradients are wanted, what computes them."""
        with self._phase("plan"):
            self._make_plan()
            self.recording = None
            if self.method.needs_gradients:
                self._check_gradients()
                kernels = [k for site in self.plan.sites for k in site.site.kernels]
                inputs = self.method.needs_inputs
                self.recording = Recording(self.plan, inputs=inputs, weights=kernels)
            elif self.batches is not None and self._needs_moments():
                self.recording = Recording(self.plan, gradients=False)

    def _flat_sites(self) -> set[Site]:
        asked = self.form in ("auto", OUTGOING) and INVERSE in self.method.forms
        if not asked or not self.method.needs_gradients:
            return set()
        return flat_sites(self.atlas, self.amounts, self.plan, self.forms, self.slopes)

    def measure(self) -> None:
        """One forward and backward pass for all sites, for every batch of growth data."""
        if self.recording is None:
            return
        assert self.batches is not None
        with self._phase("statistics"):
            looks = self.method.needs_gradients
            batches = self.batches if looks else [self.batches.first]
            self.measured = measure(self.plan, self.recording, batches)
            for site, reason in self.measured.skipped.items() if looks else ():
                self._no_slope(site, reason)

    def choose(self) -> None:
        """Lets the method choose the new weights of every site."""
        self.surgery = Surgery(self.plan, disposable=self.disposable)
        if any(edit.fill is LIKE_OLD for edit in self.plan.edits):
            self.surgery.seed = int(self.rng.integers(2**31))
        self.solutions: dict[SitePlan, Solution] = {}
        with self._phase("choice"):
            for site in self.plan.sites:  # one after another: each copies its kernels
                gradients = None if self.measured is None else self.measured.sites.get(site)
                self._solve(site, gradients)

    def _needs_moments(self) -> bool:
        """Whether new channels have statistics of their own, which a forward pass tells."""
        return any(
            site.form == INVERSE and self.forms[site.site] == INVERSE and has_moments(site)
            for site in self.plan.sites
        )

    def _solve(self, site: SitePlan, gradients: SiteGradients | None) -> None:
        problem = self.problem(site, gradients if self.method.needs_gradients else None)
        try:
            solution = checked(self.method, problem, self.method.solve(problem, self.rng))
            if self.measured is not None and problem.gradients is not None:
                solution, step = bounded(
                    self.model, site, problem, solution, self.method, self.measured.weights
                )
                self.first_steps[site] = step
            if gradients is not None and site.form == INVERSE and solution.fan_in.any():
                place_moments(self.surgery, site, gradients, solution.fan_in)
        except NoSlope as reason:
            self._no_slope(site, str(reason))
        self.solutions[site] = solution
        offline = self.slopes is None and problem.form == OUTGOING
        if offline and site.site in self.stuck and not solution.fan_in.any():
            solution = replace(solution, fan_in=_nudged(problem, solution, self.rng))
        place(self.surgery, site, solution, self.method.name)

    def problem(self, site: SitePlan, gradients: SiteGradients | None) -> Problem:
        """What the method is to solve at one site."""
        return problem_of(site, self._form(site), gradients)

    def _form(self, site: SitePlan) -> str:
        """The form as the method knows it; a site may take the inverse form whatever is asked."""
        asked = self.forms[site.site]
        return site.form if asked in (OUTGOING, INVERSE) else asked

    def operate(self) -> None:
        """Carries the plan out and checks that the outputs are the same, or undoes it."""
        if self.outputs is None:
            self._apply()
            return
        with self._phase("verification"):
            first = None if self.batches is None else self.batches.first
            sample = _sample(self.model, first)
            if not self.outputs.serves(self.atlas.graph):
                self.outputs.renew(self.atlas.graph)
            before = self.outputs(sample)
            real = [b for b in before if b.dtype.kind == "f" and b.size]
            if real and not any(np.isfinite(b).any() for b in real):
                raise GrowthError(
                    f"All outputs of model '{self.model.name}' are NaN or infinite before it "
                    "grows, so nothing can be compared. Check whether training has diverged."
                )
        self._apply()
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
        if not self.report and not self._may_change():
            self.surgery.undo()
            raise GrowthError(
                f"Growing {names} would have changed what the model computes, so it was undone: "
                f"{self.report}. {self._culprit()}"
            )

    def _apply(self) -> None:
        sized = [s for s, solution in self.solutions.items() if solution.amplitude]
        search = LineSearch(self.surgery, sized) if sized else None
        with self._phase("surgery"):
            self.surgery.apply()
            try:
                check_penalties(self.plan)
            except GrowthError:
                self.surgery.undo()
                raise
        if search is None or self.batches is None:
            return
        what = f"Searching the size of new neurons in model '{self.model.name}'"
        with self._phase("line search"), all_or_nothing(self.surgery.undo, what):
            factor, loss = search(self.batches)
        for site in sized:
            self._forget_fan_out(site)
            self.solutions[site].notes += (
                f"new weights were scaled by {factor:.3g}, which takes the loss to {loss:.6g}",
            )

    def _forget_fan_out(self, site: SitePlan) -> None:
        """Weights of another time that are grown alike keep their function."""
        for slot in site.reads:
            rows = self.surgery.fan_out.get(slot.edit, [])
            self.surgery.fan_out[slot.edit] = [r for r in rows if r[0] is not slot.rows]

    def _may_change(self) -> bool:
        """Whether a change of the function was asked for."""
        return bool(self.method.epsilon) or JOINT in self.forms.values()

    def _culprit(self) -> str:
        """Whose mistake it must be."""
        for site, solution in self.solutions.items():
            if sides := sides_set(self._form(site), solution):
                return (
                    f"The method '{self.method.name}' set {sides} of new neurons at site "
                    f"'{site.site.name}'. Leave the fan-in zero in the outgoing form and the "
                    "fan-out in the inverse form, or give the method an epsilon of more than 0 if "
                    "the function may change."
                )
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
        if self.batches is None:
            raise GrowthError(
                f"The method '{name}' looks at gradients and needs data to take them on. "
                "Pass data=(x, y), or use method='random'."
            )
        if not getattr(model, "compiled", False):
            raise GrowthError(
                f"The method '{name}' needs the gradient of a loss, but model '{model.name}' is "
                "not compiled. Call model.compile(optimizer, loss) first, or use method='random'."
            )

    def _check_form(self, site: SitePlan) -> None:
        form, known = self._form(site), self.method.forms
        if form not in known:
            raise GrowthError(
                f"The method '{self.method.name}' cannot grow site '{site.site.name}' in the "
                f"{form} form, which is the one that keeps the function there; it knows "
                f"{', '.join(known)}. {way_out()}"
            )
        if form in (SPLIT, ZEROS) and site.form == OUTGOING:
            raise GrowthError(
                f"The method '{self.method.name}' makes neurons that are not zero, but site "
                f"'{site.site.name}' divides by the size of all channels, or otherwise needs new "
                f"ones that are zero. {way_out()}"
            )
        if form != SPLIT:
            return
        # A copy computes the same as its parent only where every channel is treated by itself.
        if site.site.granularity > 1 or self.plan.rewires or self.plan.rewrites:
            raise GrowthError(
                f"Site '{site.site.name}' cannot be grown by splitting: a layer on it works on "
                "several channels together (a normalisation across channels, groups, or the size "
                f"of an attention head), where a copy changes the others. {way_out()}"
            )

    def _no_slope(
        self, site: SitePlan, reason: str, refused: "list[SitePlan] | None" = None
    ) -> NoReturn:
        refused = refused or [site]
        others = ", ".join(f"'{s.site.name}'" for s in refused if s is not site)
        left = [s.site.name for s in self.plan.sites if s not in refused]
        raise GrowthError(
            f"The gradients of new channels at site '{site.site.name}' cannot be computed: "
            f"{reason}. {f'The same at {others}. ' if others else ''}{way_out(left)} "
            f"Received: method='{self.method.name}'."
        ) from None

    @contextmanager
    def _phase(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


def _check_room(atlas: Atlas, amounts: Mapping[Site, int]) -> None:
    """Raises GrowthError at once, not after minutes, where new weights alone exceed the memory.

    Parameters are a polynomial of second degree in the new channels, since a kernel has at most
    two axes that grow: two small plans tell it.
    """
    has = _backend.machine_memory()
    shrink = max(amounts.values(), default=0) / SMALL_PLAN
    if has is None or shrink < 100:
        return
    small = {
        s: max(int(n / shrink) // s.granularity, 1) * s.granularity for s, n in amounts.items()
    }
    double = {site: 2 * n for site, n in small.items()}
    one, two = (make_plan(atlas, some).added_parameters for some in (small, double))
    linear, square = (4 * one - two) / 2, (two - 2 * one) / 2
    added = linear * shrink + square * shrink**2
    if 4 * added > 2 * has:  # twice, for what rounding does to an estimate
        sites = ", ".join(f"'{site.name}' by {n:,}" for site, n in amounts.items())
        raise GrowthError(
            f"Growing {sites} would add about {added:.1g} parameters, more than the "
            f"{has / 2**30:.0f} GiB of this machine's memory hold. Add fewer channels."
        )


def _nudged(problem: Problem, solution: Solution, rng: np.random.Generator) -> np.ndarray:
    """A tiny fan-in where the plain activation has no slope at 0.

    It points along the first gradient step, or anywhere where gradients are not known.
    """
    if problem.gradients is None:
        step = rng.standard_normal(solution.fan_in.shape)
    else:
        step = -problem.gradients.by_fan_in(solution.fan_out)
    nudge = NUDGE_DOUBLE if problem.fan_in.dtype == np.float64 else NUDGE
    return unit(step) * nudge * float(np.linalg.norm(problem.fan_in, axis=1).mean())


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


def _record(site: SitePlan, form: str, method: Method, solution: Solution) -> SiteGrowth:
    return SiteGrowth(
        name=site.site.name,
        producers=list(site.site.producers),
        consumers=list(site.site.consumers),
        width_before=site.site.width,
        width_after=site.width,
        method=method.name,
        form=form,
        singular_values=[float(s) for s in solution.singular_values],
        gradient_norm=solution.gradient_norm,
        rank=solution.rank,
        notes=list(solution.notes),
    )
