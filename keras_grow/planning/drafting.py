"""Makes the plan of one surgery: the rules follow the grown channels through the graph."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from keras_grow.errors import GrowthError, RefusedError
from keras_grow.graph import Call, Ref
from keras_grow.planning.centring import writers_of
from keras_grow.planning.labels import insertions, rows_of
from keras_grow.planning.plan import (
    INVERSE,
    OUTGOING,
    CarrySlot,
    Edit,
    Plan,
    ReadSlot,
    SitePlan,
    WriteSlot,
)
from keras_grow.planning.search import ChannelMap
from keras_grow.planning.sites import Site
from keras_grow.rules import UNKNOWN, Channels, Production, flow

# New channels of one site. No layer is nearly as wide; a slip of the hand would fill the memory.
MOST_ADDED = 10_000_000


def check_amount(site: Site, added: int) -> None:
    """Raises GrowthError unless the site can grow by `added` channels."""
    if added <= 0:
        raise GrowthError(
            f"Site '{site.name}' is {site.width} wide and can only become wider. "
            f"Received: width {site.width + added}."
        )
    if added > MOST_ADDED:
        raise GrowthError(
            f"Site '{site.name}' is {site.width} wide and can grow by at most {MOST_ADDED:,} "
            f"channels at a time. Received: width {site.width + added}."
        )
    if added % site.granularity:
        up = site.width + -(-added // site.granularity) * site.granularity
        raise GrowthError(
            f"Site '{site.name}' grows in steps of {site.granularity} because a layer on it works "
            f"on groups of channels. Received: width {site.width + added} (now {site.width}); the "
            f"next width that works is {up}."
        )


def make_plan(
    atlas: ChannelMap, amounts: Mapping[Site, int], forms: Mapping[Site, str] | None = None
) -> Plan:
    """The plan that widens every site by its amount, all at once.

    Args:
        atlas: the model and its channels, an `Atlas` as a rule.
        amounts: new channels by site.
        forms: "outgoing" or "inverse" by site. A site whose new channels cannot reach any
            consumer as zero takes the inverse form whatever is asked.

    Raises:
        GrowthError: an amount that cannot be had.
        RefusedError: the growth meets a layer that cannot follow it.
    """
    for site, added in amounts.items():
        check_amount(site, added)
    chosen = {site: (forms or {}).get(site, OUTGOING) for site in amounts}
    for site, form in chosen.items():
        if form not in site.forms:
            chosen[site] = site.forms[0]
    while True:
        plan = Drafting(atlas, amounts, chosen).draft()
        stuck = [
            s.site
            for s in plan.sites
            if s.form == OUTGOING
            and INVERSE in s.site.forms
            and s.reads
            and not any(r.free for r in s.reads)
        ]
        if not stuck:
            return plan
        chosen.update(dict.fromkeys(stuck, INVERSE))


class Drafting:
    """The `Space` in which labels say where every entry of a grown axis comes from."""

    def __init__(
        self, atlas: ChannelMap, amounts: Mapping[Site, int], forms: Mapping[Site, str]
    ) -> None:
        self.atlas = atlas
        self.edits: dict[tuple, Edit] = {}
        self.setters: dict[tuple[int, str], tuple[Any, Callable[[], None]]] = {}
        self.sized: dict[tuple[int, str], Channels] = {}
        self.rewrites: dict[int, tuple[Any, Callable[[np.ndarray], Any]]] = {}
        self.apart: dict[int, tuple[Call, Channels]] = {}
        self.pads: dict[tuple[int, int], tuple[Call, int, Channels]] = {}
        self.activations: dict[int, Call] = {}
        self.passed: dict[int, list[np.ndarray]] = {}
        self.made: dict[tuple[int, str], tuple[np.ndarray, np.ndarray]] = {}
        self.sites = []
        start = 0
        inserts: dict[tuple[int, str], list[tuple[int, int, float]]] = {}
        for site, added in amounts.items():
            ids = np.arange(start, start + added)
            start += added
            self.sites.append(SitePlan(site, added, forms[site], ids))
            value = 0.0 if forms[site] == OUTGOING else UNKNOWN
            for producer, positions in site.members:
                places = insertions(positions, added, site.groups)
                inserts.setdefault(producer.key, []).extend(
                    (after, int(ids[i]), value) for after, i in places
                )
        for key, entries in inserts.items():
            self.made[key] = _inserted(atlas.producers[key].width, sorted(entries))
        self.producing = {op for op, _ in self.made}

    def draft(self) -> Plan:
        graph = self.atlas.graph
        env: dict[Ref, Channels | None] = dict.fromkeys(graph.inputs)
        for call in graph.calls:
            inputs = [env[r] for r in call.inputs]
            if all(x is None for x in inputs) and id(call.op) not in self.producing:
                env.update(dict.fromkeys(call.outputs))
                continue
            outputs = flow(call, inputs, self)
            env.update(zip(call.outputs, outputs, strict=True))
        states = {ref: c for ref, c in env.items() if c is not None}
        for site in self.sites:
            self._slots(site)
        return Plan(
            self.atlas,
            self.sites,
            list(self.edits.values()),
            [(ref, c.axis, len(c)) for ref, c in states.items()],
            list(self.setters.values()),
            self.rewrites,
            list(self.apart.values()),
            list(self.pads.values()),
            self.activations,
            states,
            self.passed,
        )

    def _slots(self, site: SitePlan) -> None:
        component = self.atlas.component
        for reader in site.site.readers:
            edit = self.edits.get((id(reader.variable), reader.axis))
            if edit is None:
                continue
            counts = np.bincount(-1 - edit.labels[edit.labels < 0], minlength=site.ids[-1] + 1)
            counts = counts[site.ids]
            if not counts.any():
                continue  # for example a slice that ends before the new channels
            old = rows_of(component[reader.ids], site.site.classes)
            if (counts != old.shape[1]).any():
                self.refuse(
                    reader.call,
                    [],
                    f"would read the new channels {counts.tolist()} times, but each of the old "
                    f"ones {old.shape[1]} times; a strided slice or the like lies before it. "
                    "Another number of channels may fit",
                )
            rows = rows_of(edit.labels, -1 - site.ids)
            assert edit.must_be_zero is not None
            free = not bool(edit.must_be_zero[rows].any())
            site.reads.append(ReadSlot(edit, rows, old, free, reader.call))
        if site.site.readers and not site.reads:
            self.refuse(
                site.site.readers[0].call,
                [],
                "would not read the new channels, and nothing else does; a slice or the like lies "
                "before it",
            )
        for producer, _ in site.site.members:
            fan_in = producer.fan_in
            edit = self.edits[id(fan_in.variable), fan_in.axis]
            columns = rows_of(edit.labels, -1 - site.ids)
            own = np.tile(self.atlas.classes_of(producer), fan_in.copies)
            site.writes.append(WriteSlot(edit, columns, rows_of(own, site.site.classes), producer))
        self._carries(site)

    def _carries(self, site: SitePlan) -> None:
        own = {
            (id(w.variable), w.axis): np.tile(self.atlas.classes_of(producer), w.copies)
            for producer, _ in site.site.members
            for w in producer.weights[1:]
        }
        component = self.atlas.component
        for key, edit in self.edits.items():
            if edit.role != "per-channel" or not np.isin(edit.labels, -1 - site.ids).any():
                continue
            classes = own[key] if key in own else component[self.atlas.carriers[key]]
            rows = rows_of(edit.labels, -1 - site.ids)
            site.carries.append(CarrySlot(edit, rows, rows_of(classes, site.site.classes)))

    # --- Space ---------------------------------------------------------------------------------

    def _edit(self, call: Call, edit: Edit) -> None:
        key = (id(edit.variable), edit.axis)
        edit.call = call
        known = self.edits.get(key)
        if known is None:
            self.edits[key] = edit
            return
        if not np.array_equal(known.labels, edit.labels):
            raise RefusedError(
                f"{call!r} is shared, and its calls would need different growth along axis "
                f"{edit.axis} of '{edit.variable.name}'. Grow the layers that feed it together."
            )
        if known.must_be_zero is not None and edit.must_be_zero is not None:
            known.must_be_zero = known.must_be_zero | edit.must_be_zero

    def read(
        self, call: Call, variable: Any, axis: int, channels: Channels, groups: int = 1
    ) -> None:
        labels = channels.labels
        if groups > 1:
            old = int(variable.shape[axis])
            blocks = labels.reshape(groups, -1) if len(labels) % groups == 0 else None
            if blocks is None or any(
                not np.array_equal(b[b >= 0], np.arange(g * old, (g + 1) * old))
                for g, b in enumerate(blocks)
            ):
                self.refuse(
                    call, [channels], f"has groups={groups}, and the growth would shift its groups"
                )
        must = (labels < 0) & ~(channels.values == 0)
        self._edit(
            call,
            Edit(call.path, variable, axis, labels, "fan-out", 0.0, must, groups),
        )

    def carry(self, call: Call, variable: Any, axis: int, channels: Channels, fill: Any) -> None:
        self._edit(call, Edit(call.path, variable, axis, channels.labels, "per-channel", fill))

    def produce(self, call: Call, production: Production) -> Channels | None:
        if (id(call.op), production.part) not in self.made:
            return None
        producer = self.atlas.producers[id(call.op), production.part]
        labels, values = self.made[producer.key]
        for weight in producer.weights:
            tiled = _tiled(labels, producer.width, weight.copies)
            edit = Edit(
                producer.path, weight.variable, weight.axis, tiled, "per-channel", weight.fill,
                copies=weight.copies,
            )  # fmt: skip
            if np.size(weight.fill) > 1:
                edit.fill = np.repeat(weight.fill, (labels < 0).sum())
                edit.fill = edit.fill.reshape(-1, *[1] * (len(weight.variable.shape) - 1))
            if weight is producer.fan_in:
                edit.role = "fan-in"
                edit.must_be_zero = (tiled < 0) & np.tile(values == 0, weight.copies)
            self._edit(call, edit)
        resize = producer.production.resize
        if resize is not None:
            self.setters[id(call.op), f"size {production.part}"] = (
                call.op,
                partial(resize, len(labels)),
            )
        return Channels(production.axis, labels, values)

    def tile(self, channels: Channels, times: int) -> Channels:
        old = int((channels.labels >= 0).sum())
        labels = _tiled(channels.labels, old, times)
        return Channels(channels.axis, labels, np.tile(channels.values, times))

    def slice(
        self, call: Call, channels: Channels, start: int, stop: int
    ) -> tuple[Channels | None, int, int]:
        labels = channels.labels
        at = np.flatnonzero(labels >= 0)
        if (np.diff(labels[at]) != 1).any():
            self.refuse(call, [channels], "slices channels whose order the growth has changed")
        first = int(at[start]) if start > 0 else 0
        last = int(at[stop]) if stop < len(at) else len(labels)
        part = labels[first:last]
        if not (part < 0).any():
            return None, first, last
        part = np.where(part >= 0, part - start, part)
        return Channels(channels.axis, part, channels.values[first:last]), first, last

    def blocks(self, call: Call, channels: Channels, size: int) -> None:
        new = channels.labels < 0
        whole = len(new) % size == 0 and (
            new.reshape(-1, size).all(1) | ~new.reshape(-1, size).any(1)
        )
        if not np.all(whole):
            self.refuse(
                call,
                [channels],
                f"works on blocks of {size} channels, and the growth would put new channels "
                "inside of old blocks",
            )

    def normalize(self, call: Call, channels: Channels) -> bool:
        new = channels.labels < 0
        writers = None
        if (channels.values[new] == 0).all():
            writers = writers_of(self.atlas.graph, call, channels.axis)
        if writers is None:
            if (np.diff(new.astype(int)) < 0).any():
                self.refuse(
                    call,
                    [channels],
                    "normalises over all channels, and the new ones would lie between the old "
                    "ones, from which they have to be kept apart",
                )
            self.apart[id(call)] = (call, channels)
            return False
        for variable, axis in writers:
            self.rewrite(call, variable, partial(_centred, axis=axis))
        return True

    def rewrite(self, call: Call, variable: Any, function: Callable[[np.ndarray], Any]) -> None:
        self.rewrites.setdefault(id(variable), (variable, function))

    def repeat(self, channels: Channels, times: int) -> Channels:
        labels = np.repeat(channels.labels, times)
        copy = np.tile(np.arange(times), len(channels))
        labels = np.where(labels >= 0, labels * times + copy, labels)
        return Channels(channels.axis, labels, np.repeat(channels.values, times))

    def partner(self, call: Call, position: int, channels: Channels) -> Channels | None:
        if not self.atlas.alone:
            return None
        self.pads[id(call.node), position] = (call, position, channels)
        return Channels.of(channels.axis, channels.labels)

    def extend(self, channels: Channels, before: int, after: int) -> Channels:
        labels, old = channels.labels, int((channels.labels >= 0).sum())
        moved = np.where(labels >= 0, labels + before, labels)
        ends = np.arange(before), np.arange(after) + before + old
        values = np.concatenate([np.zeros(before), channels.values, np.zeros(after)])
        return Channels(channels.axis, np.concatenate([ends[0], moved, ends[1]]), values)

    def join(self, call: Call, parts: Sequence[Channels]) -> Channels:
        for part in parts[1:]:
            if not np.array_equal(part.labels, parts[0].labels):
                self.refuse(call, parts, "joins tensors whose channels do not grow alike")
        return parts[0]

    def concatenate(
        self, call: Call, parts: Sequence[Channels | None], axis: int
    ) -> Channels | None:
        labels, values, offset = [], [], 0
        for part, ref in zip(parts, call.inputs, strict=True):
            size = ref.shape[axis]
            if part is None:
                labels.append(np.arange(size) + offset)
                values.append(np.zeros(size))
            else:
                labels.append(np.where(part.labels >= 0, part.labels + offset, part.labels))
                values.append(part.values)
            offset += size
        return Channels(axis, np.concatenate(labels), np.concatenate(values))

    def rearrange(
        self,
        call: Call,
        channels: Channels,
        transform: Callable[[np.ndarray, int], np.ndarray],
        output: int = 0,
    ) -> Channels | None:
        axis = self.atlas.axes[call.outputs[output]]
        old_in = call.inputs[0].shape[1:]
        # Old positions of the output, by old position of the input.
        moved = transform(np.arange(int(np.prod(old_in))).reshape(old_in), axis)
        place = np.empty(moved.size, dtype=np.int64)
        place[moved.ravel()] = np.arange(moved.size)
        # The grown input: old positions, or labels of new channels.
        new_in = list(old_in)
        new_in[channels.axis - 1] = len(channels)
        shape = [1] * len(new_in)
        shape[channels.axis - 1] = len(channels)
        label = np.broadcast_to(channels.labels.reshape(shape), new_in)
        index = [np.arange(n).reshape([-1 if a == b else 1 for b in range(len(new_in))])
                 for a, n in enumerate(new_in)]  # fmt: skip
        index[channels.axis - 1] = np.maximum(channels.labels, 0).reshape(shape)
        position = np.broadcast_to(
            np.ravel_multi_index(np.broadcast_arrays(*index), old_in), new_in
        )
        value = np.broadcast_to(channels.values.reshape(shape), new_in)
        result = transform(np.where(label < 0, label, position), axis)
        values = transform(np.where(label < 0, value, 0.0), axis)
        # Back to an index along one axis of the output.
        new = result < 0
        coordinates = np.unravel_index(place[np.maximum(result, 0)], moved.shape)
        changed = []
        for a, (coordinate, size) in enumerate(zip(coordinates, result.shape, strict=True)):
            here = np.arange(size).reshape([-1 if a == b else 1 for b in range(result.ndim)])
            if size != moved.shape[a] or ((coordinate != here) & ~new).any():
                changed.append(a)
        if changed != [axis - 1]:
            self.refuse(call, [channels], "spreads the growth over several axes")
        labels = np.where(new, result, coordinates[axis - 1])
        others = tuple(a for a in range(result.ndim) if a != axis - 1)
        line = tuple(slice(None) if a == axis - 1 else 0 for a in range(result.ndim))
        if (labels != np.expand_dims(labels[line], others)).any():
            self.refuse(call, [channels], "spreads the growth over several axes")
        return Channels(axis, labels[line], np.where(labels[line] < 0, values[line], 0.0))

    def pick(
        self, call: Call, channels: Channels, function: Callable[[int], np.ndarray]
    ) -> Channels | None:
        old = int((channels.labels >= 0).sum())
        there = function(len(channels))
        labels = channels.labels[there]
        kept = labels >= 0
        if not np.array_equal(labels[kept], function(old)):
            self.refuse(
                call,
                [channels],
                "picks channels by their position, and the growth would give it others",
            )
        if kept.all():
            return None
        labels = np.where(kept, np.cumsum(kept) - 1, labels)
        return Channels(channels.axis, labels, channels.values[there])

    def gather(
        self, call: Call, channels: Channels, indices: np.ndarray, follow: bool = True
    ) -> tuple[Channels | None, np.ndarray]:
        labels = channels.labels
        place = np.empty(int((labels >= 0).sum()), dtype=np.int64)
        place[labels[labels >= 0]] = np.flatnonzero(labels >= 0)
        if not follow:
            return None, place[indices]
        ends = np.append(np.flatnonzero(labels >= 0), len(labels))
        following = np.searchsorted(ends, np.arange(len(labels)), side="right")
        runs = [np.arange(place[i], ends[following[place[i]]]) for i in indices]
        there = np.concatenate(runs)
        new = labels[there] < 0
        if not new.any():
            return None, there
        result = np.where(new, labels[there], np.cumsum(~new) - 1)
        return Channels(channels.axis, result, channels.values[there]), there

    def require(
        self,
        call: Call,
        channels: Channels,
        holds: Callable[[np.ndarray], np.ndarray],
        reason: str,
    ) -> None:
        if not holds(channels.values[channels.labels < 0]).all():
            self.refuse(call, [channels], reason)

    def attribute(
        self, call: Call, channels: Channels, setter: Callable[[], None], key: str = ""
    ) -> None:
        outermost = call.owner
        while outermost is not None and outermost.owner is not None:
            outermost = outermost.owner
        if outermost is not None:  # its attributes may change as well: they are noted first
            layer = outermost.model
            self.setters.setdefault((id(layer), ""), (layer, lambda: None))
        known = self.sized.setdefault((id(call.op), key), channels)
        if known.axis != channels.axis or not np.array_equal(known.labels, channels.labels):
            self.refuse(call, [channels], "is shared, and its calls would need different growth")
        self.setters[id(call.op), key] = (call.op, setter)

    def activation(self, call: Call, channels: Channels) -> None:
        if ((channels.labels < 0) & (channels.values == 0)).any():
            self.activations[id(call.op)] = call
            self.passed.setdefault(id(call.op), []).append(channels.labels)

    def refuse(self, call: Call, channels: Sequence[Channels | None], reason: str) -> None:
        raise RefusedError(f"{call!r} {reason}.", call)


def _inserted(width: int, entries: list[tuple[int, int, float]]) -> tuple[np.ndarray, np.ndarray]:
    """Labels and values of an axis of `width` after new channels (after, id, value) are put in."""
    after = np.array([a for a, _, _ in entries])
    labels = np.insert(np.arange(width), after + 1, [-1 - i for _, i, _ in entries])
    values = np.insert(np.zeros(width), after + 1, [v for _, _, v in entries])
    return labels, values


def _centred(value: np.ndarray, axis: int) -> np.ndarray:
    return value - value.mean(axis=axis, keepdims=True, dtype="float64")


def _tiled(labels: np.ndarray, old: int, times: int) -> np.ndarray:
    """Labels of an axis that holds a run of `old` entries `times` times."""
    return np.concatenate([np.where(labels >= 0, labels + t * old, labels) for t in range(times)])
