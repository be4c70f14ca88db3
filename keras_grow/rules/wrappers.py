"""TimeDistributed and SpectralNormalization: the rule of the layer inside, seen from outside."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import keras
import numpy as np

from keras_grow import _keras
from keras_grow.graph import Call, Ref
from keras_grow.rules.base import Rule
from keras_grow.rules.registry import has_rule, register, rule_for
from keras_grow.rules.space import Channels, Production, Space
from keras_grow.rules.values import is_zero, unknown
from keras_grow.rules.weighted import ConvRule, DenseRule


class _Tensor:
    """A tensor as the layer inside sees it, some axes after the batch left out."""

    def __init__(self, ref: Ref, dropped: int) -> None:
        self.shape = (*ref.shape[:1], *ref.shape[1 + dropped :])
        self.rank = len(self.shape)
        self.maker = ref.maker


class _Inside:
    """The `Space` of a layer inside: what it says is said of the wrapper.

    Args:
        dropped: axes after the batch that the layer inside does not see.
    """

    def __init__(self, space: Any, outer: Call, dropped: int) -> None:
        self.space, self.outer, self.dropped = space, outer, dropped

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.space, name)

        def said(*args: Any, **kwargs: Any) -> Any:
            args = tuple(self._up(a) for a in args)
            kwargs = {k: self._up(v) for k, v in kwargs.items()}
            return self._down(method(*args, **kwargs))

        return said

    def _up(self, value: Any) -> Any:
        if isinstance(value, Call):
            return self.outer
        if isinstance(value, Channels):
            return value.at(value.axis + self.dropped)
        if isinstance(value, (list, tuple)) and any(isinstance(v, Channels) for v in value):
            return [self._up(v) for v in value]
        return value

    def _down(self, value: Any) -> Any:
        if isinstance(value, Channels):
            return value.at(value.axis - self.dropped)
        if isinstance(value, tuple):
            return tuple(self._down(v) for v in value)
        return value

    def produce(self, call: Call, production: Production) -> Channels | None:
        seen = production.settled(call.op, production.axis + self.dropped)
        return self._down(self.space.produce(self.outer, seen))

    def concatenate(self, call: Call, parts: Sequence[Channels | None], axis: int) -> Any:
        return self._down(
            self.space.concatenate(self.outer, self._up(list(parts)), axis + self.dropped)
        )

    def rearrange(
        self,
        call: Call,
        channels: Channels,
        transform: Callable[[np.ndarray, int], np.ndarray],
        output: int = 0,
    ) -> Channels | None:
        def every(sample: np.ndarray, axis: int) -> np.ndarray:
            return np.stack([transform(part, axis - 1) for part in sample])

        if self.dropped and None in self.outer.inputs[0].shape[1:]:
            self.refuse(call, [channels], "re-indexes steps whose number is not known")
            return None
        function = every if self.dropped else transform
        return self._down(self.space.rearrange(self.outer, self._up(channels), function, output))

    def normalize(self, call: Call, channels: Channels) -> bool:
        self.refuse(
            call,
            [channels],
            f"wraps a {call.kind}, which works on every step by itself anyway: leave the wrapper "
            "out to grow its channels",
        )
        return True

    def refuse(self, call: Call, channels: Sequence[Channels | None], reason: str) -> None:
        self.space.refuse(self.outer, [self._up(c) for c in channels], reason)


class Wrapper(Rule):
    """Asks the rule of the layer inside."""

    dropped = 0

    def inside(self, call: Call) -> tuple[Call, Rule]:
        """The call as the layer inside sees it, and that layer's rule."""
        layer = call.op.layer
        inputs: list[Any] = [_Tensor(call.inputs[0], self.dropped)]
        outputs: list[Any] = [_Tensor(r, self.dropped) for r in call.outputs]
        return replace(call, op=layer, inputs=inputs, outputs=outputs), rule_for(layer)

    def space(self, space: Space, call: Call) -> Any:
        return _Inside(space, call, self.dropped)

    def flow(self, call: Call, inputs: list, space: Space) -> list:
        inner, rule = self.inside(call)
        if not has_rule(inner.op) or not self.knows(rule):
            space.refuse(
                call, inputs, f"wraps a {inner.kind}, for which there is no rule in a {call.kind}"
            )
            return [None] * len(call.outputs)
        x, *masks = inputs
        if any(m is not None for m in masks):
            space.refuse(call, masks, "takes its mask from channels that could grow")
        if x is not None and x.axis <= self.dropped:
            space.refuse(call, [x], f"works step by step along axis {x.axis}, the channels' own")
            x = None
        seen = self.space(space, call)
        if x is not None:
            x = x.at(x.axis - self.dropped)
            setter = partial(
                _keras.set_input_size, call.op.layer, inner.inputs[0].rank, x.axis, len(x)
            )
            seen.attribute(inner, x, setter, "input of the layer inside")
        out = rule.flow(inner, [x], seen)
        return [None if c is None else c.at(c.axis + self.dropped) for c in out]

    def knows(self, rule: Rule) -> bool:
        return True

    def cost(
        self,
        call: Call,
        inputs: list[tuple],
        outputs: list[tuple],
        weights: Callable[[Any], tuple],
    ) -> float:
        inner, rule = self.inside(call)
        steps = 1.0
        for d in inputs[0][1 : 1 + self.dropped]:
            steps *= d or 1
        seen_in, seen_out = (
            [(s[0], *s[1 + self.dropped :]) for s in side] for side in (inputs, outputs)
        )
        return steps * rule.cost(inner, seen_in, seen_out, weights)


@register(keras.layers.TimeDistributed)
class TimeDistributedRule(Wrapper):
    """The layer inside works on every step; the axis of the steps comes after the batch."""

    dropped = 1


class _Spectral(_Inside):
    """Divides the kernel by its largest singular value in every step of training.

    That value stays the same only while the new entries of the kernel are zero.
    """

    def read(
        self, call: Call, variable: Any, axis: int, channels: Channels, groups: int = 1
    ) -> None:
        self.space.read(self.outer, variable, axis, channels.mapped(unknown), groups)

    def carry(self, call: Call, variable: Any, axis: int, channels: Channels, fill: Any) -> None:
        self.refuse(
            call,
            [channels],
            "divides its kernel by the largest singular value in training, which the new channels' "
            "own kernels would change",
        )

    def produce(self, call: Call, production: Production) -> Channels | None:
        weights = [*production.weights, (self.outer.op.vector_u, 1)]
        made = super().produce(call, replace(production, weights=weights))
        if made is not None:
            self.space.require(
                self.outer,
                made,
                is_zero,
                "divides its kernel by the largest singular value in training, which a random new "
                "fan-in would change: use form='outgoing'",
            )
            self.space.attribute(
                self.outer, made, partial(_keras.refresh_spectral, self.outer.op), "spectrum"
            )
        return made


@register(keras.layers.SpectralNormalization)
class SpectralRule(Wrapper):
    """Its new rows and its new columns have to be zero; so it grows by either side's own form.

    As a producer it takes the outgoing form; as a consumer the inverse form of what it reads.
    """

    def knows(self, rule: Rule) -> bool:
        return type(rule) in (DenseRule, ConvRule)

    def space(self, space: Space, call: Call) -> Any:
        return _Spectral(space, call, 0)

    def flow(self, call: Call, inputs: list, space: Space) -> list:
        if inputs[0] is not None:
            space.attribute(
                call, inputs[0], partial(_keras.refresh_spectral, call.op), "spectrum of rows"
            )
        return super().flow(call, inputs, space)
