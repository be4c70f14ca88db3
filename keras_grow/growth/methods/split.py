"""Split: new neurons are copies of present ones, with which they share the fan-out."""

from dataclasses import dataclass

import numpy as np

from keras_grow.growth.methods.base import SPLIT, Problem, Scaled, Solution, one_of, register
from keras_grow.growth.statistics import unit

# Of the smallest eigenvalue of every neuron's splitting matrix, by power iteration.
ITERATIONS = 12
DIFFERENCE = 1e-2  # of a fan-in's norm, for second derivatives


@register
@dataclass(frozen=True)
class Split(Scaled):
    """Net2Wider (Chen et al. 2016): a copy of a neuron, and its fan-out divided between the two.

    What the two compute together is what one computed. Copies with equal parts would stay equal
    for ever, so the parts are drawn between 0.3 and 0.7: gradients by the fan-ins are
    proportional to them, and the copies part. With several copies of one neuron, likewise.

    Args:
        choice: "random" splits random neurons. "steepest" splits those with the smallest
            eigenvalue of the splitting matrix (Liu et al. 2019, "Splitting Steepest Descent",
            equation 5: the second derivative of the loss by a neuron's fan-in, other neurons
            left out). Behind a kink such as relu's that matrix is zero nearly everywhere; those
            with the largest gradient by their fan-out are split instead, and the event says so.
        epsilon: moves the copies apart along plus and minus the eigenvector (random directions
            where there is none), by this part of the fan-in's norm. More than 0 changes the
            function, by the order of its square.
    """

    choice: str = "random"
    name = "split"
    forms = (SPLIT,)

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("choice", self.choice, ("random", "steepest"))

    @property
    def needs_gradients(self) -> bool:  # type: ignore[override]
        return self.choice == "steepest"

    def solve(self, problem: Problem, rng: np.random.Generator) -> Solution:
        width, k = len(problem.fan_in), problem.added
        order, directions = rng.permutation(width), None
        notes: tuple[str, ...] = ()
        if self.choice == "steepest":
            order, directions, notes = _steepest(problem, rng)
        parents = np.resize(order, k)  # once round, then again
        shares = np.zeros(k)
        for parent in np.unique(parents):
            own = np.flatnonzero(parents == parent)
            weights = rng.uniform(0.3, 0.7, len(own) + 1)
            weights = np.array([weights[0], 1 - weights[0]]) if len(own) == 1 else weights
            shares[own] = (weights / weights.sum())[1:]
        apart = np.zeros((k, problem.fan_in.shape[1]))
        if self.epsilon:
            if directions is None:
                directions = unit(rng.standard_normal(problem.fan_in.shape))
            norms = np.linalg.norm(problem.fan_in[parents], axis=1, keepdims=True)
            apart = self.epsilon * norms * directions[parents]
        fan_out = problem.fan_out[parents] * shares[:, None]
        return Solution(fan_out, apart, parents=parents, shares=shares, notes=notes)


def _steepest(
    problem: Problem, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray | None, tuple[str, ...]]:
    """Neurons in the order in which to split them, with their directions."""
    w, v = problem.fan_in, problem.fan_out
    if not problem.smooth:
        gain = np.linalg.norm(problem.known.finite(w).value, axis=1)
        return np.argsort(-gain, kind="stable"), None, ("behind a kink: split by gradient norm",)
    step = DIFFERENCE * np.maximum(np.linalg.norm(w, axis=1, keepdims=True), 1e-12)

    def curvature(d: np.ndarray) -> np.ndarray:
        """The splitting matrices times d, by central differences."""
        ahead = problem.known.finite(w + step * d).pull(v)
        behind = problem.known.finite(w - step * d).pull(v)
        return (ahead - behind) / (2 * step)

    def largest(shift: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The eigenvalue of largest size of S - shift, and its eigenvector, of every neuron."""
        d = unit(rng.standard_normal(w.shape))
        value = np.zeros((len(w), 1))
        for _ in range(ITERATIONS):
            product = curvature(d) - shift * d
            value = (product * d).sum(axis=1, keepdims=True)
            d = unit(product)
        return value, d

    bound, first = largest(np.zeros((len(w), 1)))
    # Where the largest is negative it is the smallest already.
    value, second = largest(np.maximum(bound, 0.0))
    smallest = np.where(bound > 0, value + np.maximum(bound, 0.0), bound)
    directions = np.where(bound > 0, second, first)
    return np.argsort(smallest[:, 0], kind="stable"), directions, ()
