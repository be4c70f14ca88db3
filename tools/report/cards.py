"""The figures of a report, and which of them are to be chosen from.

A page has no server behind it, so every figure that can be chosen is in it. Spectra of all layers
at all growths would make it large; a budget is shared by the runs and what is left out is told.
"""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import plotly.graph_objects as go

from keras_grow.logs.runs import Run
from keras_grow.tools import figures
from keras_grow.tools.figures.axes import evenly
from keras_grow.tools.figures.theme import X, plural, shortened

#: Figures of the whole page: single spectra, spectra over time, gradients; and of other kinds.
_SPECTRA, _OVER_TIME, _GRADIENTS, _RUNS = 240, 100, 100, 20

_X_WORDS = {"step": "training step", "time": "time", "parameters": "parameters", "flops": "FLOPs"}


@dataclass
class Card:
    """One place for a figure, and what can be shown there.

    Attributes:
        id: of the element.
        title: what it shows.
        choices: a tree: {"label": what is chosen, "options": [[text, tree or figure's number]]};
            or the number of the only figure.
        selected: the option of each level that is shown first.
        note: what is left out, in words.
        slider: whether its figures have frames to be moved through.
    """

    id: str
    title: str
    choices: Any
    selected: list[int] = field(default_factory=list)
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

    def _keep(self, figure: go.Figure) -> int:
        title, notes = figures.bare(figure)
        plain = json.loads(figure.to_json())
        plain["layout"].pop("template", None)
        plain["layout"].pop("meta", None)
        plain["layout"].pop("sliders", None)  # the page has its own, which the keyboard reaches
        plain["layout"].pop("updatemenus", None)
        if plain.get("frames"):
            plain["layout"]["margin"]["b"] = 16
            plain["layout"]["height"] -= 68
        self.figures.append({"figure": plain, "title": title, "notes": notes})
        return len(self.figures) - 1

    def _add(self, id: str, title: str, choices: Any, **rest: Any) -> None:
        self.cards[id] = Card(id, title, choices, **rest)

    def _by(self, label: str, options: Iterable[tuple[str, Any]]) -> Any:
        listed = [list(option) for option in options]
        return listed[0][1] if len(listed) == 1 else {"label": label, "options": listed}

    def _by_x(self, draw: Callable[..., go.Figure], kinds: Iterable[str]) -> Any:
        return self._by("x axis", [(_X_WORDS[x], self._keep(draw(x=x))) for x in kinds])

    def _by_run(self, draw: Callable[[Run], go.Figure]) -> Any:
        return self._by(
            "Run", [(shortened(run.name, 60), self._keep(draw(run))) for run in self.shown]
        )

    @property
    def _rest(self) -> str:
        left = len(self.runs) - len(self.shown)
        return f"{plural(left, 'more run')} cannot be chosen here." if left else ""

    def _over_all_runs(self) -> None:
        runs, metric = self.runs, self.metric
        self._add(
            "timeline",
            "Growth over training",
            self._by(
                "x axis",
                [
                    (
                        f"{_X_WORDS[x]}{', logarithmic loss' if log else ''}",
                        self._keep(
                            figures.timeline(runs, metric, x=x, smoothing=self.smoothing, log=log)
                        ),
                    )
                    for x in X
                    for log in (False, True)
                ],
            ),
        )
        self._add("gain", "What growing brought", self._keep(figures.gain(runs, metric)))
        self._add(
            "tradeoff",
            "Loss against cost",
            self._by_x(
                lambda x: figures.tradeoff(runs, metric, x=x), ("parameters", "flops", "time")
            ),
        )

    def _of_single_runs(self) -> None:
        names = [run.name for run in self.runs]
        costs: list[tuple[str, Any]] = []
        if len(self.runs) > 1:
            costs.append(("all", self._keep(figures.costs(self.runs))))
        for run in self.shown:
            figure = self._keep(figures.costs([run], among=names))
            costs.append((shortened(run.name, 60), figure))
        self._add("costs", "Cost of growing", self._by("Run", costs), note=self._rest)
        self._add("widths", "Widths over training", self._by_run(figures.widths), note=self._rest)
        self._add("width-map", "Layer by growth", self._by_run(figures.width_map), note=self._rest)
        drawn = [run for run in self.shown if run.networks]
        if drawn:
            self._add(
                "network",
                "The network",
                self._by(
                    "Run",
                    [(shortened(r.name, 60), self._keep(figures.network(r))) for r in drawn],
                ),
                slider=True,
                note=self._rest,
            )

    def _why(self) -> None:
        told = [run for run in self.shown if any(g.sites for g in run.growths) and run.sites]
        if not told:
            return
        spectrum, spectra, gradients = [], [], []
        left = {"spectrum": 0, "spectra": 0, "gradients": 0}
        for run in told:
            name = shortened(run.name, 60)
            events = [step for step in sorted(run.sites) if run.sites[step]]
            looked = [s for s in events if any(one.gradient_norm for one in run.sites[s])]
            chosen = _chosen(looked or events, max(_GRADIENTS // len(told), 2))
            left["gradients"] += len(looked) - len(chosen) if looked else 0
            gradients.append(
                (
                    name,
                    self._by(
                        "Step",
                        [(f"{s:,}", self._keep(figures.gradients(run, s))) for s in chosen],
                    ),
                )
            )
            share = max(_SPECTRA // len(told), 4)
            names = _sites_by_gradient(run, events)
            per_step = max(min(len(names), int(share**0.5) + 1), 1)
            steps = _chosen(events, max(share // per_step, 2))
            options = []
            for step in steps:
                there = sorted(run.sites[step], key=lambda one: -(one.gradient_norm or 0.0))
                kept = there[:per_step]
                left["spectrum"] += len(there) - len(kept)
                options.append(
                    (
                        f"{step:,}",
                        self._by(
                            "Layer",
                            [
                                (
                                    shortened(one.name, 60),
                                    self._keep(figures.spectrum(run, step, one.name)),
                                )
                                for one in kept
                            ],
                        ),
                    )
                )
            left["spectrum"] += sum(len(run.sites[s]) for s in events if s not in set(steps))
            spectrum.append((name, self._by("Step", options)))
            most = max(_OVER_TIME // len(told), 3)
            left["spectra"] += max(len(names) - most, 0)
            spectra.append(
                (
                    name,
                    self._by(
                        "Layer",
                        [
                            (shortened(n, 60), self._keep(figures.spectra(run, n)))
                            for n in names[:most]
                        ],
                    ),
                )
            )
        words = "Left out to keep this page small: {}. In a notebook: kg.figures.{}."
        for id, title, options, what, call in (
            ("spectrum", "Spectrum of a layer", spectrum, "spectra", "spectrum(run, step, layer)"),
            ("spectra", "Spectra over time", spectra, "layers", "spectra(run, layer)"),
            ("gradients", "Gradient by layer", gradients, "growths", "gradients(run, step)"),
        ):
            note = words.format(f"{left[id]:,} {what}", call) if left[id] else ""
            self._add(id, title, self._by("Run", options), note=note)


def _chosen(steps: list[int], most: int) -> list[int]:
    return [steps[i] for i in evenly(len(steps), most)]


def _sites_by_gradient(run: Run, steps: list[int]) -> list[str]:
    """Names of what grew, those with the largest new gradients first."""
    largest: dict[str, float] = {}
    for step in _chosen(steps, 100):
        for one in run.sites[step]:
            largest[one.name] = max(largest.get(one.name, 0.0), one.gradient_norm or 0.0)
    return sorted(largest, key=lambda name: -largest[name])
