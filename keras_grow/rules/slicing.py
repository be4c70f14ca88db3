"""Calls that take parts of a tensor: indexing, slices, splits, gathers, flips.

Positions along the channel axis are constants of the call. They are found again after growth: new
channels stay with the old channel which they follow, so that what is appended to a part belongs
to that part.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from keras import ops

from keras_grow import _keras
from keras_grow.graph import Call
from keras_grow.rules.base import Rule
from keras_grow.rules.registry import register
from keras_grow.rules.shadows import NoSlope, Shadow, ShadowContext
from keras_grow.rules.space import Space
from keras_grow.rules.values import unknown

Section = tuple[int, int]


def _size(call: Call, axis: int) -> int:
    size = call.inputs[0].shape[axis]
    assert size is not None, "a channel axis has a size"
    return int(size)


def carried(call: Call, tensors: Sequence[Any], x: Shadow, context: ShadowContext) -> list:
    """Shadows for the outputs which the new channels reach."""
    result: list[Shadow | None] = []
    for ref, tensor in zip(call.outputs, tensors, strict=True):
        reached = context.carries(ref)
        result.append(Shadow(tensor, context.axis(ref), x.ids) if reached else None)
    return result


@register("ops.GetItem")
class GetItemRule(Rule):
    """`x[key]` with integers, slices, None and Ellipsis."""

    def flow(self, call: Call, inputs: list, space: Space) -> list:
        (x,) = inputs[:1]
        if x is None:
            return [None]
        keys = self._keys(call)
        out = 0
        axis = -1
        for position, (source, key) in enumerate(keys):
            if source == 0 and not isinstance(key, slice):
                space.refuse(call, [x], "takes one sample out of the batch")
                return [None]
            if source == x.axis:
                axis, at, own = out, position, key
            out += not isinstance(key, int)
        whole = slice(None)
        if own == whole:
            return [x.at(axis)]

        def rewrite(new: Any) -> Callable[[], None]:
            fresh = tuple(new if i == at else key for i, (_, key) in enumerate(keys))
            return lambda: _keras.set_argument(call.node, 1, "key", fresh)

        size = _size(call, x.axis)
        if isinstance(own, int):
            _, places = space.gather(call, x, np.array([own % size]), follow=False)
            space.attribute(call, x, rewrite(int(places[0])))
            return [None]
        start, stop, step = own.indices(size)
        if step != 1:
            picked = space.pick(call, x, lambda n: np.arange(n)[own])
            return [None if picked is None else picked.at(axis)]
        part, start, stop = space.slice(call, x, start, max(start, stop))
        space.attribute(call, x, rewrite(slice(start, stop)))
        return [None if part is None else part.at(axis)]

    def _keys(self, call: Call) -> list[tuple[int | None, Any]]:
        """One key for every axis of the input and every new axis: (axis or None, key)."""
        key = _keras.argument(call.node, 1, "key")
        given = [key] if isinstance(key, int) else list(key)
        named = sum(k is not None and k is not Ellipsis for k in given)
        rest: list[Any] = [slice(None)] * (call.inputs[0].rank - named)
        if Ellipsis in given:
            at = given.index(Ellipsis)
            given[at : at + 1] = rest
        else:
            given += rest
        axes = iter(range(call.inputs[0].rank))
        return [(None if k is None else next(axes), k) for k in given]

    def shadow(self, call: Call, inputs: list, context: ShadowContext) -> list:
        (x,) = inputs[:1]
        keys = tuple(slice(None) if a == x.axis else k for a, k in self._keys(call))
        return carried(call, [x.tensor[keys]], x, context)


class SplitBase(Rule):
    """Consecutive sections along one axis, one output for each."""

    def axis(self, call: Call) -> int:
        return call.op.axis % call.inputs[0].rank

    def flow(self, call: Call, inputs: list, space: Space) -> list:
        (x,) = inputs
        if x is None:
            return [None] * len(call.outputs)
        axis = self.axis(call)
        if x.axis != axis:
            return [x] * len(call.outputs)
        sizes = [_size_of(ref.shape[axis]) for ref in call.outputs]
        ends = np.cumsum([0, *sizes]).tolist()
        parts, bounds = [], []
        for start, stop in pairwise(ends):
            part, _, stop = space.slice(call, x, start, stop)
            parts.append(part)
            bounds.append(stop)
        reason = self.check(call, len(x), bounds)
        if reason is not None:
            space.refuse(call, [x], reason)
        space.attribute(call, x, lambda: self.cut(call, bounds[:-1]))
        return parts

    def check(self, call: Call, size: int, bounds: list[int]) -> str | None:
        """Why an axis of `size` cannot be split so that the sections end at `bounds`."""
        return None

    def cut(self, call: Call, bounds: list[int]) -> None:
        """Writes the positions to split at into the op."""
        _keras.set_constructor_argument(call.op, "indices_or_sections", tuple(bounds))

    def shadow(self, call: Call, inputs: list, context: ShadowContext) -> list:
        (x,) = inputs
        if x.axis == self.axis(call):
            return carried(call, [x.tensor] * len(call.outputs), x, context)
        return [Shadow(t, x.axis, x.ids) for t in call.op.call(x.tensor)]


def _size_of(size: int | None) -> int:
    assert size is not None
    return size


@register("ops.Split")
class SplitRule(SplitBase):
    """Equal sections become positions once they grow."""


@register("ops.ArraySplit")
class ArraySplitRule(SplitBase):
    """Not every backend takes positions here, so sections must stay as equal as they can be."""

    def check(self, call: Call, size: int, bounds: list[int]) -> str | None:
        sections = call.op.indices_or_sections
        if not isinstance(sections, int):
            return None
        wanted = [len(part) for part in np.array_split(np.arange(size), sections)]
        if np.cumsum(wanted).tolist() == bounds:
            return None
        return "splits into equal sections, which would not grow alike; use ops.split"

    def cut(self, call: Call, bounds: list[int]) -> None:
        if not isinstance(call.op.indices_or_sections, int):
            super().cut(call, bounds)


@register("ops.Hsplit")
class HsplitRule(SplitBase):
    def axis(self, call: Call) -> int:
        return 1


@register("ops.Dsplit")
class DsplitRule(SplitBase):
    def axis(self, call: Call) -> int:
        return 2


@register("ops.Unstack")
class UnstackRule(Rule):
    """One output for every entry along an axis."""

    def flow(self, call: Call, inputs: list, space: Space) -> list:
        (x,) = inputs
        count = len(call.outputs)
        if x is None:
            return [None] * count
        axis = call.op.axis % call.inputs[0].rank
        if axis in (0, x.axis):
            what = "samples" if axis == 0 else "channels"
            space.refuse(
                call, [x], f"makes a tensor of each of the {what}, whose number is then fixed"
            )
            return [None] * count
        return [x.at(x.axis - (axis < x.axis))] * count

    def shadow(self, call: Call, inputs: list, context: ShadowContext) -> list:
        (x,) = inputs
        return carried(call, call.op.call(x.tensor), x, context)


@register("ops.Slice")
class SliceRule(Rule):
    """`ops.slice(x, start_indices, shape)`; sizes of -1 reach to the end."""

    def flow(self, call: Call, inputs: list, space: Space) -> list:
        x = inputs[0]
        if x is None:
            return [None]
        starts = self._starts(call)
        if starts is None:
            space.refuse(call, [x], "slices at positions which the model computes")
            return [None]
        size = _size(call, x.axis)
        start, length = starts[x.axis], int(call.op.shape[x.axis])
        stop = size if length == -1 else start + length
        part, first, last = space.slice(call, x, start, stop)

        def rewrite() -> None:
            shape = list(call.op.shape)
            shape[x.axis] = last - first
            _keras.set_constructor_argument(call.op, "shape", tuple(shape))
            fresh = [first if a == x.axis else s for a, s in enumerate(starts)]
            _keras.set_argument(call.node, 1, "start_indices", fresh)

        space.attribute(call, x, rewrite)
        return [part]

    @staticmethod
    def _starts(call: Call) -> list[int] | None:
        starts = _keras.argument(call.node, 1, "start_indices")
        if len(call.inputs) > 1:
            return None
        return [int(s) for s in np.asarray(ops.convert_to_numpy(starts)).tolist()]

    def shadow(self, call: Call, inputs: list, context: ShadowContext) -> list:
        x = inputs[0]
        starts, shape = self._starts(call), call.op.shape
        assert starts is not None
        keys = tuple(
            slice(None) if a == x.axis else slice(s, None if n == -1 else s + n)
            for a, (s, n) in enumerate(zip(starts, shape, strict=True))
        )
        return carried(call, [x.tensor[keys]], x, context)


@register("ops.Take")
class TakeRule(Rule):
    """Entries at given indices of an axis, which one or more axes of the indices replace."""

    def flow(self, call: Call, inputs: list, space: Space) -> list:
        x = inputs[0]
        if any(other is not None for other in inputs[1:]):
            space.refuse(call, inputs, "takes its indices from channels that could grow")
            return [None]
        if x is None:
            return [None]
        if call.op.axis is None:
            space.refuse(call, [x], "takes entries of the flattened batch; give it an axis")
            return [None]
        axis = call.op.axis % call.inputs[0].rank
        if axis == 0:
            space.refuse(call, [x], "takes samples out of the batch")
            return [None]
        if x.axis != axis:
            return [x.at(x.axis + (self._index_rank(call) - 1 if x.axis > axis else 0))]
        if len(call.inputs) > 1:
            space.refuse(call, [x], "takes channels at positions which the model computes")
            return [None]
        given = _keras.argument(call.node, 1, "indices")
        indices = np.asarray(ops.convert_to_numpy(given)) % _size(call, axis)
        if indices.ndim == 0:
            _, places = space.gather(call, x, indices.reshape(1), follow=False)
            space.attribute(call, x, lambda: self._rewrite(call, places[0]))
            return [None]
        if indices.ndim > 1:
            space.refuse(
                call, [x], f"takes channels at indices of shape {indices.shape}; use one axis"
            )
            return [None]
        part, places = space.gather(call, x, indices)
        space.attribute(call, x, lambda: self._rewrite(call, places))
        return [part]

    @staticmethod
    def _index_rank(call: Call) -> int:
        if len(call.inputs) > 1:
            return call.inputs[1].rank
        return np.ndim(ops.convert_to_numpy(_keras.argument(call.node, 1, "indices")))

    @staticmethod
    def _rewrite(call: Call, places: Any) -> None:
        old = _keras.argument(call.node, 1, "indices")
        new: Any = places.tolist()
        if isinstance(old, np.ndarray) or ops.is_tensor(old):
            new = np.asarray(places).astype("int32")
            new = ops.convert_to_tensor(new) if ops.is_tensor(old) else new
        _keras.set_argument(call.node, 1, "indices", new)

    def shadow(self, call: Call, inputs: list, context: ShadowContext) -> list:
        x = inputs[0]
        axis = call.op.axis % call.inputs[0].rank
        if x.axis == axis:
            return carried(call, [x.tensor], x, context)
        if len(call.inputs) > 1:
            indices = context.actual(call.inputs[1])
        else:
            indices = _keras.argument(call.node, 1, "indices")
        return carried(call, [ops.take(x.tensor, indices, axis=axis)], x, context)


@register("ops.TakeAlongAxis")
class TakeAlongAxisRule(Rule):
    """Only indices that the model computes as broad as the channels would fit; refused."""

    def flow(self, call: Call, inputs: list, space: Space) -> list:
        if any(x is not None for x in inputs):
            space.refuse(
                call, inputs, "takes entries at an index for every channel; new ones have none"
            )
        return [None]


class FlipBase(Rule):
    """Reverses the order along some axes."""

    def axes(self, call: Call) -> list[int]:
        rank, axis = call.inputs[0].rank, call.op.axis
        if axis is None:
            return list(range(rank))
        return [a % rank for a in ([axis] if isinstance(axis, int) else axis)]

    def flow(self, call: Call, inputs: list, space: Space) -> list:
        (x,) = inputs
        if x is None or x.axis not in self.axes(call):
            return [x]
        # New channels lie before the old one which they follow, so the order is asked for whole.
        return [space.pick(call, x, lambda n: np.arange(n)[::-1])]

    def shadow(self, call: Call, inputs: list, context: ShadowContext) -> list:
        (x,) = inputs
        axes = [a for a in self.axes(call) if a != x.axis]
        tensor = ops.flip(x.tensor, axis=tuple(axes)) if axes else x.tensor
        return [Shadow(tensor, x.axis, x.ids)]


@register("ops.Flip")
class FlipRule(FlipBase):
    pass


@register("ops.Fliplr")
class FliplrRule(FlipBase):
    def axes(self, call: Call) -> list[int]:
        return [1]


@register("ops.Flipud")
class FlipudRule(FlipBase):
    def axes(self, call: Call) -> list[int]:
        return [0]


@register("ops.Roll", "ops.Rot90")
class RollRule(Rule):
    """Moves entries along other axes than the channels'."""

    def flow(self, call: Call, inputs: list, space: Space) -> list:
        (x,) = inputs
        if x is None:
            return [None]
        rank = call.inputs[0].rank
        axis = call.op.axis if call.kind == "Roll" else call.op.axes
        axes = range(rank) if axis is None else [axis] if isinstance(axis, int) else axis
        if x.axis in [a % rank for a in axes]:
            space.refuse(
                call,
                [x],
                "moves channels round to the other end; put the new order into ops.take(x, "
                "indices, axis) with constant indices",
            )
            return [None]
        return [x]

    def shadow(self, call: Call, inputs: list, context: ShadowContext) -> list:
        (x,) = inputs
        return [Shadow(call.op.call(x.tensor), x.axis, x.ids)]


@register("ops.Repeat")
class RepeatRule(Rule):
    """Every entry along an axis several times."""

    def flow(self, call: Call, inputs: list, space: Space) -> list:
        (x,) = inputs
        if x is None:
            return [None]
        if call.op.axis is None:
            space.refuse(call, [x], "repeats entries of the flattened batch; give it an axis")
            return [None]
        if call.op.axis % call.inputs[0].rank != x.axis:
            return [x]
        times = self._times(call)
        if times is None:
            space.refuse(call, [x], "repeats every channel another number of times")
            return [None]
        return [space.repeat(x, times)]

    @staticmethod
    def _times(call: Call) -> int | None:
        repeats = np.asarray(call.op.repeats)
        return int(repeats.reshape(())) if repeats.size == 1 else None

    def shadow(self, call: Call, inputs: list, context: ShadowContext) -> list:
        (x,) = inputs
        tensor, ids = call.op.call(x.tensor), x.ids
        if call.op.axis % call.inputs[0].rank == x.axis:
            ids = np.repeat(ids, self._times(call) or 1)
        return [Shadow(tensor, x.axis, ids)]


@register("ops.Tile")
class TileRule(Rule):
    """The whole tensor several times along some axes."""

    def flow(self, call: Call, inputs: list, space: Space) -> list:
        (x,) = inputs
        if x is None:
            return [None]
        repeats = self._repeats(call)
        if len(repeats) > call.inputs[0].rank:
            space.refuse(call, [x], "puts an axis in front of the batch")
            return [None]
        times = repeats[x.axis]
        return [space.tile(x, times) if times > 1 else x]

    @staticmethod
    def _repeats(call: Call) -> list[int]:
        given = call.op.repeats
        repeats = [given] if isinstance(given, int) else list(given)
        return [1] * (call.inputs[0].rank - len(repeats)) + repeats

    def shadow(self, call: Call, inputs: list, context: ShadowContext) -> list:
        (x,) = inputs
        ids = np.tile(x.ids, self._repeats(call)[x.axis])
        return [Shadow(call.op.call(x.tensor), x.axis, ids)]


@register("ops.TopK")
class TopKRule(Rule):
    """The largest entries along the last axis, and where they are."""

    def flow(self, call: Call, inputs: list, space: Space) -> list:
        (x,) = inputs
        if x is None:
            return [None, None]
        if x.axis == call.inputs[0].rank - 1:
            space.refuse(call, [x], "ranks the channels, among which a new one can be the largest")
            return [None, None]
        return [x, x.mapped(unknown)]

    def shadow(self, call: Call, inputs: list, context: ShadowContext) -> list:
        raise NoSlope(f"{call!r} ranks equal values, between which it has no one slope")
