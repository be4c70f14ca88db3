"""Why there? What the gradients said of every layer that grew."""

import math
from typing import Unpack

import numpy as np
import plotly.graph_objects as go
from plotly.colors import sample_colorscale

from keras_grow.errors import GrowthError, nearest
from keras_grow.logs.events import SiteGrowth
from keras_grow.logs.runs import Run
from keras_grow.tools.drawings import Options, Style, with_options
from keras_grow.tools.figures.axes import XAxis, evenly, log_axis
from keras_grow.tools.figures.theme import ACCENT, NEUTRAL, ORDER, Sketch, dress, empty, text
from keras_grow.tools.words import plural, shortened

_LINES, _ROWS = 60, 60


def sites_at(run: Run, step: int | None) -> tuple[int, list[SiteGrowth]]:
    """What grew at a step; at the last one at which something did for None.

    Raises:
        GrowthError: nothing is known of that step.
    """
    if step is None:
        known = [s for s, sites in sorted(run.sites.items()) if sites]
        return (known[-1], run.sites[known[-1]]) if known else (0, [])
    if step in run.sites:
        return step, run.sites[step]
    steps = [growth.step for growth in run.growths]
    if step in steps:
        return step, []
    near = sorted(steps, key=lambda one: abs(one - step))[:3]
    there = ", ".join(f"{one}" for one in sorted(near))
    raise GrowthError(
        f"Run '{shortened(run.name, 100)}' did not grow at step {step}. "
        + (f"The nearest steps at which it did: {there}. " if near else "It has not grown at all. ")
        + f"Received: step={step!r}"
    )


def _site(run: Run, step: int, sites: list[SiteGrowth], name: str | None) -> SiteGrowth | None:
    if name is None:
        return max(sites, key=lambda s: s.gradient_norm or 0.0, default=None)
    for site in sites:
        if site.name == name:
            return site
    if not sites:
        return None
    raise GrowthError(
        f"'{shortened(name, 100)}' did not grow at step {step} of run "
        f"'{shortened(run.name, 100)}'. {nearest(name, [s.name for s in sites])} "
        f"Received: site={name!r}"
    )


@with_options
def spectrum(
    run: Run,
    step: int | None = None,
    site: str | None = None,
    **options: Unpack[Options],
) -> go.Figure:
    """The singular values of a layer's gradient matrix at a growth, kept ones and the rest.

    Args:
        run: with the sites of that step.
        step: of the growth; the last for None.
        site: name of what grew; that with the largest new gradient for None.
        log: whether singular values are on a logarithmic axis.
        theme: "light" or "dark".
        x, smoothing, among: change nothing here.

    Raises:
        GrowthError: the run did not grow there.
    """
    style = Style.of("spectrum", options)
    step, sites = sites_at(run, step)
    one = _site(run, step, sites, site)
    if one is None:
        return empty("Nothing is known of what grew at this step.", style, "Spectrum")
    title = f"Spectrum of {shortened(one.name, 50)} at step {step:,}"
    values = np.array(one.singular_values, float)
    values = np.where(np.isfinite(values), values, np.nan)
    if not len(values):
        return empty(
            f"{shortened(one.name, 60)} grew by {shortened(one.method, 40)}, which computed no "
            "singular values.",
            style,
            title,
        )
    kept = min(max(one.width_after - one.width_before, 0), len(values))
    index = np.arange(1, len(values) + 1)
    sketch = Sketch()
    for words, part, color in (
        (f"kept: {kept}", slice(None, kept), ACCENT),
        (
            f"not used: {max(one.spectrum_size or 0, len(values)) - kept:,}",
            slice(kept, None),
            NEUTRAL,
        ),
    ):
        if len(index[part]):
            sketch.add(
                {
                    "type": "bar",
                    "x": index[part],
                    "y": values[part],
                    "name": words,
                    "marker": {"color": color, "line": {"width": 0}},
                    "hovertemplate": "direction %{x}<br>singular value %{y:.4g}<extra></extra>",
                    "meta": {"what": words.partition(":")[0]},
                }
            )
    if 0 < kept < len(values):
        sketch.shape(
            type="line",
            x0=kept + 0.5,
            x1=kept + 0.5,
            y0=0,
            y1=1,
            yref="paper",
            line={"color": ACCENT, "width": 1.5, "dash": "dash"},
        )
        sides = [("kept", "right", -6), ("not used", "left", 6)]
        for words, anchor, shift in sides[0 if kept > 0.1 * len(values) else 1 :]:
            sketch.annotate(
                x=kept + 0.5,
                y=0.98,
                yref="paper",
                yanchor="top",
                text=words,
                xanchor=anchor,
                xshift=shift,
            )
    notes = [f"{one.width_before} → {one.width_after} channels by {shortened(one.method, 40)}."]
    total = float(np.nansum(values**2))
    if total > 0 and 0 < kept < len(values):
        held = float(np.nansum(values[:kept] ** 2)) / total
        notes.append(f"The kept ones hold {100 * held:.0f}% of the sum of squares shown.")
    if one.spectrum_size is not None and one.spectrum_size > len(values):
        notes.append(f"The {len(values):,} largest of {one.spectrum_size:,} were logged.")
    notes += [shortened(note, 200) for note in one.notes[:2]]
    sketch.axis("xaxis", title={"text": "Direction, largest first"}, showgrid=False, tickformat="d")
    if len(values) <= 12:
        sketch.axis("xaxis", dtick=1)
    sketch.axis("yaxis", title={"text": "Singular value"}, **_maybe_log(style.log, [values]))
    return dress(sketch, style, title, notes, 400, bargap=0.12, legend=_inside())


@with_options
def spectra(
    run: Run,
    site: str | None = None,
    **options: Unpack[Options],
) -> go.Figure:
    """A layer's spectra at all its growths, first to last by colour; dots are what was kept.

    Args:
        run: with the sites of its steps.
        site: name of what grew; the one that grew most often for None.
        x: what the colours tell.
        log: whether singular values are on a logarithmic axis.
        theme: "light" or "dark".
        smoothing, among: change nothing here.

    Raises:
        GrowthError: nothing of that name grew.
    """
    style = Style.of("spectra", options)
    found: dict[str, list[tuple[int, SiteGrowth]]] = {}
    for step in sorted(run.sites):
        for one in run.sites[step]:
            found.setdefault(one.name, []).append((step, one))
    if not found:
        return empty("Nothing is known of what grew in this run.", style, "Spectra over time")
    if site is None:
        site = max(found, key=lambda name: sum(bool(s.singular_values) for _, s in found[name]))
    if site not in found:
        raise GrowthError(
            f"'{shortened(site, 100)}' has not grown in run '{shortened(run.name, 100)}'. "
            f"{nearest(site, found)} Received: site={site!r}"
        )
    title = f"Spectra of {shortened(site, 50)} over its growths"
    events = [(step, one) for step, one in found[site] if one.singular_values]
    if not events:
        return empty(
            f"{shortened(site, 60)} grew by a method that computes no singular values.",
            style,
            title,
        )
    shown = [events[i] for i in evenly(len(events), _LINES)]
    axis = XAxis.of(style.x, [run])
    places = axis.steps(run, np.array([step for step, _ in shown], float))
    if not np.isfinite(places).all():
        axis = XAxis("step")
        places = np.array([step for step, _ in shown], float)
    low, high = float(places.min()), float(places.max())
    parts = (places - low) / (high - low) if high > low else np.ones(len(places))
    scale = [list(stop) for stop in ORDER]
    shades = sample_colorscale(scale, [float(p) for p in parts])
    traces: list[dict] = []
    for (step, one), shade in zip(shown, shades, strict=True):
        values = np.array(one.singular_values, float)
        index = np.arange(1, len(values) + 1)
        kept = max(one.width_after - one.width_before, 0)
        traces.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "x": index,
                "y": values,
                "line": {"color": shade, "width": 1.5},
                "marker": {
                    "color": shade,
                    "size": np.where(index <= kept, 7, 0).astype(np.int16),
                    "line": {"width": 0},
                },
                "showlegend": False,
                "hovertemplate": f"step {step:,}<br>direction %{{x}}: %{{y:.4g}}<br>"
                f"{one.width_before} → {one.width_after} channels<extra></extra>",
                "meta": {"what": "spectrum", "step": int(step), "kept": kept},
            }
        )
    traces.append(
        {
            "type": "scatter",
            "mode": "markers",
            "x": [None],
            "y": [None],
            "showlegend": False,
            "hoverinfo": "skip",
            "marker": {
                "color": [low],
                "cmin": low,
                "cmax": high if high > low else low + 1,
                "colorscale": scale,
                "showscale": True,
                "colorbar": {
                    "title": {
                        "text": axis.title.partition(" (")[0].partition(",")[0],
                        "side": "right",
                        "font": {"size": 12},
                    },
                    "tickformat": axis.layout["tickformat"],
                    "thickness": 10,
                    "outlinewidth": 0,
                },
            },
            "meta": {"what": "scale"},
        }
    )
    sketch = Sketch()
    sketch.add(*traces)
    notes = ["Dots are the directions that became new channels."]
    if len(shown) < len(events):
        notes.append(f"{len(shown)} of {plural(len(events), 'growth')} are shown.")
    sketch.axis("xaxis", title={"text": "Direction, largest first"}, tickformat="d")
    drawn = [np.array(one.singular_values, float) for _, one in shown]
    sketch.axis("yaxis", title={"text": "Singular value"}, **_maybe_log(style.log, drawn))
    return dress(sketch, style, title, notes, 440)


@with_options
def gradients(
    run: Run,
    step: int | None = None,
    **options: Unpack[Options],
) -> go.Figure:
    """Norm of the loss gradient by each layer that grew, before and after.

    A growth leaves the gradient of the old weights as it is and adds that of the new ones, at a
    right angle: the norm after is the root of the sum of their squares.

    Args:
        run: with the sites of that step.
        step: of the growth; the last for None.
        log: whether norms are on a logarithmic axis.
        theme: "light" or "dark".
        x, smoothing, among: change nothing here.

    Raises:
        GrowthError: the run did not grow at that step.
    """
    style = Style.of("gradients", options)
    step, sites = sites_at(run, step)
    title = f"Gradient by layer at step {step:,}, before and after the growth"
    known = [s for s in sites if s.gradient_norm is not None and math.isfinite(s.gradient_norm)]
    if not known:
        return empty(
            "No gradients are known of this growth: its method computes none."
            if sites
            else "Nothing is known of what grew at this step.",
            style,
            title,
        )
    notes = []
    if len(known) > _ROWS:
        most = sorted(known, key=lambda s: -(s.gradient_norm or 0.0))[:_ROWS]
        notes.append(f"The {_ROWS} layers of {len(known):,} with the largest new gradient.")
        known = [s for s in known if any(s is one for one in most)]
    known = known[::-1]  # the first layer on top
    places = np.arange(len(known))
    new = np.array([s.gradient_norm for s in known], float)
    old = np.array([np.nan if s.existing_norm is None else s.existing_norm for s in known], float)
    after = np.sqrt(np.where(np.isfinite(old), old, 0.0) ** 2 + new**2)
    sketch = Sketch()
    line_x = np.stack([np.where(np.isfinite(old), old, 0.0), after, np.full(len(new), np.nan)], 1)
    line_y = np.stack([places, places, np.full(len(new), np.nan)], 1)
    sketch.add(
        {
            "type": "scatter",
            "mode": "lines",
            "x": line_x.ravel(),
            "y": line_y.ravel(),
            "line": {"color": ACCENT, "width": 3},
            "opacity": 0.5,
            "hoverinfo": "skip",
            "showlegend": False,
            "meta": {"what": "change"},
        }
    )
    hover = [
        f"<b>{text(s.name, 50)}</b><br>{s.width_before} → {s.width_after} channels<br>"
        + (f"before {o:.3g}, " if np.isfinite(o) else "")
        + f"new weights {n:.3g}, after {a:.3g}"
        for s, o, n, a in zip(known, old, new, after, strict=True)
    ]
    for name, values, color, symbol in (
        ("before", old, NEUTRAL, "circle-open"),
        ("after", after, ACCENT, "circle"),
    ):
        if np.isfinite(values).any():
            sketch.add(
                {
                    "type": "scatter",
                    "mode": "markers",
                    "x": values,
                    "y": places,
                    "name": name,
                    "marker": {
                        "color": color, "size": 10, "symbol": symbol,
                        "line": {"width": 2, "color": color},
                    },
                    "hovertext": hover,
                    "hovertemplate": "%{hovertext}<extra></extra>",
                    "meta": {"what": name},
                }
            )  # fmt: skip
    if not np.isfinite(old).any():
        notes.append("The gradient of the old weights is not known.")
    sketch.axis(
        "yaxis",
        tickvals=places,
        ticktext=[text(s.name, 34) for s in known],
        range=[-0.6, len(known) - 0.4],
        zeroline=False,
    )
    sketch.axis(
        "xaxis",
        title={"text": "Norm of the gradient of the loss"},
        **_maybe_log(style.log, [old, after]),
    )
    if not style.log:
        sketch.axis("xaxis", rangemode="tozero")
    height = 150 + 24 * max(len(known), 4)
    return dress(sketch, style, title, notes, height, legend=_below(known))


def _maybe_log(log: bool, values: list[np.ndarray]) -> dict:
    return log_axis(values) if log else {}


def _inside() -> dict:
    return {"orientation": "v", "x": 0.99, "xanchor": "right", "y": 0.97, "yanchor": "top"}


def _below(known: list[SiteGrowth]) -> dict:
    """Below the title of the x axis, whatever the height."""
    below = -56 / (24 * max(len(known), 4) + 50)
    return {"orientation": "h", "x": 0, "xanchor": "left", "y": below, "yanchor": "top"}
