"""What a model costs: parameters, and forward FLOPs now or after a plan."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from keras_grow.graph import Graph, Ref
from keras_grow.rules import rule_for


def graph_flops(
    graph: Graph,
    grown: Iterable[tuple[Ref, int, int]] = (),
    new_shapes: Mapping[int, tuple[Any, tuple]] | None = None,
) -> float:
    """FLOPs of one sample's forward pass: two per multiply-add of a kernel.

    Counted are the products with kernels and, in attention, those of queries, keys and values, as
    is usual; unknown sizes count as 1.

    Args:
        grown: tensors with another size along one axis, as `Plan.tensors` lists them.
        new_shapes: of variables, as `Plan.new_shapes` gives them.
    """
    sizes = {ref: (axis, size) for ref, axis, size in grown}

    def shape(ref: Ref) -> tuple:
        if ref not in sizes:
            return ref.shape
        axis, size = sizes[ref]
        return (*ref.shape[:axis], size, *ref.shape[axis + 1 :])

    changed = new_shapes or {}

    def weights(variable: Any) -> tuple:
        return changed[id(variable)][1] if id(variable) in changed else tuple(variable.shape)

    return sum(
        rule_for(c.op).cost(c, [shape(r) for r in c.inputs], [shape(r) for r in c.outputs], weights)
        for c in graph.calls
    )


@dataclass(frozen=True)
class Size:
    """How large a model is.

    Attributes:
        parameters: numbers in its weights, trainable or not.
        flops: of one sample's forward pass.
    """

    parameters: int
    flops: float

    @classmethod
    def of(cls, graph: Graph) -> "Size":
        return cls(graph.model.count_params(), graph_flops(graph))
