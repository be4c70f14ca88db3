"""GradMaxOpt: equation 11 of the paper by projected gradient ascent instead of the SVD."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from keras_grow.errors import check_whole
from keras_grow.growth.methods.base import (
    Problem,
    Scaled,
    Solution,
    completed,
    positive,
    register,
)
from keras_grow.growth.methods.optimizing import Objective, ascend, orthonormal
from keras_grow.growth.statistics import unit
from keras_grow.planning.plan import INVERSE

# Of the inverse form, in events: what docs/methods.md measures.
WORSE = "the largest gradient among orthonormal fan-ins was measured worse than GradMax's"


@register
@dataclass(frozen=True)
class GradMaxOpt(Scaled):
    """The gradient norm of the new weights, maximised by Adam (paper, section 3).

    In the outgoing form that is the norm of M V over fan-outs V; in the inverse form the norm of
    the gradient by zero fan-outs over fan-ins W, activations and batch normalisation included.
    The first has a closed form, which `GradMax` takes; the second is what this method is for
    (paper, table 2). Directions start at random and are kept orthonormal, or all new neurons of a
    site would become the same one.

    Nothing runs the network again: M, or the site's inputs and output gradients, are kept from
    one pass, which is exact in both forms.

    Args:
        steps: of Adam.
        learning_rate: of directions of length 1; it falls to zero as a cosine.
    """

    steps: int = 40
    learning_rate: float = 0.2
    name = "gradmaxopt"
    needs_gradients: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole("steps", self.steps, 1)
        positive("learning_rate", self.learning_rate)

    def solve(self, problem: Problem, rng: np.random.Generator) -> Solution:
        inverse = problem.form == INVERSE
        side = problem.fan_in if inverse else problem.fan_out
        width = side.shape[1]
        count = min(problem.added, width)
        start = unit(rng.standard_normal((count, width)))
        objective = _by_fan_out(problem, self) if inverse else _by_fan_in(problem)
        (found,), _ = ascend([start], objective, self.steps, self.learning_rate, orthonormal)
        directions = completed(found, problem, width, rng)
        fan_out, fan_in = self.finished(problem, directions, rng)
        if inverse:
            gradient = problem.known.finite(fan_in).value
        else:
            gradient = problem.known.by_fan_in(fan_out)
        seen = problem.known.exact or not inverse  # M is that of all batches
        notes: tuple[str, ...] = () if seen else ("looked at some of the growth batches only",)
        if inverse:
            notes += (WORSE,)
        return Solution(fan_out, fan_in, gradient_norm=float(np.linalg.norm(gradient)), notes=notes)


def _by_fan_in(problem: Problem) -> Objective:
    """The squared norm of the gradient by zero fan-ins, and its gradient by the fan-outs."""

    def objective(v: np.ndarray) -> tuple[float, list[np.ndarray]]:
        by_fan_in = problem.known.by_fan_in(v)
        return float((by_fan_in**2).sum()), [2 * problem.known.linear(by_fan_in)]

    return objective


def _by_fan_out(problem: Problem, method: GradMaxOpt) -> Objective:
    """The squared norm of the gradient by zero fan-outs, and its gradient by the fan-ins."""
    norm = method.norm(problem.fan_in)

    def objective(w: np.ndarray) -> tuple[float, list[np.ndarray]]:
        response = problem.known.finite(w * norm)
        return float((response.value**2).sum()), [2 * norm * response.pull(response.value)]

    return objective
