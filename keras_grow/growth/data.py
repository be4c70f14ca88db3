"""Growth data of any kind as checked batches of NumPy arrays."""

import inspect
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import keras
import numpy as np
from keras import tree

from keras_grow.errors import DataError, check_whole, shown
from keras_grow.graph import Graph

Batch = tuple[Any, Any, Any]


class Batches:
    """The batches of one growth event, drawn as they are asked for. Iterates once.

    Attributes:
        first: the first of them.
    """

    def __init__(self, first: Batch, more: Iterable[Batch] = ()) -> None:
        self.first = first
        self._more = more

    def __iter__(self) -> Iterator[Batch]:
        yield self.first
        yield from self._more


class GrowthData:
    """Draws batches (x, y, sample_weight) for the statistics of growth events.

    Args:
        data: arrays as a tuple (x, y) or (x, y, sample_weight); a `tf.data.Dataset`, torch
            `DataLoader`, `keras.utils.PyDataset` or another iterable of batches, a list too; or
            a callable that returns one batch, or (a generator function) an iterable of them.
        batch_size: samples drawn from arrays for an event, all of them if there are fewer.
        seed: of the draw from arrays.

    Attributes:
        size: samples, where they are known: of arrays.

    Raises:
        DataError: nothing that batches can be drawn from.
    """

    def __init__(self, data: Any, batch_size: int, seed: int) -> None:
        if data is None:
            raise DataError(
                "Growth data is missing. Pass data=(x, y), a dataset, a DataLoader, a PyDataset "
                "or a function that returns a batch."
            )
        check_whole("batch_size", batch_size, 1)
        self.batch_size = batch_size
        self.seed = seed
        self._data = data
        self.size: int | None = None
        self._draw = self._source(data)

    def batch(self, number: int, graph: Graph) -> Batch:
        """Batch for growth event `number`, checked against the model's inputs.

        Raises:
            DataError: it is empty, of the wrong structure or shape, or not finite.
        """
        return self._checked(self._draw(number), graph)

    def batches(self, number: int, graph: Graph, count: int | None = 1) -> Batches:
        """Batches for growth event `number`, each checked like one of `batch`.

        Args:
            count: how many; None for all the data, once. A generator is read to its end, which
                it must have.

        Raises:
            DataError: as `batch`, for the first here and for others as they are drawn; or all the
                data is wanted of a function or of a data set without end.
        """
        if count is None:
            drawn = (self._checked(b, graph) for b in self._all())
            if (first := next(drawn, None)) is None:
                raise DataError(
                    "The growth data is empty. Received: an iterable without batches, or one that "
                    "can be read only once and has been."
                )
            return Batches(first, drawn)
        first = self.batch(number * count, graph)
        return Batches(first, (self.batch(number * count + i, graph) for i in range(1, count)))

    def _all(self) -> Iterator[Any]:
        data = self._data
        if isinstance(data, keras.utils.PyDataset):
            return (data[i] for i in range(_length(data)))
        if self.size is not None:
            starts = range(0, self.size, self.batch_size)
            parts = tuple(data) if isinstance(data, (tuple, list)) else (data,)
            return (_part(parts, slice(a, a + self.batch_size)) for a in starts)
        if isinstance(self._draw, _Cycle):
            if _endless(data):
                raise DataError(
                    "batches=None looks at all the growth data, but this data set repeats without "
                    f"end. Pass batches=N, or leave out repeat(). Received: {type(data).__name__}."
                )
            return (tuple(b) if isinstance(b, list) else b for b in data)
        raise DataError(
            "batches=None looks at all the growth data, but a function has no end. Pass "
            f"batches=N, or arrays or a dataset. Received: {type(data).__name__}."
        )

    def _checked(self, drawn: Any, graph: Graph) -> Batch:
        if not _is_batch(drawn):
            raise DataError(
                "The growth data must give batches (x, y) or (x, y, sample_weight) of arrays. "
                f"Received: {shown(drawn)}."
            )
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(drawn)
        x, y, sample_weight = (
            None if part is None else tree.map_structure(_array, part)
            for part in (x, y, sample_weight)
        )
        check(x, y, sample_weight, graph)
        return x, y, sample_weight

    def _source(self, data: Any) -> Callable[[int], Any]:
        if isinstance(data, keras.utils.PyDataset):
            return lambda number: data[number % _length(data)]
        if isinstance(data, list) and data and all(isinstance(b, tuple) for b in data):
            return _Cycle(data)  # batches; arrays may be in a list too, but are no tuples
        if isinstance(data, (tuple, list, dict, np.ndarray)) or _is_tensor(data):
            return self._from_arrays(data)
        if hasattr(data, "__iter__") and not isinstance(data, (str, bytes)):
            return _Cycle(data)
        if inspect.isgeneratorfunction(data):
            _check_takes_nothing(data)
            self._data = _Calls(data)
            return _Cycle(self._data)
        if callable(data):
            _check_takes_nothing(data)
            return lambda number: data()
        raise DataError(
            "Growth data must be arrays, a tf.data.Dataset, a torch DataLoader, a PyDataset, an "
            f"iterable of batches or a function. Received: {type(data).__name__}."
        )

    def _from_arrays(self, data: Any) -> Callable[[int], Any]:
        parts = tuple(data) if isinstance(data, (tuple, list)) else (data,)
        if not 1 <= len(parts) <= 3:
            raise DataError(
                "Growth data as arrays must be (x,), (x, y) or (x, y, sample_weight). "
                f"Received: {len(parts)} parts."
            )
        for leaf in tree.flatten(parts):
            if leaf is not None and not getattr(leaf, "shape", None):
                raise DataError(
                    "Growth data must be arrays with the samples along their first axis; convert "
                    f"lists with np.asarray. Received: {leaf!r} ({type(leaf).__name__})."
                )
        sizes = {len(leaf) for leaf in tree.flatten(parts) if leaf is not None}
        if len(sizes) != 1:
            raise DataError(
                f"The growth data's arrays have different numbers of samples. Received: {sizes}."
            )
        (size,) = sizes
        if size == 0:
            raise DataError("The growth data is empty. Received: 0 samples.")
        self.size = size

        def draw(number: int) -> Any:
            if size <= self.batch_size:
                chosen: Any = slice(None)
            else:
                rng = np.random.default_rng([self.seed, number])
                chosen = np.sort(rng.choice(size, self.batch_size, replace=False))
            return _part(parts, chosen)

        return draw


def _part(parts: tuple, chosen: Any) -> tuple:
    return tuple(None if p is None else tree.map_structure(lambda a: a[chosen], p) for p in parts)


class _Cycle:
    """Batches of an iterable, one after another, starting again at its end."""

    def __init__(self, data: Any) -> None:
        self.data = data
        self.iterator: Iterator | None = None

    def __call__(self, number: int) -> Any:
        for _ in range(2):
            if self.iterator is None:
                self.iterator = iter(self.data)
            for batch in self.iterator:
                return tuple(batch) if isinstance(batch, list) else batch
            self.iterator = None
        raise DataError("The growth data is empty. Received: an iterable without batches.")


class _Calls:
    """The batches of a generator function, which is called for every pass over them."""

    def __init__(self, function: Callable[[], Iterator]) -> None:
        self.function = function

    def __iter__(self) -> Iterator:
        return iter(self.function())


def _check_takes_nothing(function: Callable) -> None:
    try:
        inspect.signature(function).bind()
    except TypeError as error:
        raise DataError(
            "A function as growth data is called without arguments and returns a batch. "
            f"Received: one that cannot be called so ({error})."
        ) from None
    except ValueError:  # written in C, with no signature that Python can see
        return


def _endless(data: Any) -> bool:
    """Whether a `tf.data.Dataset` says that it has no end."""
    cardinality = getattr(data, "cardinality", None)
    return callable(cardinality) and int(cardinality()) == -1  # tf.data.INFINITE_CARDINALITY


def _is_batch(drawn: Any) -> bool:
    if isinstance(drawn, (tuple, list)) and (not 1 <= len(drawn) <= 3 or drawn[0] is None):
        return False
    leaves = [leaf for leaf in tree.flatten(drawn) if leaf is not None]
    return bool(leaves) and all(len(getattr(leaf, "shape", ())) > 0 for leaf in leaves)


def _length(data: Any) -> int:
    count = data.num_batches
    if not count:
        raise DataError("The growth data is empty. Received: a PyDataset without batches.")
    return count


def _is_tensor(data: Any) -> bool:
    return keras.ops.is_tensor(data)


def _array(leaf: Any) -> np.ndarray:
    """A NumPy array in the precision Keras would feed; tensors of any framework are taken."""
    if hasattr(leaf, "detach"):
        leaf = leaf.detach().cpu()
    array = np.asarray(leaf)
    if array.dtype.kind == "f" and array.dtype.itemsize > 2:
        array = array.astype(keras.backend.floatx(), copy=False)
    return array


def check(x: Any, y: Any, sample_weight: Any, graph: Graph) -> None:
    """Raises DataError unless x fits the model's inputs and all values are finite."""
    model = graph.model.name
    leaves = [leaf for leaf in tree.flatten(x) if leaf is not None]
    if len(leaves) != len(graph.inputs):
        raise DataError(
            f"Model '{model}' has {len(graph.inputs)} inputs, but the growth data has "
            f"{len(leaves)}. Pass x as the model takes it, in (x, y)."
        )
    if isinstance(x, dict):
        names = [r.tensors[0].name for r in graph.inputs]
        if missing := [n for n in names if n not in x]:
            raise DataError(
                f"The growth data has no value for input {missing} of model '{model}', whose "
                f"inputs are {names}. Received: a dict of {sorted(x)}."
            )
    ordered = [x[r.tensors[0].name] for r in graph.inputs] if isinstance(x, dict) else leaves
    for leaf, ref in zip(ordered, graph.inputs, strict=True):
        expected = ref.shape
        if len(leaf) == 0:
            raise DataError("The growth data is empty. Received: a batch of 0 samples.")
        fits = len(leaf.shape) == len(expected) and all(
            e is None or e == g for e, g in zip(expected[1:], leaf.shape[1:], strict=True)
        )
        if not fits:
            raise DataError(
                f"The growth data does not fit input '{ref.tensors[0].name}' of model '{model}', "
                f"which takes {expected}. Received: shape {tuple(leaf.shape)}."
            )
    for name, part in (("x", x), ("y", y), ("sample_weight", sample_weight)):
        for leaf in tree.flatten(part):
            if leaf is None:
                continue
            if len(leaf.shape) and len(leaf) != len(leaves[0]):
                raise DataError(
                    f"The growth data's {name} has {len(leaf)} samples, x has {len(leaves[0])}."
                )
            if leaf.dtype.kind not in "biufV":  # V: bfloat16
                raise DataError(
                    f"The growth data's {name} must be numbers. Received: values of type "
                    f"{leaf.dtype}."
                )
            # A sum is not finite as soon as one value is not; cheaper than testing each.
            if leaf.dtype.kind == "f" and not np.isfinite(leaf.sum(dtype="float64")):
                raise DataError(
                    f"The growth data's {name} holds NaN or infinite values. "
                    "Clean it or pass other data."
                )
