"""What the tab is told, as plain values for JSON. Texts are cut: a page has room for so much."""

import math
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, get_origin

from keras_grow.logs.events import SiteGrowth
from keras_grow.logs.runs import GrowthSummary, Run

WARNINGS = 50  # of one run
TEXT = 500  # characters of one text
SITES = 1000  # rows of one growth step


def _columns() -> tuple[str, ...]:
    """The event table's: fields of `GrowthSummary` that have one value, and whether it was kept."""
    names = [one.name for one in fields(GrowthSummary) if get_origin(one.type) is not Mapping]
    names.insert(names.index("tolerance") + 1, "kept")
    return tuple(names)


COLUMNS = _columns()


def summary(run: Run, version: str, color: str, last: Mapping[str, float]) -> dict[str, Any]:
    """A run in the list of runs. `last` are the last values of its metrics."""
    done = [growth for growth in run.growths if not growth.error and not growth.dry_run]
    end = run.growths[-1] if run.growths else None
    warnings = [_cut(warning) for warning in run.warnings]
    if len(warnings) > WARNINGS:
        warnings[WARNINGS:] = [f"... and {len(warnings) - WARNINGS:,} more."]
    return {
        "name": run.name,
        "version": version,
        "color": color,
        "growths": len(run.growths),
        "failed": sum(1 for growth in run.growths if growth.error),
        "broken": sum(1 for growth in run.growths if growth.kept is False),
        "checked": sum(1 for growth in run.growths if growth.kept is not None),
        "dry": sum(1 for growth in run.growths if growth.dry_run),
        "steps": [growth.step for growth in run.growths],
        "last_step": end.step if end else None,
        "added": sum(growth.added for growth in done),
        "parameters_first": run.growths[0].parameters_before if run.growths else None,
        "parameters_last": end.parameters_after if end else None,
        "flops_first": _plain(run.growths[0].flops_before) if run.growths else None,
        "flops_last": _plain(end.flops_after) if end else None,
        "deviation": _plain(max((g.deviation for g in done if g.deviation is not None), default=0)),
        "seconds": _plain(sum(sum(growth.seconds.values()) for growth in run.growths)),
        "resumed": run.resumed,
        "last": _plain(last),
        "warnings": warnings,
    }


def events(run: Run) -> dict[str, list[Any]]:
    """All growth steps of a run, column by column."""
    table: dict[str, list[Any]] = {name: [] for name in COLUMNS}
    for growth in run.growths:
        for name in COLUMNS:
            table[name].append(_plain(getattr(growth, name)))
    table["seconds"] = [_plain(sum(growth.seconds.values())) for growth in run.growths]
    return table


def growth(one: GrowthSummary) -> dict[str, Any]:
    """One growth step whole, but for its sites."""
    found = {name: _plain(getattr(one, name)) for name in COLUMNS}
    return {**found, "seconds": _plain(one.seconds), "skipped": _plain(one.skipped)}


def sites(grown: list[SiteGrowth]) -> list[dict[str, Any]]:
    """What grew at one step. Spectra are figures, and only how long they are is told here."""
    return [
        {
            "name": _cut(site.name),
            "producers": [_cut(path) for path in site.producers[:20]],
            "consumers": [_cut(path) for path in site.consumers[:20]],
            "width_before": site.width_before,
            "width_after": site.width_after,
            "method": _cut(site.method),
            "form": _cut(site.form),
            "kind": _cut(site.kind),
            "rank": site.rank,
            "gradient_norm": _plain(site.gradient_norm),
            "existing_norm": _plain(site.existing_norm),
            "spectrum": site.spectrum_size or len(site.singular_values),
            "notes": [_cut(note) for note in site.notes[:20]],
        }
        for site in grown[:SITES]
    ]


def _cut(text: str) -> str:
    return text if len(text) <= TEXT else text[: TEXT - 1] + "…"


def _plain(value: Any) -> Any:
    """What JSON can hold: numbers that are not finite become None."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str):
        return _cut(value)
    if isinstance(value, Mapping):
        return {_cut(str(key)): _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    return value
