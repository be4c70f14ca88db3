"""`ops.rearrange`, whose pattern names the axes."""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from keras import ops

from keras_grow import _keras
from keras_grow.errors import RefusedError
from keras_grow.graph import Call
from keras_grow.rules.registry import register
from keras_grow.rules.reshaping import Rearrange
from keras_grow.rules.shadows import Shadow, ShadowContext
from keras_grow.rules.space import Space

FAR = 99  # a position behind all positional arguments


@dataclass(frozen=True)
class Pattern:
    """A pattern such as "b (h p) c -> b h (p c)".

    Attributes:
        source, target: names of every axis of the input and of the output.
        lengths: the length of every name but the batch's.
        given: names whose length the call was given.
    """

    source: list[list[str]]
    target: list[list[str]]
    lengths: dict[str, int]
    given: set[str]

    @classmethod
    def of(cls, call: Call) -> "Pattern":
        left, right = str(_keras.argument(call.node, 1, "pattern")).split("->")
        source, target = (
            [name.strip("()").split() for name in re.findall(r"\w+|\(.*?\)", side)]
            for side in (left, right)
        )
        _, named = _keras.node_arguments(call.node)
        lengths = {k: int(v) for k, v in named.items() if k not in ("tensor", "pattern")}
        given = set(lengths)
        for names, size in zip(source[1:], call.inputs[0].shape[1:], strict=True):
            for name in names:
                others = [n for n in names if n != name]
                if name not in lengths and set(others) <= set(lengths) and size is not None:
                    lengths[name] = size // math.prod(lengths[n] for n in others)
        return cls(source, target, lengths, given)

    @property
    def order(self) -> list[int]:
        """How the names of a sample are transposed, before they are put together again."""
        flat = [name for names in self.source[1:] for name in names]
        return [flat.index(name) for names in self.target[1:] for name in names]

    def sizes(self, shape: tuple, old: tuple, axis: int) -> dict[str, int]:
        """Lengths of the names in a sample that has grown along one axis.

        Args:
            axis: of the channels in the output.
        """
        sizes = dict(self.lengths)
        for names, now, before in zip(self.source[1:], shape, old, strict=True):
            if now != before:
                (own,) = [name for name in names if name in self.target[axis]]
                rest = math.prod(sizes[name] for name in names if name != own)
                if now % rest:
                    raise RefusedError(
                        f"({' '.join(names)}) of {now} entries does not divide by {rest}."
                    )
                sizes[own] = now // rest
        return sizes


@register("ops.Rearrange")
class EinopsRule(Rearrange):
    def check(self, call: Call, axis: int) -> str | None:
        pattern = Pattern.of(call)
        if pattern.source[0] != pattern.target[0] or len(pattern.source[0]) != 1:
            return "moves the batch axis"
        names = {name for group in pattern.source[1:] for name in group}
        if names != {name for group in pattern.target[1:] for name in group}:
            return "makes or drops axes"
        if not names <= set(pattern.lengths):
            return "re-indexes a tensor of unknown size; give the Input fixed sizes"
        for group in pattern.target:
            if len([name for name in pattern.source[axis] if name in group]) > 1:
                return (
                    f"has {' and '.join(pattern.source[axis])} together on both sides, so it is "
                    "not clear which of them would grow; take them apart in a call of its own"
                )
        return None

    def transform(self, call: Call) -> Callable[[np.ndarray, int], np.ndarray]:
        pattern = Pattern.of(call)
        old = tuple(call.inputs[0].shape[1:])

        def rearrange(sample: np.ndarray, axis: int) -> np.ndarray:
            sizes = pattern.sizes(sample.shape, old, axis)
            apart = [sizes[name] for names in pattern.source[1:] for name in names]
            together = [math.prod(sizes[n] for n in names) for names in pattern.target[1:]]
            return sample.reshape(apart).transpose(pattern.order).reshape(together)

        return rearrange

    def flow(self, call: Call, inputs: list, space: Space) -> list:
        (out,) = super().flow(call, inputs, space)
        (x,) = inputs
        if out is None or x is None:
            return [out]
        pattern = Pattern.of(call)
        old = tuple(call.inputs[0].shape[1:])
        shape = (*old[: x.axis - 1], len(x), *old[x.axis :])

        def resize() -> None:
            sizes = pattern.sizes(shape, old, out.axis)
            for name in pattern.given:
                _keras.set_argument(call.node, FAR, name, sizes[name])

        space.attribute(call, x, resize, "lengths")
        return [out]

    def shadow(self, call: Call, inputs: list, context: ShadowContext) -> list:
        (x,) = inputs
        pattern = Pattern.of(call)
        axis = context.axis(call.outputs[0])
        old = tuple(call.inputs[0].shape[1:])
        sizes = pattern.sizes(tuple(x.tensor.shape[1:]), old, axis)
        apart = [sizes[name] for names in pattern.source[1:] for name in names]
        together = [math.prod(sizes[n] for n in names) for names in pattern.target[1:]]
        tensor = ops.reshape(x.tensor, (-1, *apart))
        tensor = ops.transpose(tensor, (0, *(a + 1 for a in pattern.order)))
        shape = [1] * len(old)
        shape[x.axis - 1] = len(x.ids)
        ids = np.broadcast_to(x.ids.reshape(shape), x.tensor.shape[1:])
        ids = ids.reshape(apart).transpose(pattern.order).reshape(together)
        line = tuple(slice(None) if a == axis - 1 else 0 for a in range(ids.ndim))
        return [Shadow(ops.reshape(tensor, (-1, *together)), axis, ids[line])]
