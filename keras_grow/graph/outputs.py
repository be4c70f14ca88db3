"""Comparing what two models, or one model at two times, compute."""

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import tree

from keras_grow import _backend, _keras
from keras_grow.errors import GrowthError
from keras_grow.graph import Graph, graph_of, run


@dataclass(frozen=True)
class Report:
    """How far apart two sets of outputs are.

    Attributes:
        max_deviation: the largest absolute difference.
        scale: the largest absolute value of the first outputs.
        tolerance: the relative deviation up to which the function counts as kept.
    """

    max_deviation: float
    scale: float
    tolerance: float = 1e-5

    @property
    def relative(self) -> float:
        """Deviation as a part of the scale."""
        return self.max_deviation / self.scale if self.scale else self.max_deviation

    @property
    def preserved(self) -> bool:
        return bool(self.relative <= self.tolerance)

    def __bool__(self) -> bool:
        return self.preserved

    def __str__(self) -> str:
        verdict = "the same" if self.preserved else "NOT the same"
        return (
            f"{verdict}: largest deviation {self.max_deviation:.3g} at scale {self.scale:.3g} "
            f"(relative {self.relative:.2g}, tolerance {self.tolerance:.0e})"
        )


# Numbers a function can be told from another in low precision: a few units in the last place.
TOLERANCE = {"float64": 1e-5, "float32": 1e-5, "bfloat16": 5e-2, "float16": 5e-3}


def tolerance_of(model: Any) -> float:
    """The tolerance that the least precise layer of the model allows."""
    dtypes = {layer.compute_dtype for layer in _keras.sublayers(model)}
    return max((TOLERANCE.get(d, 1e-5) for d in dtypes), default=1e-5)


def compare(before: list[np.ndarray], after: list[np.ndarray], tolerance: float = 1e-5) -> Report:
    """Compares flat lists of outputs."""
    if len(before) != len(after):
        raise GrowthError(
            "The models have different numbers of outputs, so they cannot be compared. "
            f"Received: {len(before)} and {len(after)}."
        )
    deviation = scale = 0.0
    for a, b in zip(before, after, strict=True):
        if a.shape != b.shape:
            raise GrowthError(f"The outputs have different shapes. Received: {a.shape}, {b.shape}.")
        if a.size:
            a, b = a.astype("float64"), b.astype("float64")
            scale = max(scale, float(np.max(np.abs(a), where=~np.isnan(a), initial=0.0)))
            gap = np.where(np.isnan(a) & np.isnan(b), 0.0, np.abs(a - b))
            deviation = max(deviation, float(np.max(np.nan_to_num(gap, nan=np.inf))))
    return Report(deviation, scale, tolerance)


class Outputs:
    """The inference outputs of a graph as NumPy arrays, made fast for repeated use."""

    def __init__(self, graph: Graph) -> None:
        self.renew(graph)

    def serves(self, graph: Graph) -> bool:
        """Whether this is the graph that is run: the same calls, whatever their widths."""
        return [c.node for c in graph.calls] == [c.node for c in self.graph.calls]

    def renew(self, graph: Graph) -> None:
        """Runs another graph from now on."""
        self.graph = graph
        variables = _keras.state_of(graph.model)

        def forward(mapping: list, x: Any) -> Any:
            full = mapping or [(v, v.value) for v in variables]
            return _keras.pure_call(lambda: run(graph, x, training=False)[0], full)

        self._call = _backend.compiled(forward, variables)

    def __call__(self, x: Any) -> list[np.ndarray]:
        return [_backend.to_numpy(y) for y in tree.flatten(self._call(x))]


def rounded(inputs: Any) -> Any:
    """The inputs with every float moved by one unit in the last place, up or down."""
    rng = np.random.default_rng(0)

    def one(x: Any) -> Any:
        values = _backend.to_numpy(x)
        if values.dtype.kind != "f":
            return x
        unit = np.finfo(values.dtype).eps * rng.choice([-1.0, 1.0], values.shape)
        return keras.ops.convert_to_tensor(values * (1 + unit), x.dtype)

    return tree.map_structure(one, inputs)


def random_inputs(model: Any, seed: int, samples: int = 8) -> Any:
    """Standard normal inputs (integers for integer inputs) in the model's own structure."""
    rng = np.random.default_rng(seed)

    def one(tensor: Any) -> np.ndarray:
        shape = (tensor.shape[0] or samples, *(16 if d is None else d for d in tensor.shape[1:]))
        dtype = keras.backend.standardize_dtype(tensor.dtype)
        if "int" in dtype:
            return rng.integers(0, 2, shape).astype(dtype)
        return rng.standard_normal(shape).astype("float32").astype(dtype)

    return tree.map_structure(one, _keras.input_structure(_keras.functional_of(model)))


def verify(
    before: Any, after: Any, inputs: Any = None, seed: int = 0, tolerance: float | None = None
) -> Report:
    """Whether two models compute the same function.

    Args:
        before, after: models with the same inputs.
        inputs: a batch to compare on; standard normal samples if left out.
        seed: of those samples.
        tolerance: largest deviation as a part of the outputs' scale. By default 1e-5 (float32),
            5e-3 where a layer computes in float16 and 5e-2 in bfloat16.

    Returns:
        A `Report`, true if the function is the same.

    Raises:
        GrowthError: the models' inputs or outputs cannot be compared.
    """
    graphs = graph_of(before), graph_of(after)
    shapes = [[tuple(r.shape) for r in g.inputs] for g in graphs]
    if shapes[0] != shapes[1]:
        raise GrowthError(
            "The two models take different inputs, so their outputs cannot be compared. "
            f"Received: {shapes[0]} and {shapes[1]}."
        )
    if inputs is None:
        inputs = random_inputs(before, seed)
    if tolerance is None:
        tolerance = max(tolerance_of(before), tolerance_of(after))
    inputs = _backend.as_tensors(inputs)
    outputs = [Outputs(g)(inputs) for g in graphs]
    return compare(outputs[0], outputs[1], tolerance)
