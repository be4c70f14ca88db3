"""What a method is: a site's statistics in, fan-in and fan-out of its new neurons out.

A method sees one site at a time, as a `Problem`, and answers with a `Solution`. Norms are the
same for all methods, so that comparisons are fair (paper, section 3: "we scale each
initialization such that their norm is equal").
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from keras_grow.errors import GrowthError, is_real
from keras_grow.growth.statistics import Gradients, rank_of, unit
from keras_grow.planning.plan import INVERSE, OUTGOING

# Forms of growth besides OUTGOING (fan-in zero) and INVERSE (fan-out zero):
SPLIT = "split"  # copies of present neurons, which share their fan-outs with them
ZEROS = "zeros"  # fan-in and fan-out zero, the bias not
JOINT = "joint"  # neither is zero: the function changes
FORMS = (OUTGOING, INVERSE, SPLIT, ZEROS, JOINT)


@dataclass(frozen=True, eq=False)
class Problem:
    """One site for a method to solve. Arrays have a row per neuron.

    Attributes:
        added: k, how many new neurons.
        form: "outgoing" (fan-in zero), "inverse" (fan-out zero), or the method's own form.
        fan_out: existing fan-outs, (width, fan-out entries).
        fan_in: existing fan-ins, (width, fan-in entries).
        gradients: what growth data says (see `keras_grow.growth.statistics.Gradients`); None for
            methods that do not ask for it.
        smooth: whether what the neurons pass has no kink, so that second derivatives say
            something.
        normalised: whether each neuron's answer is normalised by its own statistics (batch or
            group normalisation) on the way to its readers.
    """

    added: int
    form: str
    fan_out: np.ndarray
    fan_in: np.ndarray
    gradients: Gradients | None = None
    smooth: bool = False
    normalised: bool = False

    @property
    def known(self) -> Gradients:
        """The gradients, for methods that asked for them."""
        assert self.gradients is not None
        return self.gradients


@dataclass
class Solution:
    """What a method chose. Lists of numbers will do for arrays.

    Attributes:
        fan_out: (k, fan-out entries).
        fan_in: (k, fan-in entries).
        singular_values: spectrum of M, largest first, whole or its leading part; empty where none
            was computed.
        gradient_norm: norm of the loss gradient by the new weights that are zero; None where not
            computed.
        rank: how many directions M supports; new neurons beyond it are random.
        parents: for each new neuron the present one that it is a copy of, (k,); its weights are
            then the parent's, and `fan_in` is what is added to the copy's fan-in.
        shares: (k,) part of the parent's fan-out that each copy gets.
        bias: (k,) biases of the new neurons; None for zero.
        amplitude: whether the norms are to be found by a line search on the loss.
        notes: what users should know, such as an approximation.
    """

    fan_out: np.ndarray
    fan_in: np.ndarray
    singular_values: np.ndarray = field(default_factory=lambda: np.zeros(0))
    gradient_norm: float | None = None
    rank: int | None = None
    parents: np.ndarray | None = None
    shares: np.ndarray | None = None
    bias: np.ndarray | None = None
    amplitude: bool = False
    notes: tuple[str, ...] = ()


class MethodLike(Protocol):
    """What can be passed as `method=`, besides a name: any object with a `name` and `solve`.

    What else it may say of itself, and what counts where it does not, is told by `Method`.

    Attributes:
        name: in events and messages.
    """

    name: str

    def solve(self, problem: Problem, rng: np.random.Generator) -> Solution:
        """The new weights of one site.

        The arrays of `problem` are read-only. An error raised here ends the growth, and the model
        is as it was.
        """
        ...


class Method:
    """A method as the library reads it: `get` makes it of whatever was passed.

    The methods here are derived from it. Any other object is read once, when it is passed, and an
    attribute that it leaves out has the value that is set here.

    Attributes:
        name: in events and messages.
        forms: the forms of growth it knows, a tuple; the first is taken where nothing else is
            asked. ("outgoing", "inverse") if left out.
        needs_gradients: whether `Problem.gradients` is wanted, which needs growth data and a
            compiled model. False if left out.
        needs_inputs: whether `Gradients.unexplained` is wanted. False if left out.
        epsilon: norm of the side that is zero in its form; more than 0 changes the function. 0 if
            left out.
        sets_bias: whether every `Solution` has a `bias`, so that a site whose producers have none
            is refused before training begins. False if left out: such a site is then refused when
            it is to grow.
        solve: as of `MethodLike`.
    """

    name: str
    forms: tuple[str, ...] = (OUTGOING, INVERSE)
    needs_gradients: bool = False
    needs_inputs: bool = False
    epsilon: float = 0.0
    sets_bias: bool = False
    solve: Callable[[Problem, np.random.Generator], Solution]


@dataclass(frozen=True)
class Scaled(Method):
    """Norms of new weights, the same for every method.

    Args:
        scale: factor on the norm.
        scale_method: "mean_norm" gives every new neuron the mean norm of the existing ones
            (paper, section 3); "fixed" gives norm `scale` (paper, figure 5). "auto" is the former,
            except for fan-ins of methods that know the inputs (GradMax and Tiny): these are made
            as long as it takes to answer as strongly as present neurons, unless a batch or group
            normalisation behind them makes all answers equally strong.
        epsilon: norm of each new neuron on the side that is zero in its form. 0 keeps the
            function exactly; the paper's figure 5 (centre) shows that larger values harm.
    """

    scale: float = 1.0
    scale_method: str = "auto"
    epsilon: float = 0.0

    def __post_init__(self) -> None:
        one_of("scale_method", self.scale_method, ("auto", "mean_norm", "fixed"))
        positive("scale", self.scale)
        if not is_real(self.epsilon) or not 0 <= self.epsilon < np.inf:
            raise GrowthError(f"epsilon must be 0 or more. Received: epsilon={self.epsilon!r}.")

    def norm(self, existing: np.ndarray) -> float:
        """The norm of a new neuron on a side where the existing ones are `existing`."""
        if self.scale_method == "fixed":
            return self.scale
        mean = float(np.linalg.norm(existing, axis=1).mean())
        return self.scale * (mean if mean > 0 else 1.0)

    def finished(
        self,
        problem: Problem,
        directions: np.ndarray,
        rng: np.random.Generator,
        other: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Fan-out and fan-in from unit directions of the side that is free.

        Args:
            directions: of the fan-outs (outgoing form) or the fan-ins (inverse form), (k, n).
            other: directions of the other side, for `epsilon`; random if left out.
        """
        inverse = problem.form == INVERSE
        free, rest = problem.fan_out, problem.fan_in
        if inverse:
            free, rest = rest, free
        chosen = directions * self.norm(free)
        zero = np.zeros((len(directions), rest.shape[1]))
        if self.epsilon:
            zero = unit(rng.standard_normal(zero.shape)) if other is None else unit(other)
            zero = zero * self.epsilon
        return (zero, chosen) if inverse else (chosen, zero)


def completed(
    directions: np.ndarray, problem: Problem, width: int, rng: np.random.Generator
) -> np.ndarray:
    """Unit directions for all new neurons: random ones where there are too few."""
    missing = problem.added - len(directions)
    if missing <= 0:
        return directions
    return np.concatenate([directions, unit(rng.standard_normal((missing, width)))])


def spectrum(problem: Problem) -> tuple[np.ndarray, np.ndarray, int]:
    """Singular values of M, its top right vectors for the new neurons, and its rank."""
    values, vectors = problem.known.top(problem.added)
    rank = rank_of(values, problem.known.shape)
    return values, vectors[: min(rank, problem.added)], rank


def gradient_norm(problem: Problem, fan_out: np.ndarray, fan_in: np.ndarray) -> float | None:
    """Norm of the gradient by the side that is zero; None where gradients are not known.

    Args:
        fan_out: of the new neurons; asked in the outgoing form.
        fan_in: likewise; asked in the inverse form.
    """
    if problem.gradients is None:
        return None
    if problem.form == INVERSE:
        return float(np.linalg.norm(problem.gradients.finite(fan_in).value))
    return float(np.linalg.norm(problem.gradients.by_fan_in(fan_out)))


def how_much_seen(gradients: Gradients) -> tuple[str, ...]:
    """A note where not all of the growth data could be looked at."""
    return () if gradients.exact else ("looked at some of the growth batches only",)


def one_of(name: str, value: Any, choices: tuple[str, ...]) -> None:
    if value not in choices:
        listed = ", ".join(f"'{c}'" for c in choices[:-1]) + f" or '{choices[-1]}'"
        raise GrowthError(f"{name} must be {listed}. Received: {name}={value!r}.")


def positive(name: str, value: Any) -> None:
    if not is_real(value) or not 0 < value < np.inf:
        raise GrowthError(f"{name} must be a positive number. Received: {name}={value!r}.")


METHODS: dict[str, Callable[[], Any]] = {}


def register(cls: Any) -> Any:
    """Class decorator: the class answers to its name in `get`."""
    METHODS[cls.name] = cls
    return cls


def names() -> list[str]:
    """The names that `get` knows, in alphabetical order."""
    return sorted(METHODS)
