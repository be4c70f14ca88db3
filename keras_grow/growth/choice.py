"""From a plan to new weights: what growth data says, and what the method makes of it."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from keras_grow.apply import Surgery
from keras_grow.errors import GrowthError
from keras_grow.growth.draft import Draft, Request, no_slope
from keras_grow.growth.first_step import FirstStep, bounded
from keras_grow.growth.methods import Problem, Solution
from keras_grow.growth.methods.checking import checked
from keras_grow.growth.problem import has_moments, place, place_moments, problem_of
from keras_grow.growth.statistics import Measured, Recording, SiteGradients, measure, unit
from keras_grow.planning import SitePlan
from keras_grow.planning.plan import INVERSE, OUTGOING
from keras_grow.rules import LIKE_OLD, NoSlope

# Offline, new relu neurons found by gradients get a fan-in this part of the others': too small to
# change the function, but on the side of zero where relu has a slope.
NUDGE = 1e-7
NUDGE_DOUBLE = 1e-15  # in float64

# Poses what a method is to solve at one site, from its form and gradients.
Pose = Callable[[SitePlan, str, SiteGradients | None], Problem]


@dataclass(frozen=True, eq=False)
class Choice:
    """The new weights of every site.

    Attributes:
        surgery: the plan with them, ready to be carried out.
        solutions: what the method chose.
        first_steps: how far the next training step will move them; None where it is not known.
    """

    surgery: Surgery
    solutions: dict[SitePlan, Solution] = field(default_factory=dict)
    first_steps: dict[SitePlan, FirstStep | None] = field(default_factory=dict)


def recording_of(request: Request, draft: Draft) -> Recording | None:
    """What is to be computed on growth data; None if nothing."""
    init = request.init
    if init.method.needs_gradients:
        _check_gradients(request)
        kernels = [k for site in draft.plan.sites for k in site.site.kernels]
        return Recording(draft.plan, inputs=init.method.needs_inputs, weights=kernels)
    if init.batches is not None and _needs_moments(draft):
        return Recording(draft.plan, gradients=False)
    return None


def measured(request: Request, draft: Draft, recording: Recording) -> Measured:
    """One forward and backward pass for all sites, for every batch of growth data."""
    init = request.init
    assert init.batches is not None
    looks = init.method.needs_gradients
    found = measure(draft.plan, recording, init.batches if looks else [init.batches.first])
    for site, reason in found.skipped.items() if looks else ():
        no_slope(draft.plan, init.method, site, reason)
    return found


def chosen(
    request: Request, draft: Draft, data: Measured | None, pose: Pose = problem_of
) -> Choice:
    """Lets the method choose the new weights of every site."""
    choice = Choice(Surgery(draft.plan, disposable=request.disposable))
    if any(edit.fill is LIKE_OLD for edit in draft.plan.edits):
        choice.surgery.seed = int(request.init.rng.integers(2**31))
    for site in draft.plan.sites:  # one after another: each copies its kernels
        try:
            _solve(request, draft, data, choice, site, pose)
        except NoSlope as reason:
            no_slope(draft.plan, request.init.method, site, str(reason))
    return choice


def _solve(
    request: Request, draft: Draft, data: Measured | None, choice: Choice, site: SitePlan,
    pose: Pose,
) -> None:  # fmt: skip
    init, model = request.init, request.atlas.graph.model
    gradients = None if data is None else data.sites.get(site)
    form = draft.form_of(site)
    problem = pose(site, form, gradients if init.method.needs_gradients else None)
    solution = checked(init.method, problem, init.method.solve(problem, init.rng))
    if data is not None and problem.gradients is not None:
        solution, choice.first_steps[site] = bounded(
            model, site, problem, solution, init.method, data.weights
        )
    if gradients is not None and site.form == INVERSE and solution.fan_in.any():
        place_moments(choice.surgery, site, gradients, solution.fan_in)
    choice.solutions[site] = solution
    offline = init.slopes is None and form == OUTGOING
    if offline and site.site in draft.stuck and not solution.fan_in.any():
        solution = replace(solution, fan_in=_nudged(problem, solution, init.rng))
    place(choice.surgery, site, solution, init.method.name)


def _needs_moments(draft: Draft) -> bool:
    """Whether new channels have statistics of their own, which a forward pass tells."""
    return any(
        site.form == INVERSE and draft.forms[site.site] == INVERSE and has_moments(site)
        for site in draft.plan.sites
    )


def _check_gradients(request: Request) -> None:
    name, model = request.init.method.name, request.atlas.graph.model
    if request.init.batches is None:
        raise GrowthError(
            f"The method '{name}' looks at gradients and needs data to take them on. "
            "Pass data=(x, y), or use method='random'."
        )
    if not getattr(model, "compiled", False):
        raise GrowthError(
            f"The method '{name}' needs the gradient of a loss, but model '{model.name}' is "
            "not compiled. Call model.compile(optimizer, loss) first, or use method='random'."
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
