"""What a rule is: how the channels of a tensor pass one layer or op.

A rule is asked five things about a call, and each has one method:

* `flow`: where do the channels go, and which weights have an axis that follows them?
  Asked with the identities of all channels (to find the sites) and again with the grown
  channels (to make a plan); the rule does not know which.
* `shadow`: what does the call do to the *new* channels alone, to first order around the value
  they have at growth, or at any value? This lets gradients be scored before anything has grown.
* `patches`: for a producer, the inputs that one new channel's fan-in multiplies.
* `correlate`: for a consumer, the gradient by the weights that would read the new channels.
* `flops`: multiply-adds times two for one sample.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from keras import ops

from keras_grow.graph import Call, Ref, arguments

# Values of new channels at the moment of growth: a number where it is the same everywhere,
# NaN where it is not known or not constant.
UNKNOWN = float("nan")


class _LikeOld:
    """Fill of new weights that may hold anything: drawn with the spread of the old ones."""

    def __repr__(self) -> str:
        return "LIKE_OLD"


LIKE_OLD = _LikeOld()


@dataclass(frozen=True, eq=False)
class Weight:
    """A weight axis that grows with the channels its layer makes.

    Attributes:
        variable: the `keras.Variable`.
        axis: which of its axes.
        copies: the axis holds this many runs of the channels one after another (LSTM: 4 gates).
        fill: what new entries hold where the method does not choose them; an array gives one
            value for each of the copies.
    """

    variable: Any
    axis: int
    copies: int = 1
    fill: Any = 0.0


@dataclass(frozen=True, eq=False)
class Channels:
    """Labels along one axis of a tensor (batch is axis 0).

    When sites are looked for, `labels` are channel identities. In a plan they say where each
    entry of the grown axis comes from: an index into the old axis, or `-1 - i` for new channel i.
    `values` (plan only) hold the value of new entries at growth, 0.0 where nothing is said.
    `firm`: a part of a tensor that new channels hardly ever reach; only a plan can tell.
    """

    axis: int
    labels: np.ndarray
    values: np.ndarray
    firm: bool = False

    @classmethod
    def of(cls, axis: int, labels: np.ndarray, value: float = 0.0) -> "Channels":
        values = np.where(labels < 0, value, 0.0)
        return cls(axis, labels, values)

    def __len__(self) -> int:
        return len(self.labels)

    def at(self, axis: int) -> "Channels":
        return replace(self, axis=axis)

    def mapped(self, function: Callable[[np.ndarray], np.ndarray]) -> "Channels":
        """The same labels with `function` applied to the values of the new entries."""
        new = self.labels < 0
        values = np.where(new, function(self.values), 0.0)
        return replace(self, values=values)


class Space(Protocol):
    """What a rule may say about a call. Finding sites and planning each implement it."""

    def read(
        self, call: Call, variable: Any, axis: int, channels: Channels, groups: int = 1
    ) -> None:
        """`variable`'s `axis` is contracted with the channels: they end here."""

    def carry(self, call: Call, variable: Any, axis: int, channels: Channels, fill: Any) -> None:
        """`variable`'s `axis` follows the channels; new entries are `fill`, or like old ones."""

    def produce(
        self,
        call: Call,
        weights: Sequence[tuple[Any, int] | Weight],
        size: str,
        axis: int,
        groups: int = 1,
        part: str = "",
        width: int | None = None,
        resize: Callable[[int], None] | None = None,
    ) -> Channels | None:
        """The call makes channels of its own, as many as its attribute `size` says.

        Args:
            weights: what grows with them. The first holds the fan-in.
            axis: of the output.
            groups: the channels come in this many blocks, which grow alike.
            part: which of several kinds of channels of this layer; addressed as `layer.part`.
            width: how many there are, where no attribute says so; `resize` then changes all that
                depends on it besides weights.
        """

    def repeat(self, channels: Channels, times: int) -> Channels:
        """Every channel becomes `times` channels next to each other."""

    def tile(self, channels: Channels, times: int) -> Channels:
        """The whole run of channels `times` times, one run after another."""

    def slice(
        self, call: Call, channels: Channels, start: int, stop: int
    ) -> tuple[Channels | None, int, int]:
        """Entries `start` to `stop` of the present axis, and these bounds after growth.

        New channels go where the channel goes that they follow.
        """

    def blocks(self, call: Call, channels: Channels, size: int) -> None:
        """New channels must come in whole blocks of `size`, aligned with the old ones."""

    def normalize(self, call: Call, channels: Channels) -> bool:
        """The call normalises over the channels and subtracts their mean.

        Returns:
            Whether that mean can be kept at zero, by centring all that writes the channels. If
            not, the call goes on normalising the old channels alone, and a layer of its own the
            new ones.
        """

    def rewrite(self, call: Call, variable: Any, function: Callable[[np.ndarray], Any]) -> None:
        """The entries that `variable` has now change as well, before it grows."""

    def join(self, call: Call, parts: Sequence[Channels]) -> Channels:
        """All parts must carry the same channels; what an element-wise op does."""

    def partner(self, call: Call, position: int, channels: Channels) -> Channels | None:
        """Input `position`, which does not grow with the channels it is added to.

        Returns:
            What it carries once it is padded with zeros, where that was asked for; else None.
        """

    def extend(self, channels: Channels, before: int, after: int) -> Channels:
        """The channels with so many fixed entries before and after them."""

    def concatenate(
        self, call: Call, parts: Sequence[Channels | None], axis: int
    ) -> Channels | None:
        """The channels of the parts one after another."""

    def rearrange(
        self,
        call: Call,
        channels: Channels,
        transform: Callable[[np.ndarray, int], np.ndarray],
        output: int = 0,
    ) -> Channels | None:
        """The channels in one of the outputs, after `transform`.

        That is a NumPy function of one sample with any number of channels, and of the axis which
        they have in the result, batch included. It moves entries and loses none. Where it spreads
        the channels over several axes, they stay channels along one of them and are tied along
        the others.
        """

    def pick(
        self, call: Call, channels: Channels, function: Callable[[int], np.ndarray]
    ) -> Channels | None:
        """Entries at the positions `function(size)`, for any size of the axis."""

    def gather(
        self, call: Call, channels: Channels, indices: np.ndarray, follow: bool = True
    ) -> tuple[Channels | None, np.ndarray]:
        """Entries at fixed indices of the present axis, and these indices after growth.

        Args:
            follow: new channels come along with the old channel which they follow.
        """

    def require(
        self,
        call: Call,
        channels: Channels,
        holds: Callable[[np.ndarray], np.ndarray],
        reason: str,
    ) -> None:
        """Refused unless `holds` is true of the values of all new channels (NaN: not known)."""

    def attribute(
        self, call: Call, channels: Channels, setter: Callable[[], None], key: str = ""
    ) -> None:
        """Something besides weights depends on the number of channels; `setter` changes it.

        Args:
            key: tells several setters of one call apart.
        """

    def activation(self, call: Call, channels: Channels) -> None:
        """At zero the channels may get no gradient through the call: a kink, a slope of 0."""

    def refuse(self, call: Call, channels: Sequence[Channels | None], reason: str) -> None:
        """The channels cannot pass: raises in a plan, marks them when sites are looked for."""


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


# Kinds of shadow: a small change as a linear map, the same behind kinks, where its sign matters,
# and the new channels themselves as they are in training.
LINEAR, ONE_SIDED, FINITE = "linear", "one-sided", "finite"


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


def applied(call: Call, inputs: Sequence["Shadow | None"]) -> Any:
    """The call itself on shadows, for layers and ops that treat every channel alike."""
    env = {r: s.tensor for r, s in zip(call.inputs, inputs, strict=True) if s is not None}
    args, kwargs = arguments(call, env)
    return call.op(*args, **kwargs)


class NoSlope(Exception):
    """The new channels get no gradient through this call. The message says why."""


class Rule:
    """Base of all rules. A subclass says only what its layer does differently."""

    def flow(self, call: Call, inputs: list[Channels | None], space: Space) -> list:
        raise NotImplementedError

    def adds(self, call: Call) -> bool:
        """Whether the output is a plain sum of the inputs, in training too."""
        return False

    def writes(self, call: Call) -> list[tuple[Any, int]] | None:
        """Weights in which the output is linear, each with its output axis; None if not so.

        Taking the mean over the output axis off all of them takes it off the output.
        """
        return None

    def mode(self, call: Call) -> str:
        """Which of several things the layer does in this call, each with weights of its own.

        Where a layer is shared, what is read in one call must be read in all of the same mode.
        """
        return ""

    def lifts(self, call: Call) -> bool:
        """Whether each channel is divided by its own size in training.

        A channel that is constantly zero then has a gradient 1 / sqrt(epsilon) times too large and
        is at full size after one step.
        """
        return False

    def shadow(self, call: Call, inputs: list[Shadow | None], context: ShadowContext) -> list:
        raise NoSlope(f"{call!r} has no rule for gradients of new channels")

    def patches(self, call: Call, x: Any) -> Shadow:
        """For a producer: what one new channel's fan-in multiplies.

        Args:
            x: the call's input.

        Returns:
            A tensor with the spatial sizes of the output and the fan-in along its channel axis,
            in the order of the kernel with its output axis dropped; `ids` count the fan-in.

        Raises:
            NoSlope: not known for this layer.
        """
        raise NoSlope(f"{call!r} has no rule for the gradient of its new channels' fan-in")

    def respond(self, call: Call, x: Any, fan_in: Any) -> tuple[Any, int]:
        """For a producer: the pre-activations of new channels; and their channel axis.

        Args:
            fan_in: (fan-in entries, new channels), entries in the order of `patches`.
        """
        columns = self.patches(call, x)
        moved = ops.moveaxis(columns.tensor, columns.axis, -1)
        return ops.moveaxis(ops.matmul(moved, fan_in), -1, columns.axis), columns.axis

    def correlate(self, call: Call, shadow: Shadow, gradient: Any) -> tuple[Any, np.ndarray]:
        """For a consumer: the gradient by the kernel rows that would read the shadow.

        Args:
            gradient: gradient of the loss by the call's pre-activation.

        Returns:
            (rows, *the kernel's other axes), and the new channel each row belongs to.

        Raises:
            NoSlope: not known for this layer.
        """
        raise NoSlope(f"{call!r} has no rule for the gradient of kernels that read new channels")

    def knows_gradient(self, method: str) -> bool:
        """Whether `method`, one of "patches" and "correlate", is there."""
        return getattr(type(self), method) is not getattr(Rule, method)

    def flops(self, call: Call, inputs: list[tuple], outputs: list[tuple]) -> float:
        return 0.0

    def cost(
        self,
        call: Call,
        inputs: list[tuple],
        outputs: list[tuple],
        weights: Callable[[Any], tuple],
    ) -> float:
        """`flops` of a call whose weights tell more than its inputs and outputs do.

        Args:
            weights: the shape of a variable, now or after a plan.
        """
        return self.flops(call, inputs, outputs)


_RULES: dict[Any, Rule] = {}


def register(*keys: Any) -> Callable[[type[Rule]], type[Rule]]:
    """Class decorator: an instance of the rule answers for the given classes or op kinds."""

    def wrap(rule: type[Rule]) -> type[Rule]:
        for key in keys:
            _RULES[key] = rule()
        return rule

    return wrap


def register_instance(rule: Rule, *keys: Any) -> None:
    for key in keys:
        _RULES[key] = rule


def find(key: Any) -> Rule | None:
    return _RULES.get(key)


def channel_axis(data_format: str, rank: int) -> int:
    return rank - 1 if data_format == "channels_last" else 1


def along(space: Space, call: Call, channels: Channels | None, axis: int) -> Channels | None:
    """The channels if they lie on `axis`; refused otherwise."""
    if channels is None or channels.axis == axis:
        return channels
    space.refuse(
        call,
        [channels],
        f"works along axis {axis}, but the channels lie on axis {channels.axis} of its input",
    )
    return None
