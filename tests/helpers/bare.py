"""Statistics of a site from bare arrays, for tests of methods without a model."""

import numpy as np

from keras_grow.growth.statistics import Response, top_directions


class FromMatrix:
    """`Gradients` of a site whose new channels are linear: everything follows from M and S.

    With inputs X a channel is X u, M = X'G and S = X'X for the gradient G. The site has no neurons
    yet, so all of a channel is new but what those `beside` explain.

    Args:
        matrix: M.
        moment: S; the identity if left out.
        beside: fan-ins of neurons that count as present.
    """

    exact = True
    present_entries = 0

    def __init__(self, matrix, moment=None, beside=None):
        self.matrix = matrix
        self.shape = matrix.shape
        self.moment = np.eye(len(matrix)) if moment is None else moment
        self.beside = np.zeros((0, len(matrix))) if beside is None else beside

    def top(self, k):
        return top_directions(self.matrix, k)

    def by_fan_in(self, fan_out):
        return fan_out @ self.matrix.T

    def linear(self, fan_in):
        return fan_in @ self.matrix

    one_sided = linear

    def finite(self, fan_in):
        return Response(fan_in @ self.matrix, lambda weights: weights @ self.matrix.T)

    def second_moment(self):
        return self.moment

    def input_power(self):
        return np.diag(self.moment)

    def without_those_beside(self, columns):
        """X'A turned into X'A', with A' what of A is no linear function of the channels X B."""
        read = self.moment @ self.beside.T
        return columns - read @ np.linalg.pinv(self.beside @ read) @ (self.beside @ columns)

    def novelty(self, fan_in):
        new = self.without_those_beside(self.moment)
        value = ((fan_in @ new) * fan_in).sum(axis=1, keepdims=True)
        return Response(value, lambda weights: 2 * weights * (fan_in @ new))

    def unexplained(self, beside=None):
        rows = self.beside if beside is None else np.concatenate([self.beside, beside])
        left = FromMatrix(self.matrix, self.moment, rows)
        left.matrix = left.without_those_beside(self.matrix)
        return left
