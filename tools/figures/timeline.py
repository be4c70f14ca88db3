"""Did it grow, when, and did anything break?"""

from collections.abc import Iterable
from typing import Unpack

import numpy as np
import plotly.graph_objects as go

from keras_grow.errors import GrowthError, nearest
from keras_grow.logs.runs import GrowthSummary, Run, Series
from keras_grow.tools.drawings import Options, Style, with_options
from keras_grow.tools.figures.axes import (
    XAxis,
    at_steps,
    changes,
    evenly,
    log_axis,
    smoothed,
    thinned,
)
from keras_grow.tools.figures.theme import (
    BAD,
    NEUTRAL,
    LineStyle,
    Sketch,
    dress,
    empty,
    line_styles,
    text,
)
from keras_grow.tools.words import count, plural, shortened

#: Points of all lines together, and marks of growths.
_POINTS, _MARKS = 24_000, 1_000
#: Growths of a single run up to which each has a line from top to bottom.
_LINES = 60
#: Growths of one run up to which their marks name what grew, and how much of it.
_NAMED, _NAMED_SITES = 60, 6

_STATES = {
    "grew": ("growth", "triangle-up", 11),
    "dry": ("growth that was only tried out", "triangle-up-open", 10),
    "nothing": ("growth that found no room", "circle-open", 7),
    "broken": ("outputs changed", "diamond", 11),
    "failed": ("growth failed", "x", 10),
}


@with_options
def timeline(
    runs: Iterable[Run],
    metric: str = "loss",
    **options: Unpack[Options],
) -> go.Figure:
    """A metric and, below it on the same axis, the parameters, with a mark at every growth.

    Args:
        runs: what is drawn.
        metric: tag of a scalar. Where a run has no "loss", that of its growth batches is shown.
        x: "step", "time", "parameters", or "flops": forward FLOPs of one sample, summed over the
            training steps.
        smoothing: 0 to 1, as TensorBoard's; the line as it was is drawn faintly behind it.
        log: whether the metric's axis is logarithmic.
        theme: "light" or "dark".
        among: names of all runs there are, so that colours stay when some are hidden.

    Raises:
        GrowthError: no run has that metric, or an option is none that there is.
    """
    style = Style.of("timeline", options)
    runs = list(runs)
    title = f"Growth over training: {metric} and parameters"
    if not any(run.growths or run.scalars for run in runs):
        return empty("Nothing has been logged yet.", style, title)
    series = {run.name: metric_of(run, metric) for run in runs}
    if all(one is None for one in series.values()) and metric != "loss":
        known = sorted({tag for run in runs for tag in run.scalars})
        raise GrowthError(
            f"No run has logged '{metric}'. {nearest(metric, known)} Received: metric={metric!r}"
        )
    axis = XAxis.of(style.x, runs)
    styles = line_styles((run.name for run in runs), style.among)
    # Over the parameters themselves, their steps would say nothing.
    rows = 1 if style.x == "parameters" else 2
    sketch = Sketch([0.68, 0.32][:rows], gap=0.05)
    traces: list[dict] = []
    over: list[dict] = []  # what must not be covered by other runs' marks
    notes = []
    kept = total = 0
    most = max(_POINTS // max(len(runs), 1), 100)
    marks = max(_MARKS // max(len(runs), 1), 10)
    shown_marks = all_marks = 0
    seen: set[str] = set()
    for run in runs:
        line_style, one = styles[run.name], series[run.name]
        values = None
        if one is not None and len(one):
            values = smoothed(one.values, style.smoothing)
            lines, points = _lines(
                run, one, values, axis, line_style, style.smoothing > 0, most, metric
            )
            traces += lines
            kept, total = kept + points, total + len(one)
        if rows == 2:
            traces += _stairs(run, axis, line_style, legend=one is None)
        groups: list[dict] = []
        drawn = 0
        if rows == 2 or values is not None:
            groups, drawn = _marks(run, one, values, axis, line_style, marks)
        for group in groups:
            bad = group["meta"]["state"] in ("failed", "broken")
            (over if bad else traces).append(group)
        seen |= {group["meta"]["state"] for group in groups}
        shown_marks, all_marks = shown_marks + drawn, all_marks + len(run.growths)
        over += _not_finite(run, one, values, axis)
    traces += over
    traces += [_key(state) for state in _STATES if state in seen]
    sketch.add(*traces)
    _resumed(sketch, runs, axis)
    if len(runs) == 1 and len(runs[0].growths) <= _LINES:
        for place in axis.growths(runs[0], changes(runs[0])):
            sketch.shape(**_upright(float(place), "solid", 0.3))
    if kept < total:
        notes.append(
            f"Lines show {kept:,} of {total:,} values: the least and the greatest of each stretch."
        )
    if shown_marks < all_marks:
        notes.append(f"{shown_marks:,} of {all_marks:,} growths are marked.")
    if all(one is None for one in series.values()):
        notes.append(f"No run has logged '{metric}'.")
    if rows == 1 and all(one is None for one in series.values()):
        return empty(f"No run has logged '{shortened(metric, 60)}' yet.", style, title)
    for number in range(1, rows + 1):
        settings = axis.layout if number == rows else {**axis.layout, "title": {"text": ""}}
        sketch.axis(f"xaxis{number if number > 1 else ''}", **settings)
    sketch.axis("yaxis", title={"text": text(metric, 30)})
    if style.log:
        shown = [np.asarray(t["y"]) for t in traces if t["meta"]["what"] == "line"]
        sketch.axis("yaxis", **log_axis(shown))
    if rows == 2:
        sketch.axis("yaxis2", title={"text": "Parameters"}, tickformat="~s")
    return dress(
        sketch,
        style,
        title,
        notes,
        540 if rows == 2 else 440,
        legend=legend_place(len(runs) + len(seen)),
        uirevision=f"{metric} {style.x} {style.log}",
    )


def legend_place(entries: int, below: float = -0.14) -> dict:
    """A legend below a figure, or beside it if it is long."""
    if entries > 8:
        return {"orientation": "v", "x": 1.01, "xanchor": "left", "y": 1, "yanchor": "top"}
    return {"orientation": "h", "x": 0, "xanchor": "left", "y": below, "yanchor": "top"}


def metric_of(run: Run, metric: str) -> Series | None:
    """A run's scalar; for "loss", where there is none, that of its growth batches."""
    found = run.scalars.get(metric)
    if found is not None or metric != "loss":
        return found
    known = [g for g in run.growths if g.loss is not None]
    if not known:
        return None
    return Series(
        np.array([g.step for g in known]),
        np.array([g.time for g in known]),
        np.array([g.loss for g in known], float),
    )


def _lines(
    run: Run,
    series: Series,
    values: np.ndarray,
    axis: XAxis,
    line_style: LineStyle,
    faint: bool,
    most: int,
    metric: str,
) -> tuple[list[dict], int]:
    at = axis.series(run, series).astype(np.int32 if axis.kind == "step" else float)
    name, group = text(run.name, 32), run.name
    line = {"color": line_style.color, "dash": line_style.dash, "width": 2}
    common = {
        "type": "scatter",
        "mode": "lines",
        "xaxis": "x",
        "yaxis": "y",
        "legendgroup": text(group, 400),
        "connectgaps": False,
    }
    found = []
    if faint:
        kept = thinned(series.values, most)
        found.append(
            {
                **common,
                "x": at[kept],
                "y": series.values[kept].astype(np.float32),
                "line": {"color": line_style.color, "width": 1},
                "opacity": 0.3,
                "hoverinfo": "skip",
                "showlegend": False,
                "meta": {"run": run.name, "what": "raw"},
            }
        )
    kept = thinned(values, most)
    few = len(kept) == 1
    found.append(
        {
            **common,
            "mode": "lines+markers" if few else "lines",
            "x": at[kept],
            "y": values[kept].astype(np.float32),
            "customdata": series.steps[kept].astype(np.int32),
            "line": line,
            "marker": {"color": line_style.color},
            "name": name,
            "hovertemplate": f"<b>{name}</b><br>step %{{customdata:,d}}<br>"
            f"{text(metric)} %{{y:.5g}}<extra></extra>",
            "meta": {"run": run.name, "what": "line"},
        }
    )
    return found, len(kept)


def _stairs(run: Run, axis: XAxis, line_style: LineStyle, legend: bool) -> list[dict]:
    grown = changes(run)
    series = run.scalars.get("parameters")
    steps: list[float] = [0.0]
    sizes: list[float] = []
    if grown or run.growths:
        sizes = [(grown or run.growths)[0].parameters_before]
        for growth in grown:
            steps.append(growth.step)
            sizes.append(growth.parameters_after)
    elif series is not None and len(series):
        steps, sizes = [float(s) for s in series.steps], [float(v) for v in series.values]
    if not sizes:
        return []
    last = max([float(one.steps[-1]) for one in run.scalars.values() if len(one)], default=0.0)
    if last > steps[-1]:
        steps.append(last)
        sizes.append(sizes[-1])
    places = axis.steps(run, np.array(steps))
    if axis.kind == "parameters":
        places = np.array(sizes, float)
    name = text(run.name, 32)
    return [
        {
            "type": "scatter",
            "mode": "lines" if len(sizes) > 1 else "markers",
            "xaxis": "x2",
            "yaxis": "y2",
            "x": places,
            "y": np.array(sizes, float),
            "line": {"color": line_style.color, "dash": line_style.dash, "width": 2, "shape": "hv"},
            "marker": {"color": line_style.color},
            "legendgroup": text(run.name, 400),
            "showlegend": legend,
            "name": name,
            "hovertemplate": f"<b>{name}</b><br>%{{y:,d}} parameters<extra></extra>",
            "meta": {"run": run.name, "what": "parameters"},
        }
    ]


def state_of(growth: GrowthSummary) -> str:
    """What became of a growth, a key of the marks."""
    if growth.error:
        return "failed"
    if growth.kept is False:
        return "broken"
    if not growth.sites:
        return "nothing"
    return "dry" if growth.dry_run else "grew"


def describe(run: Run, growth: GrowthSummary, named: bool = True) -> str:
    """A growth in a few lines, for a label under the pointer.

    Args:
        named: whether what grew is named; sites may have to be decoded for that.
    """
    lines = [f"<b>{text(run.name, 40)}</b>, step {growth.step:,}, epoch {growth.epoch + 1:,}"]
    if growth.error:
        lines.append(f"Growth failed: {text(growth.error, 90)}")
    if growth.dry_run:
        lines.append("Only tried out; nothing was changed")
    if growth.sites:
        by = f" by {text(', '.join(growth.methods), 40)}" if growth.methods else ""
        lines.append(f"{plural(growth.added, 'channel')} at {plural(growth.sites, 'layer')}{by}")
    sites = run.sites.get(growth.step, []) if named else []
    for site in sites[:_NAMED_SITES]:
        lines.append(f"  {text(site.name, 40)} {site.width_before} → {site.width_after}")
    if len(sites) > _NAMED_SITES:
        lines.append(f"  and {len(sites) - _NAMED_SITES} more")
    if growth.parameters_after != growth.parameters_before:
        lines.append(
            f"{count(growth.parameters_before)} → {count(growth.parameters_after)} parameters"
        )
    if growth.deviation is not None:
        word = {True: "kept", False: "NOT kept", None: "compared"}[growth.kept]
        lines.append(f"Outputs {word}: changed by {growth.deviation:.1e} of their scale")
    return "<br>".join(lines)


def _marks(
    run: Run,
    series: Series | None,
    values: np.ndarray | None,
    axis: XAxis,
    line_style: LineStyle,
    most: int,
) -> tuple[list[dict], int]:
    """Marks on the line of the metric, one trace for every state."""
    growths = run.growths
    if len(growths) > most:
        odd = [g for g in growths if state_of(g) in ("failed", "broken")][:most]
        rest = [g for g in growths if state_of(g) not in ("failed", "broken")]
        chosen = {id(g) for g in odd}
        chosen |= {id(rest[i]) for i in evenly(len(rest), max(most - len(odd), 2)) if rest}
        growths = [g for g in growths if id(g) in chosen]
    if not growths:
        return [], 0
    steps = np.array([g.step for g in growths], float)
    places = axis.growths(run, growths)
    on_line = False
    if series is not None and values is not None and len(series):
        on_line = True
        heights = at_steps(series, values, steps)
    else:
        heights = np.array([g.parameters_after for g in growths], float)
    found = []
    for state, (_, symbol, size) in _STATES.items():
        those = [i for i, g in enumerate(growths) if state_of(g) == state]
        if not those:
            continue
        bad = state in ("failed", "broken")
        found.append(
            {
                "type": "scatter",
                "mode": "markers",
                "xaxis": "x" if on_line else "x2",
                "yaxis": "y" if on_line else "y2",
                "x": places[those],
                "y": heights[those],
                "customdata": [[growths[i].step] for i in those],
                "hovertext": [describe(run, growths[i], len(growths) <= _NAMED) for i in those],
                "hovertemplate": "%{hovertext}<extra></extra>",
                "marker": {
                    "symbol": symbol,
                    "size": size,
                    "color": BAD if bad else line_style.color,
                    "line": {"width": 1.5, "color": line_style.color if bad else "#ffffff"}
                    if not symbol.endswith("-open")
                    else {"width": 1.5, "color": line_style.color},
                },
                "legendgroup": text(run.name, 400),
                "showlegend": False,
                "meta": {"run": run.name, "what": "growths", "state": state},
            }
        )
    return found, len(growths)


def _key(state: str) -> dict:
    """An entry of the legend that says what a mark means."""
    words, symbol, size = _STATES[state]
    color = BAD if state in ("failed", "broken") else NEUTRAL
    return {
        "type": "scatter",
        "mode": "markers",
        "x": [None],
        "y": [None],
        "marker": {"symbol": symbol, "size": size, "color": color},
        "name": words,
        "hoverinfo": "skip",
        "meta": {"what": "key"},
    }


def _not_finite(
    run: Run, series: Series | None, values: np.ndarray | None, axis: XAxis
) -> list[dict]:
    """A mark where the metric first was no number."""
    if series is None or values is None or np.isfinite(values).all():
        return []
    first = int(np.argmin(np.isfinite(values)))
    before = values[:first][np.isfinite(values[:first])]
    height = before[-1] if len(before) else 0.0
    return [
        {
            "type": "scatter",
            "mode": "markers",
            "x": axis.series(run, series)[[first]],
            "y": [height],
            "marker": {"symbol": "octagon", "size": 12, "color": BAD},
            "hovertext": [
                f"<b>{text(run.name, 40)}</b><br>No finite number from step "
                f"{int(series.steps[first]):,} on"
                if not np.isfinite(values[first:]).any()
                else f"<b>{text(run.name, 40)}</b><br>No finite number at step "
                f"{int(series.steps[first]):,}"
            ],
            "hovertemplate": "%{hovertext}<extra></extra>",
            "name": "not a finite number",
            "legendgroup": "not finite",
            "meta": {"run": shortened(run.name, 200), "what": "not finite"},
        }
    ]


def _upright(place: float, dash: str, opacity: float) -> dict:
    """A line from top to bottom."""
    return {
        "type": "line",
        "x0": place,
        "x1": place,
        "y0": 0,
        "y1": 1,
        "xref": "x",
        "yref": "paper",
        "layer": "below",
        "opacity": opacity,
        "line": {"color": NEUTRAL, "width": 1, "dash": dash},
    }


def _resumed(sketch: Sketch, runs: list[Run], axis: XAxis) -> None:
    places = [
        (place, run)
        for run in runs
        for place in axis.steps(run, np.array(run.resumed, float))
        if np.isfinite(place)
    ]
    for place, run in places[:20]:
        sketch.shape(**_upright(float(place), "dot", 1.0))
        words = "resumed" if len(runs) == 1 else f"“{text(run.name, 24)}” resumed"
        sketch.annotate(
            x=float(place),
            y=1,
            xref="x",
            yref="paper",
            text=words,
            xanchor="left",
            yanchor="top",
            xshift=3,
            font={"size": 11},
        )
