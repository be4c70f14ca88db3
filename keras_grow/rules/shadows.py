"""The new channels alone, pushed through the calls behind them: gradients before anything grows."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_grow.graph import Call, Ref, arguments

# Kinds of shadow: a small change as a linear map, the same behind kinks, where its sign matters,
# and the new channels themselves as they are in training.
LINEAR, ONE_SIDED, FINITE = "linear", "one-sided", "finite"


@dataclass(frozen=True)
class Shadow:
    """The new channels of one tensor alone: `tensor` has only them along `axis`.

    `ids[j]` tells which new channel entry j of the axis belongs to.
    """

    tensor: Any
    axis: int
    ids: np.ndarray

    def times(self, factor: float) -> "Shadow":
        return self if factor == 1 else Shadow(self.tensor * factor, self.axis, self.ids)


@dataclass(frozen=True)
class ShadowContext:
    """What `Rule.shadow` may look at.

    Attributes:
        mode: LINEAR, ONE_SIDED or FINITE.
        actual: the real tensor of a `Ref` in the present forward pass.
        value: the value of the new channels of a `Ref` at growth; None where it has none.
        axis: where the channels of a `Ref` lie that is reached by new ones.
        carries: whether the new channels in question reach a `Ref`.
        noted: where normalisations put the mean and variance of the new channels, by call; None
            where nobody wants them.
    """

    mode: str
    actual: Callable[[Ref], Any]
    value: Callable[[Ref], float | None]
    axis: Callable[[Ref], int]
    carries: Callable[[Ref], bool]
    noted: dict[Call, tuple[Any, Any]] | None = None

    @property
    def linear(self) -> bool:
        return self.mode == LINEAR

    @property
    def finite(self) -> bool:
        return self.mode == FINITE


class NoSlope(Exception):
    """The new channels get no gradient through this call. The message says why."""


def applied(call: Call, inputs: Sequence[Shadow | None]) -> Any:
    """The call itself on shadows, for layers and ops that treat every channel alike."""
    env = {r: s.tensor for r, s in zip(call.inputs, inputs, strict=True) if s is not None}
    args, kwargs = arguments(call, env)
    return call.op(*args, **kwargs)
