"""What growth data says about one site, as NumPy arrays for methods."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, Protocol

import keras
import numpy as np
from keras import ops

from keras_grow import _backend
from keras_grow.graph import Call
from keras_grow.growth.statistics.recording import Record, shares
from keras_grow.growth.statistics.shadows import SiteShadows
from keras_grow.growth.statistics.spectra import DENSE, top_directions, top_of_operator
from keras_grow.rules import Shadow, rule_for
from keras_grow.rules.base import FINITE, LINEAR, ONE_SIDED
from keras_grow.rules.windows import as_rows

# Bytes of columns that are multiplied at a time.
CHUNK = 1 << 26
RIDGE = 1e-6  # part of the mean variance, for least squares


@dataclass(frozen=True, eq=False)
class Response:
    """Gradients of the loss by the fan-outs of channels with given fan-ins.

    Attributes:
        value: (k, fan-out entries).
        pull: turns weights on `value`, of its shape, into the gradient of their product with it
            by the fan-ins, (k, fan-in entries).
    """

    value: np.ndarray
    pull: Callable[[np.ndarray], np.ndarray]


class Gradients(Protocol):
    """What a method can ask about a site. Arrays have a row per neuron.

    Attributes:
        shape: entries of a fan-in and of a fan-out.
        matrix: M (paper, equations 11 and 20), of that shape, float64: a new neuron with zero
            fan-in and fan-out v has the gradient M v by its fan-in.
        exact: whether all growth data was looked at.
    """

    @property
    def shape(self) -> tuple[int, int]: ...
    @property
    def matrix(self) -> np.ndarray: ...
    @property
    def exact(self) -> bool: ...

    def top(self, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Singular values of M, all or the leading ones, and its top k right vectors."""

    def by_fan_in(self, fan_out: np.ndarray) -> np.ndarray:
        """Gradient by zero fan-ins of neurons with these fan-outs: (k, fan-in entries)."""

    def linear(self, fan_in: np.ndarray) -> np.ndarray:
        """These fan-ins times M: (k, fan-out entries)."""

    def one_sided(self, fan_in: np.ndarray) -> np.ndarray:
        """Gradient by the fan-outs, per unit of a small step from zero along these fan-ins."""

    def finite(self, fan_in: np.ndarray) -> Response:
        """Gradient by fan-outs of zero of neurons with these fan-ins, as they are in training."""

    def second_moment(self) -> np.ndarray:
        """Mean over samples and positions of the products of what a fan-in multiplies."""

    def novelty(self, fan_in: np.ndarray) -> Response:
        """How much of a channel with each fan-in is no linear function of the present ones.

        Returns:
            The sum of squares over samples and positions, as consumers see it, (k, 1).
        """

    def unexplained(self, beside: np.ndarray | None = None) -> "Gradients":
        """The same for what no linear update of the present fan-outs can reach.

        Args:
            beside: fan-ins of new neurons that count as present from then on.
        """


class SiteGradients:
    """`Gradients` from the records of growth batches.

    Args:
        shadows: of the site.
        records: of as many batches as fit in memory, at least one.
        matrix: M over all batches, where it was summed up batch by batch.
        exact: whether `records` are all batches.
    """

    def __init__(
        self,
        shadows: SiteShadows,
        records: Sequence[Record],
        matrix: np.ndarray | None = None,
        exact: bool = True,
        beside: np.ndarray | None = None,
    ) -> None:
        self.shadows = shadows
        self.records = records
        self.exact = exact
        self._given = matrix
        self._beside = beside

    @property
    def shape(self) -> tuple[int, int]:
        return self.shadows.shape

    @property
    def small(self) -> bool:
        """Whether M is worth writing down."""
        return min(self.shape) <= DENSE

    @cached_property
    def matrix(self) -> np.ndarray:
        if self._given is not None:
            return self._given
        parts = [
            share * _backend.to_numpy(self.shadows.matrix(record)).astype("float64")
            for record, share in self._shared()
        ]
        return parts[0] if len(parts) == 1 else np.sum(parts, axis=0)

    def top(self, k: int) -> tuple[np.ndarray, np.ndarray]:
        known = self.__dict__.setdefault("_tops", {})
        if k not in known:
            if self._given is not None or self.small:
                known[k] = top_directions(self.matrix, k)
            else:
                known[k] = top_of_operator(
                    lambda v: self.by_fan_in(v).T, lambda u: self.linear(u.T), self.shape, k
                )
        return known[k]

    def linear(self, fan_in: np.ndarray) -> np.ndarray:
        if self._given is not None or "matrix" in self.__dict__ or self.small:
            return fan_in @ self.matrix
        return self._response(fan_in, LINEAR)

    def by_fan_in(self, fan_out: np.ndarray) -> np.ndarray:
        if self._given is not None or "matrix" in self.__dict__ or self.small:
            return (self.matrix @ fan_out.T).T
        return self._pulled(np.zeros((len(fan_out), self.shape[0])), LINEAR).pull(fan_out)

    def one_sided(self, fan_in: np.ndarray) -> np.ndarray:
        return self._response(fan_in, ONE_SIDED)

    def finite(self, fan_in: np.ndarray) -> Response:
        return self._pulled(fan_in, FINITE)

    def moments(self, fan_in: np.ndarray) -> dict[Call, tuple[np.ndarray, np.ndarray]]:
        """Mean and variance that batch normalisations take of channels with these fan-ins.

        By call; (channels,) each. They come from the first batch.
        """
        noted: dict[Call, Any] = {}
        self.shadows.response(self.records[0], _tensor(fan_in.T), FINITE, noted)
        return {c: (_backend.to_numpy(m), _backend.to_numpy(v)) for c, (m, v) in noted.items()}

    def second_moment(self) -> np.ndarray:
        sizes = self.shadows.fan_in_sizes
        total = np.zeros((sum(sizes),) * 2)
        for record, share in self._shared():
            start = 0
            for parts, size in zip(self.shadows.inputs(record), sizes, strict=True):
                stop = start + size
                found = [_mean_product(x, x, axis, axis) for x, axis in parts]
                total[start:stop, start:stop] += share * np.mean(found, axis=0)
                start = stop
        return total

    def novelty(self, fan_in: np.ndarray) -> Response:
        present = [self._present(record) for record in self.records]
        inverse = []
        for record_rows in present:
            inverse.append([_inverse(_product(rows, rows)) for rows in record_rows])

        def energy(index: int, w: Any) -> Any:
            total = 0.0
            channels = self.shadows.channels(self.records[index], w)
            pairs = zip(channels, present[index], inverse[index], strict=True)
            for (_, shadow), rows, inner in pairs:
                own = as_rows(shadow.tensor, shadow.axis)
                shared = ops.matmul(ops.transpose(own), rows)
                within = ops.sum(ops.matmul(shared, _like(inner, own)) * shared, axis=1)
                belongs = np.eye(int(w.shape[1]))[shadow.ids]
                total = total + ops.matmul(
                    ops.expand_dims(ops.sum(own * own, axis=0) - within, 0), _like(belongs, own)
                )
            return ops.transpose(total)

        return self._summed([partial(energy, i) for i in range(len(present))], fan_in)

    def _present(self, record: Record) -> list[Any]:
        """What consumers read now, as rows of channels, by call that reads new ones."""
        found = []
        for call, extra in self._reading(record):
            axis = self.shadows.plan.states[call.inputs[0]].axis
            rows = as_rows(record.tensors[call.inputs[0]], axis)
            if extra is not None:
                rows = ops.concatenate([rows, as_rows(extra.tensor, extra.axis)], axis=1)
            found.append(rows)
        return found

    def _reading(self, record: Record) -> list[tuple[Call, Shadow | None]]:
        """Calls that read new channels, with those that count as present."""
        count = 1 if self._beside is None else len(self._beside)
        some = np.zeros((count, self.shape[0])) if self._beside is None else self._beside
        channels = self.shadows.channels(record, _tensor(some.T))
        return [(call, None if self._beside is None else shadow) for call, shadow in channels]

    def unexplained(self, beside: np.ndarray | None = None) -> "SiteGradients":
        if beside is not None and self._beside is not None:
            beside = np.concatenate([self._beside, beside])
        if beside is None:
            beside = self._beside
        counted = SiteGradients(self.shadows, self.records, exact=self.exact, beside=beside)
        records = [counted._without_present(record) for record in self.records]
        return SiteGradients(self.shadows, records, exact=self.exact, beside=beside)

    def _without_present(self, record: Record) -> Record:
        """The record with the gradient that a step of the present kernels could use taken off."""
        gradients = dict(record.gradients)
        for call, extra in self._reading(record):
            x = record.tensors[call.inputs[0]]
            if extra is not None:
                x = ops.concatenate([x, ops.cast(extra.tensor, x.dtype)], axis=extra.axis)
            gradients[call] = _residual(call, x, gradients[call])
        return replace(record, gradients=gradients)

    def _shared(self) -> list[tuple[Record, float]]:
        return list(zip(self.records, shares(self.records), strict=True))

    def _response(self, fan_in: np.ndarray, mode: str) -> np.ndarray:
        parts = [
            share
            * _backend.to_numpy(self.shadows.response(record, _tensor(fan_in.T), mode)).astype(
                "float64"
            )
            for record, share in self._shared()
        ]
        return parts[0] if len(parts) == 1 else np.sum(parts, axis=0)

    def _pulled(self, fan_in: np.ndarray, mode: str) -> Response:
        functions = [
            lambda w, record=record: self.shadows.response(record, w, mode)
            for record in self.records
        ]
        return self._summed(functions, fan_in)

    def _summed(self, functions: Sequence[Callable[[Any], Any]], fan_in: np.ndarray) -> Response:
        """The mean over the batches of functions of the fan-ins, one for each batch."""
        columns = _tensor(fan_in.T)
        value: Any = 0.0
        pulls = []
        for function, share in zip(functions, shares(self.records), strict=True):
            part, pull = _backend.pullback(function, columns)
            value = value + share * _backend.to_numpy(part).astype("float64")
            pulls.append((pull, share))

        def back(weights: np.ndarray) -> np.ndarray:
            parts = [
                _backend.to_numpy(pull(_tensor(share * weights))).astype("float64")
                for pull, share in pulls
            ]
            return np.sum(parts, axis=0).T

        return Response(np.asarray(value), back)


def _tensor(array: np.ndarray) -> Any:
    floatx = keras.backend.floatx()
    dtype = floatx if floatx in ("float32", "float64") else "float32"
    return ops.convert_to_tensor(np.ascontiguousarray(array).astype(dtype))


def _like(array: np.ndarray, tensor: Any) -> Any:
    return ops.cast(_tensor(array), tensor.dtype)


def _product(a: Any, b: Any) -> np.ndarray:
    return _backend.to_numpy(_backend.matrix_product(a, b)).astype("float64")


def _inverse(square: np.ndarray) -> np.ndarray:
    """With a small ridge: inputs of relu networks are often linearly dependent."""
    ridge = RIDGE * np.trace(square) / max(len(square), 1) + 1e-30
    return np.linalg.inv(square + ridge * np.eye(len(square)))


def _mean_product(a: Any, b: Any, a_axis: int, b_axis: int) -> np.ndarray:
    """a'b / rows of two tensors seen as rows of channels, sample block by sample block."""
    samples = int(a.shape[0])
    per_sample = 4 * (int(np.prod(a.shape)) + int(np.prod(b.shape))) // samples
    block = max(1, CHUNK // max(per_sample, 1))
    total: Any = 0.0
    rows = 0
    for start in range(0, samples, block):
        left = as_rows(a[start : start + block], a_axis)
        right = as_rows(b[start : start + block], b_axis)
        total = total + _backend.to_numpy(_backend.matrix_product(left, right)).astype("float64")
        rows += int(left.shape[0])
    return np.asarray(total) / rows


def _residual(call: Call, x: Any, gradient: Any) -> Any:
    """The gradient less its best approximation by a linear function of the kernel's inputs."""
    rule = rule_for(call.op)
    patches = rule.patches(call, x)
    inputs, axis = patches.tensor, patches.axis
    square = _mean_product(inputs, inputs, axis, axis)
    cross = _mean_product(inputs, gradient, axis, axis)
    kernel = _inverse(square) @ cross
    fitted, _ = rule.respond(call, x, ops.cast(_tensor(kernel), x.dtype))
    return gradient - fitted
