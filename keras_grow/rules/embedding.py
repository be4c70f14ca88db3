"""Embeddings: every channel is a column of the table."""

from typing import Any

import keras

from keras_grow import _keras
from keras_grow.graph import Call
from keras_grow.rules.base import Rule
from keras_grow.rules.passing import existing
from keras_grow.rules.registry import register
from keras_grow.rules.space import Channels, Production, Space, along
from keras_grow.rules.weighted import plain_kernel, size_of


@register(keras.layers.Embedding)
class EmbeddingRule(Rule):
    """The table is (input_dim, output_dim). Integers come in, so no channels end here."""

    def flow(self, call: Call, inputs: list, space: Space) -> list:
        return [self.look_up(call, inputs, space)]

    def writes(self, call: Call) -> list[tuple[Any, int]] | None:
        return [(_keras.table_of(call.op), 1)]

    def look_up(self, call: Call, inputs: list, space: Space) -> Channels | None:
        if any(x is not None for x in inputs):
            space.refuse(call, inputs, "looks its input up, so a new channel would be an index")
        if not plain_kernel(call, inputs, space):
            return None
        return self.made(call, space, call.outputs[0].rank - 1)

    def made(self, call: Call, space: Space, axis: int) -> Channels | None:
        return space.produce(call, Production([(_keras.table_of(call.op), 1)], axis, "output_dim"))


@register(*existing("ReversibleEmbedding"))
class ReversibleRule(EmbeddingRule):
    """With `reverse=True` it multiplies with the transposed table instead, or with another one."""

    def mode(self, call: Call) -> str:
        return "reverse" if _reversed(call) else ""

    def writes(self, call: Call) -> list[tuple[Any, int]] | None:
        return None if call.op.tie_weights or _reversed(call) else super().writes(call)

    def flow(self, call: Call, inputs: list, space: Space) -> list:
        (x,) = inputs
        if not _reversed(call):
            return [self.look_up(call, inputs, space)]
        layer, last = call.op, call.inputs[0].rank - 1
        if not plain_kernel(call, inputs, space):
            return [None]
        x = along(space, call, x, last)
        if not layer.tie_weights:
            if x is not None:
                space.read(call, layer.reverse_embeddings, 0, x)
            return [None]
        made = self.made(call, space, last)
        if x is None or made is None:
            space.refuse(
                call,
                [x, made],
                "uses one table both ways, and the channels it turns back into tokens cannot grow "
                "with it; pass tie_weights=False",
            )
            return [None]
        # The table's new columns are zero in the outgoing form, so x may be anything there.
        joined = space.join(call, [made, x])
        if any(made.values[joined.labels < 0] != 0) and any(x.values[joined.labels < 0] != 0):
            space.refuse(
                call,
                [made, x],
                "uses one table both ways, which keeps the function only with new columns of "
                "zeros: use form='outgoing'",
            )
        return [None]

    def flops(self, call: Call, inputs: list, outputs: list) -> float:
        return 2.0 * size_of(inputs[0]) * call.op.input_dim if _reversed(call) else 0.0


def _reversed(call: Call) -> bool:
    return bool(_keras.call_arguments(call.node).get("reverse", False))
