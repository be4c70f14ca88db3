"""What did growing cost?"""

from collections.abc import Iterable
from typing import Unpack

import numpy as np
import plotly.graph_objects as go

from keras_grow.logs.runs import GrowthSummary, Run
from keras_grow.tools.drawings import Options, Style, with_options
from keras_grow.tools.figures.axes import XAxis, evenly
from keras_grow.tools.figures.theme import Sketch, dress, empty, line_styles, text
from keras_grow.tools.figures.timeline import legend_place
from keras_grow.tools.words import count, plural, seconds

#: Always the same colour for the same work, in the order in which it is done.
PHASES = {
    "survey": "#667b9c",
    "data": "#10a2b6",
    "plan": "#70a13b",
    "statistics": "#a250e9",
    "choice": "#e52592",
    "verification": "#c58700",
    "surgery": "#e8710a",
}
_OTHER = "#7f858c"
_BARS, _GROUPS = 400, 40


@with_options
def costs(
    runs: Iterable[Run],
    **options: Unpack[Options],
) -> go.Figure:
    """Seconds of every growth by what was done, and what it made of parameters and FLOPs.

    Of one run every growth is a bar. Of several, the upper part shows the mean growth of each.

    Args:
        runs, theme, among: as of `timeline`.
        x: what labels the growths of one run, and the axis of the lower parts of several.
        log: whether the axes of parameters and FLOPs are logarithmic.
        smoothing: changes nothing here.
    """
    style = Style.of("costs", options)
    runs = list(runs)
    title = "Cost of growing"
    timed = [run for run in runs if run.growths]
    if not timed:
        return empty("No growth has been logged yet.", style, title)
    return _one(timed[0], style) if len(timed) == 1 else _several(timed, style)


def _phases(growths: list[GrowthSummary]) -> list[str]:
    known = {phase for growth in growths for phase in growth.seconds}
    return [p for p in PHASES if p in known] + sorted(known - set(PHASES))


def _one(run: Run, style: Style) -> go.Figure:
    sketch = Sketch([0.5, 0.25, 0.25], gap=0.06)
    kept = evenly(len(run.growths), _BARS)
    growths = [run.growths[i] for i in kept]
    axis = XAxis.of(style.x, [run])
    numbers = np.arange(1, len(growths) + 1)
    labels = [axis.label(value) for value in axis.growths(run, growths)]
    for phase in _phases(growths):
        sketch.add(
            {
                "type": "bar",
                "x": numbers,
                "y": [g.seconds.get(phase, 0.0) for g in growths],
                "name": text(phase, 30),
                "marker": {"color": PHASES.get(phase, _OTHER), "line": {"width": 0}},
                "customdata": [[g.step] for g in growths],
                "hovertemplate": f"{text(phase, 30)}: %{{y:.3~g}} s<br>step "
                "%{customdata[0]:,d}<extra></extra>",
                "meta": {"run": run.name, "what": "seconds", "phase": phase},
                "row": 1,
            },
        )
    color = line_styles([run.name], style.among)[run.name].color
    for row, what, word in ((2, "parameters", "parameters"), (3, "flops", "FLOPs")):
        before = np.array([getattr(g, f"{what}_before") for g in growths], float)
        after = np.array([getattr(g, f"{what}_after") for g in growths], float)
        hover = [
            f"step {g.step:,}<br>{count(b)} → {count(a)} {word}<br>{_part(b, a)}"
            for g, b, a in zip(growths, before, after, strict=True)
        ]
        common = {
            "type": "bar",
            "x": numbers,
            "hovertext": hover,
            "hovertemplate": "%{hovertext}<extra></extra>",
        }
        for name, height, base, shade, group in (
            ("before", np.minimum(before, after), np.zeros(len(before)), 0.35, "before"),
            ("added", np.abs(after - before), np.minimum(before, after), 1.0, "added"),
        ):
            sketch.add(
                {
                    **common,
                    "y": height,
                    "base": base,
                    "name": f"{name} the growth" if name == "before" else "by the growth",
                    "opacity": shade,
                    "marker": {"color": color, "line": {"width": 0}},
                    "legendgroup": group,
                    "showlegend": row == 2,
                    "meta": {"run": run.name, "what": what, "part": group},
                    "row": row,
                },
            )
    total = sum(sum(g.seconds.values()) for g in run.growths)
    notes = [f"{plural(len(run.growths), 'growth')} took {seconds(total)} in all."]
    if len(growths) < len(run.growths):
        notes.append(f"{len(growths):,} of {len(run.growths):,} are shown.")
    shown = evenly(len(growths), 12)
    for name in ("xaxis", "xaxis2", "xaxis3"):
        sketch.axis(
            name, tickvals=numbers[shown], ticktext=[labels[i] for i in shown], showgrid=False
        )
    title = f"Growths, by {axis.title[0].lower()}{axis.title[1:]}"
    sketch.axis("xaxis3", title={"text": title})
    sketch.axis("yaxis", title={"text": "Seconds"})
    _sizes(sketch, style)
    return dress(
        sketch,
        style,
        f"Cost of growing {run.name}",
        notes,
        600,
        barmode="stack",
        bargap=0.25,
        legend=legend_place(3, -0.12),
    )


def _sizes(sketch: Sketch, style: Style) -> None:
    """Axes of the two lower rows."""
    for name, title in (("yaxis2", "Parameters"), ("yaxis3", "FLOPs")):
        sketch.axis(name, title={"text": title}, tickformat="~s")
        if style.log:
            sketch.axis(name, type="log", tickformat=".2~s", nticks=6)


def _several(runs: list[Run], style: Style) -> go.Figure:
    order = list(reversed(runs))[:_GROUPS]
    sketch = Sketch([0.3 + 0.012 * len(order), 0.3, 0.3], gap=0.1, shared=False)
    axis = XAxis.of(style.x, runs)
    styles = line_styles((run.name for run in runs), style.among)
    growths = [growth for run in runs for growth in run.growths]
    places = np.arange(len(order))
    for phase in _phases(growths):
        means = [np.mean([g.seconds.get(phase, 0.0) for g in run.growths]) for run in order]
        sketch.add(
            {
                "type": "bar",
                "orientation": "h",
                "y": places,
                "x": means,
                "name": text(phase, 30),
                "marker": {"color": PHASES.get(phase, _OTHER), "line": {"width": 0}},
                "hovertext": [text(run.name, 40) for run in order],
                "hovertemplate": f"<b>%{{hovertext}}</b><br>{text(phase, 30)}: %{{x:.3~g}} s a "
                "growth<extra></extra>",
                "meta": {"what": "seconds", "phase": phase},
                "row": 1,
            },
        )
    for row, what, word in ((2, "parameters", "parameters"), (3, "flops", "FLOPs")):
        for run in runs:
            line_style = styles[run.name]
            own = run.growths
            at = axis.growths(run, own)
            sizes = np.array([getattr(g, f"{what}_before") for g in own[:1]], float)
            ends = ["before" if g.dry_run else "after" for g in own]
            sizes = np.append(
                sizes, [getattr(g, f"{what}_{end}") for g, end in zip(own, ends, strict=True)]
            )
            name = text(run.name, 32)
            sketch.add(
                {
                    "type": "scatter",
                    "mode": "lines+markers" if len(own) <= 60 else "lines",
                    "x": np.append(axis.steps(run, np.zeros(1)), at),
                    "y": sizes,
                    "line": {
                        "shape": "hv", "width": 2,
                        "color": line_style.color, "dash": line_style.dash,
                    },
                    "marker": {"color": line_style.color, "size": 5},
                    "name": name,
                    "legendgroup": text(run.name, 400),
                    "showlegend": row == 2,
                    "hovertemplate": f"<b>{name}</b><br>%{{y:.4~s}} {word}<extra></extra>",
                    "meta": {"run": run.name, "what": what},
                    "row": row,
                },
            )  # fmt: skip
    notes = ["Seconds are those of a mean growth of each run."]
    if len(order) < len(runs):
        notes.append(f"{len(order)} of {len(runs)} runs are shown there.")
    sketch.axis(
        "yaxis", tickvals=places, ticktext=[text(run.name, 28) for run in order], showgrid=False
    )
    sketch.axis("xaxis", title={"text": "Seconds of one growth"})
    sketch.axis("xaxis2", **{**axis.layout, "title": {"text": ""}}, matches="x3")
    sketch.axis("xaxis3", **axis.layout)
    _sizes(sketch, style)
    return dress(
        sketch,
        style,
        "Cost of growing",
        notes,
        600 + 18 * len(order),
        barmode="stack",
        bargap=0.3,
        legend=legend_place(9, -0.12),
    )


def _part(before: float, after: float) -> str:
    return f"{100 * (after - before) / before:+.1f} &#37;" if before else ""
