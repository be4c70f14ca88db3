"""What growth data says about one site, as NumPy arrays for methods."""

from collections.abc import Callable, Iterator, Sequence
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
from keras_grow.rules.shadows import FINITE, LINEAR, ONE_SIDED
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
        present_entries: the most inputs that a reader's present kernel combines: the size of the
            least-squares fit behind `unexplained`.
    """

    @property
    def shape(self) -> tuple[int, int]: ...
    @property
    def matrix(self) -> np.ndarray: ...
    @property
    def exact(self) -> bool: ...
    @property
    def present_entries(self) -> int: ...

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

    def input_power(self) -> np.ndarray:
        """The diagonal of `second_moment`, (fan-in entries,), without the rest of it."""

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
    def present_entries(self) -> int:
        shapes = [tuple(slot.edit.variable.shape) for slot in self.shadows.slots]
        return max((int(np.prod(shape[:-1])) for shape in shapes), default=0)

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
        self.shadows.channels(self.records[0], _tensor(fan_in.T), noted)
        return {c: (_backend.to_numpy(m), _backend.to_numpy(v)) for c, (m, v) in noted.items()}

    def input_power(self) -> np.ndarray:
        total = np.zeros(0)
        for record, share in self._shared():
            parts = []
            for producer in self.shadows.inputs(record):
                found = [_mean_square(x, axis) for x, axis in producer]
                parts.append(share * np.mean(found, axis=0))
            row = np.concatenate(parts)
            total = total + row if len(total) else row
        return total

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
        squares = [_product(rows, rows) for rows in present[0]]
        for more in present[1:]:
            squares = [s + _product(rows, rows) for s, rows in zip(squares, more, strict=True)]
        inverses = [_inverse(square) for square in squares]

        def channels(index: int, w: Any) -> Iterator[tuple[Any, Any, np.ndarray]]:
            """What consumers see of new channels, its products with what they see now, its ids."""
            found = self.shadows.channels(self.records[index], w)
            for (_, shadow), rows in zip(found, present[index], strict=True):
                own = as_rows(shadow.tensor, shadow.axis)
                yield own, ops.matmul(ops.transpose(own), rows), shadow.ids

        products = []  # by batch and call; one batch finds its own by itself
        if len(present) > 1:
            columns = _tensor(fan_in.T)
            for index in range(len(present)):
                found = [_backend.to_numpy(p) for _, p, _ in channels(index, columns)]
                products.append([f.astype("float64") for f in found])

        def energy(index: int, w: Any) -> Any:
            """The batch's part, with the gradient of the whole: |h|^2 - (h'X)(X'X)^-1(X'h).

            The coefficients (h'X)(X'X)^-1 are the least-squares fit over all batches. They may be
            held fixed: at the optimum the energy does not change with them.
            """
            total = 0.0
            for place, (own, shared, ids) in enumerate(channels(index, w)):
                all_shared = ops.stop_gradient(shared)
                for other, theirs in enumerate(products):
                    if other != index:
                        all_shared = all_shared + _like(theirs[place], own)
                fit = ops.matmul(all_shared, _like(inverses[place], own))
                within = ops.sum(fit * (2 * shared - ops.stop_gradient(shared)), axis=1)
                belongs = np.eye(int(w.shape[1]))[ids]
                total = total + ops.matmul(
                    ops.expand_dims(ops.sum(own * own, axis=0) - within, 0), _like(belongs, own)
                )
            return ops.transpose(total)

        parts = [partial(energy, index) for index in range(len(present))]
        return self._summed(parts, fan_in, [1.0] * len(parts))

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
        return SiteGradients(
            self.shadows, counted._without_present(), exact=self.exact, beside=beside
        )

    def _without_present(self) -> list[Record]:
        """The records with the gradient that a step of the present kernels could use taken off.

        That step is the least-squares fit over all batches.
        """
        squares: dict[Call, Any] = {}
        crosses: dict[Call, Any] = {}
        for record, share in self._shared():
            for call, x in self._seen(record):
                patches = rule_for(call.op).patches(call, x)
                inputs, axis = patches.tensor, patches.axis
                square = _sum_of_products(inputs, inputs, axis, axis)
                cross = _sum_of_products(inputs, record.gradients[call], axis, axis)
                squares[call] = squares.get(call, 0.0) + square
                crosses[call] = crosses.get(call, 0.0) + share * cross
        kernels = {call: _inverse(squares[call]) @ crosses[call] for call in squares}
        found = []
        for record, share in self._shared():
            gradients = dict(record.gradients)
            for call, x in self._seen(record):
                kernel = ops.cast(_tensor(kernels[call] / share), x.dtype)
                fitted, _ = rule_for(call.op).respond(call, x, kernel)
                gradients[call] = gradients[call] - fitted
            found.append(replace(record, gradients=gradients))
        return found

    def _seen(self, record: Record) -> Iterator[tuple[Call, Any]]:
        """What each call that reads new channels sees of those that are present."""
        for call, extra in self._reading(record):
            ref = call.inputs[0]
            x = record.tensors[ref]
            if extra is not None:
                x = ops.concatenate([x, ops.cast(extra.tensor, x.dtype)], axis=extra.axis)
            yield call, record.counted(ref, x, self.shadows.plan.states[ref].axis)

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

    def _summed(
        self,
        functions: Sequence[Callable[[Any], Any]],
        fan_in: np.ndarray,
        weights: Sequence[float] | None = None,
    ) -> Response:
        """The weighted sum over the batches of functions of the fan-ins, by default the mean."""
        columns = _tensor(fan_in.T)
        value: Any = 0.0
        pulls = []
        counted = shares(self.records) if weights is None else weights
        for function, share in zip(functions, counted, strict=True):
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
    """a'b / rows of two tensors seen as rows of channels."""
    rows = int(np.prod(a.shape)) // int(a.shape[a_axis])
    return _sum_of_products(a, b, a_axis, b_axis) / rows


def _mean_square(x: Any, axis: int) -> np.ndarray:
    """The mean square of every channel, over all its other axes."""
    others = [a for a in range(len(x.shape)) if a != axis]
    return _backend.to_numpy(ops.mean(ops.square(x), axis=others)).astype("float64")


def _sum_of_products(a: Any, b: Any, a_axis: int, b_axis: int) -> np.ndarray:
    """a'b of two tensors seen as rows of channels, sample block by sample block."""
    samples = int(a.shape[0])
    per_sample = 4 * (int(np.prod(a.shape)) + int(np.prod(b.shape))) // samples
    block = max(1, CHUNK // max(per_sample, 1))
    total: Any = 0.0
    for start in range(0, samples, block):
        left = as_rows(a[start : start + block], a_axis)
        right = as_rows(b[start : start + block], b_axis)
        total = total + _backend.to_numpy(_backend.matrix_product(left, right)).astype("float64")
    return np.asarray(total)
