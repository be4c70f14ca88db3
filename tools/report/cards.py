"""The figures of a report, and which of them are to be chosen from.

A page has no server behind it, so every figure that can be chosen is in it. Spectra of all layers
at all growths would make it large; a budget is shared by the runs and what is left out is told.
"""

import json
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go

from keras_grow.logs.events import SiteGrowth
from keras_grow.logs.runs import Run
from keras_grow.tools import figures
from keras_grow.tools.drawings import DRAWINGS
from keras_grow.tools.figures.axes import evenly, log_axis
from keras_grow.tools.words import plural, shortened

#: Figures of the whole page: single spectra, spectra over time, gradients; and of other kinds.
_SPECTRA, _OVER_TIME, _GRADIENTS, _RUNS = 180, 60, 60, 20

_X_WORDS = {"step": "training step", "time": "time", "parameters": "parameters", "flops": "FLOPs"}


@dataclass
class Card:
    """One place for a figure, and what can be shown there.

    Attributes:
        id: of the element.
        title: what it shows.
        choices: a tree: {"label": what is chosen, "options": [[text, tree or figure's number]]};
            or the number of the only figure.
        note: what is left out, in words.
        slider: whether its figures have frames to be moved through.
    """

    id: str
    title: str
    choices: Any
    note: str = ""
    slider: bool = False


class Deck:
    """Collects figures, each written once.

    Attributes:
        figures: as JSON text, without template and title.
        cards: by id, in order.
    """

    def __init__(self, runs: list[Run], smoothing: float) -> None:
        self.runs = runs
        self.shown = [run for run in runs if run.growths][:_RUNS] or runs[:_RUNS]
        self.smoothing = smoothing
        self.figures: list[dict[str, Any]] = []
        self.cards: dict[str, Card] = {}
        metrics = [tag for tag in ("loss", "epoch_loss") if any(tag in r.scalars for r in runs)]
        self.metric = metrics[0] if metrics else "loss"
        self._over_all_runs()
        self._of_single_runs()
        self._why()

    def _keep(self, figure: go.Figure, log: dict[str, Any] | None = None) -> int:
        """Takes up a figure, and what of its layout is different with logarithmic axes."""
        plain, title, notes = _plain(figure)
        kept = {"figure": plain, "title": title, "notes": notes}
        if log:
            kept["log"] = log
        self.figures.append(kept)
        return len(self.figures) - 1

    def _both(self, draw: Callable[..., go.Figure], *args: Any, **options: Any) -> int:
        """Takes up a figure with both kinds of axes."""
        figure = draw(*args, **options)
        linear = json.loads(figure.to_json())["layout"]
        other = json.loads(draw(*args, **options, log=True).to_json())["layout"]
        changed = {
            name: other[name]
            for name in other
            if (name[1:5] == "axis" or name == "annotations") and other[name] != linear.get(name)
        }
        return self._keep(figure, changed)

    def _add(self, id: str, title: str, choices: Any, **rest: Any) -> None:
        self.cards[id] = Card(id, title, choices, **rest)

    def _by(self, label: str, options: Iterable[tuple[str, Any]]) -> Any:
        listed = [list(option) for option in options]
        return listed[0][1] if len(listed) == 1 else {"label": label, "options": listed}

    def _by_x(self, name: str, **options: Any) -> Any:
        draw = getattr(figures, name)
        found = [
            (_X_WORDS[x], self._both(draw, self.runs, self.metric, x=x, **options))
            for x in DRAWINGS[name].axes
        ]
        return self._by("x axis", found)

    def _by_run(self, runs: list[Run], keep: Callable[[Run], int]) -> Any:
        return self._by("Run", [(shortened(run.name, 60), keep(run)) for run in runs])

    @property
    def _rest(self) -> str:
        left = len(self.runs) - len(self.shown)
        return f"{plural(left, 'more run')} cannot be chosen here." if left else ""

    def _over_all_runs(self) -> None:
        timeline = self._by_x("timeline", smoothing=self.smoothing)
        self._add("timeline", "Growth over training", timeline)
        gain = self._keep(figures.gain(self.runs, self.metric))
        self._add("gain", "What growing brought", gain)
        tradeoff = self._by_x("tradeoff")
        self._add("tradeoff", "Loss against cost", tradeoff)

    def _of_single_runs(self) -> None:
        names = [run.name for run in self.runs]
        costs: list[tuple[str, Any]] = []
        if len(self.runs) > 1:
            costs.append(("all", self._both(figures.costs, self.runs)))
        for run in self.shown:
            figure = self._both(figures.costs, [run], among=names)
            costs.append((shortened(run.name, 60), figure))
        self._add("costs", "Cost of growing", self._by("Run", costs), note=self._rest)
        widths = self._by_run(self.shown, lambda run: self._both(figures.widths, run))
        self._add("widths", "Widths over training", widths, note=self._rest)
        maps = self._by_run(self.shown, lambda run: self._keep(figures.width_map(run)))
        self._add("width-map", "Layer by growth", maps, note=self._rest)
        drawn = [run for run in self.shown if run.networks]
        if drawn:
            networks = self._by_run(drawn, lambda run: self._keep(figures.network(run)))
            self._add("network", "The network", networks, slider=True, note=self._rest)

    def _why(self) -> None:
        told = [run for run in self.shown if any(g.sites for g in run.growths) and run.sites]
        if not told:
            return
        events = {run.name: [s for s in sorted(run.sites) if run.sites[s]] for run in told}
        for id, title, what, choose, budget in (
            ("gradients", "Gradient by layer", "growths", self._gradients, _GRADIENTS),
            ("spectrum", "Spectrum of a layer", "spectra", self._spectrum, _SPECTRA),
            ("spectra", "Spectra over time", "layers", self._spectra, _OVER_TIME),
        ):
            found, left = [], 0
            for run in told:
                share = max(budget // len(told), 4)
                choices, more = choose(run, events[run.name], share)
                found.append((shortened(run.name, 60), choices))
                left += more
            arguments = ", ".join(DRAWINGS[id].arguments()).replace("site", "layer")
            note = (
                f"Left out to keep this page small: {left:,} {what}. In a notebook: "
                f"kg.figures.{id}({arguments})."
            )
            self._add(id, title, self._by("Run", found), note=note if left else "")

    def _gradients(self, run: Run, events: list[int], share: int) -> tuple[Any, int]:
        """Choices, and how many growths are left out."""
        told = [s for s in events if any(one.gradient_norm for one in run.sites[s])] or events
        chosen = [told[i] for i in evenly(len(told), share)]
        options = [(f"{s:,}", self._both(figures.gradients, run, s)) for s in chosen]
        return self._by("Step", options), len(told) - len(chosen)

    def _spectrum(self, run: Run, events: list[int], share: int) -> tuple[Any, int]:
        """Choices, and how many spectra are left out."""
        widest = max(len(run.sites[step]) for step in events)
        per_step = max(min(widest, math.isqrt(share) + 1), 1)
        chosen = [events[i] for i in evenly(len(events), max(share // per_step, 2))]
        options, kept = [], 0
        for step in chosen:
            sites = sorted(run.sites[step], key=lambda one: -(one.gradient_norm or 0.0))[:per_step]
            kept += len(sites)
            layers = [(shortened(one.name, 60), self._cut(run, step, one)) for one in sites]
            options.append((f"{step:,}", self._by("Layer", layers)))
        return self._by("Step", options), sum(len(run.sites[s]) for s in events) - kept

    def _cut(self, run: Run, step: int, site: SiteGrowth) -> int:
        figure = figures.spectrum(run, step, site.name)
        values = [np.array(site.singular_values, float)]
        log = {"yaxis": {**figure.layout.yaxis.to_plotly_json(), **log_axis(values)}}
        return self._keep(figure, log if figure.data else None)

    def _spectra(self, run: Run, events: list[int], share: int) -> tuple[Any, int]:
        """Choices, and how many layers are left out."""
        largest: dict[str, float] = {}
        for step in events:
            for one in run.sites[step]:
                largest[one.name] = max(largest.get(one.name, 0.0), one.gradient_norm or 0.0)
        names = sorted(largest, key=lambda name: -largest[name])
        options = [
            (shortened(name, 60), self._keep(figures.spectra(run, name))) for name in names[:share]
        ]
        return self._by("Layer", options), max(len(names) - share, 0)


def _plain(figure: go.Figure) -> tuple[dict[str, Any], str, list[str]]:
    """A figure as JSON holds it, without what the page has itself, its title and notes."""
    title, notes = figures.bare(figure)
    plain = json.loads(figure.to_json())
    layout = plain["layout"]
    for name in ("template", "meta", "sliders", "updatemenus"):
        layout.pop(name, None)
    if plain.get("frames"):
        layout["margin"]["b"] = 16
        layout["height"] -= 68
    return plain, title, notes
