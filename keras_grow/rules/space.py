"""What a rule speaks of, the channels of tensors, and what it may say of them: the space.

`Rule.flow` is asked twice. First with the identities of all channels, to find where a model can
grow; then with the grown channels, to make a plan. Each time it talks to another `Space`, and it
does not know to which. A space takes twenty statements, in four groups:

* `Ends`: weights whose axes hold channels: `read`, `carry`, `produce`.
* `Moves`: channels that come out in another order or number: `repeat`, `tile`, `extend`, `slice`,
  `pick`, `gather`, `rearrange`, `concatenate`.
* `Conditions`: what must hold for the function to be kept: `join`, `partner`, `require`, `blocks`,
  `normalize`, `refuse`.
* `Consequences`: what else changes or is to be known: `attribute`, `rewrite`, `activation`.

A layer that treats every channel by itself needs `carry` alone, a layer with a kernel `read` and
`produce`; anything may `refuse`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import numpy as np

from keras_grow.graph import Call

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
class Production:
    """Channels that a layer makes of its own, as `Space.produce` is told of them.

    Attributes:
        weights: what grows with them, as `Weight` or (variable, axis). The first holds the fan-in.
        axis: of the channels, in the output of the call.
        size: the attribute of the layer that says how many there are.
        groups: the channels come in this many blocks, which grow alike.
        part: which of several kinds of channels of this layer; addressed as `layer.part`.
        width: how many there are, where no attribute says so; `resize` then changes all that
            depends on it besides weights.
        resize: called with the new number.
    """

    weights: Sequence[tuple[Any, int] | Weight]
    axis: int
    size: str = ""
    groups: int = 1
    part: str = ""
    width: int | None = None
    resize: Callable[[int], None] | None = None

    @property
    def listed(self) -> list[Weight]:
        """All `weights` as such."""
        return [w if isinstance(w, Weight) else Weight(*w) for w in self.weights]

    def width_in(self, layer: Any) -> int:
        """How many channels the layer makes now."""
        return int(getattr(layer, self.size)) if self.width is None else self.width

    def settled(self, layer: Any, axis: int) -> "Production":
        """The same along another axis, with nothing left to be asked of the layer."""
        resize = partial(setattr, layer, self.size) if self.resize is None else self.resize
        return replace(self, axis=axis, size="", width=self.width_in(layer), resize=resize)


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


class Ends(Protocol):
    """Weights whose axes hold channels."""

    def read(
        self, call: Call, variable: Any, axis: int, channels: Channels, groups: int = 1
    ) -> None:
        """`variable`'s `axis` is contracted with the channels: they end here."""

    def carry(self, call: Call, variable: Any, axis: int, channels: Channels, fill: Any) -> None:
        """`variable`'s `axis` follows the channels; new entries are `fill`, or like old ones."""

    def produce(self, call: Call, production: Production) -> Channels | None:
        """The call makes channels of its own.

        Returns:
            The channels; None where none of them grows.
        """


class Moves(Protocol):
    """Channels that come out of a call in another order or number, none of them mixed."""

    def repeat(self, channels: Channels, times: int) -> Channels:
        """Every channel becomes `times` channels next to each other."""

    def tile(self, channels: Channels, times: int) -> Channels:
        """The whole run of channels `times` times, one run after another."""

    def extend(self, channels: Channels, before: int, after: int) -> Channels:
        """The channels with so many fixed entries before and after them."""

    def slice(
        self, call: Call, channels: Channels, start: int, stop: int
    ) -> tuple[Channels | None, int, int]:
        """Entries `start` to `stop` of the present axis, and these bounds after growth.

        New channels go where the channel goes that they follow.
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

    def concatenate(
        self, call: Call, parts: Sequence[Channels | None], axis: int
    ) -> Channels | None:
        """The channels of the parts one after another."""


class Conditions(Protocol):
    """What must hold of channels for the function to be kept."""

    def join(self, call: Call, parts: Sequence[Channels]) -> Channels:
        """All parts must carry the same channels; what an element-wise op does."""

    def partner(self, call: Call, position: int, channels: Channels) -> Channels | None:
        """Input `position`, which does not grow with the channels it is added to.

        Returns:
            What it carries once it is padded with zeros, where that was asked for; else None.
        """

    def require(
        self,
        call: Call,
        channels: Channels,
        holds: Callable[[np.ndarray], np.ndarray],
        reason: str,
    ) -> None:
        """Refused unless `holds` is true of the values of all new channels (NaN: not known)."""

    def blocks(self, call: Call, channels: Channels, size: int) -> None:
        """New channels must come in whole blocks of `size`, aligned with the old ones."""

    def normalize(self, call: Call, channels: Channels) -> bool:
        """The call normalises over the channels and subtracts their mean.

        Returns:
            Whether that mean can be kept at zero, by centring all that writes the channels. If
            not, the call goes on normalising the old channels alone, and a layer of its own the
            new ones.
        """

    def refuse(self, call: Call, channels: Sequence[Channels | None], reason: str) -> None:
        """The channels cannot pass: raises in a plan, marks them when sites are looked for."""


class Consequences(Protocol):
    """What else changes with the channels, or is to be known of them."""

    def attribute(
        self, call: Call, channels: Channels, setter: Callable[[], None], key: str = ""
    ) -> None:
        """Something besides weights depends on the number of channels; `setter` changes it.

        Args:
            key: tells several setters of one call apart.
        """

    def rewrite(self, call: Call, variable: Any, function: Callable[[np.ndarray], Any]) -> None:
        """The entries that `variable` has now change as well, before it grows."""

    def activation(self, call: Call, channels: Channels) -> None:
        """At zero the channels may get no gradient through the call: a kink, a slope of 0."""


class Space(Ends, Moves, Conditions, Consequences, Protocol):
    """What a rule may say about a call. Finding sites and planning each implement it."""


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
