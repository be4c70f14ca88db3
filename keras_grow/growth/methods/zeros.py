"""Zeros: new neurons that are constant and read by nobody, which only their bias tells apart."""

from dataclasses import dataclass

import numpy as np

from keras_grow.growth.methods.base import ZEROS, Problem, Scaled, Solution, positive, register


@register
@dataclass(frozen=True)
class Zeros(Scaled):
    """Fan-in and fan-out zero, bias one (paper, appendix D and figure 13a).

    The constant gives the fan-out a gradient, and after one step the fan-out gives one to the
    fan-in. Worse than GradMax in the paper; here for comparison. The bias is that of the
    producer, or the beta of a batch normalisation behind it, which would take a producer's bias
    off again. Several new neurons with one bias would stay the same for ever, so all but the
    first have theirs drawn from half to one and a half times `bias`.

    Args:
        bias: of the new neurons.
    """

    bias: float = 1.0
    name = "zeros"
    forms = (ZEROS,)
    sets_bias = True  # so a site without one is refused before training

    def __post_init__(self) -> None:
        super().__post_init__()
        positive("bias", self.bias)

    def solve(self, problem: Problem, rng: np.random.Generator) -> Solution:
        bias = self.bias * rng.uniform(0.5, 1.5, problem.added)
        bias[0] = self.bias
        fan_out, fan_in = (
            np.zeros((problem.added, side.shape[1])) for side in (problem.fan_out, problem.fan_in)
        )
        return Solution(fan_out, fan_in, bias=bias)
