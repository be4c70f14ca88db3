"""GradMax: the largest gradient on the new weights, in closed form."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from keras_grow.errors import check_flag
from keras_grow.growth.methods.base import (
    Problem,
    Scaled,
    Solution,
    completed,
    gradient_norm,
    register,
    spectrum,
)
from keras_grow.growth.methods.gradmax_opt import GradMaxOpt
from keras_grow.growth.statistics import Gradients
from keras_grow.planning.plan import INVERSE


@register
@dataclass(frozen=True)
class GradMax(Scaled):
    """Fan-out along the top right singular vectors of M: the largest gradient on the new fan-in.

    Equation 11 (dense) and 20 (convolutions) of the paper. M has at most rank(M) useful
    directions; neurons beyond it are given random ones, and the event says how many there were.

    In the inverse form (fan-out zero) there is no closed form. As in the paper's table 2,
    `GradMaxOpt` at its default settings does that part.

    Args:
        sign_rule: +v and -v have the same gradient norm but are different ReLU networks. Of the
            two, take the one whose first gradient step lowers the loss more. Not in the paper.
    """

    sign_rule: bool = True
    name = "gradmax"
    needs_gradients: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_flag("sign_rule", self.sign_rule)

    def solve(self, problem: Problem, rng: np.random.Generator) -> Solution:
        if problem.form == INVERSE:
            return GradMaxOpt(self.scale, self.scale_method, self.epsilon).solve(problem, rng)
        values, directions, rank = spectrum(problem)
        if self.sign_rule and len(directions):
            directions = better_signs(directions, problem.known)
        directions = completed(directions, problem, problem.fan_out.shape[1], rng)
        fan_out, fan_in = self.finished(problem, directions, rng)
        return Solution(fan_out, fan_in, values, gradient_norm(problem, fan_out), rank)


def better_signs(fan_out: np.ndarray, gradients: Gradients) -> np.ndarray:
    """Of every fan-out and its opposite the one whose first step lowers the loss more.

    With v the fan-in takes its first step along -M v, with -v along +M v.
    """
    steps = gradients.by_fan_in(fan_out)
    norms = np.linalg.norm(steps, axis=1, keepdims=True)
    steps = np.divide(steps, norms, out=np.zeros_like(steps), where=norms > 0)
    both = gradients.one_sided(np.concatenate([steps, -steps]))
    forward, backward = (both * np.concatenate([fan_out, fan_out])).sum(axis=1).reshape(2, -1)
    # With v the first step changes the loss by `backward`; with -v, by -`forward`.
    return np.where((forward > -backward)[:, None], -fan_out, fan_out)
