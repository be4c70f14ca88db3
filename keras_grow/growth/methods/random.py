"""Random new neurons: what gradient methods are compared with."""

from dataclasses import dataclass

import numpy as np

from keras_grow.growth.methods.base import (
    Problem,
    Scaled,
    Solution,
    gradient_norm,
    one_of,
    register,
)
from keras_grow.growth.statistics import unit
from keras_grow.planning.plan import INVERSE


@register
@dataclass(frozen=True)
class Random(Scaled):
    """Random directions of the given norm; the other side is zero (paper, section 2).

    Args:
        distribution: "isotropic" draws directions uniformly from the sphere; "positive" draws
            entries uniformly from [0, 1), as the paper's own code does, so all point one way.
    """

    distribution: str = "isotropic"
    name = "random"

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("distribution", self.distribution, ("isotropic", "positive"))

    def solve(self, problem: Problem, rng: np.random.Generator) -> Solution:
        side = problem.fan_in if problem.form == INVERSE else problem.fan_out
        shape = (problem.added, side.shape[1])
        positive = self.distribution == "positive"
        directions = unit(rng.random(shape) if positive else rng.standard_normal(shape))
        fan_out, fan_in = self.finished(problem, directions, rng)
        norm = None if problem.form == INVERSE else gradient_norm(problem, fan_out, fan_in)
        return Solution(fan_out, fan_in, gradient_norm=norm)
