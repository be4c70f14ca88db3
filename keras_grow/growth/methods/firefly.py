"""Firefly-Opt: new weights that lower the loss at once, rather than having a large gradient."""

from dataclasses import dataclass

import numpy as np

from keras_grow.growth.methods.base import Problem, how_much_seen, register
from keras_grow.growth.methods.optimizing import (
    FAN_IN,
    FAN_OUT,
    Ascending,
    Ascent,
    orthonormal,
)
from keras_grow.growth.statistics import unit
from keras_grow.planning.plan import INVERSE

# The fan-in at which the loss is looked at where it will be zero (paper, section 4.2).
SMALL = 1e-4


@register
@dataclass(frozen=True)
class Firefly(Ascending):
    """The loss minimised over fan-in and fan-out together, at fixed norms, by Adam.

    That is the paper's Firefly-Opt (section 4.2; Wu et al. 2020 without the extra candidates).
    Only one side can be kept where the function is not to change: of the optimum the fan-outs in
    the outgoing form, the fan-ins in the inverse form. With `epsilon` the other side gets its own
    optimal directions at that norm (the paper: 1e-4).

    An approximation: the loss is taken to first order in what the consumers receive, on one
    batch, for which the network need not run again. Fan-outs are kept orthonormal, since to first
    order all new neurons would want to be the same.

    Args:
        steps, learning_rate: of Adam, 40 and 0.2; the rate is that of directions of length 1 and
            falls to zero as a cosine.
    """

    name = "firefly"

    def ascent(self, problem: Problem) -> Ascent:
        inverse = problem.form == INVERSE
        norm = self.norm(problem.fan_in) if inverse else self.epsilon or SMALL

        def objective(w: np.ndarray, v: np.ndarray) -> tuple[float, list[np.ndarray]]:
            response = problem.known.finite(w * norm)
            lowered = -float((response.value * v).sum())
            return lowered, [-norm * response.pull(v), -response.value]

        return Ascent(
            objective,
            {FAN_IN: unit, FAN_OUT: orthonormal},
            answers=(lambda w: problem.known.finite(w * norm).value) if inverse else None,
            notes=("the loss was minimised to first order", *how_much_seen(problem.known)),
        )
