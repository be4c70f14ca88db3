"""Follows the identity of every channel through a graph, as the rules say."""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from keras_grow.graph import Call, Graph, Ref
from keras_grow.planning.centring import writers_of
from keras_grow.planning.labels import along_axis, varying_axes
from keras_grow.rules import Channels, Production, Weight, flow, rule_for


@dataclass(eq=False)
class Producer:
    """A layer that makes channels.

    Attributes:
        call: the (first) call of the layer.
        production: what it makes, as its rule says.
        start: identity of the first channel.
        width: how many channels there are now.
    """

    call: Call
    production: Production
    start: int
    width: int

    @property
    def path(self) -> str:
        part = self.production.part
        return f"{self.call.path}.{part}" if part else self.call.path

    @property
    def key(self) -> tuple[int, str]:
        return id(self.call.op), self.production.part

    @property
    def groups(self) -> int:
        return self.production.groups

    @cached_property
    def weights(self) -> list[Weight]:
        """What grows with the channels. The first holds the fan-in."""
        return self.production.listed

    @property
    def fan_in(self) -> Weight:
        return self.weights[0]


@dataclass(eq=False)
class Reader:
    """A kernel axis that reads channels. `ids` are their identities, one per entry."""

    call: Call
    variable: Any
    axis: int
    groups: int
    ids: np.ndarray


@dataclass(eq=False)
class ChannelMap:
    """Where the channels of a model are made, where they go, and which can only grow together.

    Attributes:
        graph: the model's flattened graph.
        alone: producers that grow without those that their channels are added to.
        producers: all layers that make channels, growable or not, by op and part.
        readers: kernel axes that read channels, by variable and axis.
        carriers: identities along the axes of other weights that follow channels, likewise.
        axes: where the channels of every tensor lie that has some.
        labels: their identities.
        component: the class of every identity.
    """

    graph: Graph
    alone: frozenset[str]
    producers: dict[tuple[int, str], Producer]
    readers: dict[tuple[int, int], Reader]
    carriers: dict[tuple[int, int], np.ndarray]
    axes: dict[Ref, int]
    labels: dict[Ref, np.ndarray]
    component: np.ndarray

    def classes_of(self, producer: Producer) -> np.ndarray:
        """The class of every channel that a producer makes."""
        return self.component[producer.start : producer.start + producer.width]


class Search:
    """The `Space` in which labels are identities; ties and dead ends are noted.

    Attributes:
        blocked: identities that cannot grow, where they end, and why.
        doubtful: identities of which only a plan can tell whether they can grow.
        block_sizes: identities that grow in whole blocks only, with the size of a block.
        needs: identities that something besides a kernel makes use of.
        pairs: identities that are tied to each other, entry by entry.
        graph, alone, producers, readers, carriers, axes, labels: as in the `ChannelMap`.
    """

    FIXED = 0  # identity of all channels that no layer produces

    def __init__(self, graph: Graph, alone: frozenset[str]) -> None:
        self.graph = graph
        self.alone = alone
        self.producers: dict[tuple[int, str], Producer] = {}
        self.readers: dict[tuple[int, int], Reader] = {}
        self.carriers: dict[tuple[int, int], np.ndarray] = {}
        self.axes: dict[Ref, int] = {}
        self.labels: dict[Ref, np.ndarray] = {}
        self.count = 1
        self.pairs: list[tuple[np.ndarray, np.ndarray]] = []
        self.blocked: list[tuple[np.ndarray, Call | None, str]] = [
            (np.array([self.FIXED]), None, "it is joined with channels that no layer produces.")
        ]
        self.seen: dict[tuple, tuple[np.ndarray, int]] = {}
        self.block_sizes: list[tuple[np.ndarray, int]] = []
        self.doubtful: list[np.ndarray] = []
        self.needs: list[np.ndarray] = []

    def run(self) -> None:
        graph = self.graph
        env: dict[Ref, Channels | None] = dict.fromkeys(graph.inputs)
        for call in graph.calls:
            outputs = flow(call, [env[r] for r in call.inputs], self)
            env.update(zip(call.outputs, outputs, strict=True))
        self.axes = {ref: c.axis for ref, c in env.items() if c is not None}
        self.labels = {ref: c.labels for ref, c in env.items() if c is not None}
        self._sharing(env)
        for ref in graph.outputs:
            channels = env[ref]
            if channels is not None:
                reason = "makes an output of the model, whose width its users rely on"
                self.blocked.insert(1, (channels.labels, ref.maker, reason))

    def _sharing(self, env: dict[Ref, Channels | None]) -> None:
        """Shared layers and nested models: what enters at one call must enter at all."""
        calls: dict[tuple[int, str], int] = {}
        for call in self.graph.calls:
            key = id(call.op), rule_for(call.op).mode(call)
            calls[key] = calls.get(key, 0) + 1
        for (op, mode, *_), (labels, times) in self.seen.items():
            if times != calls[op, mode]:
                call = next(c for c in self.graph.calls if id(c.op) == op)
                reason = "is shared and is also called on a tensor whose channels cannot grow"
                self.blocked.append((labels, call, reason))
        for container in self.graph.containers:
            for position in range(len(container.entries[0])):
                entering = [env[refs[position]] for refs in container.entries]
                known = [c for c in entering if c is not None]
                for c in known:
                    if len(known) < len(entering):
                        reason = (
                            f"the nested model '{container.path}' reads it and is also called on "
                            "a tensor whose channels cannot grow."
                        )
                        self.blocked.append((c.labels, None, reason))
                    elif len(c) == len(known[0]) and c.axis == known[0].axis:
                        self.pairs.append((known[0].labels, c.labels))

    def channel_map(self) -> ChannelMap:
        """What was found, without the reasons why some of it cannot grow."""
        return ChannelMap(
            self.graph,
            self.alone,
            self.producers,
            self.readers,
            self.carriers,
            self.axes,
            self.labels,
            self._components(),
        )

    def _components(self) -> np.ndarray:
        a = np.concatenate([p for p, _ in self.pairs]) if self.pairs else np.zeros(0, int)
        b = np.concatenate([q for _, q in self.pairs]) if self.pairs else np.zeros(0, int)
        links = coo_matrix((np.ones(len(a), bool), (a, b)), shape=(self.count, self.count))
        return connected_components(links, directed=False)[1]

    def blocked_components(self, component: np.ndarray) -> set[int]:
        ids = np.concatenate([ids for ids, _, _ in self.blocked])
        return set(np.unique(component[ids]).tolist())

    # --- Space ---------------------------------------------------------------------------------

    def _once(self, key: tuple, labels: np.ndarray, call: Call) -> bool:
        """Whether this is the first call; a later call of a shared layer ties its channels."""
        op, *rest = key
        key = op, rule_for(call.op).mode(call), *rest
        if key not in self.seen:
            self.seen[key] = (labels, 1)
            return True
        first, times = self.seen[key]
        self.seen[key] = (first, times + 1)
        if len(first) == len(labels):
            self.pairs.append((first, labels))
        else:
            reason = "is shared between tensors with different numbers of channels"
            self.blocked += [(first, call, reason), (labels, call, reason)]
        return False

    def read(
        self, call: Call, variable: Any, axis: int, channels: Channels, groups: int = 1
    ) -> None:
        key = (id(call.op), "read", id(variable), axis)
        if self._once(key, channels.labels, call):
            self.readers[id(variable), axis] = Reader(call, variable, axis, groups, channels.labels)

    def carry(self, call: Call, variable: Any, axis: int, channels: Channels, fill: Any) -> None:
        if self._once((id(call.op), "carry", id(variable), axis), channels.labels, call):
            self.carriers[id(variable), axis] = channels.labels

    def produce(self, call: Call, production: Production) -> Channels | None:
        known = self.producers.get((id(call.op), production.part))
        if known is None:
            known = Producer(call, production, self.count, production.width_in(call.op))
            self.producers[known.key] = known
            self.count += known.width
        return Channels.of(production.axis, np.arange(known.start, known.start + known.width))

    def repeat(self, channels: Channels, times: int) -> Channels:
        return Channels.of(channels.axis, np.repeat(channels.labels, times))

    def tile(self, channels: Channels, times: int) -> Channels:
        return Channels.of(channels.axis, np.tile(channels.labels, times))

    def slice(
        self, call: Call, channels: Channels, start: int, stop: int
    ) -> tuple[Channels | None, int, int]:
        self.doubtful.append(channels.labels)
        part = channels.labels[start:stop]
        if not len(part):
            return None, start, stop
        firm = stop < len(channels)
        return Channels(channels.axis, part, np.zeros(len(part)), firm), start, stop

    def blocks(self, call: Call, channels: Channels, size: int) -> None:
        if size > 1:
            self.block_sizes.append((channels.labels, size))
            self.doubtful.append(channels.labels)  # new ones may lie inside of old blocks

    def normalize(self, call: Call, channels: Channels) -> bool:
        return writers_of(self.graph, call, channels.axis) is not None

    def rewrite(self, call: Call, variable: Any, function: Callable[[np.ndarray], Any]) -> None:
        pass

    def join(self, call: Call, parts: Sequence[Channels]) -> Channels:
        if rule_for(call.op).adds(call):  # what grows alone leaves its partners as they are
            parts = [p for p in parts if self._alone(p)] or parts
        for part in parts[1:]:
            self.pairs.append((parts[0].labels, part.labels))
        return parts[0]

    def partner(self, call: Call, position: int, channels: Channels) -> Channels | None:
        return channels if self._alone(channels) else None

    def _alone(self, channels: Channels) -> bool:
        return any(
            bool(((channels.labels >= p.start) & (channels.labels < p.start + p.width)).any())
            for p in self.producers.values()
            if p.path in self.alone
        )

    def extend(self, channels: Channels, before: int, after: int) -> Channels:
        fixed = np.full(before, self.FIXED), np.full(after, self.FIXED)
        return Channels.of(channels.axis, np.concatenate([fixed[0], channels.labels, fixed[1]]))

    def concatenate(self, call: Call, parts: Sequence[Channels | None], axis: int) -> Channels:
        labels = [
            np.full(ref.shape[axis], self.FIXED) if part is None else part.labels
            for part, ref in zip(parts, call.inputs, strict=True)
        ]
        return Channels.of(axis, np.concatenate(labels))

    def rearrange(
        self,
        call: Call,
        channels: Channels,
        transform: Callable[[np.ndarray, int], np.ndarray],
        output: int = 0,
    ) -> Channels | None:
        dims = list(call.inputs[0].shape[1:])
        result = transform(along_axis(channels.labels, channels.axis, dims), 1)
        varying = varying_axes(result)
        if not varying:
            varying = self._lone(channels, dims, result.shape, transform)
        if len(varying) > 1:
            axis = self._tied(call.outputs[output], result, varying)
            self.doubtful.append(channels.labels)
        else:
            axis = varying[0] if varying else None
        if axis is None:
            self.refuse(
                call,
                [channels],
                "splits the channels over several axes, so they no longer lie along one",
            )
            return None
        index = tuple(slice(None) if a == axis else 0 for a in range(result.ndim))
        return Channels.of(axis + 1, result[index])

    def _tied(self, ref: Ref, result: np.ndarray, varying: list[int]) -> int | None:
        """Chooses one of several axes for the channels; those that differ elsewhere are tied."""
        wanted = self._image_axis(ref)
        for axis in sorted(varying, key=lambda a: (a + 1 != wanted, -a)):
            lines = np.moveaxis(result, axis, 0).reshape(result.shape[axis], -1)
            distinct = sum(len(np.unique(line)) for line in lines)
            if distinct == len(np.unique(result)):  # no channel lies at two places of this axis
                first = np.broadcast_to(lines[:, :1], lines.shape)
                self.pairs.append((first.ravel(), lines.ravel()))
                return axis
        return None

    def _image_axis(self, ref: Ref) -> int:
        """The channel axis of the first layer behind a tensor that has an image format."""
        queue, seen = deque([ref]), {ref}
        while queue:
            for call in self.graph.consumers.get(queue.popleft(), []):
                data_format = getattr(call.op, "data_format", None)
                if isinstance(data_format, str):
                    return 1 if data_format == "channels_first" else ref.rank - 1
                for out in call.outputs:
                    if out.rank == ref.rank and out not in seen:
                        seen.add(out)
                        queue.append(out)
        return ref.rank - 1

    def pick(
        self, call: Call, channels: Channels, function: Callable[[int], np.ndarray]
    ) -> Channels | None:
        self.doubtful.append(channels.labels)
        part = channels.labels[function(len(channels))]
        return Channels.of(channels.axis, part) if len(part) else None

    def gather(
        self, call: Call, channels: Channels, indices: np.ndarray, follow: bool = True
    ) -> tuple[Channels | None, np.ndarray]:
        self.doubtful.append(channels.labels)
        if not follow:
            return None, indices
        return Channels.of(channels.axis, channels.labels[indices]), indices

    def require(
        self,
        call: Call,
        channels: Channels,
        holds: Callable[[np.ndarray], np.ndarray],
        reason: str,
    ) -> None:
        self.doubtful.append(channels.labels)
        self.needs.append(channels.labels)

    def required(self, classes: np.ndarray, component: np.ndarray) -> bool:
        """Whether calls other than kernels make use of these channels."""
        return any(np.isin(component[ids], classes).any() for ids in self.needs)

    @staticmethod
    def _lone(
        channels: Channels, dims: list[int], shape: tuple[int, ...], transform: Callable
    ) -> list[int]:
        """The axis of a single channel: where it would lie if there were two of it."""
        size = dims[channels.axis - 1]
        twice = list(dims)
        twice[channels.axis - 1] *= 2
        sample = along_axis(np.tile([0, 1], size), channels.axis, twice)
        # More than one axis may do; an axis of just the channel is the natural one.
        for axis in sorted(range(len(shape)), key=lambda a: (shape[a] != size, -a)):
            if varying_axes(transform(sample, axis + 1)) == [axis]:
                return [axis]
        return []

    def attribute(
        self, call: Call, channels: Channels, setter: Callable[[], None], key: str = ""
    ) -> None:
        self._once((id(call.op), "attribute", key), channels.labels, call)

    def activation(self, call: Call, channels: Channels) -> None:
        pass

    def refuse(self, call: Call, channels: Sequence[Channels | None], reason: str) -> None:
        for c in channels:
            if c is None:
                continue
            if c.firm:
                self.doubtful.append(c.labels)
            else:
                self.blocked.append((c.labels, call, reason))
