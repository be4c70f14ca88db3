"""Firefly-Opt: new weights that lower the loss at once, rather than having a large gradient."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from keras_grow.errors import check_whole
from keras_grow.growth.methods.base import (
    Problem,
    Scaled,
    Solution,
    completed,
    gradient_norm,
    positive,
    register,
)
from keras_grow.growth.methods.optimizing import ascend, awake, orthonormal
from keras_grow.growth.statistics import unit
from keras_grow.planning.plan import INVERSE

# The fan-in at which the loss is looked at where it will be zero (paper, section 4.2).
SMALL = 1e-4


@register
@dataclass(frozen=True)
class Firefly(Scaled):
    """The loss minimised over fan-in and fan-out together, at fixed norms, by Adam.

    That is the paper's Firefly-Opt (section 4.2; Wu et al. 2020 without the extra candidates).
    Only one side can be kept where the function is not to change: of the optimum the fan-outs in
    the outgoing form, the fan-ins in the inverse form. With `epsilon` the other side gets its own
    optimal directions at that norm (the paper: 1e-4).

    An approximation: the loss is taken to first order in what the consumers receive, on one
    batch, for which the network need not run again. Fan-outs are kept orthonormal, since to first
    order all new neurons would want to be the same.

    Args:
        steps: of Adam.
        learning_rate: of directions of length 1; it falls to zero as a cosine.
    """

    steps: int = 40
    learning_rate: float = 0.2
    name = "firefly"
    needs_gradients: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole("steps", self.steps, 1)
        positive("learning_rate", self.learning_rate)

    def solve(self, problem: Problem, rng: np.random.Generator) -> Solution:
        inverse = problem.form == INVERSE
        norm = self.norm(problem.fan_in) if inverse else self.epsilon or SMALL
        entries, width = problem.known.shape
        count = min(problem.added, width)

        def objective(w: np.ndarray, v: np.ndarray) -> tuple[float, list[np.ndarray]]:
            response = problem.known.finite(w * norm)
            lowered = -float((response.value * v).sum())
            return lowered, [-norm * response.pull(v), -response.value]

        start = [rng.standard_normal((count, n)) for n in (entries, width)]
        (w, v), _ = ascend(start, objective, self.steps, self.learning_rate, unit, orthonormal)
        if inverse:
            w = awake(w, problem.known.finite(w * norm).value)
        w = completed(w, problem, entries, rng)
        v = completed(v, problem, width, rng)
        free, other = (w, v) if inverse else (v, w)
        fan_out, fan_in = self.finished(problem, free, rng, other)
        if inverse:
            norm_found = float(np.linalg.norm(problem.known.finite(fan_in).value))
        else:
            norm_found = gradient_norm(problem, fan_out) or 0.0
        notes: tuple[str, ...] = ("the loss was minimised to first order",)
        if not problem.known.exact:
            notes += ("looked at some of the growth batches only",)
        return Solution(fan_out, fan_in, gradient_norm=norm_found, notes=notes)
