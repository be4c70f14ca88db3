"""The page: what is said in words and tables, and the figures between."""

import json
import math
import secrets
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from plotly.offline import get_plotlyjs

from keras_grow.logs.runs import GrowthSummary, Run
from keras_grow.tools import figures
from keras_grow.tools.drawings import PAGE_SMOOTHING, THEMES
from keras_grow.tools.figures.axes import changes, evenly
from keras_grow.tools.figures.theme import line_styles
from keras_grow.tools.figures.timeline import metric_of, state_of
from keras_grow.tools.report.cards import Deck
from keras_grow.tools.words import count, plural, seconds, shortened

#: Rows of the table of growths, and warnings.
_ROWS, _WARNINGS = 4_000, 100

#: Sections in the order in which a person asks, with their cards.
SECTIONS = (
    ("when", "Did it grow, when, and did anything break?", ("timeline",)),
    ("cost", "What did it cost, and what did it bring?", ("costs", "gain")),
    ("where", "Where did the width go?", ("widths", "width-map")),
    ("why", "Why there?", ("gradients", "spectrum", "spectra")),
    ("compare", "How do the runs compare?", ("tradeoff",)),
    ("network", "The network", ("network",)),
)


@dataclass(frozen=True)
class Row:
    """A growth in the table: text of each cell, and what it is sorted by."""

    cells: tuple[tuple[str, float | str], ...]
    state: str


HEADINGS = (
    "Run",
    "Step",
    "Epoch",
    "What grew",
    "Channels",
    "Method",
    "Parameters",
    "FLOPs",
    "Loss",
    "Outputs",
    "Seconds",
    "Remarks",
)


def build(
    runs: Sequence[Run],
    title: str = "Growth report",
    source: str = "",
    smoothing: float = PAGE_SMOOTHING,
) -> str:
    """The page as HTML. Nothing in it is fetched from elsewhere.

    Args:
        runs: what is shown; text in them is shown as text, whatever it holds.
        title: heading.
        source: where the runs come from.
        smoothing: of the loss, 0 to 1, as TensorBoard's.

    Raises:
        GrowthError: smoothing is no such number.
    """
    runs = list(runs)
    deck = Deck(runs, smoothing)
    data = {
        "figures": deck.figures,
        "cards": {id: asdict(card) for id, card in deck.cards.items()},
        "templates": {theme: figures.template(theme).to_plotly_json() for theme in THEMES},
    }
    environment = Environment(
        loader=PackageLoader("keras_grow.tools.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    warnings = [(run.name, words) for run in runs for words in run.warnings]
    rows, total = _rows(runs)
    sections = [
        (id, heading, [deck.cards[card] for card in cards if card in deck.cards])
        for id, heading, cards in SECTIONS
    ]
    return environment.get_template("report.html").render(
        title=shortened(title, 200),
        source=source,
        made=datetime.now().astimezone().strftime("%d %B %Y, %H:%M %Z"),
        answer=_answer(runs),
        warnings=[(shortened(n, 200), shortened(w, 1000)) for n, w in warnings[:_WARNINGS]],
        more_warnings=max(len(warnings) - _WARNINGS, 0),
        summary=_summary(runs),
        sections=[one for one in sections if one[2] and (one[0] != "compare" or len(runs) > 1)],
        columns=HEADINGS,
        rows=rows,
        total=total,
        nonce=secrets.token_urlsafe(16),
        plotly=get_plotlyjs(),
        data=_in_script(data),
    )


def _in_script(data: Any) -> str:
    """JSON that cannot end the element it stands in."""
    text = json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


# --- in words ----------------------------------------------------------------------------------


def _answer(runs: list[Run]) -> str:
    """Did it grow, and did anything break? In two sentences."""
    grown = [g for run in runs for g in changes(run) if g.sites]
    if not grown:
        return "Nothing has grown yet."
    failed = sum(bool(g.error) for run in runs for g in run.growths)
    broken = sum(g.kept is False for run in runs for g in run.growths)
    checked = [g.deviation for g in grown if g.deviation is not None]
    words = f"{plural(len(grown), 'growth')} in {plural(len(runs), 'run')}."
    if failed:
        words += f" {plural(failed, 'growth')} failed."
    if broken:
        words += f" At {plural(broken, 'growth')} the outputs changed by more than the tolerance."
    elif checked and max(checked) == 0:
        words += " The outputs were the same to the last digit every time."
    elif checked:
        words += (
            f" The outputs were kept every time: they changed by at most {max(checked):.1e} of "
            "their scale."
        )
    else:
        words += " The outputs were not compared."
    return words


def _summary(runs: list[Run]) -> list[dict[str, Any]]:
    colors = line_styles(run.name for run in runs)
    found = []
    for run in runs:
        grown = [g for g in changes(run) if g.sites]
        series = metric_of(run, "loss")
        values = series.values[np.isfinite(series.values)] if series is not None else np.zeros(0)
        sizes = [g.parameters_before for g in grown[:1]] + [g.parameters_after for g in grown[-1:]]
        if not sizes and "parameters" in run.scalars and len(run.scalars["parameters"]):
            sizes = [run.scalars["parameters"].values[-1]]
        last = max([int(s.steps[-1]) for s in run.scalars.values() if len(s)], default=None)
        checked = [g.deviation for g in run.growths if g.deviation is not None]
        spent = sum(sum(g.seconds.values()) for g in run.growths)
        found.append(
            {
                "name": shortened(run.name, 120),
                "color": colors[run.name].color,
                "growths": f"{len(grown):,}",
                "steps": "" if last is None else f"{last:,}",
                "parameters": " → ".join(count(size) for size in sizes),
                "loss": f"{values[-20:].mean():.4g}" if len(values) else "",
                "deviation": _deviation(max(checked)) if checked else "not compared",
                "seconds": seconds(spent) if spent else "",
                "warnings": len(run.warnings),
            }
        )
    return found


def _rows(runs: list[Run]) -> tuple[list[Row], int]:
    pairs = [(run, growth) for run in runs for growth in run.growths]
    names = len(pairs) <= 400  # what grew may have to be decoded
    kept = evenly(len(pairs), _ROWS)
    return [_row(pairs[i][0], pairs[i][1], names) for i in kept], len(pairs)


def _row(run: Run, growth: GrowthSummary, names: bool) -> Row:
    added = growth.parameters_after - growth.parameters_before
    part = ""
    if added and growth.parameters_before:
        part = f" (+{100 * added / growth.parameters_before:.1f}%)"
    spent = sum(growth.seconds.values())
    kept = {True: "kept", False: "changed", None: "not compared"}[growth.kept]
    if growth.deviation is not None:
        kept = f"{kept}, {_deviation(growth.deviation)}"
    remarks = [growth.error or "", "only tried out" if growth.dry_run else "", *growth.notes]
    return Row(
        cells=(
            (shortened(run.name, 80), run.name.lower()),
            (f"{growth.step:,}", growth.step),
            (f"{growth.epoch + 1:,}", growth.epoch),
            (_what(run, growth, names), growth.sites),
            (f"+{growth.added:,}" if growth.added else "", growth.added),
            (shortened(", ".join(growth.methods), 60), ", ".join(growth.methods)),
            (count(growth.parameters_after) + part, growth.parameters_after),
            (count(growth.flops_after), growth.flops_after),
            ("" if growth.loss is None else f"{growth.loss:.4g}", _number(growth.loss)),
            (kept, _number(growth.deviation)),
            (f"{spent:.2f}" if spent else "", spent),
            (shortened(" ".join(one for one in remarks if one), 400), ""),
        ),
        state=state_of(growth),
    )


def _what(run: Run, growth: GrowthSummary, names: bool) -> str:
    sites = run.sites.get(growth.step, []) if names else []
    if not sites:
        return plural(growth.sites, "layer") if growth.sites else "nothing"
    words = [f"{shortened(s.name, 50)} {s.width_before} → {s.width_after}" for s in sites[:3]]
    more = f" and {len(sites) - 3} more" if len(sites) > 3 else ""
    return ", ".join(words) + more


def _deviation(value: float) -> str:
    return f"{value:.1e}" if value else "0"


def _number(value: float | None) -> float:
    return -1.0 if value is None or not math.isfinite(value) else value
