"""GradMaxOpt: equation 11 of the paper by projected gradient ascent instead of the SVD."""

from dataclasses import dataclass

import numpy as np

from keras_grow.growth.methods.base import Problem, how_much_seen, register
from keras_grow.growth.methods.optimizing import (
    FAN_IN,
    FAN_OUT,
    Ascending,
    Ascent,
    Objective,
    orthonormal,
)
from keras_grow.growth.statistics import unit
from keras_grow.planning.plan import INVERSE

# Of the inverse form, in events: what docs/methods.md measures.
WORSE = "the largest gradient among orthonormal fan-ins was measured worse than GradMax's"


@register
@dataclass(frozen=True)
class GradMaxOpt(Ascending):
    """The gradient norm of the new weights, maximised by Adam (paper, section 3).

    In the outgoing form that is the norm of M V over fan-outs V; in the inverse form the norm of
    the gradient by zero fan-outs over fan-ins W, activations and batch normalisation included.
    The first has a closed form, which `GradMax` takes; the second is what this method is for
    (paper, table 2). Directions start at random and are kept orthonormal, or all new neurons of a
    site would become the same one.

    Nothing runs the network again: M, or the site's inputs and output gradients, are kept from
    one pass, which is exact in both forms.

    Args:
        steps, learning_rate: of Adam, 40 and 0.2; the rate is that of directions of length 1 and
            falls to zero as a cosine.
    """

    name = "gradmaxopt"

    def ascent(self, problem: Problem) -> Ascent:
        if problem.form == INVERSE:
            notes = (*how_much_seen(problem.known), WORSE)
            return Ascent(_by_fan_out(problem, self), {FAN_IN: orthonormal}, unit, notes=notes)
        # Nothing to note: M is that of all batches.
        return Ascent(_by_fan_in(problem), {FAN_OUT: orthonormal}, unit)


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
