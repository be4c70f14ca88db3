"""The form in which TensorBoard keeps growth: bytes for its string tensors, and back.

A run has four tags, all of the plugin `keras_grow`: `GROWTH` and `SITES` with one record for every
growth step, `NETWORK` at the start and after every change of the layers, `SESSION` at every
opening of a writer. A reader of a run that was resumed must leave out what `Sessions` calls stale:
TensorBoard's fast loader keeps it.

What is decoded may come from anywhere. It is checked field by field: texts are cut to a sensible
length and have no control characters, numbers are finite, and whatever else the bytes hold is a
`RecordError`.
"""

import functools
import json
import math
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, fields
from numbers import Integral
from typing import Any, NoReturn

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

# Limits of what is decoded: bytes when decompressed, values in them, characters of one text.
MAX_BYTES = 16 * 2**20
MAX_VALUES = 1_000_000
MAX_TEXT = 2000


class RecordError(ValueError):
    """Bytes that are no such record; the message says why."""


# --- growth in short ---------------------------------------------------------------------------


def in_short(event: GrowthEvent) -> GrowthSummary:
    """A growth step without its sites. Long texts and lists are cut, and say so."""
    sites = event.sites
    notes = [_cut(str(note), SHORT_TEXT) for note in event.notes]
    skipped = {
        _cut(str(name), SHORT_TEXT): _cut(str(reason), SHORT_TEXT)
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
        error=None if event.error is None else _cut(str(event.error), MAX_TEXT),
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
        step=step, time=time, **_checked(GrowthSummary, _GROWTH, _parsed(data), "growth")
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
    columns = _parsed(_decompressed(data))
    _check("a table", isinstance(columns, dict), columns)
    known = {name: column for name, column in columns.items() if name in _SITE}
    for name, column in known.items():
        _check(f"'{name}' a list", isinstance(column, list), column)
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
    values = _parsed(_decompressed(data))
    head = _checked(Network, {"name": _text, "step": _count}, values, "network")
    columns, edges = values.get("nodes"), values.get("edges")
    _check("'nodes' a table", isinstance(columns, dict), columns)
    _check("'edges' a list", isinstance(edges, list), edges)
    lists = [columns.get(name) for name in _NODE]
    if not all(isinstance(c, list) for c in lists) or len({len(c) for c in lists}) != 1:
        raise RecordError("the columns of its nodes are missing or have different lengths")
    rows = (dict(zip(_NODE, row, strict=True)) for row in zip(*lists, strict=True))
    nodes = tuple(Node(**_checked(Node, _NODE, _known(row), "node")) for row in rows)
    return Network(**head, nodes=nodes, edges=tuple(_edge(e, len(nodes)) for e in edges))


def _edge(edge: Any, nodes: int) -> tuple[int, int]:
    good = isinstance(edge, list) and len(edge) == 2
    good = good and all(type(i) is int and 0 <= i < nodes for i in edge)
    _check("an edge a pair of its nodes", good, edge)
    return edge[0], edge[1]


# --- whole events ------------------------------------------------------------------------------


def decode_event(data: bytes | str) -> GrowthEvent:
    """An event from the JSON of its `to_dict`, as in `growth-events.jsonl`.

    Raises:
        RecordError: this is no such text.
    """
    return event_from(_parsed(data))


def decode_events(data: bytes | str) -> tuple[list[GrowthEvent], list[str]]:
    """Events from a JSON list of `to_dict`s, and a sentence for each that had to be left out.

    Raises:
        RecordError: this is no such text.
    """
    values = _parsed(data)
    _check("a list", isinstance(values, list), values)
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
    checked = _checked(GrowthEvent, _EVENT, values, "growth event")
    sites = values.get("sites")
    _check("'sites' a list", isinstance(sites, list), sites)
    return GrowthEvent(sites=[_site(_known(site)) for site in sites], **checked)


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


# --- checking ----------------------------------------------------------------------------------


def _decompressed(data: bytes) -> bytes:
    try:
        stream = zlib.decompressobj()
        found = stream.decompress(bytes(data), MAX_BYTES)
    except (zlib.error, TypeError, ValueError) as error:
        raise RecordError(f"it cannot be decompressed ({_shown(str(error))})") from None
    if stream.unconsumed_tail:
        raise RecordError(f"it takes more than {MAX_BYTES // 2**20} MB when decompressed")
    if not stream.eof:
        raise RecordError("it is cut off")
    return found


def _parsed(data: bytes | str) -> Any:
    try:
        text = data if isinstance(data, str) else bytes(data).decode("utf-8")
    except (TypeError, ValueError):
        raise RecordError("it is no text in UTF-8") from None
    if len(text) > MAX_BYTES:
        raise RecordError(f"it is longer than {MAX_BYTES // 2**20} MB")
    if sum(text.count(sign) for sign in ",[{") > MAX_VALUES:
        raise RecordError(f"it holds more than {MAX_VALUES:,} values")
    try:
        return json.loads(text, parse_constant=_no_number)
    except RecursionError:
        raise RecordError("it is no JSON: it is nested too deeply") from None
    except RecordError:
        raise
    except ValueError as error:
        raise RecordError(f"it is no JSON ({_shown(str(error))})") from None


def _no_number(name: str) -> NoReturn:
    raise RecordError(f"it holds {name}, which is no number in JSON")


def _check(what: str, good: bool, received: Any) -> None:
    if not good:
        raise RecordError(f"it should have had {what}. Received: {_shown(repr(received))}")


def _shown(text: str) -> str:
    return clean(text if len(text) <= 60 else text[:57] + "...")


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 3] + "..."


# Terminals obey control characters, and half a surrogate pair cannot be sent anywhere.
_UNPRINTABLE = {
    code: "\ufffd" for code in (*range(32), *range(127, 160), *range(0xD800, 0xE000))
} | {code: chr(code) for code in (9, 10)}


def clean(text: str) -> str:
    """A text without what would steer a terminal or cannot be encoded."""
    return text if text.isprintable() else text.translate(_UNPRINTABLE)


def _text(value: Any, name: str) -> str:
    _check(f"a text as '{name}'", isinstance(value, str), value)
    return clean(_cut(value, MAX_TEXT))


def _texts(value: Any, name: str) -> list[str]:
    _check(f"a list of texts as '{name}'", isinstance(value, list), value)
    return [_text(v, name) for v in value]


def _text_tuple(value: Any, name: str) -> tuple[str, ...]:
    return tuple(_texts(value, name))


def _count(value: Any, name: str) -> int:
    good = type(value) is int and 0 <= value < 2**63
    _check(f"a whole number of 0 or more as '{name}'", good, value)
    return value


def _number(value: Any, name: str) -> float:
    good = type(value) in (int, float) and abs(value) < 1e300
    _check(f"a finite number as '{name}'", good, value)
    return float(value)


def _positive(value: Any, name: str) -> float:
    found = _number(value, name)
    _check(f"a number of 0 or more as '{name}'", found >= 0, value)
    return found


def _numbers(value: Any, name: str) -> list[float]:
    _check(f"a list of numbers as '{name}'", isinstance(value, list), value)
    return [_positive(v, name) for v in value]


def _truth(value: Any, name: str) -> bool:
    _check(f"true or false as '{name}'", isinstance(value, bool), value)
    return value


def _table_of(check: "Check") -> "Check":
    def checked(value: Any, name: str) -> dict[str, Any]:
        _check(f"a table as '{name}'", isinstance(value, dict), value)
        return {_text(k, name): check(v, name) for k, v in value.items()}

    return checked


def _known(row: Any) -> dict[str, Any]:
    """None stands for what is not known everywhere, so it is the same as nothing."""
    _check("a table for each", isinstance(row, dict), row)
    return {name: value for name, value in row.items() if value is not None}


@functools.cache
def _needed(cls: Any) -> frozenset[str]:
    """Fields without a default."""
    return frozenset(f.name for f in fields(cls) if f.default is f.default_factory is MISSING)


def _checked(cls: Any, checks: "Mapping[str, Check]", values: Any, what: str) -> dict[str, Any]:
    """Arguments of a dataclass. Fields that are not known here are of a later version."""
    _check(f"a table, the {what}", isinstance(values, dict), values)
    needed = _needed(cls) & checks.keys()
    if not needed <= values.keys():
        missing = sorted(needed - values.keys())
        raise RecordError(f"the {what} lacks {', '.join(missing)}")
    found = {}
    for name, check in checks.items():
        value = values.get(name)
        if value is not None or name in needed:
            found[name] = check(value, name)
    return found


def _site(row: dict[str, Any]) -> SiteGrowth:
    # What every record has but an encoder leaves out where it is empty everywhere.
    empty = {"producers": [], "consumers": [], "width_before": 0, "width_after": 0}
    checked = _checked(SiteGrowth, _SITE, {**empty, "method": "", "form": "", **row}, "site")
    return SiteGrowth(**checked)


Check = Callable[[Any, str], Any]

_GROWTH: dict[str, Check] = {
    "epoch": _count,
    "parameters_before": _count,
    "parameters_after": _count,
    "flops_before": _positive,
    "flops_after": _positive,
    "loss": _number,
    "deviation": _positive,
    "tolerance": _positive,
    "seconds": _table_of(_positive),
    "error": _text,
    "notes": _text_tuple,
    "dry_run": _truth,
    "sites": _count,
    "added": _count,
    "methods": _text_tuple,
    "forms": _text_tuple,
    "kinds": _text_tuple,
    "gradient_norm": _positive,
    "existing_norm": _positive,
    "skipped": _table_of(_text),
}

_SITE: dict[str, Check] = {
    "name": _text,
    "producers": _texts,
    "consumers": _texts,
    "width_before": _count,
    "width_after": _count,
    "method": _text,
    "form": _text,
    "singular_values": _numbers,
    "gradient_norm": _positive,
    "rank": _count,
    "notes": _texts,
    "kind": _text,
    "existing_norm": _positive,
    "spectrum_size": _count,
    "first_step": _positive,
    "first_reach": _positive,
}

_NODE: dict[str, Check] = {
    "path": _text,
    "kind": _text,
    "width": _count,
    "site": _text,
    "parameters": _count,
}

_EVENT: dict[str, Check] = {
    "step": _count,
    "time": _positive,
    "scores": _table_of(_table_of(_number)),
    **{name: check for name, check in _GROWTH.items() if name in GrowthEvent.__dataclass_fields__},
    "notes": _texts,
}
_EVENT.pop("sites")
