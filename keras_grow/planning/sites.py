"""Finds the sites of a model: every channel gets an identity, and the rules say where it goes.

Channels that an Add or a shared layer forces to be alike are tied; the connected groups are the
classes of channels that can only grow together. A site is a run of classes with the same
producers.
"""

import math
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from keras_grow import _keras
from keras_grow.errors import GrowthError, RefusedError, nearest
from keras_grow.graph import Call, Graph, Ref, graph_of
from keras_grow.planning.centring import writers_of
from keras_grow.rules import Channels, Weight, flow, has_rule, rule_for


@dataclass(eq=False)
class Producer:
    """A layer that makes channels: which weights hold their fan-in, along which axis.

    Attributes:
        part: which of several kinds of channels the layer makes ("" where there is one).
        size: the attribute of the layer that holds their number; `resize` stands in for it.
        start: identity of the first channel.
    """

    call: Call
    weights: list[Weight]
    size: str
    groups: int
    start: int
    width: int
    part: str = ""
    resize: Callable[[int], None] | None = None

    @property
    def path(self) -> str:
        return f"{self.call.path}.{self.part}" if self.part else self.call.path

    @property
    def key(self) -> tuple[int, str]:
        return id(self.call.op), self.part


@dataclass(eq=False)
class Reader:
    """A kernel axis that reads channels. `ids` are their identities, one per entry."""

    call: Call
    variable: Any
    axis: int
    groups: int
    ids: np.ndarray


@dataclass(frozen=True)
class Refusal:
    """A producer that cannot be widened, and why."""

    producer: str
    reason: str

    def __str__(self) -> str:
        return f"{self.producer}: {self.reason}"


@dataclass(eq=False)
class Site:
    """One place of the model that can grow.

    Attributes:
        name: its address, accepted wherever a layer's name is.
        producers: paths of the layers whose output channels grow, tied to each other.
        consumers: paths of the layers whose kernels read the channels.
        width: the number of channels now.
        granularity: the width grows by multiples of this (1 unless a layer has groups).
        groups: new channels are shared out over this many blocks, at the end of each.
        members: producers, with (width, n) positions of the channels among the producer's own;
            n is more than 1 where several of its channels are tied to each other.
        forms: in which form of growth the function can be kept.
    """

    name: str
    producers: tuple[str, ...]
    consumers: tuple[str, ...]
    width: int
    granularity: int
    groups: int
    atlas: "Atlas" = field(repr=False)
    classes: np.ndarray = field(repr=False)
    members: list[tuple[Producer, np.ndarray]] = field(repr=False)
    readers: list[Reader] = field(repr=False)
    forms: tuple[str, ...] = field(default=("outgoing", "inverse"), repr=False)

    @cached_property
    def _cost(self) -> tuple[float, float]:
        from keras_grow.planning.plan import make_plan

        plan = make_plan(self.atlas, {self: self.granularity})
        return (
            plan.added_parameters / self.granularity,
            plan.added_flops / self.granularity,
        )

    @property
    def params_per_channel(self) -> float:
        """Parameters that one more channel adds."""
        return self._cost[0]

    @property
    def flops_per_channel(self) -> float:
        """FLOPs of one sample's forward pass that one more channel adds."""
        return self._cost[1]


class Atlas:
    """Everything known about where a model can grow.

    Attributes:
        graph: the model's flattened graph.
        sites: what can grow, in the order of the graph.
        producers: all layers that make channels, growable or not.
        axes: where the channels of every tensor lie that has some.
        alone: producers that grow without those that their channels are added to.
    """

    def __init__(self, graph: Graph, alone: frozenset[str] = frozenset()) -> None:
        self.graph = graph
        self.alone = alone
        self.producers: dict[tuple[int, str], Producer] = {}
        self.readers: dict[tuple, Reader] = {}
        self.axes: dict[Ref, int] = {}
        self._search = _Search(self)
        self._search.run()
        self.component = self._search.components()
        self.sites = self._sites()

    # --- looking things up ---------------------------------------------------------------------

    def find(self, name: str) -> Site:
        """The site that `name` means: a site's name or the path of one of its producers.

        Raises:
            GrowthError: no such layer, a layer without channels of its own, or a refused one.
        """
        if not isinstance(name, str):
            raise GrowthError(f"Layers are addressed by their name. Received: {name!r}.")
        for site in self.sites:
            if site.name == name:
                return site
        found = [s for s in self.sites if name in s.producers]
        if len(found) == 1:
            return found[0]
        if found:
            names = " or ".join(f"'{s.name}'" for s in found)
            raise GrowthError(
                f"The channels of layer '{name}' belong to {len(found)} sites that grow "
                f"separately. Name one of them: {names}."
            )
        self._explain_missing(name)
        raise AssertionError("unreachable")

    def _explain_missing(self, name: str) -> None:
        model = self.graph.model.name
        choices = [p for s in self.sites for p in s.producers]
        for producer in self.producers.values():
            if producer.path == name:
                raise GrowthError(
                    f"Layer '{name}' of model '{model}' cannot be widened: {self.reason(producer)} "
                    + (nearest("", choices) or "No other layer of this model can be widened.")
                )
        paths = self.graph.paths
        if name in paths:
            reason = _keras.derived_kernel(paths[name])
            if reason is not None:
                raise GrowthError(f"Layer '{name}' of model '{model}' {reason}.")
            kind = type(paths[name]).__name__
            if not has_rule(paths[name]):
                raise GrowthError(
                    f"Layer '{name}' of model '{model}' cannot be widened: it is a {kind}, for "
                    "which there is no rule."
                )
            raise GrowthError(
                f"Layer '{name}' of model '{model}' is a {kind}, which has no width of its own: "
                "its channels follow the layer before it. " + nearest(name, choices)
            )
        raise GrowthError(
            f"Model '{model}' has no layer '{name}'. {nearest(name, choices)} "
            "Layers of a nested model are addressed as 'outer/inner'."
        )

    def refusals(self) -> list[Refusal]:
        """Producers that belong to no site, each with its reason."""
        taken = {path for site in self.sites for path in site.producers}
        return [
            Refusal(p.path, self.reason(p)) for p in self.producers.values() if p.path not in taken
        ]

    # --- building ------------------------------------------------------------------------------

    def classes_of(self, producer: Producer) -> np.ndarray:
        return self.component[producer.start : producer.start + producer.width]

    def reason(self, producer: Producer) -> str:
        """Why the producer's channels cannot grow, with the path that leads there."""
        made = [r.maker for r in self.graph.outputs if r in self.axes]
        if any(maker is not None and maker.op is producer.call.op for maker in made):
            return "it makes an output of the model, whose width its users rely on."
        wanted = set(self.classes_of(producer).tolist())
        for ids, call, reason in self._search.blocked:
            if not wanted.isdisjoint(self.component[ids].tolist()):
                if call is None:
                    return reason
                route = self._route(producer, call)
                return f"{call!r} {reason}. Path: {route}."
        return self._uneven.get(id(producer), "its channels are tied unevenly to other layers.")

    def _route(self, producer: Producer, target: Call) -> str:
        """Layer names on a shortest way from the producer to `target`."""
        starts = [c for c in self.graph.calls if c.op is producer.call.op]
        before: dict[Call, Call | None] = {c: None for c in starts}
        queue = deque(starts)
        while queue:
            call = queue.popleft()
            if call is target:
                break
            for ref in call.outputs:
                for follower in self.graph.consumers.get(ref, []):
                    if follower not in before:
                        before[follower] = call
                        queue.append(follower)
        if target not in before:
            return f"{producer.path} is tied to channels that reach {target.path}"
        steps: list[str] = []
        at: Call | None = target
        while at is not None:
            steps.append(at.path)
            at = before[at]
        return " -> ".join(reversed(steps))

    def _sites(self) -> list[Site]:
        blocked = np.zeros(len(self.component), dtype=bool)
        blocked[list(self._search.blocked_components(self.component))] = True
        self._uneven: dict[int, str] = {}
        producers = list(self.producers.values())
        readers = list(self.readers.values())
        # Channels of one site are made by the same layers and read by the same layers.
        alike = _Alike(len(self.component))
        for producer in producers:
            alike.split(self.classes_of(producer))
        for reader in readers:
            alike.split(self.component[reader.ids])
        makers: dict[int, list[Producer]] = {}
        users: dict[int, list[Reader]] = {}
        for producer in producers:
            for group in alike.groups(self.classes_of(producer)):
                makers.setdefault(group, []).append(producer)
        for reader in readers:
            for group in alike.groups(self.component[reader.ids]):
                users.setdefault(group, []).append(reader)
        sites = []
        for group, together in makers.items():
            classes = alike.members(group, self.classes_of(together[0]))
            classes = classes[~blocked[classes]]
            if len(classes):
                site = self._site(together, classes, users.get(group, []))
                if site is not None:
                    sites.append(site)
        self._name(sites)
        return sites

    def _site(
        self, producers: list[Producer], classes: np.ndarray, readers: list[Reader]
    ) -> Site | None:
        def give_up(why: str) -> None:
            for producer in producers:
                self._uneven.setdefault(id(producer), why)

        members = []
        for producer in producers:
            positions = rows_of(self.classes_of(producer), classes)
            if (np.diff(positions, axis=0) <= 0).any():
                give_up("it is tied to another layer with its channels in another order.")
                return None
            members.append((producer, positions))
        runs = [1]
        for reader in readers:
            count = _runs(self.component[reader.ids], classes, reader.groups)
            if count is None:
                give_up(
                    f"{reader.call!r} reads it in groups={reader.groups} together with channels "
                    "of other layers, so the groups would shift."
                )
                return None
            runs.append(count)
        for producer in producers:
            count = _runs(self.classes_of(producer), classes, producer.groups)
            if count is None:
                give_up(f"it has groups={producer.groups} and only part of it could grow.")
                return None
            runs.append(count)
        groups = math.lcm(*runs)
        if len(classes) % groups:
            give_up(f"its {len(classes)} channels do not divide into {groups} groups.")
            return None
        wanted = set(classes.tolist())
        granularity = math.lcm(
            groups,
            *(
                size
                for ids, size in self._search.block_sizes
                if not wanted.isdisjoint(self.component[ids].tolist())
            ),
        )
        paths = list(dict.fromkeys(r.call.path for r in readers))
        site = Site(
            name="",
            producers=tuple(p.path for p in producers),
            consumers=tuple(paths),
            width=len(classes),
            granularity=granularity,
            groups=groups,
            atlas=self,
            classes=classes,
            members=members,
            readers=readers,
        )
        doubtful = any(positions.shape[1] > 1 for _, positions in members) or any(
            not wanted.isdisjoint(self.component[ids].tolist()) for ids in self._search.doubtful
        )
        why = self._try(site) if doubtful or not readers else None
        if why is not None:
            give_up(why)
            return None
        return site

    def _try(self, site: Site) -> str | None:
        """Narrows down the forms of a site for which a plan can be made; why there is none."""
        from keras_grow.planning.plan import make_plan

        forms: list[str] = []
        why, dead = "", False
        for form in ("inverse", "outgoing"):
            site.forms = (form,)
            try:
                plan = make_plan(self, {site: site.granularity}, {site: form})
            except RefusedError as error:
                why = self._explained(site, error)
                continue
            if form == "outgoing":
                reads = plan.sites[0].reads
                if reads and not any(read.free for read in reads):
                    continue  # new channels would have no free weight at all
                dead = bool(plan.activations)
            forms.insert(0, form)
        if not forms:
            return why
        if not site.readers:
            if not self._search.required(site.classes):
                return "no layer reads the channels that it makes."
            if "outgoing" not in forms or dead:
                return (
                    "no kernel reads its channels: new ones would have to start at zero, and get "
                    "no gradient there."
                )
        site.forms = tuple(forms)
        return None

    def _explained(self, site: Site, error: RefusedError) -> str:
        if error.call is None:
            return str(error)
        return f"{error} Path: {self._route(site.members[0][0], error.call)}."

    @staticmethod
    def _name(sites: list[Site]) -> None:
        count: dict[str, int] = {}
        for site in sites:
            for path in site.producers:
                count[path] = count.get(path, 0) + 1
        for site in sites:
            # A layer's own name stands for a site only if the widths of both are the same.
            whole = [p.path for p, _ in site.members if p.width == site.width]
            own = [path for path in whole if count[path] == 1]
            site.name = own[0] if own else "+".join(site.producers)
        names = [site.name for site in sites]
        for site in sites:
            if (
                site.name in site.producers
                and not any(p.path == site.name and p.width == site.width for p, _ in site.members)
            ) or names.count(site.name) > 1:  # parts of layers: tell which
                positions = site.members[0][1][:, 0]
                site.name += f"[{positions[0]}:{positions[-1] + 1}]"


class _Alike:
    """Tells classes apart by the layers which they were shown with, and how often in each."""

    def __init__(self, count: int) -> None:
        self.group = np.zeros(count, dtype=np.int64)
        self.count = 1

    def split(self, classes: np.ndarray) -> None:
        """These classes, with multiplicity, belong to one more layer."""
        found, times = np.unique(classes, return_counts=True)
        key = self.group[found] * (int(times.max(initial=0)) + 1) + times
        kinds, place = np.unique(key, return_inverse=True)
        self.group[found] = self.count + place
        self.count += len(kinds)

    def groups(self, classes: np.ndarray) -> list[int]:
        """The groups among these classes, in the order in which they appear."""
        return list(dict.fromkeys(self.group[classes].tolist()))

    def members(self, group: int, classes: np.ndarray) -> np.ndarray:
        """Those of `classes` that are in the group, each once."""
        own = classes[self.group[classes] == group]
        _, first = np.unique(own, return_index=True)
        return own[np.sort(first)]


class _Search:
    """The `Space` in which labels are identities; ties and dead ends are noted."""

    FIXED = 0  # identity of all channels that no layer produces

    def __init__(self, atlas: Atlas) -> None:
        self.atlas = atlas
        self.count = 1
        self.pairs: list[tuple[np.ndarray, np.ndarray]] = []
        self.blocked: list[tuple[np.ndarray, Call | None, str]] = [
            (np.array([self.FIXED]), None, "it is joined with channels that no layer produces.")
        ]
        self.seen: dict[tuple, tuple[np.ndarray, int]] = {}
        self.block_sizes: list[tuple[np.ndarray, int]] = []
        self.doubtful: list[np.ndarray] = []  # whether these can grow, only a plan can tell
        self.needs: list[np.ndarray] = []

    def run(self) -> None:
        graph = self.atlas.graph
        env: dict[Ref, Channels | None] = dict.fromkeys(graph.inputs)
        for call in graph.calls:
            outputs = flow(call, [env[r] for r in call.inputs], self)
            env.update(zip(call.outputs, outputs, strict=True))
        self.atlas.axes = {ref: c.axis for ref, c in env.items() if c is not None}
        self._sharing(env)
        for ref in graph.outputs:
            channels = env[ref]
            if channels is not None:
                reason = "makes an output of the model, whose width its users rely on"
                self.blocked.insert(1, (channels.labels, ref.maker, reason))

    def _sharing(self, env: dict[Ref, Channels | None]) -> None:
        """Shared layers and nested models: what enters at one call must enter at all."""
        calls: dict[tuple[int, str], int] = {}
        for call in self.atlas.graph.calls:
            key = id(call.op), rule_for(call.op).mode(call)
            calls[key] = calls.get(key, 0) + 1
        for (op, mode, *_), (labels, times) in self.seen.items():
            if times != calls[op, mode]:
                call = next(c for c in self.atlas.graph.calls if id(c.op) == op)
                reason = "is shared and is also called on a tensor whose channels cannot grow"
                self.blocked.append((labels, call, reason))
        for container in self.atlas.graph.containers:
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

    def components(self) -> np.ndarray:
        """The class of every identity."""
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
            self.atlas.readers[id(variable), axis] = Reader(
                call, variable, axis, groups, channels.labels
            )

    def carry(self, call: Call, variable: Any, axis: int, channels: Channels, fill: Any) -> None:
        self._once((id(call.op), "carry", id(variable), axis), channels.labels, call)

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
        known = self.atlas.producers.get((id(call.op), part))
        if known is None:
            if width is None:
                width = int(getattr(call.op, size))
            listed = [w if isinstance(w, Weight) else Weight(*w) for w in weights]
            known = Producer(call, listed, size, groups, self.count, width, part, resize)
            self.atlas.producers[known.key] = known
            self.count += width
        return Channels.of(axis, np.arange(known.start, known.start + known.width))

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

    def normalize(self, call: Call, channels: Channels) -> bool:
        return writers_of(self.atlas.graph, call, channels.axis) is not None

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
            for p in self.atlas.producers.values()
            if p.path in self.atlas.alone
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
        result = transform(_along(channels.labels, channels.axis, dims), 1)
        varying = _varying(result)
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
            for call in self.atlas.graph.consumers.get(queue.popleft(), []):
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

    def required(self, classes: np.ndarray) -> bool:
        """Whether calls other than kernels make use of these channels."""
        component = self.atlas.component
        return any(np.isin(component[ids], classes).any() for ids in self.needs)

    @staticmethod
    def _lone(
        channels: Channels, dims: list[int], shape: tuple[int, ...], transform: Callable
    ) -> list[int]:
        """The axis of a single channel: where it would lie if there were two of it."""
        size = dims[channels.axis - 1]
        twice = list(dims)
        twice[channels.axis - 1] *= 2
        sample = _along(np.tile([0, 1], size), channels.axis, twice)
        # More than one axis may do; an axis of just the channel is the natural one.
        for axis in sorted(range(len(shape)), key=lambda a: (shape[a] != size, -a)):
            if _varying(transform(sample, axis + 1)) == [axis]:
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


def rows_of(labels: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Positions of each wanted label, (len(wanted), n), where every label occurs n times."""
    order = np.argsort(labels, kind="stable")
    sorted_labels = labels[order]
    first = np.searchsorted(sorted_labels, wanted, side="left")
    last = np.searchsorted(sorted_labels, wanted, side="right")
    n = int((last - first).max()) if len(wanted) else 0
    assert ((last - first) == n).all(), "a channel occurs more often than another"
    return order[first[:, None] + np.arange(n)]


def insertions(positions: np.ndarray, added: int, groups: int) -> list[tuple[int, int]]:
    """Where `added` channels go: pairs of (position they follow, number of the channel).

    A channel that occurs several times in a row gets its new neighbour as often in a row. Whether
    the new channels then meet where the old ones do is for the plan to find out.

    Args:
        positions: (width, n) of the present channels, each of which occurs n times.
        groups: the new ones are shared out over this many blocks, at the end of each.
    """
    width = len(positions)
    last = np.arange(width // groups - 1, width, width // groups)
    if positions.shape[1] == 1:
        after = np.repeat(positions[last, 0], added // groups)
        return list(zip(after.tolist(), range(added), strict=True))
    places = []
    for i, channel in enumerate(np.repeat(last, added // groups).tolist()):
        own = positions[channel]
        # With a single channel, occurrences in a row are one run of all channels each.
        breaks = np.flatnonzero(np.diff(own) > 1) if width > 1 else np.arange(len(own) - 1)
        start = 0
        for stop in [*(breaks + 1).tolist(), len(own)]:
            places += [(int(own[stop - 1]), i)] * (stop - start)
            start = stop
    return places


def _runs(labels: np.ndarray, classes: np.ndarray, groups: int) -> int | None:
    """How many blocks of its channels a layer with groups tells apart.

    Returns:
        `groups` if every group has channels of its own, 1 if each has all of them; None if
        there are channels of others among them, or the groups have unequal parts.
    """
    if groups == 1:
        return 1
    if len(labels) % groups:
        return None
    found: list[np.ndarray] = []
    for block in labels.reshape(groups, -1):
        own = np.unique(block)
        if not any(np.array_equal(own, other) for other in found):
            found.append(own)
    whole = np.array_equal(np.concatenate(found), classes)
    return len(found) if whole and len({len(own) for own in found}) == 1 else None


def _along(labels: np.ndarray, axis: int, dims: Sequence[int]) -> np.ndarray:
    """Labels along an axis (batch included) of one sample."""
    shape = [1] * len(dims)
    shape[axis - 1] = len(labels)
    return np.broadcast_to(labels.reshape(shape), dims)


def _varying(sample: np.ndarray) -> list[int]:
    return [a for a in range(sample.ndim) if (sample != np.take(sample, [0], axis=a)).any()]


def survey(model: Any, alone: Iterable[str] = ()) -> Atlas:
    """Finds where a model can grow.

    Args:
        alone: layers that are to grow without those that they are added to.

    Raises:
        GrowthError: the model is not a built functional or Sequential Keras model.
    """
    return Atlas(graph_of(model), frozenset(alone))
