"""Statistics of a site from bare arrays, for tests of methods without a model."""

import numpy as np

from keras_grow.growth.statistics import Response, top_directions


class FromMatrix:
    """`Gradients` of a site whose new channels are linear: everything follows from M."""

    exact = True

    def __init__(self, matrix, moment=None):
        self.matrix = matrix
        self.shape = matrix.shape
        self.moment = np.eye(len(matrix)) if moment is None else moment

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

    def unexplained(self):
        return self
