"""Projected Adam on directions, for methods that have no closed form."""

from collections.abc import Callable

import numpy as np
from scipy import linalg

from keras_grow.growth.statistics import unit

BETA_1, BETA_2, SMALL = 0.9, 0.999, 1e-12

Project = Callable[[np.ndarray], np.ndarray]
Objective = Callable[..., tuple[float, list[np.ndarray]]]


def orthonormal(rows: np.ndarray) -> np.ndarray:
    """The nearest orthonormal rows (polar factor); at most as many rows as columns."""
    left, _, right = linalg.svd(rows, full_matrices=False)
    return left @ right


def awake(fan_in: np.ndarray, gradient: np.ndarray) -> np.ndarray:
    """The same fan-ins, turned round where a neuron is silent on all growth data.

    Behind relu such a neuron would never train, and the opposite one answers to all of the data.

    Args:
        gradient: by the fan-outs, with a row per neuron.
    """
    norms = np.linalg.norm(gradient, axis=1, keepdims=True)
    return np.where(norms > SMALL * norms.max(), fan_in, -fan_in)


def ascend(
    start: list[np.ndarray],
    objective: Objective,
    steps: int,
    learning_rate: float,
    *projects: Project,
) -> tuple[list[np.ndarray], float]:
    """Maximises a function of directions by Adam; after every step they are projected back.

    The learning rate falls to zero as a cosine. Adam's second moment is one number for an array,
    so that a step points where the gradient does, and the rate means the same at every site.

    Args:
        start: arrays with a row per neuron.
        objective: their value and gradients.
        steps: how often it is asked.
        learning_rate: of directions of length 1.
        projects: for each array, what takes it back to what is allowed; `unit` if left out.

    Returns:
        The best arrays seen, and their value.
    """
    allowed = projects or (unit,) * len(start)
    at = [project(a) for project, a in zip(allowed, start, strict=True)]
    first = [np.zeros_like(a) for a in at]
    second = [np.zeros_like(a) for a in at]
    best, found = at, -np.inf
    for t in range(1, steps + 1):
        value, gradients = objective(*at)
        if value > found:
            best, found = at, value
        rate = learning_rate * 0.5 * (1 + np.cos(np.pi * (t - 1) / steps))
        moved = []
        for i, (a, g) in enumerate(zip(at, gradients, strict=True)):
            first[i] = BETA_1 * first[i] + (1 - BETA_1) * g
            second[i] = BETA_2 * second[i] + (1 - BETA_2) * g**2
            mean, square = first[i] / (1 - BETA_1**t), second[i] / (1 - BETA_2**t)
            # `rate` for an array whose every row has a gradient of the same size.
            step = mean / (np.sqrt(square.sum() / len(a)) + SMALL)
            moved.append(allowed[i](a + rate * step))
        at = moved
    value, _ = objective(*at)
    return (at, value) if value > found else (best, found)
