"""Forward FLOPs of a graph, now or after a plan."""

from collections.abc import Iterable

from keras_grow.graph import Graph, Ref
from keras_grow.rules import rule_for


def graph_flops(graph: Graph, grown: Iterable[tuple[Ref, int, int]] = ()) -> float:
    """FLOPs of one sample's forward pass: two per multiply-add of a kernel.

    Counted are dense, convolution, depthwise and separable layers, as is usual; unknown sizes
    count as 1.

    Args:
        grown: tensors with another size along one axis, as `Plan.tensors` lists them.
    """
    sizes = {ref: (axis, size) for ref, axis, size in grown}

    def shape(ref: Ref) -> tuple:
        if ref not in sizes:
            return ref.shape
        axis, size = sizes[ref]
        return (*ref.shape[:axis], size, *ref.shape[axis + 1 :])

    return sum(
        rule_for(c.op).flops(c, [shape(r) for r in c.inputs], [shape(r) for r in c.outputs])
        for c in graph.calls
    )
