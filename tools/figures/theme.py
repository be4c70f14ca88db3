"""How figures look: colours of runs, light and dark, and text that is only text.

Colours of traces have a contrast of 3:1 or more on both backgrounds, so a figure changes its theme
by its template alone: `figure.layout.template = template("dark")`, or `Plotly.relayout(element,
{template: ...})` in a page that has both.
"""

import functools
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from keras_grow.tools.drawings import THEMES, Style, check_choice
from keras_grow.tools.words import shortened

#: TensorBoard's colours of runs, moved in lightness to 3:1 on white and on its dark grey.
PALETTE = ("#667b9c", "#10a2b6", "#e52592", "#c58700", "#a250e9", "#70a13b", "#e8710a")
#: Of runs that share a colour, the second, third and so on have other lines.
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")

#: What is told by colour in figures of one run.
ACCENT, NEW, NEUTRAL, BAD = "#e8710a", "#10a2b6", "#7f858c", "#e63e55"
#: From the first to the last of an order; every colour of it is readable on both backgrounds.
ORDER = ((0.0, "#667fd6"), (0.5, "#b45cc4"), (1.0, "#e8710a"))

_FONT = "Roboto, system-ui, -apple-system, 'Segoe UI', 'Helvetica Neue', Arial, sans-serif"
BACKGROUND = {"light": "#ffffff", "dark": "#303030"}
_INK = {"light": "#202124", "dark": "#f1f3f4"}
_FAINT_INK = {"light": "#5f6368", "dark": "#bdc1c6"}
_GRID = {"light": "#e4e7eb", "dark": "#4a4d51"}
_BOX = {"light": "#ffffff", "dark": "#202124"}
#: Of heat maps: few to many. The first is close to the background.
_SEQUENTIAL = {
    "light": ("#eef3f8", "#a9cfe0", "#4ea3bf", "#1b6f93", "#123f63"),
    "dark": ("#3a4048", "#2f6079", "#3590ab", "#74c3cf", "#d8f3ee"),
}


# --- text --------------------------------------------------------------------------------------


def text(value: object, limit: int = 60) -> str:
    """Text from a log as plotly shows it unchanged, and shortened.

    plotly takes `<b>`, `<a href>` and the like in every text for markup, `%{name}` in templates
    for a variable, and `$...$` for mathematics.
    """
    line = shortened(value, limit)
    for sign, code in (("&", "amp"), ("<", "lt"), (">", "gt"), ("$", "#36"), ("%", "#37")):
        line = line.replace(sign, f"&{code};")
    return line


# --- colours -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class LineStyle:
    """How the line of a run is drawn."""

    color: str
    dash: str


def line_styles(names: Iterable[str], among: Iterable[str] | None = None) -> dict[str, LineStyle]:
    """A colour and a line for every name.

    Every name has a colour that it prefers; where two prefer the same, the second in alphabetical
    order has the next that is used least.

    Args:
        names: of runs.
        among: all runs there are, so that none changes its colour when others are hidden.
    """
    wanted = list(dict.fromkeys(names))
    used: Counter[int] = Counter()
    found = {}
    for name in sorted({*wanted, *(among or ())}):
        first = zlib.crc32(name.encode("utf-8", "replace")) % len(PALETTE)
        least = min(used[one] for one in range(len(PALETTE)))
        turns = ((first + turn) % len(PALETTE) for turn in range(len(PALETTE)))
        chosen = next(one for one in turns if used[one] == least)
        found[name] = LineStyle(PALETTE[chosen], DASHES[least % len(DASHES)])
        used[chosen] += 1
    return {name: found[name] for name in wanted}


def colors(names: Iterable[str]) -> dict[str, str]:
    """The colours in which figures draw runs of these names when all of them are there."""
    return {name: line.color for name, line in line_styles(names).items()}


# --- themes ------------------------------------------------------------------------------------


def template(theme: str = "light") -> go.layout.Template:
    """All that is light or dark about a figure.

    Raises:
        GrowthError: there is no such theme.
    """
    check_choice("theme", theme, THEMES)
    ink, faint, grid = _INK[theme], _FAINT_INK[theme], _GRID[theme]
    shades = _SEQUENTIAL[theme]
    scale = [[place / (len(shades) - 1), shade] for place, shade in enumerate(shades)]
    axis = {
        "gridcolor": grid,
        "linecolor": grid,
        "zerolinecolor": grid,
        "zerolinewidth": 1,
        "tickcolor": grid,
        "tickfont": {"color": faint, "size": 12},
        "title": {"font": {"color": faint, "size": 13}, "standoff": 8},
        "automargin": True,
    }
    bar = {
        "outlinewidth": 0,
        "thickness": 12,
        "tickfont": {"color": faint, "size": 12},
        "ticks": "",
        "title": {"font": {"color": faint, "size": 12}, "side": "right"},
    }
    return go.layout.Template(
        layout={
            "paper_bgcolor": BACKGROUND[theme],
            "plot_bgcolor": BACKGROUND[theme],
            "font": {"family": _FONT, "size": 13, "color": ink},
            "title": {"font": {"size": 16, "color": ink}},
            "xaxis": axis,
            "yaxis": axis,
            "colorway": list(PALETTE),
            "coloraxis": {"colorscale": scale, "colorbar": bar},
            "legend": {"font": {"color": ink, "size": 12}, "bgcolor": "rgba(0,0,0,0)"},
            "hoverlabel": {
                "align": "left",
                "bgcolor": _BOX[theme],
                "bordercolor": NEUTRAL,
                "font": {"color": ink, "size": 12, "family": _FONT},
                "namelength": -1,
            },
            "annotationdefaults": {"font": {"color": faint, "size": 12}, "showarrow": False},
            "modebar": {
                "bgcolor": "rgba(0,0,0,0)",
                "color": faint,
                "activecolor": ink,
            },
            # The colour of a button under the pointer is plotly's own, and light in any theme.
            "updatemenudefaults": {
                "bgcolor": "#eef1f4",
                "bordercolor": "#c3c9d0",
                "font": {"color": "#202124", "size": 12},
            },
            "sliderdefaults": {
                "bgcolor": grid,
                "activebgcolor": ACCENT,
                "bordercolor": NEUTRAL,
                "tickcolor": NEUTRAL,
                "font": {"color": faint, "size": 11},
                "currentvalue": {"font": {"color": ink, "size": 13}},
            },
        }
    )


# --- figures -----------------------------------------------------------------------------------

_LINE = 110


def _wrapped(sentences: list[str]) -> str:
    lines = [""]
    for word in " ".join(sentences).split():
        if len(lines[-1]) + len(word) > _LINE:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return "<br>".join(text(line, 2 * _LINE) for line in lines)


class Sketch:
    """A figure in the making, as plain values.

    plotly checks and copies all that a `Figure` is given, each time anew, so everything is
    collected first and given at once.

    Args:
        heights: of rows one above the other, as parts of 1; none for a single one.
        gap: between two rows.
        shared: whether rows have the x axis of the last one.
    """

    def __init__(
        self, heights: Sequence[float] = (1.0,), gap: float = 0.0, shared: bool = True
    ) -> None:
        self.data: list[dict[str, Any]] = []
        self.frames: list[dict[str, Any]] = []
        self.layout: dict[str, Any] = {"annotations": [], "shapes": []}
        left = 1 - gap * (len(heights) - 1)
        top = 1.0
        for row, height in enumerate(heights, start=1):
            low = top - left * height / sum(heights)
            number = "" if row == 1 else str(row)
            last = "x" if len(heights) == 1 else f"x{len(heights)}"
            self.axis(f"yaxis{number}", domain=[max(low, 0.0), top], anchor=f"x{number}")
            self.axis(f"xaxis{number}", anchor=f"y{number}", domain=[0.0, 1.0])
            if shared and row < len(heights):
                self.axis(f"xaxis{number}", matches=last, showticklabels=False)
            top = low - gap

    def add(self, *traces: dict[str, Any]) -> None:
        """Adds traces; `row` in one says on which axes it is."""
        for trace in traces:
            row = trace.pop("row", 1)
            if row > 1:
                trace = {**trace, "xaxis": f"x{row}", "yaxis": f"y{row}"}
            self.data.append(trace)

    def axis(self, axis: str, **settings: Any) -> None:
        """Settings of "xaxis", "yaxis2" and so on."""
        self.layout.setdefault(axis, {}).update(settings)

    def annotate(self, **settings: Any) -> None:
        """Adds an annotation; its text must be escaped."""
        self.layout["annotations"].append(settings)

    def shape(self, **settings: Any) -> None:
        """Adds a line or rectangle."""
        self.layout["shapes"].append(settings)


@functools.cache
def _template(theme: str) -> go.layout.Template:
    return template(theme)


def dress(
    sketch: Sketch,
    style: Style,
    title: str,
    notes: list[str] | None = None,
    height: int = 460,
    **layout: Any,
) -> go.Figure:
    """The figure of a sketch, with its title, theme and margins.

    Args:
        sketch: what it shows.
        style: the options.
        title: plain text; it is escaped here.
        notes: sentences that say how to read the figure, or what it leaves out; plain text.
        height: in pixels; the width is that of the page.
        layout: anything else; margins are added to those here.

    Title and notes are in `layout.meta` too, as plain text, for pages that have headings of their
    own; `bare` takes them out of the picture.
    """
    notes = notes or []
    below = _wrapped(notes) if notes else ""
    lines = below.count("<br>") + 1 if notes else 0
    margin = {"l": 64, "r": 24, "t": 52 + 16 * lines, "b": 48, **layout.pop("margin", {})}
    margin["t"] += layout.pop("above", 0)
    return go.Figure(
        data=sketch.data,
        frames=sketch.frames,
        layout={
            **sketch.layout,
            "template": _template(style.theme),
            "title": {
                "text": text(title, 140),
                "x": 0,
                "xref": "paper",
                "xanchor": "left",
                "y": 1,
                "yref": "container",
                "yanchor": "top",
                "pad": {"t": 16, "l": 0},
                "subtitle": {"text": below, "font": {"size": 12}},
            },
            "meta": {"title": shortened(title, 140), "notes": notes, **layout.pop("meta", {})},
            "height": height + 16 * lines,
            "margin": margin,
            "hovermode": "closest",
            "dragmode": "zoom",
            **layout,
        },
    )


def bare(figure: go.Figure) -> tuple[str, list[str]]:
    """Takes title and notes out of a figure, for a page that says them itself.

    Returns:
        The title and the notes, as plain text.
    """
    meta = figure.layout.meta or {}
    notes = list(meta.get("notes", ()))
    # As much as `dress` has added for them.
    less = 20 + 16 * (_wrapped(notes).count("<br>") + 1 if notes else 0)
    above, height = figure.layout.margin.t, figure.layout.height
    figure.layout.title = None
    if above is not None and height is not None:
        less = min(less, above)
        figure.update_layout(margin_t=above - less, height=height - less)
    return meta.get("title", ""), notes


def empty(sentence: str, style: Style, title: str = "") -> go.Figure:
    """A figure without data that says why."""
    sketch = Sketch()
    sketch.annotate(
        text=_wrapped([sentence]), xref="paper", yref="paper", x=0.5, y=0.5, font={"size": 14}
    )
    sketch.axis("xaxis", visible=False)
    sketch.axis("yaxis", visible=False)
    return dress(sketch, style, title, height=260)
