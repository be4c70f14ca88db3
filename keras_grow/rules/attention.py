"""MultiHeadAttention and GroupQueryAttention: the stream they read and write, and their insides.

Inside, three kinds of channels can grow, each named as a part of the layer:

* `num_heads` (`num_key_value_heads`): a new head's value kernel is zero, so it adds nothing;
  its queries and keys may be anything. Its rows of the output kernel are the fan-out.
* `key_dim`: a new entry of every head's query is zero, which leaves q . k alone; the scores are
  divided by sqrt(key_dim), so the old queries are multiplied by sqrt((d + k) / d).
* `value_dim`: a new entry of every head's value is zero; the output kernel's rows are the fan-out.

GroupQueryAttention has one `head_dim` for queries, keys and values.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import keras
import numpy as np

from keras_grow import _backend, _keras
from keras_grow.graph import Call
from keras_grow.rules.base import Rule
from keras_grow.rules.passing import existing
from keras_grow.rules.registry import register
from keras_grow.rules.space import LIKE_OLD, Channels, Production, Space, Weight, along
from keras_grow.rules.values import unknown

# A kernel of queries, keys or values is (in, heads, head size) and its bias (heads, head size);
# the output kernel is (heads, head size, *out).
HEADS, SIZE = 1, 2


class HeadedAttention(Rule):
    """What both layers share: what comes in, and what goes out."""

    def flow(self, call: Call, inputs: list, space: Space) -> list:
        projections = _keras.projections(call.op)
        for projection in projections.values():
            reason = _keras.derived_kernel(projection)
            if reason is not None:
                space.refuse(call, inputs, f"has projections inside and one of them {reason}")
                return [None] * len(call.outputs)
        arguments = self._arguments(call, inputs, space)
        self._read(call, arguments, projections, space)
        scores = self.inside(call, projections, space)
        out = self.write(call, arguments.get("query"), projections["output"], space)
        return [out, *([scores] if len(call.outputs) > 1 else [])]

    def inside(self, call: Call, projections: dict[str, Any], space: Space) -> Channels | None:
        """The channels inside; returns those of the scores, whose axis 1 is that of the heads."""
        raise NotImplementedError

    def write(
        self, call: Call, query: Channels | None, output: Any, space: Space
    ) -> Channels | None:
        """The channels of the output."""
        raise NotImplementedError

    def _arguments(self, call: Call, inputs: list, space: Space) -> dict[str, Channels | None]:
        """Channels of query, value and key; masks may have none."""
        found: dict[str, Channels | None] = {}
        for name, x, ref in zip(_keras.input_names(call.node), inputs, call.inputs, strict=True):
            if name in ("query", "value", "key"):
                found[name] = along(space, call, x, ref.rank - 1)
            elif x is not None:
                space.refuse(call, [x], f"takes it as its {name}, which must keep its shape")
        found.setdefault("key", found.get("value"))
        return found

    def _read(
        self,
        call: Call,
        arguments: dict[str, Channels | None],
        projections: dict[str, Any],
        space: Space,
    ) -> None:
        for name, source in {
            "query": "query",
            "key": "key",
            "value": "value",
            "gate": "query",
        }.items():
            x = arguments.get(source)
            if name in projections and x is not None:
                projection = projections[name]
                space.read(call, _keras.kernel_of(projection), 0, x)
                space.attribute(call, x, partial(_keras.refresh_projection, projection), name)

    def writes(self, call: Call) -> list[tuple[Any, int]] | None:
        output = _keras.projections(call.op)["output"]
        kernel = _keras.kernel_of(output)
        weights = [(kernel, len(kernel.shape) - 1)]
        return (
            weights
            if output.bias is None
            else [*weights, (output.bias, len(output.bias.shape) - 1)]
        )

    def cost(
        self,
        call: Call,
        inputs: list[tuple],
        outputs: list[tuple],
        weights: Callable[[Any], tuple],
    ) -> float:
        projections = _keras.projections(call.op)
        shapes = dict(zip(_keras.input_names(call.node), inputs, strict=True))
        shapes.setdefault("key", shapes["value"])
        targets, sources = (_positions(shapes[name]) for name in ("query", "value"))
        total = 0.0
        for name, projection in projections.items():
            positions = sources if name in ("key", "value") else targets
            total += positions * float(np.prod(weights(_keras.kernel_of(projection))))
        heads, key_size = weights(_keras.kernel_of(projections["query"]))[HEADS:]
        value_size = weights(_keras.kernel_of(projections["value"]))[SIZE]
        # Every target looks at all sources along the attention axes.
        seen = _attended(call.op, shapes["value"])
        total += targets * seen * heads * (key_size + value_size)
        return 2.0 * total


def _positions(shape: tuple) -> float:
    return float(np.prod([d or 1 for d in shape[1:-1]]))


def _attended(layer: Any, shape: tuple) -> float:
    axes = _keras.attention_axes(layer) or range(1, len(shape) - 1)
    return float(np.prod([shape[a] or 1 for a in axes]))


def _biased(projection: Any, axis: int, fill: Any = 0.0) -> list[Weight]:
    """The bias of a projection along the axis that is `axis` in its kernel."""
    return [] if projection.bias is None else [Weight(projection.bias, axis - 1, fill=fill)]


def _gating(gate: Any, axis: int) -> list[Weight]:
    """The weights of a gate along an axis of its kernel, which may hold anything."""
    if gate is None:
        return []
    return [Weight(_keras.kernel_of(gate), axis, fill=LIKE_OLD), *_biased(gate, axis)]


def _grow_queries(call: Call, query: Any, old: int, new: int, space: Space) -> None:
    """Keeps q . k / sqrt(size) when the size grows by zeros."""
    factor = float(np.sqrt(new / old))
    for variable in [_keras.kernel_of(query), query.bias]:
        if variable is not None and factor != 1:
            space.rewrite(call, variable, lambda value: value * factor)


@register(keras.layers.MultiHeadAttention)
class MultiHeadRule(HeadedAttention):
    def inside(self, call: Call, projections: dict[str, Any], space: Space) -> Channels | None:
        layer = call.op
        query, key, value, out = (projections[n] for n in ("query", "key", "value", "output"))
        gate = projections.get("gate")
        q, k, v, o = (_keras.kernel_of(p) for p in (query, key, value, out))
        resize = partial(_resize, layer)

        anything = [p for p in (query, key, gate) if p is not None]
        heads = space.produce(
            call,
            Production(
                [
                    Weight(v, HEADS),
                    *_biased(value, HEADS),
                    *(Weight(_keras.kernel_of(p), HEADS, fill=LIKE_OLD) for p in anything),
                    *(w for p in anything for w in _biased(p, HEADS)),
                ],
                1,
                part="num_heads",
                width=int(v.shape[HEADS]),
                resize=resize,
            ),
        )
        if heads is not None:
            space.read(call, o, 0, heads)

        keys = space.produce(
            call,
            Production(
                [Weight(q, SIZE), *_biased(query, SIZE)],
                1,
                part="key_dim",
                width=int(q.shape[SIZE]),
                resize=resize,
            ),
        )
        if keys is not None:
            space.read(call, k, SIZE, keys)
            for weight in _biased(key, SIZE):
                space.carry(call, weight.variable, weight.axis, keys, 0.0)
            _grow_queries(call, query, int(q.shape[SIZE]), len(keys), space)

        values = space.produce(
            call,
            Production(
                [
                    Weight(v, SIZE),
                    *_biased(value, SIZE),
                    *_gating(gate, SIZE),
                ],
                1,
                part="value_dim",
                width=int(v.shape[SIZE]),
                resize=resize,
            ),
        )
        if values is not None:
            space.read(call, o, 1, values)
        if keys is not None and values is not None and self._one_size(call, len(keys), len(values)):
            space.join(call, [keys, values])
        return None if heads is None else heads.mapped(unknown)

    @staticmethod
    def _one_size(call: Call, keys: int, values: int) -> bool:
        """Whether the backend's attention needs values as wide as keys."""
        fused = call.op.dropout == 0 and call.inputs[0].rank == 3 and len(call.outputs) == 1
        return fused and keys == values and _backend.attention_needs_one_size()

    def write(
        self, call: Call, query: Channels | None, output: Any, space: Space
    ) -> Channels | None:
        layer, kernel = call.op, _keras.kernel_of(output)
        weights = [(kernel, len(kernel.shape) - 1)]
        if output.bias is not None:
            weights.append((output.bias, len(output.bias.shape) - 1))
        if query is not None:  # without an output_shape the output would follow the query
            space.attribute(call, query, partial(_resize, layer), "output_shape")
        return space.produce(
            call,
            Production(
                weights,
                call.outputs[0].rank - 1,
                width=int(kernel.shape[-1]),
                resize=partial(_resize, layer),
            ),
        )


def _resize(layer: Any, size: int = 0) -> None:
    _keras.refresh_multi_head_attention(layer)


@register(*existing("GroupQueryAttention"))
class GroupQueryRule(HeadedAttention):
    """Every key and value head serves a run of query heads, which grow with it."""

    def inside(self, call: Call, projections: dict[str, Any], space: Space) -> Channels | None:
        query, key, value, out = (projections[n] for n in ("query", "key", "value", "output"))
        gate = projections.get("gate")
        q, k, v, o = (_keras.kernel_of(p) for p in (query, key, value, out))
        resize = partial(_resize_groups, call.op)
        like_queries = [p for p in (query, gate) if p is not None]

        heads = space.produce(
            call,
            Production(
                [
                    Weight(v, HEADS),
                    *_biased(value, HEADS),
                    Weight(k, HEADS, fill=LIKE_OLD),
                    *_biased(key, HEADS),
                ],
                1,
                part="num_key_value_heads",
                width=int(v.shape[HEADS]),
                resize=resize,
            ),
        )
        scores = None
        if heads is not None:
            queries = space.repeat(heads, call.op.num_repeats)
            for p in like_queries:
                space.carry(call, _keras.kernel_of(p), HEADS, queries, LIKE_OLD)
                for weight in _biased(p, HEADS):
                    space.carry(call, weight.variable, weight.axis, queries, 0.0)
            space.read(call, o, 0, queries)
            scores = queries.mapped(unknown)

        sizes = space.produce(
            call,
            Production(
                [
                    Weight(v, SIZE),
                    *_biased(value, SIZE),
                    Weight(q, SIZE),
                    *_biased(query, SIZE),
                    *_gating(gate, SIZE),
                ],
                1,
                part="head_dim",
                width=int(v.shape[SIZE]),
                resize=resize,
            ),
        )
        if sizes is not None:
            # Queries and keys both: the queries' new entries are zero in either form.
            space.carry(call, k, SIZE, sizes, LIKE_OLD)
            for weight in _biased(key, SIZE):
                space.carry(call, weight.variable, weight.axis, sizes, 0.0)
            space.read(call, o, 1, sizes)
            _grow_queries(call, query, int(q.shape[SIZE]), len(sizes), space)
        return scores

    def write(
        self, call: Call, query: Channels | None, output: Any, space: Space
    ) -> Channels | None:
        kernel = _keras.kernel_of(output)
        weights = [(kernel, 2), *([] if output.bias is None else [(output.bias, 0)])]
        made = space.produce(
            call,
            Production(
                weights,
                call.outputs[0].rank - 1,
                width=int(kernel.shape[-1]),
                resize=partial(_resize_groups, call.op),
            ),
        )
        if made is None and query is None:
            return None
        if made is None or query is None:
            space.refuse(
                call,
                [made, query],
                "makes its output as wide as its query, which cannot grow with it",
            )
            return made
        space.join(call, [made, query])
        return made


def _resize_groups(layer: Any, size: int = 0) -> None:
    _keras.refresh_group_query_attention(layer)
