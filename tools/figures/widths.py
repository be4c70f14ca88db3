"""Where did the width go?"""

from collections.abc import Mapping
from typing import Unpack

import numpy as np
import plotly.graph_objects as go
from plotly.colors import sample_colorscale

from keras_grow.logs.runs import Run
from keras_grow.tools.drawings import Options, Style, with_options
from keras_grow.tools.figures.axes import XAxis, evenly, log_axis
from keras_grow.tools.figures.theme import ORDER, PALETTE, Sketch, dress, empty, text
from keras_grow.tools.figures.timeline import legend_place
from keras_grow.tools.words import plural, shortened

#: Lines with an entry of their own in the legend, columns of a heat map, and cells with a number.
_NAMED, _COLUMNS, _CELLS = 14, 200, 700
_TAG = "width/"


class Widths:
    """Widths of a run's sites over its steps.

    Attributes:
        names: of the sites, in the order of the network where that is known.
    """

    def __init__(self, run: Run) -> None:
        changes: dict[str, dict[int, float]] = {}
        for tag, series in run.scalars.items():
            if tag.startswith(_TAG) and len(series):
                known = changes.setdefault(tag.removeprefix(_TAG), {})
                known.update(zip(series.steps.tolist(), series.values.tolist(), strict=True))
        dry = {growth.step for growth in run.growths if growth.dry_run}
        # Where widths were logged, sites would tell the same, and may have to be decoded first.
        for step in sorted(run.sites) if not changes else ():
            for site in run.sites[step]:
                if step in dry:
                    continue
                known = changes.setdefault(site.name, {})
                if site.width_before and not any(at <= step for at in known):
                    known[0] = float(site.width_before)
                known[step] = float(site.width_after)
        order: dict[str, int] = {}
        for network in run.networks:
            for node in network.nodes:
                if node.site is not None:
                    order.setdefault(node.site, len(order))
        for name in changes:
            order.setdefault(name, len(order))
        self.names = sorted(changes, key=order.__getitem__)
        self._steps = {name: np.array(sorted(changes[name])) for name in changes}
        self._values = {
            name: np.array([changes[name][s] for s in self._steps[name]]) for name in changes
        }

    def of(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Steps at which a site's width changed, its first included, and the widths from then."""
        return self._steps[name], self._values[name]

    def at(self, name: str, steps: np.ndarray) -> np.ndarray:
        """Widths after these steps; NaN where the site was not there yet."""
        known, values = self.of(name)
        index = np.searchsorted(known, steps, side="right") - 1
        return np.where(index >= 0, values[np.maximum(index, 0)], np.nan)

    def first(self, name: str) -> float:
        """The width at the start."""
        return float(self._values[name][0])


@with_options
def widths(
    run: Run,
    **options: Unpack[Options],
) -> go.Figure:
    """Width of every layer that can grow, over training.

    Args:
        run: what is drawn.
        x: "step", "time", "parameters" or "flops".
        log: whether widths are on a logarithmic axis.
        theme: "light" or "dark".
        smoothing, among: change nothing here.
    """
    style = Style.of("widths", options)
    title = f"Widths of {shortened(run.name, 50)}"
    known = Widths(run)
    if not known.names:
        return empty("Nothing is known of this run's widths.", style, title)
    axis = XAxis.of(style.x, [run])
    last = max(
        [int(one.steps[-1]) for one in run.scalars.values() if len(one)]
        + [growth.step for growth in run.growths],
        default=0,
    )
    many = len(known.names) > _NAMED
    sketch = Sketch()
    traces = []
    shades = _shades(len(known.names))
    for number, name in enumerate(known.names):
        steps, values = known.of(name)
        steps, values = np.append(steps, max(last, steps[-1])), np.append(values, values[-1])
        label = text(name, 34)
        traces.append(
            {
                "type": "scatter",
                "mode": "lines",
                "x": axis.steps(run, steps).astype(np.float32),
                "y": values.astype(np.int32),
                "line": {
                    "shape": "hv",
                    "width": 1.5 if many else 2,
                    "color": shades[number],
                    "dash": "solid" if many or number < len(PALETTE) else "dash",
                },
                "name": label,
                "showlegend": not many,
                "hovertemplate": f"<b>{label}</b><br>width %{{y:,d}}<extra></extra>",
                "meta": {"what": "width", "site": name},
            }
        )
    if many:
        traces.append(_order_scale(len(known.names)))
    sketch.add(*traces)
    total = sum(known.of(n)[1][-1] - known.first(n) for n in known.names)
    grown = sum(known.of(n)[1][-1] > known.first(n) for n in known.names)
    notes = [f"{grown} of {plural(len(known.names), 'layer')} grew, by {total:,.0f} channels."]
    sketch.axis("xaxis", **axis.layout)
    sketch.axis("yaxis", title={"text": "Channels"})
    if style.log:
        sketch.axis("yaxis", **log_axis([known.of(name)[1] for name in known.names]))
    return dress(sketch, style, title, notes, 460, legend=legend_place(len(known.names)))


def _shades(number: int) -> list[str]:
    if number <= _NAMED:
        return [PALETTE[i % len(PALETTE)] for i in range(number)]
    return sample_colorscale([list(stop) for stop in ORDER], np.linspace(0, 1, number).tolist())


def _order_scale(number: int) -> dict:
    return {
        "type": "scatter",
        "mode": "markers",
        "x": [None],
        "y": [None],
        "showlegend": False,
        "hoverinfo": "skip",
        "marker": {
            "color": [1],
            "cmin": 1,
            "cmax": number,
            "colorscale": [list(stop) for stop in ORDER],
            "showscale": True,
            "colorbar": {
                "thickness": 10,
                "outlinewidth": 0,
                "tickvals": [1, number],
                "ticktext": ["first", "last"],
                "title": {"text": "Layer, by depth", "side": "right", "font": {"size": 12}},
            },
        },
        "meta": {"what": "scale"},
    }


@with_options
def width_map(
    run: Run,
    **options: Unpack[Options],
) -> go.Figure:
    """Every layer a row, every growth a column, coloured by how wide it is against the start.

    Args:
        run: what is drawn.
        x: what labels the columns.
        log: whether colours follow the logarithm.
        theme: "light" or "dark".
        smoothing, among: change nothing here.
    """
    style = Style.of("width_map", options)
    title = f"Where the width of {shortened(run.name, 50)} went"
    known = Widths(run)
    growths = [g for g in run.growths if not g.dry_run and not g.error and g.sites]
    steps = np.array(sorted({g.step for g in growths}), float)
    if not known.names or not len(steps):
        return empty("Nothing has grown in this run, or nothing is known of it.", style, title)
    notes = []
    kept = evenly(len(steps), _COLUMNS)
    if len(kept) < len(steps):
        notes.append(f"{len(kept):,} of {len(steps):,} growths have a column.")
    steps = steps[kept]
    names = known.names
    first = np.array([known.first(name) for name in names])
    after = np.stack([known.at(name, steps) for name in names])
    start = np.stack([known.at(name, steps[:1] - 1) for name in names])
    before = np.concatenate([start, after[:, :-1]], axis=1)
    added = np.nan_to_num(after) - np.nan_to_num(before)
    ratio = after / np.maximum(first, 1)[:, None]
    axis = XAxis.of(style.x, [run])
    labels = [axis.label(value) for value in axis.steps(run, steps)]
    small = ratio.size <= _CELLS
    color = np.log2(ratio) if style.log else ratio
    trace = {
        "type": "heatmap",
        "z": color.astype(np.float32),
        "x": np.arange(len(steps)),
        "y": np.arange(len(names)),
        "customdata": np.stack(
            [np.nan_to_num(after), added, np.broadcast_to(steps, after.shape)], axis=-1
        ).astype(np.int32),
        "xgap": 1 if len(steps) <= 80 else 0,
        "ygap": 1 if len(names) <= 60 else 0,
        "hoverongaps": False,
        "hovertemplate": "<b>%{y}</b> at step %{customdata[2]:,d}<br>width %{customdata[0]:,d} "
        "(%{customdata[1]:+,d})<extra></extra>",
        "coloraxis": "coloraxis",
        "meta": {"what": "widths"},
    }
    if small:
        trace["text"] = [[f"+{int(a)}" if a > 0 else "" for a in row] for row in added]
        trace["texttemplate"] = "%{text}"
        trace["textfont"] = {"size": 10}
    sketch = Sketch()
    sketch.add(trace)
    rows = 22 if len(names) <= 40 else 14 if len(names) <= 80 else 12
    notes.append("Numbers are the channels added there." if small else "")
    shown = evenly(len(steps), 14)
    sketch.axis(
        "xaxis",
        title={"text": f"Growths, by {axis.title[0].lower()}{axis.title[1:]}"},
        tickvals=shown,
        ticktext=[labels[i] for i in shown],
        showgrid=False,
    )
    lines = evenly(len(names), 150)
    sketch.axis(
        "yaxis",
        tickvals=lines,
        ticktext=[text(names[i], 34) for i in lines],
        tickfont={"size": 12 if rows > 12 else 10},
        autorange="reversed",
        showgrid=False,
    )
    return dress(
        sketch, style, title, [n for n in notes if n], 130 + rows * max(len(names), 6),
        coloraxis={
            "cmin": 0.0 if style.log else 1.0,
            "cmax": float(max(np.nanmax(color), 0.01 if style.log else 1.01)),
            "colorbar": {"title": {"text": "Against the start"}, **_ticks(color, style.log)},
        },
    )  # fmt: skip


def _ticks(values: np.ndarray, log: bool) -> Mapping:
    top = float(np.nanmax(values))
    if log:
        exponents = np.linspace(0, max(top, 0.01), 5)
        return {"tickvals": exponents, "ticktext": [f"×{2**e:.3g}" for e in exponents]}
    return {"tickprefix": "×", "tickformat": ".3~g"}
