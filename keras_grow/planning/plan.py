"""The plan of one surgery: every variable, axis and fill, with what must be zero and why."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from keras_grow.graph import Call, Ref
from keras_grow.planning.cost import graph_flops
from keras_grow.planning.search import ChannelMap, Producer
from keras_grow.planning.sites import Site
from keras_grow.rules import LIKE_OLD, Channels

OUTGOING, INVERSE = "outgoing", "inverse"


@dataclass(eq=False)
class Edit:
    """One axis of one variable.

    Attributes:
        path: address of the variable's layer.
        variable: the `keras.Variable`.
        axis: which axis grows.
        labels: where each new entry comes from: an old index, or `-1 - i` for new channel i.
        role: "fan-in" (the producer's), "fan-out" (a consumer's) or "per-channel".
        fill: what new entries of a per-channel axis hold.
        must_be_zero: which entries have to be zero for the function to be kept.
        groups: a grouped convolution's kernel seen as (*kernel_size, in, filters / groups).
        copies: the axis holds the channels this many times, one run after another.
        call: the (first) call of the layer.
    """

    path: str
    variable: Any
    axis: int
    labels: np.ndarray
    role: str
    fill: Any = 0.0
    must_be_zero: np.ndarray | None = None
    groups: int = 1
    copies: int = 1
    call: Call | None = None

    @property
    def added(self) -> int:
        return int((self.labels < 0).sum())

    @property
    def old_size(self) -> int:
        return len(self.labels) - self.added

    def describe(self) -> str:
        if self.fill is LIKE_OLD:
            new = "anything (drawn like the old ones)"
        elif self.role == "per-channel":
            array = np.asarray(self.fill)
            if array.size == 1:
                new = f"{float(array.flat[0]):g}"
            else:
                new = "identity kernel" if set(np.unique(array)) == {0.0, 1.0} else "by position"
        elif self.role == "fan-in":
            new = "zero (proof: the new channels are zero)" if self.zeroed else "chosen by method"
        else:
            new = "zero (proof: nothing reads them)" if self.zeroed else "chosen by method"
        return (
            f"  {self.path}/{self.variable.name} axis {self.axis}: {self.old_size} -> "
            f"{len(self.labels)}, {self.role}, new entries: {new}"
        )

    @property
    def zeroed(self) -> bool:
        return self.must_be_zero is not None and bool(self.must_be_zero[self.labels < 0].all())


@dataclass(eq=False)
class ReadSlot:
    """Where the fan-out of a site's new channels lives in one consumer.

    Attributes:
        edit: the kernel axis.
        rows: (k, n) positions along the grown axis, n rows for each new channel.
        old_rows: (width, n) positions of the existing channels along the present axis.
        free: whether the rows may hold anything (the new channels arrive as zero).
        call: the consumer's (first) call.
    """

    edit: Edit
    rows: np.ndarray
    old_rows: np.ndarray
    free: bool
    call: Call


@dataclass(eq=False)
class WriteSlot:
    """Where the fan-in of a site's new channels lives in one producer.

    Attributes:
        edit: the kernel axis.
        columns: (k, n) positions along the grown axis, n for each new channel.
        old_columns: (width, n) positions of the existing channels along the present axis.
        producer: the layer.
    """

    edit: Edit
    columns: np.ndarray
    old_columns: np.ndarray
    producer: Producer


@dataclass(eq=False)
class CarrySlot:
    """Where a weight that belongs to single channels holds those of a site.

    Attributes:
        edit: the weight's axis.
        rows: (k, n) positions of the new channels along the grown axis.
        old_rows: (width, n) positions of the existing channels along the present axis.
    """

    edit: Edit
    rows: np.ndarray
    old_rows: np.ndarray


@dataclass(eq=False)
class SitePlan:
    """The growth of one site by `added` channels, in one form."""

    site: Site
    added: int
    form: str
    ids: np.ndarray
    reads: list[ReadSlot] = field(default_factory=list)
    writes: list[WriteSlot] = field(default_factory=list)
    carries: list[CarrySlot] = field(default_factory=list)

    @property
    def width(self) -> int:
        return self.site.width + self.added


@dataclass(eq=False)
class Plan:
    """The complete list of edits of one surgery. Nothing is changed by making or printing it.

    Attributes:
        atlas: the model and its channels.
        sites: what grows, by how much, in which form.
        edits: every axis of every variable that changes.
        tensors: the grown tensors of the graph, as (ref, axis, new size).
        setters: what else depends on the number of channels (config fields): ops and setters.
        rewrites: variables whose old entries change too, with how.
        apart: calls that go on working on the old channels alone; a layer of the same kind is
            put beside each for the new ones.
        pads: inputs of calls that do not grow and are padded with zeros: (call, position of the
            input, channels it then carries).
        activations: calls that may give the new channels, which pass them at zero, no gradient.
        states: channels by tensor, with the values of new entries at growth.
        passed: labels of the channels that pass each of `activations`, by id of its layer or op.
    """

    atlas: ChannelMap
    sites: list[SitePlan]
    edits: list[Edit]
    tensors: list[tuple[Ref, int, int]]
    setters: list[tuple[Any, Callable[[], None]]]
    rewrites: dict[int, tuple[Any, Callable[[np.ndarray], Any]]]
    apart: list[tuple[Call, Channels]]
    pads: list[tuple[Call, int, Channels]]
    activations: dict[int, Call]
    states: dict[Ref, Channels]
    passed: dict[int, list[np.ndarray]] = field(default_factory=dict, repr=False)

    @property
    def sizes(self) -> list[tuple[Producer, int]]:
        """Producers with their new number of channels."""
        found = {}
        for site in self.sites:
            for slot in site.writes:
                size = len(slot.edit.labels) // slot.edit.copies
                found[id(slot.producer)] = (slot.producer, size)
        return list(found.values())

    def passing(self, call: Call) -> list[Site]:
        """The sites whose new channels pass one of `activations`."""
        labels = np.concatenate(self.passed[id(call.op)])
        return [s.site for s in self.sites if np.isin(-1 - s.ids, labels).any()]

    def new_shapes(self) -> dict[int, tuple[Any, tuple]]:
        """Variables that change, with their new shapes, by id."""
        shapes: dict[int, tuple[Any, list]] = {}
        for edit in self.edits:
            shape = shapes.setdefault(id(edit.variable), (edit.variable, list(edit.variable.shape)))
            if edit.groups == 1:
                shape[1][edit.axis] = len(edit.labels)
            else:
                shape[1][edit.axis] = len(edit.labels) // edit.groups
        return {key: (v, tuple(s)) for key, (v, s) in shapes.items()}

    @property
    def rewires(self) -> bool:
        """Whether the graph gets new calls."""
        return bool(self.apart or self.pads)

    @property
    def added_parameters(self) -> int:
        return sum(
            int(np.prod(new)) - int(np.prod(tuple(v.shape)))
            for v, new in self.new_shapes().values()
        )

    @property
    def added_flops(self) -> float:
        graph = self.atlas.graph
        return graph_flops(graph, self.tensors, self.new_shapes()) - graph_flops(graph)

    def __str__(self) -> str:
        lines = [f"Plan for model '{self.atlas.graph.model.name}'"]
        for site in self.sites:
            tied = "" if len(site.site.producers) == 1 else f" ({', '.join(site.site.producers)})"
            lines.append(
                f"site {site.site.name}{tied}: {site.site.width} -> {site.width} channels, "
                f"{site.form} form (fan-{'in' if site.form == OUTGOING else 'out'} zero)"
            )
        lines += [edit.describe() for edit in self.edits]
        lines += [f"  {v.path}: its present values are rescaled" for v, _ in self.rewrites.values()]
        lines += [f"  {call.path}: goes on for the old channels alone" for call, _ in self.apart]
        lines += [
            f"  {call.path}: {call.inputs[i].tensors[0].name} is padded with zeros to {len(c)}"
            for call, i, c in self.pads
        ]
        lines.append(f"adds {self.added_parameters:,} parameters")
        return "\n".join(lines)
