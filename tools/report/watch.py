"""What `keras-grow watch` shows: runs, their last growths and warnings, in any width."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from keras_grow.tools.cli.logdirs import HOW_TO_LOG
from keras_grow.tools.words import count, plural, seconds, shortened

if TYPE_CHECKING:
    from keras_grow.logs.runs import GrowthSummary, Run, Series

_BARS, _PLAIN_BARS = "▁▂▃▄▅▆▇█", "_.-=+*#@"
_NO_NUMBER = "×", "x"
_GROWTHS, _WARNINGS, _RUNS = 8, 6, 30
#: Columns of the terminal from which on more is shown.
_MEDIUM, _WIDE = 60, 90


def sparkline(values: np.ndarray, width: int, unicode: bool = True) -> str:
    """A line of `width` characters at most: the mean of each stretch of the values, by height.

    What is not finite has a cross where a whole stretch is.
    """
    if not len(values) or width < 1:
        return ""
    bars = _BARS if unicode else _PLAIN_BARS
    edges = np.linspace(0, len(values), min(width, len(values)) + 1).astype(int)
    means = []
    for start, end in itertools.pairwise(edges):
        part = values[start:end]
        part = part[np.isfinite(part)]
        means.append(float(part.mean()) if len(part) else math.nan)
    known = [mean for mean in means if math.isfinite(mean)]
    low, high = (min(known), max(known)) if known else (0.0, 0.0)
    found = ""
    for mean in means:
        if math.isfinite(mean):
            height = (mean - low) / (high - low) if high > low else 0.0
            found += bars[min(int(height * len(bars)), len(bars) - 1)]
        else:
            found += _NO_NUMBER[0 if unicode else 1]
    return found


def view(
    runs: Sequence[Run],
    logdirs: Sequence[Path],
    width: int,
    height: int | None = None,
    unicode: bool = True,
    now: float | None = None,
) -> RenderableType:
    """All of it.

    Args:
        runs: as they are now.
        logdirs: where they come from.
        width, height: of the terminal; None for one without end.
        unicode: whether it can show more than ASCII.
        now: seconds since 1970.
    """
    now = time.time() if now is None else now
    place = shortened(", ".join(str(one) for one in logdirs), max(width - 30, 20))
    clock = time.strftime("%H:%M:%S", time.localtime(now))
    parts: list[RenderableType] = [
        Text.assemble((place, "bold"), f"  {plural(len(runs), 'run')}, {clock}")
    ]
    logged = [run for run in runs if run.growths or run.scalars]
    if not logged:
        parts += [Text("Nothing has been logged yet."), Text(""), Text(HOW_TO_LOG, style="dim")]
        return Group(*parts)
    room = 10_000 if height is None else max(height - 6, 6)
    # The latest to write first, if there is not room for all.
    kept = sorted(logged, key=_last, reverse=True)[: min(_RUNS, max(room // 2, 3))]
    kept = [run for run in logged if any(run is one for one in kept)]
    parts.append(_runs(kept, width, unicode, now))
    if len(kept) < len(logged):
        parts.append(Text(f"{plural(len(logged) - len(kept), 'more run')}", style="dim"))
    room -= len(kept) + 2
    warnings = [(run, words) for run in logged for words in run.warnings]
    shown = min(len(warnings), _WARNINGS, max(room // 3, 1))
    growths = [(run, growth) for run in logged for growth in run.growths]
    growths.sort(key=lambda pair: pair[1].time)
    if growths:
        lines = min(_GROWTHS, max(room - 2 * shown - 4, 1))
        parts += [Text(""), _growths(growths[-lines:], width, unicode, now)]
    if warnings:
        parts += [Text(""), Text("Warnings", style="bold yellow")]
        for run, words in warnings[-shown:]:
            line = f"{shortened(run.name, 40)}: {shortened(words, 300)}"
            parts.append(Text(line, style="yellow"))
        if shown < len(warnings):
            parts.append(Text(f"and {len(warnings) - shown:,} earlier ones", style="yellow"))
    return Group(*parts)


def _metric(run: Run) -> tuple[str, Series] | None:
    for tag in ("loss", "epoch_loss", "val_loss"):
        if tag in run.scalars and len(run.scalars[tag]):
            return tag, run.scalars[tag]
    return None


def _last(run: Run) -> float:
    """When something was last logged."""
    times = [float(series.times[-1]) for series in run.scalars.values() if len(series)]
    times += [growth.time for growth in run.growths[-1:]]
    return max(times, default=0.0)


def _runs(runs: Sequence[Run], width: int, unicode: bool, now: float) -> Table:
    medium, wide = width >= _MEDIUM, width >= _WIDE
    table = Table(box=None, pad_edge=False, padding=(0, 2 if wide else 1, 0, 0))
    names = max((len(run.name) for run in runs), default=3)
    table.add_column("run", no_wrap=True, width=min(names, max(width // 4, 8)))
    table.add_column("step", justify="right", no_wrap=True)
    table.add_column("loss", justify="right", no_wrap=True)
    if medium:
        table.add_column("", no_wrap=True)
    table.add_column("parameters" if medium else "params", justify="right", no_wrap=True)
    table.add_column("growths" if medium else "grew", justify="right", no_wrap=True)
    if wide:
        table.add_column("last logged", no_wrap=True)
    for run in runs:
        found = _metric(run)
        loss = "" if found is None else _level(found[1].values)
        cells = [
            Text(shortened(run.name, max(min(names, width // 4), 8)), style="cyan"),
            Text(f"{_step(run):,}"),
            Text(loss, style="red" if loss == "not finite" else ""),
        ]
        if medium:
            length = 24 if wide else 10
            cells.append(Text("" if found is None else sparkline(found[1].values, length, unicode)))
        cells += [Text(_sizes(run, wide, unicode)), Text(_count(run))]
        if wide:
            last = _last(run)
            cells.append(Text(f"{seconds(max(now - last, 0.0))} ago" if last else "", style="dim"))
        table.add_row(*cells)
    return table


def _level(values: np.ndarray) -> str:
    if not math.isfinite(values[-1]):
        return "not finite"
    last = values[-20:]
    return f"{float(last[np.isfinite(last)].mean()):.4g}"


def _step(run: Run) -> int:
    steps = [int(series.steps[-1]) for series in run.scalars.values() if len(series)]
    return max(steps + [growth.step for growth in run.growths[-1:]], default=0)


def _sizes(run: Run, wide: bool, unicode: bool) -> str:
    real = [growth for growth in run.growths if not growth.dry_run]
    if not real:
        series = run.scalars.get("parameters")
        return count(float(series.values[-1])) if series is not None and len(series) else ""
    first, last = real[0].parameters_before, real[-1].parameters_after
    arrow = "→" if unicode else "->"
    return f"{count(first)} {arrow} {count(last)}" if wide and first != last else count(last)


def _count(run: Run) -> str:
    failed = sum(bool(growth.error) for growth in run.growths)
    grown = sum(bool(growth.sites) for growth in run.growths)
    return f"{grown:,}" + (f", {failed:,} failed" if failed else "")


def _growths(
    pairs: Sequence[tuple[Run, GrowthSummary]], width: int, unicode: bool, now: float
) -> RenderableType:
    medium, wide = width >= _MEDIUM, width >= _WIDE
    table = Table(
        title="Last growths",
        title_justify="left",
        title_style="bold",
        box=None,
        pad_edge=False,
        padding=(0, 2 if wide else 1, 0, 0),
        show_header=False,
    )
    longest = max(len(run.name) for run, _ in pairs)
    names = max(min(24, width // 5, longest), 8)
    table.add_column(no_wrap=True, width=names)
    steps = max(len(f"{growth.step:,}") for _, growth in pairs)
    table.add_column(justify="right", no_wrap=True, width=steps)
    sizes, outputs = (20, 15) if wide else (8, 7)
    gaps = (4 if medium else 2) * (2 if wide else 1)
    rest = width - names - steps - gaps - (sizes + outputs if medium else 0)
    table.add_column(overflow="ellipsis", no_wrap=True, width=max(rest, 8))
    if medium:
        table.add_column(justify="right", no_wrap=True, width=sizes)
        table.add_column(no_wrap=True, width=outputs)
    for run, growth in reversed(pairs):
        what, style = _what(run, growth, width, unicode)
        cells = [
            Text(shortened(run.name, names), style="cyan"),
            Text(f"{growth.step:,}"),
            Text(what, style=style),
        ]
        if medium:
            more = growth.parameters_after - growth.parameters_before
            kept = {True: "kept", False: "CHANGED", None: ""}[growth.kept]
            if kept and wide:
                kept = f"outputs {kept}"
            cells += [
                Text(
                    f"+{count(more)} parameters"
                    if more and wide
                    else f"+{count(more)}"
                    if more
                    else ""
                ),
                Text(kept, style="bold red" if growth.kept is False else "dim"),
            ]
        table.add_row(*cells)
    return table


def _what(run: Run, growth: GrowthSummary, width: int, unicode: bool) -> tuple[str, str]:
    if growth.error:
        return f"failed: {shortened(growth.error, 200)}", "red"
    if not growth.sites:
        return "found no room", "dim"
    arrow = "→" if unicode else "->"
    sites = run.sites.get(growth.step, [])
    names = [
        f"{shortened(site.name, 30)} {site.width_before}{arrow}{site.width_after}"
        for site in sites[:2]
    ]
    words = f"+{growth.added:,} at {plural(growth.sites, 'layer')}"
    if names and width >= _MEDIUM:
        words += f": {', '.join(names)}" + (", …" if unicode else ", ...") * (len(sites) > 2)
    if growth.dry_run:
        words = f"tried out: {words}"
    return words, ""
