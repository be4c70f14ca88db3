"""Fan-ins whose responses are no linear copies of each other: directions in whitened inputs.

What a new neuron with zero fan-out brings is its response h(w x). Inputs of a layer are correlated
(neighbouring pixels, relus that all answer to the mean), so isotropic fan-ins give responses that
are nearly the same: most of each is the leading principal component. In whitened coordinates,
w = R u with R = (S + r I)^(-1/2) and S the inputs' second moment, orthonormal u give responses of
equal size and without correlation.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import linalg

from keras_grow.growth.methods.base import Problem, Scaled
from keras_grow.growth.statistics import Gradients, top_directions, unit
from keras_grow.growth.statistics.spectra import DENSE, top_of_operator

# Directions of the inputs with less than this part of the largest variance count as absent.
LEAST_VARIANCE = 1e-6
# r as a part of the mean variance. Without it directions in which the inputs hardly vary, which
# are noise, would be blown up as much as it takes. From 0.01 to 1 measured the same within errors.
RIDGE = 0.1
# The longest fan-in, in mean norms of present ones, that is given to a direction in which the
# inputs vary little so that it answers as strongly as present neurons do.
LONGEST = 10.0


@dataclass(frozen=True)
class Whitening:
    """The inputs of a site's producers and what whitens them.

    Attributes:
        root: R, (n, n); for more than 1,024 inputs its diagonal, (n,).
        moment: S, of the same shape.
    """

    root: np.ndarray
    moment: np.ndarray

    @property
    def entrywise(self) -> bool:
        """Whether correlations were left alone, because there are too many inputs."""
        return self.root.ndim == 1

    @property
    def notes(self) -> tuple[str, ...]:
        return ("inputs were whitened entry by entry",) if self.entrywise else ()

    def times(self, matrix: np.ndarray) -> np.ndarray:
        """R times a matrix with a row per input."""
        return self.root[:, None] * matrix if self.entrywise else self.root @ matrix

    def fan_ins(self, directions: np.ndarray) -> np.ndarray:
        """Fan-ins from whitened directions, a row each."""
        return directions * self.root if self.entrywise else directions @ self.root

    def response(self, fan_in: np.ndarray) -> np.ndarray:
        """Root mean square of each fan-in's product with the inputs, (k,)."""
        seen = fan_in * self.moment if self.entrywise else fan_in @ self.moment
        return np.sqrt(np.maximum((seen * fan_in).sum(axis=1), 0.0))


def whitening(gradients: Gradients, ridge: float = 0.0) -> Whitening:
    """What whitens the inputs of a site.

    Args:
        ridge: r, as a part of the mean variance.
    """
    if gradients.shape[0] > DENSE:
        power = gradients.input_power()
        least = LEAST_VARIANCE * power.max(initial=0.0)
        added = power + ridge * power.mean()
        root = np.where(power > least, 1 / np.sqrt(np.maximum(added, least + 1e-30)), 0.0)
        return Whitening(root, power)
    moment = gradients.second_moment()
    values, vectors = linalg.eigh(moment)
    present = values > LEAST_VARIANCE * max(values.max(initial=0.0), 0.0)
    size = np.sqrt(values[present] + ridge * max(float(np.trace(moment)) / len(moment), 0.0))
    return Whitening(vectors[:, present] / size @ vectors[:, present].T, moment)


def leading(gradients: Gradients, white: Whitening, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Singular values of R M, and its top k left singular vectors, a row each.

    Raises:
        NoSlope: there is no M.
    """
    entries, width = gradients.shape
    if min(entries, width) <= DENSE:
        return top_directions(white.times(gradients.matrix).T, k)
    return top_of_operator(
        lambda rows: gradients.linear(white.fan_ins(rows)).T,
        lambda columns: white.fan_ins(gradients.by_fan_in(columns.T)),
        (width, entries),
        k,
    )


def rotation(size: int, rng: np.random.Generator) -> np.ndarray:
    """A random orthogonal matrix, uniformly distributed (Mezzadri 2007)."""
    q, r = linalg.qr(rng.standard_normal((size, size)))
    return q * np.sign(np.diag(r))


def larger(fan_in: np.ndarray, gradient: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Of every fan-in and its opposite the one with the larger gradient by its fan-out.

    Args:
        gradient: by the fan-outs of given fan-ins.
    """
    if not len(fan_in):
        return fan_in
    norms = np.linalg.norm(gradient(np.concatenate([fan_in, -fan_in])), axis=1).reshape(2, -1)
    return np.where((norms[1] > norms[0])[:, None], -fan_in, fan_in)


def as_strong(method: Scaled, problem: Problem, white: Whitening, fan_in: np.ndarray) -> np.ndarray:
    """Fan-ins of the length at which they answer as strongly as present neurons do.

    With `scale_method="auto"`, and where nothing normalises the answer: there only the length
    counts, since it says how fast a neuron turns, and new ones get that of present ones.
    """
    rows = unit(fan_in) * method.norm(problem.fan_in)
    if method.scale_method != "auto" or problem.normalised:
        return rows
    has, wanted = white.response(rows), float(white.response(problem.fan_in).mean())
    if not wanted > 0:
        return rows
    factor = np.minimum(method.scale * wanted / np.maximum(has, 1e-30), LONGEST)
    return rows * np.where(has > 0, factor, 1.0)[:, None]
