"""The network itself, drawn: every layer as wide as it is, at any of its growths."""

import math
import re
from typing import Unpack

import numpy as np
import plotly.graph_objects as go

from keras_grow.logs.runs import Run
from keras_grow.tools.drawings import Options, Style, with_options
from keras_grow.tools.figures.axes import evenly
from keras_grow.tools.figures.layout import Route, arrange
from keras_grow.tools.figures.network_story import Story, blocks
from keras_grow.tools.figures.theme import ACCENT, NEUTRAL, Sketch, dress, empty, text
from keras_grow.tools.words import shortened

#: Steps of the slider, and nodes that are drawn at all.
_FRAMES, _NODES = 60, 1_500

_MARKUP = re.compile(r"</?b>|&[#a-z0-9]+;?")
#: What the colours of bars mean, by number.
_COLORS = ("rgba(127,133,140,0.5)", "#667b9c", "#10a2b6", ACCENT, "#e52592")
_WORDS = ("cannot grow", "width at the start", "grown earlier", "grown at this step", "new layer")
_FIXED, _SAME, _EARLIER, _NOW, _NEW = range(5)


@with_options
def network(
    run: Run,
    step: int | None = None,
    *,
    slider: bool = True,
    **options: Unpack[Options],
) -> go.Figure:
    """The layers of a network from top to bottom, each a bar as long as the root of its width.

    Normalization, activations and the like are drawn with the layer that they follow.

    Args:
        run: with its networks, and its widths or the sites of its steps.
        step: training step at which it is shown; its last for None.
        slider: whether the figure has a frame for every growth (up to 60 of them), a slider and a
            button that plays them. The frames' names are the steps.
        log: whether bars are as long as the logarithm of widths.
        theme: "light" or "dark".
        x, smoothing, among: change nothing here.
    """
    style = Style.of("network", options)
    title = f"The network of {shortened(run.name, 50)}"
    if not run.networks or not any(one.nodes for one in run.networks):
        return empty("This run has not logged what its network looks like.", style, title)
    story = Story(run)
    if len(story.groups) > _NODES:
        return empty(
            f"The network has {len(story.groups):,} layers, more than can be drawn ({_NODES:,}).",
            style,
            title,
        )
    return _Picture(story, style).figure(title, step, slider)


# --- the picture --------------------------------------------------------------------------------

#: Rows, in units of one with a wide bar; halves of bars, and where labels begin, in lanes.
_THIN_ROW, _HALF, _LABEL = 0.6, 0.42, 0.46
#: Lanes: between two, the first arc, between two arcs; and what labels take on the right.
_PITCH, _ARC, _ARCS, _LABELS, _BLOCKS = 0.95, 0.03, 0.06, 0.95, 0.32
#: A page of usual width and a character of a label, in pixels.
_PAGE, _CHARACTER = 820, 6.8


class _Picture:
    def __init__(self, story: Story, style: Style) -> None:
        self.story, self.style = story, style
        self.layout = arrange(len(story.groups), story.edges)
        self.lanes = max(self.layout.lanes) + 1
        ranks = max(self.layout.ranks) + 1
        thin = [True] * ranks
        for group, rank in zip(story.groups, self.layout.ranks, strict=True):
            thin[rank] &= group.merges
        heights = np.where(thin, _THIN_ROW, 1.0)
        centres = np.cumsum(heights) - heights / 2
        self.rows = -centres
        self.y = -centres[np.array(self.layout.ranks)]
        self.x = np.array(self.layout.lanes) * _PITCH
        self.grows = np.array([story.grows(group.path) for group in story.groups])
        self._find_blocks()
        room = _LABELS * (1 if self.lanes < 3 else 1.6)
        self.right = (self.lanes - 1) * _PITCH + _LABEL + room
        self.left = -_HALF - _ARC - _ARCS * (self.layout.depths + 1)
        self.left -= _BLOCKS * (1 + 0.3 * self.lanes) if self.blocks else 0.0
        self.characters = int(_PAGE * room / (self.right - self.left) / _CHARACTER)
        self.height = float(heights.sum())
        self.pixels = 26 if self.height <= 24 else 20 if self.height <= 45 else 16

    def figure(self, title: str, step: int | None, slider: bool) -> go.Figure:
        story = self.story
        steps = story.steps
        if step is None:
            step = steps[-1]
        notes = []
        if slider:
            kept = [steps[i] for i in evenly(len(steps), _FRAMES)]
            if len(kept) < len(steps):
                notes.append(f"{len(kept)} of {len(steps):,} steps can be shown.")
            shown = max((i for i, one in enumerate(kept) if one <= step), default=0)
        else:
            kept, shown = [step], 0
        around = sorted({*steps, *kept})
        table = story.table(around)
        index = {one: row for row, one in enumerate(around)}
        start = self._start(table)
        longest = self._length(np.nanmax(table, initial=1.0, where=np.isfinite(table)))
        states = []
        for number, one in enumerate(kept):
            row = index[one]
            earlier = index[kept[number - 1]] if slider and number else max(row - 1, 0)
            if one not in steps:
                earlier = row
            states.append(self._state(table[row], table[earlier], start, longest, one))
        edges = self._edges(kept[shown])
        sketch = Sketch()
        sketch.add(edges, *self._bars(states[shown], start, longest), *self._keys(states))
        if not story.widths.names:
            notes.append("Widths over time are not known; these are of the start.")
        how = "logarithm" if self.style.log else "root"
        notes.append(f"Bars are as long as the {how} of the number of channels.")
        left, right = self.left, self.right
        self._bands(sketch, left + 0.01)
        # Bars have axes of their own: plotly draws lines over the bars of the same axes.
        across = {"visible": False, "range": [left, right], "fixedrange": True}
        down = {"visible": False, "range": [-self.height - 0.2, 0.2], "fixedrange": True}
        sketch.axis("xaxis", **across)
        sketch.axis("yaxis", **down)
        sketch.axis("xaxis2", **across, overlaying="x", anchor="y2")
        sketch.axis("yaxis2", **down, overlaying="y", anchor="x2")
        controls: dict = {}
        if slider and len(kept) > 1:
            many = len(story.versions) > 1
            sketch.frames = [
                self._frame(one, state, many) for one, state in zip(kept, states, strict=True)
            ]
            controls = _controls(kept, shown)
        below = 84 if controls else 16
        return dress(
            sketch,
            self.style,
            title,
            notes,
            int(self.height * self.pixels) + 90 + below,
            above=28,
            margin={"l": 16, "r": 16, "b": below},
            meta={"steps": kept, "step": kept[shown]},
            barmode="overlay",
            legend={"orientation": "h", "x": 0, "xanchor": "left", "y": 1, "yanchor": "bottom"},
            **controls,
        )

    def _start(self, table: np.ndarray) -> np.ndarray:
        """The first width of every group."""
        there = table > 0
        first = there.argmax(axis=0)
        return np.where(there.any(axis=0), table[first, np.arange(table.shape[1])], 0.0)

    def _length(self, widths: np.ndarray | float) -> np.ndarray:
        widths = np.maximum(np.nan_to_num(np.asarray(widths, float), nan=1.0), 0.0)
        return np.log1p(widths) if self.style.log else np.sqrt(widths)

    def _state(
        self, now: np.ndarray, before: np.ndarray, start: np.ndarray, longest: np.ndarray, step: int
    ) -> dict:
        grows = self.grows
        there = ~(now == 0)
        added = np.where(np.isfinite(now) & np.isfinite(before), now - before, 0)
        colors = np.where(grows, _SAME, _FIXED)
        colors[there & (now > start)] = _EARLIER
        colors[there & (added > 0)] = _NOW
        colors[there & (before == 0) & (added > 0)] = _NEW
        half = _HALF * self._length(now) / longest
        rows: list[list[str]] = [[] for _ in self.rows]
        for number in sorted(np.flatnonzero(there).tolist(), key=lambda n: self.layout.lanes[n]):
            group = self.story.groups[number]
            if group.merges and self.height > 24:
                continue
            words = text(self._name(number), min(30, max(self.characters - 14, 8)))
            if math.isfinite(now[number]):
                words += f"  {now[number]:,.0f}"
            if colors[number] == _NEW:
                words += "  <b>new</b>"
            elif added[number] > 0:
                words += f"  <b>+{added[number]:,.0f}</b>"
            rows[self.layout.ranks[number]].append(words)
        labels = [_row_text(words, self.characters) for words in rows]
        return {
            "base": (self.x - half).astype(np.float32),
            "x": (2 * half).astype(np.float32),
            "colors": colors.astype(np.int16),
            "customdata": np.stack([np.nan_to_num(now), added], axis=1).astype(np.int32),
            "labels": labels,
            "step": step,
        }

    def _name(self, number: int) -> str:
        """A layer's name without that of its block, which stands on the left."""
        path, rank = self.story.groups[number].path, self.layout.ranks[number]
        for name, first, last in self.blocks:
            if first <= rank <= last and path.startswith(name):
                return path[len(name) :].lstrip("_/") or path
        return path

    def _bars(self, state: dict, start: np.ndarray, longest: np.ndarray) -> list[dict]:
        groups = self.story.groups
        thickness = np.array([0.26 if group.merges else 0.66 for group in groups])
        half = _HALF * self._length(start) / longest
        hover = [
            f"<b>{text(g.path, 50)}</b><br>{text(g.kind, 40)}"
            + (f", then {text(', '.join(g.followers), 80)}" if g.followers else "")
            for g in groups
        ]
        scale = [
            [place, color]
            for number, color in enumerate(_COLORS)
            for place in (number / len(_COLORS), (number + 1) / len(_COLORS))
        ]
        common = {
            "type": "bar",
            "orientation": "h",
            "y": self.y,
            "width": thickness,
            "xaxis": "x2",
            "yaxis": "y2",
        }
        outer = {
            **common,
            "base": state["base"],
            "x": state["x"],
            "marker": {
                "color": state["colors"],
                "colorscale": scale,
                "cmin": -0.5,
                "cmax": len(_COLORS) - 0.5,
                "line": {"width": 0},
            },
            "customdata": state["customdata"],
            "hovertext": hover,
            "hovertemplate": "%{hovertext}<br>%{customdata[0]:,d} channels "
            "(%{customdata[1]:+,d} at this step)<extra></extra>",
            "showlegend": False,
            "meta": {"what": "layers", "paths": [shortened(g.path, 200) for g in groups]},
        }
        inner = {
            **common,
            "base": (self.x - np.minimum(half, state_half(state))).astype(np.float32),
            "x": (2 * np.minimum(half, state_half(state))).astype(np.float32),
            "marker": {
                "color": "#667b9c",
                "line": {"width": 0},
                "opacity": self.grows.astype(float),
            },
            "hoverinfo": "skip",
            "showlegend": False,
            "meta": {"what": "start"},
        }
        labels = {
            "type": "scatter",
            "mode": "text",
            "x": np.full(len(self.rows), (self.lanes - 1) * _PITCH + _LABEL),
            "y": self.rows,
            "text": state["labels"],
            "textposition": "middle right",
            "textfont": {"size": 12 if self.pixels >= 20 else 10.5},
            "cliponaxis": False,
            "hoverinfo": "skip",
            "showlegend": False,
            "meta": {"what": "labels"},
        }
        self._half = half
        return [outer, inner, labels]

    def _frame(self, step: int, state: dict, edges: bool) -> dict:
        inner = np.minimum(self._half, state_half(state))
        data = [
            {
                "type": "bar",
                "base": state["base"],
                "x": state["x"],
                "marker": {"color": state["colors"]},
                "customdata": state["customdata"],
            },
            {
                "type": "bar",
                "base": (self.x - inner).astype(np.float32),
                "x": (2 * inner).astype(np.float32),
            },
            {"type": "scatter", "text": state["labels"]},
        ]
        traces = [1, 2, 3]
        if edges:
            lines = self._edges(step)
            data.append({"type": "scatter", "x": lines["x"], "y": lines["y"]})
            traces.append(0)
        return {"name": str(step), "data": data, "traces": traces}

    # --- edges ---------------------------------------------------------------------------------

    def _edges(self, step: int) -> dict:
        there = self.story.edges_at(step)
        present = {node for edge in there for node in edge}
        ranks, lanes = self.layout.ranks, self.layout.lanes
        xs: list[np.ndarray] = []
        ys: list[np.ndarray] = []
        for route in self.layout.routes:
            if (route.source, route.target) in there:
                a, b = route.source, route.target
                if lanes[a] == lanes[b] and not any(
                    lanes[n] == lanes[a] and ranks[a] < ranks[n] < ranks[b] for n in present
                ):
                    route = Route(a, b, "down")  # what it goes around is not there yet
                px, py = self._path(route)
                xs += [px, np.array([np.nan])]
                ys += [py, np.array([np.nan])]
        return {
            "type": "scatter",
            "mode": "lines",
            "x": np.concatenate(xs).round(4) if xs else [],
            "y": np.concatenate(ys).round(4) if ys else [],
            "line": {"color": NEUTRAL, "width": 1.3},
            "connectgaps": False,
            "hoverinfo": "skip",
            "showlegend": False,
            "meta": {"what": "edges", "count": len(xs) // 2},
        }

    def _path(self, route: Route) -> tuple[np.ndarray, np.ndarray]:
        x0, x1 = self.x[route.source], self.x[route.target]
        y0, y1 = self.y[route.source], self.y[route.target]
        if route.way == "arc":
            side = -_HALF - _ARC - _ARCS * (route.depth + 1)
            # A little below its source and above its target, where the next arc begins.
            y0, y1 = y0 - 0.1, y1 + 0.1
            bend_x, bend_y = 0.05, min(0.3, (y0 - y1) / 3)
            return (
                np.array([x0, side + bend_x, side + bend_x / 4, side, side, side + bend_x / 4,
                          side + bend_x, x1]),
                np.array([y0, y0, y0 - bend_y / 4, y0 - bend_y, y1 + bend_y, y1 + bend_y / 4,
                          y1, y1]),
            )  # fmt: skip
        if x0 == x1:
            return np.array([x0, x1]), np.array([y0, y1])
        ranks = self.layout.ranks
        t = np.linspace(0, 1, 12)
        ease = t * t * (3 - 2 * t)
        if route.way == "down":
            bend_from, bend_to = self.rows[ranks[route.target] - 1], y1
            curve_y = bend_from + (bend_to - bend_from) * t
            return (
                np.concatenate([[x0], x0 + (x1 - x0) * ease]),
                np.concatenate([[y0], curve_y]),
            )
        bend_to = self.rows[ranks[route.source] + 1]
        curve_y = y0 + (bend_to - y0) * t
        return np.concatenate([x0 + (x1 - x0) * ease, [x1]]), np.concatenate([curve_y, [y1]])

    # --- blocks and keys -----------------------------------------------------------------------

    def _find_blocks(self) -> None:
        """Blocks of the trunk that names tell apart, with their first and last rank."""
        trunk = sorted(
            (rank, group.path)
            for group, rank, lane in zip(
                self.story.groups, self.layout.ranks, self.layout.lanes, strict=True
            )
            if lane == 0
        )
        self.blocks = [
            (name, trunk[first][0], trunk[last][0])
            for name, first, last in blocks([path for _, path in trunk])
        ]

    def _bands(self, sketch: Sketch, left: float) -> None:
        """A band behind every block, and its name."""
        for number, (name, top, bottom) in enumerate(self.blocks):
            above = self._edge_of(top, -1)
            below = self._edge_of(bottom, 1)
            sketch.shape(
                type="rect", xref="paper", yref="y", x0=0, x1=1, y0=above, y1=below,
                layer="below", line={"width": 0},
                fillcolor=f"rgba(127,133,140,{0.06 if number % 2 else 0.14})",
            )  # fmt: skip
            sketch.annotate(
                text=text(name, 22), xref="x", yref="y", x=left, y=(above + below) / 2,
                xanchor="left", yanchor="middle", font={"size": 11},
            )  # fmt: skip

    def _edge_of(self, rank: int, side: int) -> float:
        """The height halfway to the next row."""
        other = rank + side
        if 0 <= other < len(self.rows):
            return float((self.rows[rank] + self.rows[other]) / 2)
        return float(self.rows[rank]) - 0.5 * side

    def _keys(self, states: list[dict]) -> list[dict]:
        used = {int(one) for state in states for one in state["colors"]}
        if used & {_EARLIER, _NOW}:
            used.add(_SAME)
        return [
            {
                "type": "bar",
                "xaxis": "x2",
                "yaxis": "y2",
                "x": [None],
                "y": [None],
                "name": _WORDS[number],
                "marker": {"color": _COLORS[number]},
                "hoverinfo": "skip",
                "meta": {"what": "key"},
            }
            for number in sorted(used)
        ]


def _row_text(parts: list[str], limit: int) -> str:
    """The labels of one row: the first, and as many more as there is room for."""

    def length(words: str) -> int:
        return len(_MARKUP.sub("", words))

    found, room = "", limit - len(", and 9 more")
    for number, part in enumerate(parts):
        last = number == len(parts) - 1
        if found and length(found) + length(part) + 3 > (limit if last else room):
            return f"{found}, and {len(parts) - number} more"
        found = f"{found},  {part}" if found else part
    return found


def state_half(state: dict) -> np.ndarray:
    """Half the length of each bar."""
    return np.asarray(state["x"]) / 2


def _controls(steps: list[int], shown: int) -> dict:
    """A slider over the frames, and a button that plays them."""
    at_once = {
        "mode": "immediate",
        "frame": {"duration": 0, "redraw": True},
        "transition": {"duration": 0},
    }
    playing = {**at_once, "frame": {"duration": 600, "redraw": True}, "fromcurrent": False}
    return {
        "sliders": [
            {
                "active": shown,
                "x": 0.13,
                "len": 0.87,
                "y": 0,
                "yanchor": "top",
                "pad": {"t": 26, "b": 4},
                "currentvalue": {"prefix": "Step ", "xanchor": "left"},
                "steps": [
                    {"label": f"{step:,}", "method": "animate", "args": [[str(step)], at_once]}
                    for step in steps
                ],
            }
        ],
        "updatemenus": [
            {
                "type": "buttons",
                "direction": "left",
                "showactive": False,
                "x": 0,
                "xanchor": "left",
                "y": 0,
                "yanchor": "top",
                "pad": {"t": 40, "r": 8},
                "buttons": [
                    {"label": "Play", "method": "animate", "args": [None, playing]},
                    {"label": "Pause", "method": "animate", "args": [[None], at_once]},
                ],
            }
        ],
    }
