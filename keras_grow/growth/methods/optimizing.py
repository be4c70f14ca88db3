"""Projected Adam on directions, for methods that have no closed form."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from scipy import linalg

from keras_grow.errors import check_whole
from keras_grow.growth.methods.base import (
    Problem,
    Scaled,
    Solution,
    completed,
    gradient_norm,
    positive,
)
from keras_grow.growth.statistics import unit
from keras_grow.planning.plan import INVERSE

BETA_1, BETA_2, SMALL = 0.9, 0.999, 1e-12

Project = Callable[[np.ndarray], np.ndarray]
Objective = Callable[..., tuple[float, list[np.ndarray]]]
FAN_IN, FAN_OUT = "fan_in", "fan_out"


@dataclass(frozen=True)
class Ascent:
    """What is maximised over the directions of one side of new neurons, or of both.

    Attributes:
        objective: its value and gradients, given the directions of each side.
        projects: for every side, `FAN_IN` or `FAN_OUT`, in the order of the objective's arguments,
            what takes directions back to what is allowed.
        starts: what is done to directions drawn from a normal distribution before that.
        answers: gradient by the fan-outs of given fan-in directions, where neurons that turn out
            silent are to be turned round.
        notes: of the solution.
    """

    objective: Objective
    projects: Mapping[str, Project]
    starts: Project = np.asarray
    answers: Project | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Ascending(Scaled, ABC):
    """A method that maximises something by Adam; which thing, its `ascent` says.

    Args:
        steps: of Adam.
        learning_rate: of directions of length 1; it falls to zero as a cosine.
    """

    steps: int = 40
    learning_rate: float = 0.2
    needs_gradients = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole("steps", self.steps, 1)
        positive("learning_rate", self.learning_rate)

    @abstractmethod
    def ascent(self, problem: Problem) -> Ascent:
        """What is maximised at a site."""

    def solve(self, problem: Problem, rng: np.random.Generator) -> Solution:
        ascent = self.ascent(problem)
        projects = ascent.projects
        widths = {side: getattr(problem, side).shape[1] for side in projects}
        bounds = [widths[side] for side, project in projects.items() if project is orthonormal]
        count = min(problem.added, *bounds)  # no more rows than columns are orthonormal
        start = [ascent.starts(rng.standard_normal((count, width))) for width in widths.values()]
        best, _ = ascend(
            start, ascent.objective, self.steps, self.learning_rate, *projects.values()
        )
        found = dict(zip(widths, best, strict=True))
        if ascent.answers is not None:
            found[FAN_IN] = awake(found[FAN_IN], ascent.answers(found[FAN_IN]))
        found = {s: completed(rows, problem, widths[s], rng) for s, rows in found.items()}
        free, zero = (FAN_IN, FAN_OUT) if problem.form == INVERSE else (FAN_OUT, FAN_IN)
        fan_out, fan_in = self.finished(problem, found[free], rng, found.get(zero))
        norm = gradient_norm(problem, fan_out, fan_in)
        return Solution(fan_out, fan_in, gradient_norm=norm, notes=ascent.notes)


def orthonormal(rows: np.ndarray) -> np.ndarray:
    """The nearest orthonormal rows (polar factor); at most as many rows as columns."""
    left, _, right = linalg.svd(rows, full_matrices=False)
    return left @ right


def awake(fan_in: np.ndarray, gradient: np.ndarray) -> np.ndarray:
    """The same fan-ins, turned round where a neuron is silent on all growth data.

    Behind relu such a neuron would never train, and the opposite one answers to all of the data.

    Args:
        gradient: by the fan-outs, with a row per neuron.
    """
    norms = np.linalg.norm(gradient, axis=1, keepdims=True)
    return np.where(norms > SMALL * norms.max(), fan_in, -fan_in)


def ascend(
    start: list[np.ndarray],
    objective: Objective,
    steps: int,
    learning_rate: float,
    *projects: Project,
) -> tuple[list[np.ndarray], float]:
    """Maximises a function of directions by Adam; after every step they are projected back.

    The learning rate falls to zero as a cosine. Adam's second moment is one number for an array,
    so that a step points where the gradient does, and the rate means the same at every site.

    Args:
        start: arrays with a row per neuron.
        objective: their value and gradients.
        steps: how often it is asked.
        learning_rate: of directions of length 1.
        projects: for each array, what takes it back to what is allowed; `unit` if left out.

    Returns:
        The best arrays seen, and their value.
    """
    allowed = projects or (unit,) * len(start)
    at = [project(a) for project, a in zip(allowed, start, strict=True)]
    first = [np.zeros_like(a) for a in at]
    second = [np.zeros_like(a) for a in at]
    best, found = at, -np.inf
    for t in range(1, steps + 1):
        value, gradients = objective(*at)
        if value > found:
            best, found = at, value
        rate = learning_rate * 0.5 * (1 + np.cos(np.pi * (t - 1) / steps))
        moved = []
        for i, (a, g) in enumerate(zip(at, gradients, strict=True)):
            first[i] = BETA_1 * first[i] + (1 - BETA_1) * g
            second[i] = BETA_2 * second[i] + (1 - BETA_2) * g**2
            mean, square = first[i] / (1 - BETA_1**t), second[i] / (1 - BETA_2**t)
            # `rate` for an array whose every row has a gradient of the same size.
            step = mean / (np.sqrt(square.sum() / len(a)) + SMALL)
            moved.append(allowed[i](a + rate * step))
        at = moved
    value, _ = objective(*at)
    return (at, value) if value > found else (best, found)
