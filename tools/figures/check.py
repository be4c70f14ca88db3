"""Does growing help? The figure of a `growth_check`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go

from keras_grow.tools.drawings import Style
from keras_grow.tools.figures.theme import ACCENT, NEUTRAL, NEW, Sketch, dress

if TYPE_CHECKING:  # figures are drawn without Keras
    from keras_grow import GrowthCheck

_COLORS = {"small": NEUTRAL, "grown": ACCENT, "big": NEW}


def check(found: GrowthCheck, *, log: bool = False, theme: str = "light") -> go.Figure:
    """Training loss of small, grown and big by epoch: the mean over seeds, and its range.

    Args:
        found: what `keras_grow.growth_check` returned.
        log: whether the axis of the loss is logarithmic.
        theme: "light" or "dark".
    """
    style = Style(log=log, theme=theme)
    sketch = Sketch([1.0])
    epochs = 0
    for arm in _COLORS:
        losses = np.array([t.losses for t in found.of(arm)])
        epochs = losses.shape[1]
        numbers = np.arange(1, epochs + 1)
        if len(losses) > 1:
            sketch.add(
                {
                    "type": "scatter",
                    "x": np.concatenate([numbers, numbers[::-1]]),
                    "y": np.concatenate([losses.max(axis=0), losses.min(axis=0)[::-1]]),
                    "fill": "toself",
                    "fillcolor": _COLORS[arm],
                    "opacity": 0.18,
                    "line": {"width": 0},
                    "mode": "lines",
                    "hoverinfo": "skip",
                    "showlegend": False,
                    "legendgroup": arm,
                    "meta": {"arm": arm, "what": "range"},
                }
            )
        sketch.add(
            {
                "type": "scatter",
                "x": numbers,
                "y": losses.mean(axis=0),
                "mode": "lines",
                "line": {"color": _COLORS[arm], "width": 2},
                "name": f"{arm}, {int(found.mean(arm, 'parameters')):,} parameters",
                "legendgroup": arm,
                "hovertemplate": f"{arm}: %{{y:.4~g}}<br>epoch %{{x}}<extra></extra>",
                "meta": {"arm": arm, "what": "mean"},
            }
        )
    at = found.at * epochs + 0.5
    sketch.layout["shapes"].append(
        {
            "type": "line", "x0": at, "x1": at, "y0": 0, "y1": 1, "yref": "paper",
            "line": {"dash": "dot", "color": NEUTRAL, "width": 1},
        }
    )  # fmt: skip
    sketch.axis("xaxis", title={"text": "epoch"})
    sketch.axis("yaxis", title={"text": "training loss"}, type="log" if log else "linear")
    notes = [
        f"{', '.join(found.names)}; means over {len(found.of('grown'))} seeds, and their range.",
        "The dotted line is the growth.",
    ]
    if not np.isnan(found.closed):
        notes.append(f"Growing closes {found.closed:.0%} of the gap between small and big.")
    return dress(sketch, style, "Does growing help?", notes)
