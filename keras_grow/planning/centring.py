"""Where the mean over the channels can be taken off all that writes a tensor.

A layer normalisation subtracts the mean of the channels, so nobody notices when its input loses
that mean before. If everything that writes the tensor is linear and everything that reads it is a
layer normalisation, the writers can be centred once, and zeros appended to the tensor then leave
its mean where it was: at zero (SliceGPT, Ashkboos et al. 2024).
"""

from typing import Any

from keras_grow.graph import Call, Graph, Ref
from keras_grow.rules import rule_for
from keras_grow.rules.normalization import LayerNormalizationRule


def writers_of(graph: Graph, call: Call, axis: int) -> list[tuple[Any, int]] | None:
    """Weights to be centred so that the input of a layer normalisation has mean zero.

    Args:
        axis: of the channels, in the input of `call`.

    Returns:
        Variables with the axis to take the mean over; None where it cannot be done.
    """
    weights: dict[int, tuple[Any, int]] = {}
    users: set[int] = set()
    outputs = set(graph.outputs)
    seen: set[Ref] = set()
    queue = [call.inputs[0]]
    while queue:
        ref = queue.pop()
        if ref in seen:
            continue
        seen.add(ref)
        maker = ref.maker
        if maker is None or ref in outputs or ref.rank != call.inputs[0].rank:
            return None
        if rule_for(maker.op).adds(maker):
            queue += maker.inputs
        else:
            written = rule_for(maker.op).writes(maker)
            if written is None:
                return None
            weights.update({id(variable): (variable, a) for variable, a in written})
            users.add(id(maker.op))
        for reader in graph.consumers.get(ref, []):
            rule = rule_for(reader.op)
            if rule.adds(reader):
                queue += reader.outputs
            elif not (isinstance(rule, LayerNormalizationRule) and rule.foldable(reader, axis)):
                return None
            else:
                users.add(id(reader.op))
    for other in graph.calls:  # a shared writer or reader must be used in the same way everywhere
        if id(other.op) in users and seen.isdisjoint([*other.inputs, *other.outputs]):
            return None
    return list(weights.values())
