"""How the weights of new neurons are chosen: GradMax and Random.

A method sees one site at a time, as a `Problem`, and answers with fan-out directions (and, in the
inverse form, fan-in directions). Norms are the same for all methods, so that comparisons are fair
(paper, section 3: "we scale each initialization such that their norm is equal").
"""

from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any, Protocol

import numpy as np
from scipy import linalg
from threadpoolctl import ThreadpoolController

from keras_grow.errors import GrowthError, is_real, nearest
from keras_grow.planning.plan import INVERSE, OUTGOING


@dataclass(frozen=True, eq=False)
class Problem:
    """One site for a method to solve.

    Attributes:
        added: k, how many new neurons.
        form: "outgoing" (fan-in zero, fan-out free) or "inverse".
        fan_out: existing fan-outs, (width, fan-out entries).
        fan_in: existing fan-ins, (width, fan-in entries).
        matrix: M, the mixed second derivative of the loss (see `growth.statistics`), shape
            (fan-in entries, fan-out entries); None for methods that need none.
    """

    added: int
    form: str
    fan_out: np.ndarray
    fan_in: np.ndarray
    matrix: np.ndarray | None = None

    @cached_property
    def spectrum(self) -> tuple[np.ndarray, np.ndarray]:
        """Singular values of M and its top right singular vectors, as `top_directions`."""
        assert self.matrix is not None
        return top_directions(self.matrix, self.added)


@dataclass
class Solution:
    """What a method chose.

    Attributes:
        fan_out: (k, fan-out entries).
        fan_in: (k, fan-in entries).
        singular_values: the whole spectrum of M, largest first; empty where none was computed.
        gradient_norm: norm of the loss gradient by the new fan-in; None where not computed.
        rank: how many directions M supports; new neurons beyond it are random.
    """

    fan_out: np.ndarray
    fan_in: np.ndarray
    singular_values: np.ndarray = field(default_factory=lambda: np.zeros(0))
    gradient_norm: float | None = None
    rank: int | None = None


class Method(Protocol):
    """What a method offers. Any object with these can be passed as `method=`.

    Attributes:
        needs_statistics: whether `Problem.matrix` is wanted.
        needs_steps: whether `solve` wants to know what a first step along its directions does.
    """

    name: str
    needs_statistics: bool
    needs_steps: bool

    def directions(self, problem: Problem, rng: np.random.Generator) -> np.ndarray:
        """Unit fan-out directions, (at most k, fan-out entries)."""
        ...

    def solve(
        self,
        problem: Problem,
        directions: np.ndarray,
        steps: np.ndarray | None,
        rng: np.random.Generator,
    ) -> Solution:
        """The new weights.

        Args:
            directions: what `directions` returned.
            steps: (2, len(directions)) first-order loss changes for a step of each fan-in
                along +M v and along -M v, if `needs_steps`.
        """
        ...


def _unit(rows: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, norms, out=np.zeros_like(rows), where=norms > 0)


@dataclass(frozen=True)
class _Scaled:
    """Norms of new weights, the same for every method.

    Args:
        scale: factor on the norm.
        scale_method: "mean_norm" gives every new neuron the mean norm of the existing ones
            (paper, section 3); "fixed" gives norm `scale` (paper, figure 5).
        epsilon: norm of each new fan-in (outgoing form). 0 keeps the function exactly; the
            paper's figure 5 (centre) shows that larger values harm.
    """

    scale: float = 1.0
    scale_method: str = "mean_norm"
    epsilon: float = 0.0

    def __post_init__(self) -> None:
        if self.scale_method not in ("mean_norm", "fixed"):
            raise GrowthError(
                "scale_method must be 'mean_norm' or 'fixed'. "
                f"Received: scale_method={self.scale_method!r}."
            )
        if not is_real(self.scale) or not 0 < self.scale < np.inf:
            raise GrowthError(f"scale must be a positive number. Received: scale={self.scale!r}.")
        if not is_real(self.epsilon) or not 0 <= self.epsilon < np.inf:
            raise GrowthError(f"epsilon must be 0 or more. Received: epsilon={self.epsilon!r}.")

    def _norm(self, existing: np.ndarray) -> float:
        if self.scale_method == "fixed":
            return self.scale
        mean = float(np.linalg.norm(existing, axis=1).mean())
        return self.scale * (mean if mean > 0 else 1.0)

    def _finish(
        self, problem: Problem, directions: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Fan-out and fan-in of unit fan-out directions (k, entries), for the outgoing form."""
        fan_out = directions * self._norm(problem.fan_out)
        fan_in = np.zeros((problem.added, problem.fan_in.shape[1]))
        if self.epsilon:
            fan_in = _unit(rng.standard_normal(fan_in.shape)) * self.epsilon
        return fan_out, fan_in


@dataclass(frozen=True)
class Random(_Scaled):
    """Random directions of the given norm; the other side is zero (paper, section 2).

    Args:
        distribution: "isotropic" draws directions uniformly from the sphere; "positive" draws
            entries uniformly from [0, 1), as the paper's own code does, so all point one way.
    """

    distribution: str = "isotropic"
    name = "random"
    needs_statistics = False
    needs_steps = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.distribution not in ("isotropic", "positive"):
            raise GrowthError(
                "distribution must be 'isotropic' or 'positive'. "
                f"Received: distribution={self.distribution!r}."
            )

    def _draw(self, shape: tuple, rng: np.random.Generator) -> np.ndarray:
        if self.distribution == "positive":
            return _unit(rng.random(shape))
        return _unit(rng.standard_normal(shape))

    def directions(self, problem: Problem, rng: np.random.Generator) -> np.ndarray:
        side = problem.fan_in if problem.form == INVERSE else problem.fan_out
        return self._draw((problem.added, side.shape[1]), rng)

    def solve(
        self,
        problem: Problem,
        directions: np.ndarray,
        steps: np.ndarray | None,
        rng: np.random.Generator,
    ) -> Solution:
        if problem.form == INVERSE:
            fan_in = directions * self._norm(problem.fan_in)
            return Solution(np.zeros((problem.added, problem.fan_out.shape[1])), fan_in)
        fan_out, fan_in = self._finish(problem, directions, rng)
        return Solution(fan_out, fan_in, gradient_norm=_gradient_norm(problem, fan_out))


@dataclass(frozen=True)
class GradMax(_Scaled):
    """Fan-out along the top right singular vectors of M: the largest gradient on the new fan-in.

    Equation 11 (dense) and 20 (convolutions) of the paper. M has at most rank(M) useful
    directions; neurons beyond it are given random ones, and the event says how many there were.

    Args:
        sign_rule: +v and -v have the same gradient norm but are different ReLU networks. Of the
            two, take the one whose first gradient step lowers the loss more. Not in the paper.
    """

    sign_rule: bool = True
    name = "gradmax"
    needs_statistics = True

    @property
    def needs_steps(self) -> bool:
        return self.sign_rule

    def directions(self, problem: Problem, rng: np.random.Generator) -> np.ndarray:
        if problem.form != OUTGOING:
            raise GrowthError(
                "GradMax needs the outgoing form (fan-in zero), which is not exact where the "
                "activation maps 0 to something else. Use method='random' for this site, or "
                "leave it out with names=."
            )
        assert problem.matrix is not None
        values, vectors = problem.spectrum
        return vectors[: min(_rank(values, problem.matrix), problem.added)]

    def solve(
        self,
        problem: Problem,
        directions: np.ndarray,
        steps: np.ndarray | None,
        rng: np.random.Generator,
    ) -> Solution:
        assert problem.matrix is not None
        if steps is not None and len(directions):
            forward, backward = steps
            # With v the first step changes the loss by `backward`; with -v, by -`forward`.
            directions = np.where((forward > -backward)[:, None], -directions, directions)
        missing = problem.added - len(directions)
        if missing:
            rest = rng.standard_normal((missing, problem.matrix.shape[1]))
            directions = np.concatenate([directions, _unit(rest)])
        fan_out, fan_in = self._finish(problem, directions, rng)
        values, _ = problem.spectrum
        rank = _rank(values, problem.matrix)
        return Solution(fan_out, fan_in, values, _gradient_norm(problem, fan_out), rank)


def _gradient_norm(problem: Problem, fan_out: np.ndarray) -> float | None:
    if problem.matrix is None:
        return None
    return float(np.linalg.norm(problem.matrix @ fan_out.T))


def _rank(values: np.ndarray, matrix: np.ndarray) -> int:
    if not len(values):
        return 0
    return int((values > values[0] * max(matrix.shape) * np.finfo("float32").eps).sum())


@cache
def _blas() -> ThreadpoolController:
    """Holds decompositions to one thread.

    That gives the same rounding on every machine, and no fight for the cores with the backend's
    own threads, which costs far more than a second thread gains.
    """
    return ThreadpoolController()


def top_directions(matrix: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """All singular values of a matrix and its top right singular vectors, deterministic.

    Works on the smaller Gram matrix in float64. Signs are fixed by making the largest entry of
    every vector positive, so replicas that see the same statistics choose the same neurons.

    Args:
        matrix: (m, n).
        k: how many vectors.

    Returns:
        Singular values, largest first, (min(m, n),), and vectors (min(k, m, n), n).
    """
    m, n = matrix.shape
    size = min(m, n)
    k = min(k, size)
    if size == 0:
        return np.zeros(0), np.zeros((0, n))
    with _blas().limit(limits=1):
        gram = matrix.T @ matrix if n <= m else matrix @ matrix.T
        squares = linalg.eigvalsh(gram)
        _, vectors = linalg.eigh(gram, subset_by_index=[size - k, size - 1])
    values = np.sqrt(np.maximum(squares[::-1], 0.0))
    top = vectors[:, ::-1].T
    if n > m:
        top = _unit(top @ matrix)
    largest = np.take_along_axis(top, np.abs(top).argmax(axis=1)[:, None], axis=1)
    return values, top * np.where(largest < 0, -1.0, 1.0)


_METHODS: dict[str, Any] = {"gradmax": GradMax, "random": Random}


def get(method: Any) -> Method:
    """A method from its name, its class or itself, as `keras.losses.get` does for losses."""
    if isinstance(method, str):
        try:
            return _METHODS[method.lower()]()
        except KeyError:
            raise GrowthError(
                f"There is no growth method '{method}'. {nearest(method, _METHODS)}"
            ) from None
    if isinstance(method, type):
        method = method()
    if not callable(getattr(method, "solve", None)):
        raise GrowthError(
            "method must be a name or an object with solve(problem, rng). "
            f"Received: {type(method).__name__}."
        )
    return method
