"""How do runs compare, and what did growing bring?"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Unpack

import numpy as np
import plotly.graph_objects as go

from keras_grow.errors import GrowthError, check_whole, nearest
from keras_grow.logs.runs import GrowthSummary, Run, Series
from keras_grow.tools.drawings import Options, Style, with_options
from keras_grow.tools.figures.axes import XAxis, changes, evenly, log_axis, smoothed
from keras_grow.tools.figures.theme import NEUTRAL, Sketch, dress, empty, line_styles, text
from keras_grow.tools.figures.timeline import describe, legend_place, metric_of
from keras_grow.tools.words import plural, shortened

#: Values whose mean stands for the metric at one time.
_WINDOW = 20
_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "star", "pentagon", "hexagon")
_GAINS = 1_000


def _known(runs: list[Run], metric: str) -> dict[str, Series]:
    """The metric of every run that has it.

    Raises:
        GrowthError: none has, and some other that they have may be meant.
    """
    found = {run.name: metric_of(run, metric) for run in runs}
    tags = sorted({tag for run in runs for tag in run.scalars})
    if tags and metric not in tags and metric != "loss":
        raise GrowthError(
            f"No run has logged '{shortened(metric, 100)}'. {nearest(metric, tags)} "
            f"Received: metric={metric!r}"
        )
    return {name: one for name, one in found.items() if one is not None and len(one)}


def _level(series: Series, step: float, window: int = _WINDOW) -> float:
    """Mean of the last finite values up to a step."""
    end = int(np.searchsorted(series.steps, step, side="right"))
    values = series.values[max(end - window, 0) : end]
    values = values[np.isfinite(values)]
    return float(values.mean()) if len(values) else math.nan


@with_options
def tradeoff(
    runs: Iterable[Run],
    metric: str = "loss",
    **options: Unpack[Options],
) -> go.Figure:
    """A metric against what it cost, of all runs: small marks before each growth, the end large.

    Args:
        runs, metric, theme, among: as of `timeline`.
        x: the cost: "parameters", or "flops", "time", "step".
        smoothing: 0 to 1, as TensorBoard's; for 0 the mean of the last 20 values is taken.
        log: whether both axes are logarithmic.

    Raises:
        GrowthError: no run has that metric, or an option is none that there is.
    """
    style = Style.of("tradeoff", options)
    runs = list(runs)
    axis = XAxis.of(style.x, runs)
    title = f"Runs compared: {metric} against {_cost(style.x)}"
    series = _known(runs, metric)
    if not series:
        return empty(f"No run has logged '{shortened(metric, 60)}' yet.", style, title)
    styles = line_styles((run.name for run in runs), style.among)
    traces, ends, unknown = [], [], []
    for run in runs:
        if run.name not in series:
            unknown.append(run.name)
            continue
        one, line_style = series[run.name], styles[run.name]
        values = smoothed(one.values, style.smoothing)
        eased = Series(one.steps, one.times, values)
        grown = changes(run)
        grown = [grown[i] for i in evenly(len(grown), 200)]
        steps = np.array([*(g.step for g in grown), one.steps[-1]], float)
        steps = steps[steps >= one.steps[0]]
        heights = np.array([_level(eased, s, 1 if style.smoothing else _WINDOW) for s in steps])
        places = axis.steps(run, steps)
        if not np.isfinite(places).any():
            unknown.append(run.name)
            continue
        name = text(run.name, 32)
        sizes = np.full(len(steps), 6, np.int16)
        sizes[-1] = 13
        traces.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "x": places,
                "y": heights,
                "customdata": steps,
                "line": {"color": line_style.color, "dash": line_style.dash, "width": 1.5},
                "marker": {
                    "color": line_style.color,
                    "size": sizes,
                    "opacity": 1,
                    "line": {"width": 1, "color": "#ffffff"},
                },
                "name": name,
                "hovertemplate": f"<b>{name}</b><br>step %{{customdata:,d}}<br>"
                f"{text(metric, 30)} %{{y:.4g}}<br>{_cost(style.x)} %{{x:.4~s}}<extra></extra>",
                "meta": {"run": run.name, "what": "tradeoff"},
            }
        )
        ends.append((float(places[-1]), float(heights[-1]), run.name))
    if not traces:
        return empty(f"These runs do not tell of their {_cost(style.x)}.", style, title)
    sketch = Sketch()
    sketch.add(*traces)
    for place, height, name in _apart(ends, traces, style.log):
        sketch.annotate(
            x=place,
            y=height,
            text=text(name, 24),
            xanchor="right",
            yanchor="bottom",
            xshift=-4,
            yshift=7,
        )
    notes = ["Small marks are the model just before a growth, large ones at the end."]
    if unknown:
        notes.append(f"Not shown, for want of data: {_list(unknown)}.")
    sketch.axis("xaxis", **axis.layout)
    sketch.axis("yaxis", title={"text": text(metric, 30)})
    if style.log:
        sketch.axis("xaxis", type="log")
        sketch.axis("yaxis", **log_axis([trace["y"] for trace in traces]))
    return dress(sketch, style, title, notes, 480, legend=legend_place(len(traces), -0.16))


def _apart(
    ends: list[tuple[float, float, str]], traces: list[dict], log: bool
) -> list[tuple[float, float, str]]:
    """The ends that can bear their names, to the left and above, and cover nothing there."""

    def scaled(values: object) -> np.ndarray:
        numbers = np.asarray(values, float)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.log10(numbers) if log else numbers

    across = np.concatenate([scaled(trace["x"]) for trace in traces])
    up = np.concatenate([scaled(trace["y"]) for trace in traces])
    good = np.isfinite(across) & np.isfinite(up)
    across, up = across[good], up[good]
    if not len(across):
        return []
    wide, high = float(np.ptp(across)) or 1.0, float(np.ptp(up)) or 1.0
    kept: list[tuple[float, float, str]] = []
    for place, height, name in ends:
        x, y = float(scaled(place)), float(scaled(height))
        if not (math.isfinite(x) and math.isfinite(y)):
            continue
        length = (0.02 + 0.009 * min(len(name), 24)) * wide
        other = (across != x) | (up != y)
        inside = (across > x - length) & (across <= x) & (up >= y) & (up < y + 0.1 * high)
        near = any(
            abs(x - a) < length + 0.1 * wide and abs(y - b) < 0.09 * high for a, b, _ in kept
        )
        if not near and not (inside & other).any():
            kept.append((x, y, name))
    return kept


def _cost(x: str) -> str:
    return {"parameters": "parameters", "flops": "FLOPs", "time": "time", "step": "steps"}[x]


def _list(names: list[str]) -> str:
    shown = ", ".join(shortened(name, 30) for name in names[:4])
    return shown + (f" and {len(names) - 4} more" if len(names) > 4 else "")


# --- gain --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Gain:
    """What a growth brought.

    Attributes:
        run: its name.
        growth: the growth.
        method: what chose the new weights; several joined by commas.
        steps: training steps after it that were looked at, up to the next growth.
        before, after: the metric, as means over the windows that end there.
        slope_before, slope_after: change of the metric a step, by least squares, over as many
            steps before and after.
    """

    run: str
    growth: GrowthSummary
    method: str
    steps: int
    before: float
    after: float
    slope_before: float
    slope_after: float

    @property
    def change(self) -> float:
        """The metric after, against that before, as a part of it."""
        return (self.after - self.before) / abs(self.before) if self.before else math.nan


def gains(run: Run, metric: str = "loss", steps: int = 100, most: int | None = None) -> list[Gain]:
    """What each growth of a run brought within `steps` training steps, or up to the next one.

    Args:
        run: the run.
        metric: tag of a scalar.
        steps: after a growth.
        most: how many growths are looked at, evenly chosen; None for all.
    """
    series = metric_of(run, metric)
    if series is None or len(series) < 2:
        return []
    found = []
    grown = [g for g in changes(run) if g.sites]
    ends = [g.step for g in grown[1:]] + [int(series.steps[-1])]
    starts = [int(series.steps[0]) - 1] + [g.step for g in grown[:-1]]
    for number in evenly(len(grown), len(grown) if most is None else most):
        growth, start, end = grown[number], starts[number], ends[number]
        after = min(steps, end - growth.step)
        before = min(after, growth.step - start)
        inside = slice(*np.searchsorted(series.steps, [growth.step, growth.step + after], "right"))
        earlier = slice(
            *np.searchsorted(series.steps, [growth.step - before, growth.step], "right")
        )
        if inside.stop - inside.start < 2 or earlier.stop - earlier.start < 2:
            continue
        window = max(min(_WINDOW, (inside.stop - inside.start) // 2), 1)
        found.append(
            Gain(
                run=run.name,
                growth=growth,
                method=", ".join(growth.methods) or "unknown",
                steps=after,
                before=_level(series, growth.step, window),
                after=_level(series, growth.step + after, window),
                slope_before=_slope(series, earlier),
                slope_after=_slope(series, inside),
            )
        )
    return [g for g in found if math.isfinite(g.before) and math.isfinite(g.after)]


def _slope(series: Series, part: slice) -> float:
    steps, values = series.steps[part].astype(float), series.values[part]
    good = np.isfinite(values)
    if good.sum() < 2 or np.ptp(steps[good]) == 0:
        return math.nan
    steps, values = steps[good] - steps[good].mean(), values[good]
    return float(steps @ values / (steps @ steps))


@with_options
def gain(
    runs: Iterable[Run],
    metric: str = "loss",
    *,
    steps: int = 100,
    **options: Unpack[Options],
) -> go.Figure:
    """What each growth brought, by method: the metric before and after, and its slopes.

    Args:
        runs, metric, theme, among: as of `timeline`.
        steps: training steps after a growth that are looked at, or fewer up to the next growth.
        x: what the left part is drawn over; marks tell the method.
        smoothing, log: change nothing here: means and slopes are of the values as logged.

    Raises:
        GrowthError: no run has that metric, or an option is none that there is.
    """
    style = Style.of("gain", options)
    check_whole("steps", steps, 1)
    runs = list(runs)
    title = f"What growing brought: {metric} before, and {steps} steps after"
    _known(runs, metric)
    most = max(_GAINS // max(len(runs), 1), 20)
    found = {run.name: gains(run, metric, steps, most) for run in runs}
    shown = sum(len(one) for one in found.values())
    total = sum(bool(g.sites) for run in runs if found[run.name] for g in changes(run))
    if not shown:
        return empty(f"No growth has been followed by '{shortened(metric, 60)}' yet.", style, title)
    methods = list(dict.fromkeys(g.method for one in found.values() for g in one))
    styles = line_styles((run.name for run in runs), style.among)
    axis = XAxis.of(style.x, runs)
    sketch = Sketch()
    sketch.axis("xaxis", domain=[0, 0.46])
    sketch.axis("xaxis2", domain=[0.56, 1.0], anchor="y2")
    sketch.axis("yaxis2", anchor="x2")
    traces: list[dict] = []
    for run in runs:
        own = found[run.name]
        named = False
        for method in methods:
            those = [g for g in own if g.method == method]
            if not those:
                continue
            hover = [_told(run, g, metric) for g in those]
            common = {
                "type": "scatter",
                "mode": "markers",
                "marker": {
                    "symbol": _SYMBOLS[methods.index(method) % len(_SYMBOLS)],
                    "color": styles[run.name].color,
                    "size": 9,
                    "opacity": 0.85,
                    "line": {"width": 1, "color": "#ffffff"},
                },
                "customdata": [[g.growth.step] for g in those],
                "hovertext": hover,
                "hovertemplate": "%{hovertext}<extra></extra>",
                "legendgroup": text(run.name, 400),
                "name": text(run.name, 32),
            }
            traces.append(
                {
                    **common,
                    "x": axis.growths(run, [g.growth for g in those]),
                    "y": [100 * g.change for g in those],
                    "showlegend": not named,
                    "meta": {"run": run.name, "what": "change", "method": method},
                }
            )
            named = True
            traces.append(
                {
                    **common,
                    "x": [100 * g.slope_before for g in those],
                    "y": [100 * g.slope_after for g in those],
                    "row": 2,
                    "showlegend": False,
                    "meta": {"run": run.name, "what": "slopes", "method": method},
                }
            )
    sketch.add(*traces)
    if len(methods) > 1:
        sketch.add(*[_key(m, i) for i, m in enumerate(methods)])
    slopes = [
        v
        for one in found.values()
        for g in one
        for v in (100 * g.slope_before, 100 * g.slope_after)
        if math.isfinite(v)
    ]
    if slopes:
        low, high = min(*slopes, 0.0), max(*slopes, 0.0)
        sketch.shape(
            type="line", x0=low, y0=low, x1=high, y1=high, xref="x2", yref="y2",
            line={"color": NEUTRAL, "width": 1, "dash": "dash"}, layer="below",
        )  # fmt: skip
        sketch.annotate(
            x=high, y=low, xref="x2", yref="y2", xanchor="right", yanchor="bottom",
            text="falls faster after the growth",
        )  # fmt: skip
    notes = [_medians(found, methods, metric)]
    if shown < total:
        notes.append(f"{shown:,} of {plural(total, 'growth')} could be followed, or are shown.")
    sketch.axis("xaxis", **axis.layout)
    sketch.axis("yaxis", title={"text": f"Change of {text(metric, 24)}"}, ticksuffix=" &#37;")
    per = f"{text(metric, 24)} per 100 steps"
    sketch.axis("xaxis2", title={"text": f"{per}, before"})
    sketch.axis("yaxis2", title={"text": f"{per}, after"})
    entries = len(runs) + (len(methods) if len(methods) > 1 else 0)
    return dress(sketch, style, title, notes, 460, legend=legend_place(entries, -0.18))


def _told(run: Run, one: Gain, metric: str) -> str:
    return (
        f"{describe(run, one.growth, named=False)}<br>"
        f"{text(metric, 30)} {one.before:.4g} → {one.after:.4g} "
        f"in {one.steps:,} steps ({100 * one.change:+.1f} &#37;)"
    )


def _medians(found: dict[str, list[Gain]], methods: list[str], metric: str) -> str:
    parts = []
    for method in methods[:4]:
        changed = [g.change for one in found.values() for g in one if g.method == method]
        parts.append(f"{100 * float(np.nanmedian(changed)):+.1f}% by {shortened(method, 30)}")
    return f"Median change of {shortened(metric, 30)}: {', '.join(parts)}."


def _key(method: str, index: int) -> dict:
    return {
        "type": "scatter",
        "mode": "markers",
        "x": [None],
        "y": [None],
        "marker": {"symbol": _SYMBOLS[index % len(_SYMBOLS)], "size": 9, "color": NEUTRAL},
        "name": f"by {text(method, 30)}",
        "hoverinfo": "skip",
        "meta": {"what": "key", "method": method},
    }
