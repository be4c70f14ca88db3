"""Top singular vectors: of a matrix that is there, or of one that can only be multiplied with."""

from collections.abc import Callable
from functools import cache

import numpy as np
from scipy import linalg
from threadpoolctl import ThreadpoolController

# Up to this many rows or columns the whole spectrum is computed. Beyond it the top of it is found
# by multiplying: decomposing a square matrix of 1,024 takes half a second, one of 4,608 a minute.
DENSE = 1024
# Block iteration (Halko, Martinsson, Tropp 2011, algorithm 4.4): more vectors than are asked for,
# until the squared gain of those that are changes by less than a part in TOLERANCE.
OVERSAMPLING = 8
TOLERANCE = 1e-4
MOST_ITERATIONS = 30


@cache
def _blas() -> ThreadpoolController:
    """Holds decompositions to one thread.

    That gives the same rounding on every machine, and no fight for the cores with the backend's
    own threads, which costs far more than a second thread gains.
    """
    return ThreadpoolController()


def unit(rows: np.ndarray) -> np.ndarray:
    """Rows of length 1; rows of zeros stay."""
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, norms, out=np.zeros_like(rows), where=norms > 0)


def signed(rows: np.ndarray) -> np.ndarray:
    """Every row with the sign that makes its largest entry positive.

    Replicas that see the same statistics then choose the same neurons.
    """
    if not rows.size:
        return rows
    largest = np.take_along_axis(rows, np.abs(rows).argmax(axis=1)[:, None], axis=1)
    return rows * np.where(largest < 0, -1.0, 1.0)


def rank_of(values: np.ndarray, shape: tuple[int, int]) -> int:
    """How many singular values stand out from float32 rounding."""
    if not len(values) or not values[0]:
        return 0
    return int((values > values[0] * max(shape) * np.finfo("float32").eps).sum())


def top_directions(matrix: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Singular values of a matrix and its top right singular vectors, deterministic.

    Up to `DENSE` rows or columns all values, from the smaller Gram matrix in float64; beyond that
    the leading ones, by block iteration.

    Args:
        matrix: (m, n).
        k: how many vectors.

    Returns:
        Singular values, largest first, and vectors (min(k, m, n), n).
    """
    m, n = matrix.shape
    size = min(m, n)
    k = min(k, size)
    if size == 0 or k == 0:
        return np.zeros(0), np.zeros((0, n))
    if size > DENSE:
        return top_of_operator(lambda v: matrix @ v.T, lambda u: u.T @ matrix, (m, n), k)
    with _blas().limit(limits=1):
        matrix = matrix.astype("float64", copy=False)
        gram = matrix.T @ matrix if n <= m else matrix @ matrix.T
        squares = linalg.eigvalsh(gram)
        _, vectors = linalg.eigh(gram, subset_by_index=[size - k, size - 1])
    values = np.sqrt(np.maximum(squares[::-1], 0.0))
    top = vectors[:, ::-1].T
    if n > m:
        top = unit(top @ matrix)
    return values, signed(top)


def top_of_operator(
    forward: Callable[[np.ndarray], np.ndarray],
    backward: Callable[[np.ndarray], np.ndarray],
    shape: tuple[int, int],
    k: int,
) -> tuple[np.ndarray, np.ndarray]:
    """The same for a matrix (m, n) that is only known by its products, in blocks.

    Args:
        forward: rows v (b, n) to the columns M v' (m, b).
        backward: columns u (m, b) to the rows u' M (b, n).
        shape: (m, n).
        k: how many vectors.

    Returns:
        The leading singular values, a few more than `k`, and vectors (min(k, m, n), n).
    """
    m, n = shape
    k = min(k, m, n)
    block = min(k + OVERSAMPLING, m, n)
    rows = np.random.default_rng(0).standard_normal((block, n))
    before = -1.0
    with _blas().limit(limits=1):
        for _ in range(MOST_ITERATIONS):
            rows = linalg.qr(rows.T, mode="economic")[0].T
            left, _ = linalg.qr(np.asarray(forward(rows), "float64"), mode="economic")
            rows = np.asarray(backward(left), "float64")
            values = linalg.svdvals(rows)
            gain = float((values[:k] ** 2).sum())
            if gain - before <= TOLERANCE * gain:
                break
            before = gain
        _, values, right = linalg.svd(rows, full_matrices=False)
    return values, signed(right[:k])
