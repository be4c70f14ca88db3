"""The form in which TensorBoard keeps growth: bytes for its string tensors, and back.

A run has four tags, all of the plugin `keras_grow`: `GROWTH` and `SITES` with one record for every
growth step, `NETWORK` at the start and after every change of the layers, `SESSION` at every
opening of a writer. A reader of a run that was resumed must leave out what `Sessions` calls stale:
TensorBoard's fast loader keeps it.

What is decoded may come from anywhere. It is checked field by field (see `checking`), and whatever
else the bytes hold is a `RecordError`.
"""

import json
import math
import zlib
from collections.abc import Iterable, Mapping
from numbers import Integral
from typing import Any

from keras_grow.logs import checking
from keras_grow.logs.checking import Check, RecordError
from keras_grow.logs.events import GrowthEvent, SiteGrowth
from keras_grow.logs.networks import Network, Node
from keras_grow.logs.runs import GrowthSummary

PLUGIN = "keras_grow"
GROWTH = "keras_grow/growth"
SITES = "keras_grow/sites"
NETWORK = "keras_grow/network"
SESSION = "keras_grow/session"

# Numbers of singular values that the sites of one record share, and the most that one site gets.
SPECTRA_BUDGET = 2000
SPECTRUM_LIMIT = 512
# Singular values that are kept behind those that were used, however many sites there are.
BEHIND_THE_CUT = 4
# Texts of one growth in short: notes, and sites that were skipped.
SHORT_TEXT = 300
SHORT_LIST = 10


# --- growth in short ---------------------------------------------------------------------------


def in_short(event: GrowthEvent) -> GrowthSummary:
    """A growth step without its sites. Long texts and lists are cut, and say so."""
    sites = event.sites
    notes = [checking.cut(str(note), SHORT_TEXT) for note in event.notes]
    skipped = {
        checking.cut(str(name), SHORT_TEXT): checking.cut(str(reason), SHORT_TEXT)
        for name, reason in list(event.skipped.items())[:SHORT_LIST]
    }
    if len(notes) > SHORT_LIST:
        notes[SHORT_LIST:] = [f"{len(notes) - SHORT_LIST:,} more notes are not shown"]
    if len(event.skipped) > len(skipped):
        notes.append(f"{len(event.skipped) - len(skipped):,} more sites were skipped")
    if event.deviation is not None and not math.isfinite(event.deviation):
        notes.append("the deviation of the outputs was not finite")
    return GrowthSummary(
        step=int(event.step),
        time=float(event.time),
        epoch=int(event.epoch),
        parameters_before=int(event.parameters_before),
        parameters_after=int(event.parameters_after),
        flops_before=float(event.flops_before),
        flops_after=float(event.flops_after),
        loss=_finite(event.loss),
        deviation=_finite(event.deviation),
        tolerance=_finite(event.tolerance),
        seconds={str(k): float(v) for k, v in event.seconds.items()},
        error=None if event.error is None else checking.cut(str(event.error), checking.MAX_TEXT),
        notes=tuple(notes),
        dry_run=bool(event.dry_run),
        sites=len(sites),
        added=sum(int(s.width_after) - int(s.width_before) for s in sites),
        methods=_each_once(s.method for s in sites),
        forms=_each_once(s.form for s in sites),
        kinds=_each_once(s.kind for s in sites),
        gradient_norm=_root_of_squares(s.gradient_norm for s in sites),
        existing_norm=_root_of_squares(s.existing_norm for s in sites),
        skipped=skipped,
    )


def encode_growth(event: GrowthEvent) -> bytes:
    """A growth step without its sites, as JSON; its step and time are TensorBoard's own."""
    short = in_short(event)
    values = {name: getattr(short, name) for name in _GROWTH}
    return _json({k: v for k, v in values.items() if not _is_empty(v)}, digits=9)


def decode_growth(data: bytes, step: int, time: float) -> GrowthSummary:
    """What `encode_growth` was given.

    Raises:
        RecordError: these are no such bytes.
    """
    return GrowthSummary(
        step=step,
        time=time,
        **checking.arguments_of(GrowthSummary, _GROWTH, checking.parsed(data), "growth"),
    )


# --- the sites of a growth ---------------------------------------------------------------------


def encode_sites(sites: Iterable[SiteGrowth]) -> bytes:
    """Sites of one growth step, column by column, compressed.

    Floats keep 4 significant digits. Spectra are cut to their leading values; how many there were
    is told by `spectrum_size`.
    """
    sites = list(sites)
    rows = [dict(vars(site)) for site in sites]
    for row, kept in zip(rows, _shares(sites), strict=True):
        values = row["singular_values"]
        if len(values) > kept:
            row["spectrum_size"] = max(len(values), row["spectrum_size"] or 0)
            row["singular_values"] = values[:kept]
    columns = {name: [row[name] for row in rows] for name in _SITE}
    kept_columns = {
        name: column
        for name, column in columns.items()
        if name == "name" or not all(map(_is_empty, column))
    }
    return zlib.compress(_json(kept_columns), 6)


def decode_sites(data: bytes) -> list[SiteGrowth]:
    """What `encode_sites` was given, spectra cut.

    Raises:
        RecordError: these are no such bytes.
    """
    columns = checking.parsed(checking.decompressed(data))
    checking.require("a table", isinstance(columns, dict), columns)
    known = {name: column for name, column in columns.items() if name in _SITE}
    for name, column in known.items():
        checking.require(f"'{name}' a list", isinstance(column, list), column)
    lengths = {len(column) for column in known.values()}
    if "name" not in known or len(lengths) != 1:
        raise RecordError(f"the columns of its sites have different lengths: {sorted(lengths)}")
    rows: list[dict[str, Any]] = [{} for _ in known["name"]]
    for name, column in known.items():
        for row, value in zip(rows, column, strict=True):
            if value is not None:
                row[name] = value
    return [_site(row) for row in rows]


# --- networks ----------------------------------------------------------------------------------


def encode_network(network: Network) -> bytes:
    """A network as compressed JSON."""
    nodes = {name: [getattr(n, name) for n in network.nodes] for name in _NODE}
    values = {"name": network.name, "step": network.step, "nodes": nodes, "edges": network.edges}
    return zlib.compress(_json(values), 6)


def decode_network(data: bytes) -> Network:
    """What `encode_network` was given.

    Raises:
        RecordError: these are no such bytes.
    """
    values = checking.parsed(checking.decompressed(data))
    head = checking.arguments_of(
        Network, {"name": checking.text, "step": checking.count}, values, "network"
    )
    columns, edges = values.get("nodes"), values.get("edges")
    checking.require("'nodes' a table", isinstance(columns, dict), columns)
    checking.require("'edges' a list", isinstance(edges, list), edges)
    lists = [columns.get(name) for name in _NODE]
    if not all(isinstance(c, list) for c in lists) or len({len(c) for c in lists}) != 1:
        raise RecordError("the columns of its nodes are missing or have different lengths")
    rows = (dict(zip(_NODE, row, strict=True)) for row in zip(*lists, strict=True))
    nodes = tuple(
        Node(**checking.arguments_of(Node, _NODE, checking.known(row), "node")) for row in rows
    )
    return Network(**head, nodes=nodes, edges=tuple(_edge(e, len(nodes)) for e in edges))


def _edge(edge: Any, nodes: int) -> tuple[int, int]:
    good = isinstance(edge, list) and len(edge) == 2
    good = good and all(type(i) is int and 0 <= i < nodes for i in edge)
    checking.require("an edge a pair of its nodes", good, edge)
    return edge[0], edge[1]


# --- whole events ------------------------------------------------------------------------------


def decode_event(data: bytes | str) -> GrowthEvent:
    """An event from the JSON of its `to_dict`, as in `growth-events.jsonl`.

    Raises:
        RecordError: this is no such text.
    """
    return event_from(checking.parsed(data))


def decode_events(data: bytes | str) -> tuple[list[GrowthEvent], list[str]]:
    """Events from a JSON list of `to_dict`s, and a sentence for each that had to be left out.

    Raises:
        RecordError: this is no such text.
    """
    values = checking.parsed(data)
    checking.require("a list", isinstance(values, list), values)
    found, left_out = [], []
    for number, value in enumerate(values, 1):
        try:
            found.append(event_from(value))
        except RecordError as error:
            left_out.append(f"Entry {number} was left out: {error}.")
    return found, left_out


def event_from(values: Any) -> GrowthEvent:
    """An event from a value of `GrowthEvent.to_dict`.

    Raises:
        RecordError: it is no such value.
    """
    checked = checking.arguments_of(GrowthEvent, _EVENT, values, "growth event")
    sites = values.get("sites")
    checking.require("'sites' a list", isinstance(sites, list), sites)
    return GrowthEvent(sites=[_site(checking.known(site)) for site in sites], **checked)


# --- sessions ----------------------------------------------------------------------------------


class Sessions:
    """When writers of one run were opened, and so what a resumed run has taken back.

    Args:
        opened: pairs of the step and the time of `SESSION` records.
    """

    def __init__(self, opened: Iterable[tuple[int, float]]) -> None:
        self._opened = sorted(opened, key=lambda pair: pair[1])

    @property
    def resumed(self) -> list[int]:
        """Steps at which a writer went on, in order."""
        valid = [pair for pair in self._opened[1:] if not self.stale(*pair)]
        return sorted({step for step, _ in valid if step > 0})

    def stale(self, step: int, time: float) -> bool:
        """Whether what was written then at that step was undone by going on from before it."""
        return any((step > begun or begun == 0) and time < opened for begun, opened in self._opened)


# --- writing ------------------------------------------------------------------------------------

_CONTAINERS = (list, tuple, Mapping)


def _is_empty(value: Any) -> bool:
    """Whether it is what a decoder assumes of a field that is not there."""
    return value is None or value is False or (isinstance(value, _CONTAINERS) and not value)


def _json(value: Any, digits: int = 4) -> bytes:
    plain = rounded(value, digits)
    text = json.dumps(plain, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.encode("utf-8", "replace")


def rounded(value: Any, digits: int) -> Any:
    """Plain values: floats with so many significant digits, None for those not finite."""
    if value is None or isinstance(value, (str, bool)):
        return value
    if isinstance(value, float):
        return _short(float(value), digits)
    if isinstance(value, Mapping):
        return {str(k): rounded(v, digits) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(v, digits) for v in value]
    if isinstance(value, Integral):
        return int(value)
    return _short(float(value), digits)


def _short(number: float, digits: int) -> float | int | None:
    if not math.isfinite(number):
        return None
    number = float(f"{number:.{digits}g}")
    return int(number) if number.is_integer() and abs(number) < 1e4 else number  # no ".0"


def _shares(sites: list[SiteGrowth]) -> list[int]:
    """How many singular values each site keeps: what short spectra leave, longer ones share."""
    left, shares = SPECTRA_BUDGET, [0] * len(sites)
    by_length = sorted(range(len(sites)), key=lambda i: len(sites[i].singular_values))
    for done, i in enumerate(by_length):
        site = sites[i]
        least = site.width_after - site.width_before + BEHIND_THE_CUT
        fair = max(left // (len(sites) - done), least)
        shares[i] = min(fair, SPECTRUM_LIMIT, len(site.singular_values))
        left = max(left - shares[i], 0)
    return shares


def _finite(value: Any) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None


def _each_once(values: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(values))


def _root_of_squares(values: Iterable[float | None]) -> float | None:
    known = [float(v) for v in values if v is not None]
    return _finite(math.hypot(*known)) if known else None


def _site(row: dict[str, Any]) -> SiteGrowth:
    # What every record has but an encoder leaves out where it is empty everywhere.
    empty = {"producers": [], "consumers": [], "width_before": 0, "width_after": 0}
    checked = checking.arguments_of(
        SiteGrowth, _SITE, {**empty, "method": "", "form": "", **row}, "site"
    )
    return SiteGrowth(**checked)


_GROWTH: dict[str, Check] = {
    "epoch": checking.count,
    "parameters_before": checking.count,
    "parameters_after": checking.count,
    "flops_before": checking.positive,
    "flops_after": checking.positive,
    "loss": checking.number,
    "deviation": checking.positive,
    "tolerance": checking.positive,
    "seconds": checking.table_of(checking.positive),
    "error": checking.text,
    "notes": checking.text_tuple,
    "dry_run": checking.truth,
    "sites": checking.count,
    "added": checking.count,
    "methods": checking.text_tuple,
    "forms": checking.text_tuple,
    "kinds": checking.text_tuple,
    "gradient_norm": checking.positive,
    "existing_norm": checking.positive,
    "skipped": checking.table_of(checking.text),
}

_SITE: dict[str, Check] = {
    "name": checking.text,
    "producers": checking.texts,
    "consumers": checking.texts,
    "width_before": checking.count,
    "width_after": checking.count,
    "method": checking.text,
    "form": checking.text,
    "singular_values": checking.numbers,
    "gradient_norm": checking.positive,
    "rank": checking.count,
    "notes": checking.texts,
    "kind": checking.text,
    "existing_norm": checking.positive,
    "spectrum_size": checking.count,
    "first_step": checking.positive,
    "first_reach": checking.positive,
}

_NODE: dict[str, Check] = {
    "path": checking.text,
    "kind": checking.text,
    "width": checking.count,
    "site": checking.text,
    "parameters": checking.count,
}

_EVENT: dict[str, Check] = {
    "step": checking.count,
    "time": checking.positive,
    "scores": checking.table_of(checking.table_of(checking.number)),
    **{name: check for name, check in _GROWTH.items() if name in GrowthEvent.__dataclass_fields__},
    "notes": checking.texts,
}
_EVENT.pop("sites")
