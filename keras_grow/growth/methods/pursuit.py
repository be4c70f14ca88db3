"""Pursuit: new fan-ins that explain most of what the present neurons cannot, one after another."""

from dataclasses import dataclass

import numpy as np

from keras_grow.errors import check_whole
from keras_grow.growth.methods.base import (
    Problem,
    Scaled,
    Solution,
    completed,
    gradient_norm,
    how_much_seen,
    register,
)
from keras_grow.growth.statistics import Gradients, rank_of, unit
from keras_grow.planning.plan import INVERSE, OUTGOING
from keras_grow.rules import NoSlope

# A channel of which less than this part is new counts as if that part were.
LEAST_NEW = 1e-3
# Gradients that present neurons leave this small a part of, per entry, are rounding.
ROUNDING = float(np.finfo("float32").eps)
# Step of the ascent, as an angle, and what it becomes after a better and a worse trial.
START, BETTER, WORSE = 0.5, 1.3, 0.4


@register
@dataclass(frozen=True)
class Pursuit(Scaled):
    """Orthogonal matching pursuit of the gradient by whole neurons (ours; not in the paper).

    The score of a fan-in u is the loss that a least-squares refit of the fan-outs would remove if
    the neuron h(u) were there: |C|^2 / q, with C the gradient by its fan-out after what present
    neurons can explain is taken off, and q the part of h(u), squared, that is no linear function
    of them. Activations and normalisation count, so both directions of u are different neurons;
    M sees only their linear part, which present neurons mostly have already. Candidates start at
    both signs of M's top left singular vectors and at random, climb, and the best is taken; it
    then counts as present for the next. Related: orthogonal matching pursuit (Pati et al. 1993)
    and the candidate pool of cascade-correlation (Fahlman & Lebiere 1990).

    By default in the inverse form: the fan-in found, the fan-out zero. In the outgoing form the
    fan-out is the step -C that the neuron would take.

    On the paper's teacher-student tasks it ends below GradMax, on the large one with a teacher for
    every seed also below the big network trained from scratch. `scale=2` goes lower on the large
    task, not on the small one, and multiplies the loss by 25 for some steps after each growth;
    docs/methods.md has the figures and says how sure they are. An event takes some 30 times as long
    as GradMax's. Convolutional consumers with windows are pursued position by position: what is new
    of a channel is judged at single positions.

    Args:
        candidates: fan-ins that climb at the same time.
        steps: of the climb for the first neuron; a third of them for each further one.
    """

    candidates: int = 32
    steps: int = 15
    name = "pursuit"
    forms = (INVERSE, OUTGOING)
    needs_gradients = True
    needs_inputs = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole("candidates", self.candidates, 1)
        check_whole("steps", self.steps, 1)

    def solve(self, problem: Problem, rng: np.random.Generator) -> Solution:
        gradients = problem.known
        norm = self.norm(problem.fan_in)
        width = problem.fan_in.shape[1]
        try:
            values, top = gradients.top(problem.added)
            top = unit(gradients.by_fan_in(top[: rank_of(values, gradients.shape)]))
        except NoSlope:  # flat at zero, so there is no M; candidates are larger than that
            values, top = np.zeros(0), np.zeros((0, width))
        pool = np.concatenate([top, -top])[: self.candidates]
        rest = rng.standard_normal((self.candidates - len(pool), width))
        pool = unit(np.concatenate([pool, rest]))
        left = gradients.unexplained()
        chosen = np.zeros((0, width))
        fan_out = np.zeros((0, problem.fan_out.shape[1]))
        for number in range(problem.added):
            steps = self.steps if number == 0 else max(self.steps // 3, 1)
            pool, scores = climb(left, pool, norm, steps)
            best = int(np.argmax(scores))
            found = norm * pool[best][None]
            step = -left.finite(found).value
            whole = float(np.linalg.norm(gradients.finite(found).value))
            if np.linalg.norm(step) <= ROUNDING * max(gradients.shape) * whole:
                break  # nothing is left that could be explained
            chosen = np.concatenate([chosen, pool[best][None]])
            fan_out = np.concatenate([fan_out, unit(step)])
            pool[best] = unit(rng.standard_normal((1, width)))[0]
            if number + 1 < problem.added:
                left = left.unexplained(found)
        notes = how_much_seen(gradients)
        if len(chosen) < problem.added:
            notes += (f"{problem.added - len(chosen)} random: nothing was left to explain",)
        chosen = completed(chosen, problem, width, rng)
        fan_out = completed(fan_out, problem, fan_out.shape[1], rng)
        free, other = (chosen, fan_out) if problem.form == INVERSE else (fan_out, chosen)
        fan_out, fan_in = self.finished(problem, free, rng, other)
        norm_found = gradient_norm(problem, fan_out, fan_in)
        return Solution(fan_out, fan_in, values, norm_found, notes=notes)


def climb(
    gradients: Gradients, fan_in: np.ndarray, norm: float, steps: int
) -> tuple[np.ndarray, np.ndarray]:
    """Every fan-in for itself up the score, on the sphere, by steps that adapt their length.

    Args:
        gradients: less what present neurons explain.
        fan_in: unit rows.
        norm: of the fan-ins that are scored.

    Returns:
        Unit fan-ins and their scores, (k,).
    """

    def score(u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        response = gradients.finite(norm * u)
        new = gradients.novelty(norm * u)
        least = LEAST_NEW * float(np.abs(new.value).max()) + 1e-30
        energy = np.maximum(new.value, least)
        values = (response.value**2).sum(axis=1, keepdims=True) / energy
        slope = response.pull(2 * response.value / energy)
        slope = slope - new.pull(np.where(new.value > least, values / energy, 0.0))
        slope = slope - u * (slope * u).sum(axis=1, keepdims=True)
        return values[:, 0], unit(slope)

    at, (values, slope) = fan_in, score(fan_in)
    length = np.full((len(fan_in), 1), START)
    for _ in range(steps):
        trial = unit(at + length * slope)
        found, next_slope = score(trial)
        better = (found > values)[:, None]
        at, slope = np.where(better, trial, at), np.where(better, next_slope, slope)
        values = np.where(better[:, 0], found, values)
        length = length * np.where(better, BETTER, WORSE)
    return at, values
