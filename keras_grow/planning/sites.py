"""The places where a model can grow, as data."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from keras_grow.planning.search import Producer, Reader


@dataclass(frozen=True)
class Refusal:
    """A producer that cannot be widened, and why."""

    producer: str
    reason: str

    def __str__(self) -> str:
        return f"{self.producer}: {self.reason}"


@dataclass(frozen=True, eq=False)
class Site:
    """One place of the model that can grow.

    Attributes:
        name: its address, accepted wherever a layer's name is.
        producers: paths of the layers whose output channels grow, tied to each other.
        consumers: paths of the layers whose kernels read the channels.
        width: the number of channels now.
        granularity: the width grows by multiples of this (1 unless a layer has groups).
        groups: new channels are shared out over this many blocks, at the end of each.
        classes: the classes of channels that it consists of, in a `ChannelMap`.
        members: producers, with (width, n) positions of the channels among the producer's own;
            n is more than 1 where several of its channels are tied to each other.
        readers: the kernel axes that read the channels.
        price: tells the parameters and FLOPs that one more channel of a site adds.
        forms: in which form of growth the function can be kept.
    """

    name: str
    producers: tuple[str, ...]
    consumers: tuple[str, ...]
    width: int
    granularity: int
    groups: int
    classes: np.ndarray = field(repr=False)
    members: list[tuple[Producer, np.ndarray]] = field(repr=False)
    readers: list[Reader] = field(repr=False)
    price: Callable[["Site"], tuple[float, float]] = field(repr=False)
    forms: tuple[str, ...] = field(default=("outgoing", "inverse"), repr=False)

    @property
    def kernels(self) -> list[Any]:
        """The kernels of its producers and consumers, each once."""
        found = [p.fan_in.variable for p, _ in self.members]
        found += [reader.variable for reader in self.readers]
        return list({id(v): v for v in found}.values())

    @property
    def params_per_channel(self) -> float:
        """Parameters that one more channel adds."""
        return self._price[0]

    @property
    def flops_per_channel(self) -> float:
        """FLOPs of one sample's forward pass that one more channel adds."""
        return self._price[1]

    @cached_property
    def _price(self) -> tuple[float, float]:
        # It takes a plan, so it is not asked for before somebody wants to know.
        return self.price(self)
