"""Tiny: the best first-order update that the present layers cannot make themselves."""

from dataclasses import dataclass

import numpy as np

from keras_grow.growth.methods.base import (
    JOINT,
    Problem,
    Scaled,
    Solution,
    completed,
    gradient_norm,
    how_much_seen,
    register,
)
from keras_grow.growth.methods.gradmax import better_signs
from keras_grow.growth.methods.whitened import as_strong, larger, whitening
from keras_grow.growth.statistics import rank_of, top_directions, unit
from keras_grow.planning.plan import INVERSE, OUTGOING


@register
@dataclass(frozen=True)
class Tiny(Scaled):
    """New neurons that come closest to the step which the loss wants (Verbockhaven et al. 2024,
    "Growing Tiny Networks", section 3).

    The gradient by the consumers' pre-activations is taken less what a linear update of their
    present kernels could do; M of the rest, whitened by the second moment S of the producers'
    inputs, is decomposed: S^(-1/2) M = sum of s u v'. Neuron k has the fan-in S^(-1/2) u and the
    fan-out v.

    In the outgoing form the fan-outs are kept, in the inverse form the fan-ins; the function stays
    as it is. `form="joint"` is the published method: both sides at once, with their common
    amplitude from a line search on the loss of the growth batch. The function then changes, and
    the loss does not rise.

    Exact where every position has one producer input (dense layers, pointwise convolutions); with
    larger kernels S is that of the producer's patches, as in the authors' code. Kernels with more
    than 1,024 inputs are whitened entry by entry.
    """

    name = "tiny"
    forms = (OUTGOING, INVERSE, JOINT)
    needs_gradients = True
    needs_inputs = True

    def solve(self, problem: Problem, rng: np.random.Generator) -> Solution:
        gradients = problem.known
        white = whitening(gradients)
        notes = white.notes + how_much_seen(gradients)
        whitened = white.times(gradients.unexplained().matrix)
        values, directions = top_directions(whitened, problem.added)
        rank = rank_of(values, gradients.shape)
        fan_out = directions[: min(rank, problem.added)]
        fan_in = unit(-white.times(whitened @ fan_out.T).T)
        found: dict = {"singular_values": values, "rank": rank, "notes": notes}
        if problem.form == JOINT:
            return self._joint(problem, fan_in, fan_out, values, rng, found)
        if problem.form == INVERSE:
            fan_in = larger(fan_in, lambda rows: gradients.finite(rows).value)
            fan_in = completed(fan_in, problem, problem.fan_in.shape[1], rng)
            zero, chosen = self.finished(problem, fan_in, rng)
            chosen = as_strong(self, problem, white, chosen)
            norm = gradient_norm(problem, zero, chosen)
            return Solution(zero, chosen, gradient_norm=norm, **found)
        if len(fan_out):
            fan_out = better_signs(fan_out, gradients)
        fan_out = completed(fan_out, problem, problem.fan_out.shape[1], rng)
        chosen, zero = self.finished(problem, fan_out, rng)
        norm = gradient_norm(problem, chosen, zero)
        return Solution(chosen, zero, gradient_norm=norm, **found)

    def _joint(
        self,
        problem: Problem,
        fan_in: np.ndarray,
        fan_out: np.ndarray,
        values: np.ndarray,
        rng: np.random.Generator,
        found: dict,
    ) -> Solution:
        count = len(fan_out)
        if count:
            # (u, v) and (-u, -v) are the same for a linear neuron only.
            both = problem.known.one_sided(np.concatenate([fan_in, -fan_in]))
            change = (both * np.concatenate([fan_out, -fan_out])).sum(axis=1).reshape(2, -1)
            flip = np.where(change[1] < change[0], -1.0, 1.0)[:, None]
            fan_in, fan_out = fan_in * flip, fan_out * flip
            size = np.sqrt(values[:count] / values[0])[:, None]
            fan_in = fan_in * size * self.norm(problem.fan_in)
            fan_out = fan_out * size * self.norm(problem.fan_out)
        rows = np.zeros((problem.added - count, fan_out.shape[1]))
        rest = completed(np.zeros((count, fan_in.shape[1])), problem, fan_in.shape[1], rng)[count:]
        return Solution(
            np.concatenate([fan_out, rows]),
            np.concatenate([fan_in, rest * self.norm(problem.fan_in)]),
            amplitude=True,
            **found,
        )
