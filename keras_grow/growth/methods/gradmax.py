"""GradMax: the largest gradient on the new weights, in closed form."""

from dataclasses import dataclass

import numpy as np

from keras_grow.errors import check_flag
from keras_grow.growth.methods.base import (
    Problem,
    Scaled,
    Solution,
    completed,
    gradient_norm,
    how_much_seen,
    register,
    spectrum,
)
from keras_grow.growth.methods.gradmax_opt import GradMaxOpt
from keras_grow.growth.methods.whitened import (
    RIDGE,
    as_strong,
    larger,
    leading,
    rotation,
    whitening,
)
from keras_grow.growth.statistics import Gradients, rank_of, unit
from keras_grow.planning.plan import INVERSE
from keras_grow.rules import NoSlope

# Inputs of a reader up to which the least-squares fit of its present kernel is worth its time,
# which rises with their cube: 2,048 take half a second.
MOST_PRESENT = 2048


@register
@dataclass(frozen=True)
class GradMax(Scaled):
    """The largest gradient on the new weights that are zero, in closed form.

    Outgoing form (fan-in zero): fan-outs along the top right singular vectors of M. Equation 11
    (dense) and 20 (convolutions) of the paper.

    Inverse form (fan-out zero): fan-ins w = R u, with R what whitens the inputs
    (`methods.whitened`). The gradient by the fan-outs is to first order M' w. Of it only what
    no update of the present fan-outs can reach counts, M' (as in Tiny: Verbockhaven et al. 2024).
    Its norm is largest, among answers of one size and without correlation, where u spans the top
    left singular vectors of R M'. Any rotation of these has the same norm; a random one is taken,
    which gives every neuron its part of the gradient instead of most of it to the first. Ours: the
    paper maximises the norm among orthonormal w by `GradMaxOpt` (its table 2), whose neurons all
    answer to the strongest component of the inputs, as present ones do, and which was measured
    worse than random fan-ins; docs/methods.md has the figures.

    M has at most rank(M) useful directions; neurons beyond it are given random ones, and the event
    says how many there were. Singular values are those of M, or of R M' in the inverse form.

    Args:
        sign_rule: +v and -v have the same gradient norm but are different ReLU networks. Of the
            two, take the one whose first gradient step lowers the loss more; in the inverse form,
            the one with the larger gradient. Not in the paper.
    """

    sign_rule: bool = True
    name = "gradmax"
    needs_gradients = True
    needs_inputs = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_flag("sign_rule", self.sign_rule)

    def solve(self, problem: Problem, rng: np.random.Generator) -> Solution:
        if problem.form == INVERSE:
            return self._inverse(problem, rng)
        values, directions, rank = spectrum(problem)
        if self.sign_rule and len(directions):
            directions = better_signs(directions, problem.known)
        directions = completed(directions, problem, problem.fan_out.shape[1], rng)
        fan_out, fan_in = self.finished(problem, directions, rng)
        return Solution(fan_out, fan_in, values, gradient_norm(problem, fan_out, fan_in), rank)

    def _inverse(self, problem: Problem, rng: np.random.Generator) -> Solution:
        gradients, k = problem.known, problem.added
        white = whitening(gradients, RIDGE)
        left, notes = _unreached(gradients)
        try:
            values, top = leading(left, white, k)
        except NoSlope:  # flat at zero, so there is no M; larger neurons have gradients
            plain = "mean_norm" if self.scale_method == "auto" else self.scale_method
            return GradMaxOpt(self.scale, plain, self.epsilon).solve(problem, rng)
        rank = rank_of(values, gradients.shape)
        top = top[: min(rank, k)]
        directions = rotation(len(top), rng) @ top if len(top) else top
        directions = completed(directions, problem, problem.fan_in.shape[1], rng)
        zero, chosen = self.finished(problem, unit(white.fan_ins(directions)), rng)
        chosen = as_strong(self, problem, white, chosen)
        if self.sign_rule:
            chosen = larger(chosen, lambda rows: left.finite(rows).value)
        notes += white.notes + how_much_seen(gradients)
        norm = gradient_norm(problem, zero, chosen)
        return Solution(zero, chosen, values, norm, rank, notes=notes)


def _unreached(gradients: Gradients) -> tuple[Gradients, tuple[str, ...]]:
    """The gradients less what present fan-outs can do about them, and what is to be noted."""
    why = "its readers' rules do not tell"
    if gradients.present_entries > MOST_PRESENT:
        why = f"a reader has {gradients.present_entries:,} inputs"
    else:
        try:
            return gradients.unexplained(), ()
        except NoSlope:
            pass
    return gradients, (f"what present neurons can do was not taken off the gradient: {why}",)


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
