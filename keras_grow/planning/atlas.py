"""Finds the sites of a model: every channel gets an identity, and the rules say where it goes.

Channels that an Add or a shared layer forces to be alike are tied; the connected groups are the
classes of channels that can only grow together. A site is a run of classes with the same
producers and consumers.
"""

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np

from keras_grow.errors import GrowthError, RefusedError, nearest
from keras_grow.graph import Call, Graph, Ref, graph_of
from keras_grow.planning.drafting import make_plan
from keras_grow.planning.labels import Alike, rows_of, runs_of
from keras_grow.planning.plan import INVERSE, OUTGOING
from keras_grow.planning.search import ChannelMap, Producer, Reader, Search
from keras_grow.planning.sites import Refusal, Site
from keras_grow.rules import has_rule
from keras_grow.rules.weighted import why_not_plain


class Atlas(ChannelMap):
    """Everything known about where a model can grow: its channels, and the sites among them.

    Attributes:
        sites: what can grow, in the order of the graph.
    """

    def __init__(self, graph: Graph, alone: frozenset[str] = frozenset()) -> None:
        self._search = Search(graph, alone)
        self._search.run()
        super().__init__(**vars(self._search.channel_map()))
        self._uneven: dict[int, str] = {}  # why no site can be made of a producer's channels, by id
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

    def site_of(self, ref: Ref) -> Site | None:
        """The site that all channels of a tensor are of, if there is one."""
        labels = self.labels.get(ref)
        if labels is None or not len(labels):
            return None
        owners = set(self._owner[self.component[labels]].tolist())
        index = owners.pop()
        return self.sites[index] if not owners and index >= 0 else None

    @cached_property
    def _owner(self) -> np.ndarray:
        """The index of the site of every class; -1 for those of none."""
        owner = np.full(len(self.component), -1)
        for index, site in enumerate(self.sites):
            owner[site.classes] = index
        return owner

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
            reason = why_not_plain(paths[name])
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
        producers = list(self.producers.values())
        readers = list(self.readers.values())
        # Channels of one site are made by the same layers and read by the same layers.
        alike = Alike(len(self.component))
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
        return _named(sites)

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
            count = runs_of(self.component[reader.ids], classes, reader.groups)
            if count is None:
                give_up(
                    f"{reader.call!r} reads it in groups={reader.groups} together with channels "
                    "of other layers, so the groups would shift."
                )
                return None
            runs.append(count)
        for producer in producers:
            count = runs_of(self.classes_of(producer), classes, producer.groups)
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
            classes=classes,
            members=members,
            readers=readers,
            price=self._price_of,
        )
        doubtful = any(positions.shape[1] > 1 for _, positions in members) or any(
            not wanted.isdisjoint(self.component[ids].tolist()) for ids in self._search.doubtful
        )
        if readers and not doubtful:
            return site
        forms = self._possible_forms(site)
        if isinstance(forms, str):
            give_up(forms)
            return None
        return replace(site, forms=forms)

    def _possible_forms(self, site: Site) -> tuple[str, ...] | str:
        """The forms of a site for which a plan can be made; or why there is none."""
        forms: list[str] = []
        why, dead = "", False
        for form in (INVERSE, OUTGOING):
            only = replace(site, forms=(form,))
            try:
                plan = make_plan(self, {only: only.granularity}, {only: form})
            except RefusedError as error:
                why = self._explained(site, error)
                continue
            if form == OUTGOING:
                reads = plan.sites[0].reads
                if reads and not any(read.free for read in reads):
                    continue  # new channels would have no free weight at all
                dead = bool(plan.activations)
            forms.insert(0, form)
        if not forms:
            return why
        if not site.readers:
            if not self._search.required(site.classes, self.component):
                return "no layer reads the channels that it makes."
            if OUTGOING not in forms or dead:
                return (
                    "no kernel reads its channels: new ones would have to start at zero, and get "
                    "no gradient there."
                )
        return tuple(forms)

    def _explained(self, site: Site, error: RefusedError) -> str:
        if error.call is None:
            return str(error)
        return f"{error} Path: {self._route(site.members[0][0], error.call)}."

    def _price_of(self, site: Site) -> tuple[float, float]:
        """Parameters and FLOPs that one more channel adds."""
        plan = make_plan(self, {site: site.granularity})
        return plan.added_parameters / site.granularity, plan.added_flops / site.granularity


def _named(sites: list[Site]) -> list[Site]:
    """The sites with their names, each of which is said of one alone."""
    count: dict[str, int] = {}
    for site in sites:
        for path in site.producers:
            count[path] = count.get(path, 0) + 1
    names = []
    for site in sites:
        # A layer's own name stands for a site only if the widths of both are the same.
        whole = [p.path for p, _ in site.members if p.width == site.width]
        own = [path for path in whole if count[path] == 1]
        names.append(own[0] if own else "+".join(site.producers))
    named = []
    for site, name in zip(sites, names, strict=True):
        if (
            name in site.producers
            and not any(p.path == name and p.width == site.width for p, _ in site.members)
        ) or names.count(name) > 1:  # parts of layers: tell which
            positions = site.members[0][1][:, 0]
            name += f"[{positions[0]}:{positions[-1] + 1}]"
        named.append(replace(site, name=name))
    return named


def survey(model: Any, alone: Iterable[str] = ()) -> Atlas:
    """Finds where a model can grow.

    Args:
        alone: layers that are to grow without those that they are added to.

    Raises:
        GrowthError: the model is not a built functional or Sequential Keras model.
    """
    return Atlas(graph_of(model), frozenset(alone))
