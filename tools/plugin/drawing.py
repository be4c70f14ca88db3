"""Which figure a request wants, what of a run it needs, and the figure as plotly's JSON.

plotly is imported when the first figure is asked for: TensorBoard must start without it.
"""

import importlib
import importlib.util
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from keras_grow.errors import GrowthError, nearest
from keras_grow.logs.runs import Run
from keras_grow.tools.drawings import DRAWINGS, Drawing
from keras_grow.tools.plugin.source import Source

INSTALL = (
    "The figures of this tab need plotly, which is not installed where TensorBoard runs. "
    "Install it there with: pip install keras-grow[tensorboard]"
)


# plotly fills tables of its own when it is used for the first time, and two threads at that break
# each other. In one process figures are not made sooner side by side.
_turn = threading.Lock()


class NoPlotly(Exception):
    """plotly is not installed, or too old."""


def warm_up() -> None:
    """Imports plotly in the background, so that the first figure need not wait for it."""
    threading.Thread(target=_make_ready, name="keras_grow-plotly", daemon=True).start()


def script() -> Path:
    """plotly.js, of the installed package.

    Raises:
        NoPlotly: there is none.
    """
    try:
        found = importlib.util.find_spec("plotly")
    except (ImportError, ValueError) as error:
        raise NoPlotly(INSTALL) from error
    for folder in (found.submodule_search_locations or ()) if found else ():
        path = Path(folder) / "package_data" / "plotly.min.js"
        if path.is_file():
            return path
    raise NoPlotly(INSTALL)


def colors(names: Iterable[str]) -> dict[str, str]:
    """Colours of runs as figures have them.

    Raises:
        NoPlotly: it is not installed.
    """
    return _figures().colors(names)


def draw(source: Source, ctx: Any, experiment: str, wanted: dict[str, Any]) -> str:
    """The figure that `wanted` asks for, as plotly's JSON.

    Args:
        source: of the runs.
        ctx, experiment: TensorBoard's.
        wanted: `name` of the figure, `runs` by name, `metric`, `step`, `site`, and the options
            of the figures.

    Raises:
        GrowthError: something asked for is not there, or not as it can be.
        UnknownRun: there is no such run.
        NoPlotly: it is not installed.
    """
    name = wanted["name"]
    drawing = DRAWINGS.get(name)
    if drawing is None:
        raise GrowthError(f"There is no figure {name!r}. {nearest(name, DRAWINGS)}")
    function = getattr(_figures(), name)
    runs = source.runs(
        ctx,
        experiment,
        wanted["runs"],
        tags=sorted({*drawing.tags, *([wanted["metric"]] if drawing.metric else [])}),
        networks=drawing.networks,
    )
    if not drawing.several and len(runs) != 1:
        raise GrowthError(f"The figure '{name}' is of one run. Received: {len(runs)} runs")
    for run in runs:
        if drawing.sites:
            source.add_sites(ctx, experiment, run, wanted["step"] if drawing.step else None)
        if drawing.widths:
            source.add_widths(ctx, experiment, run)
    wanted["options"]["among"] = source.names(ctx, experiment)
    with _turn:
        return function(**_arguments(drawing, runs, wanted)).to_json()


def _arguments(drawing: Drawing, runs: list[Run], wanted: dict[str, Any]) -> dict[str, Any]:
    """What of the request the figure's function takes."""
    first, *others = drawing.arguments()
    given: dict[str, Any] = {first: runs if drawing.several else runs[0]}
    given |= {name: wanted[name] for name in others if wanted[name] is not None}
    if drawing.slider:
        given["slider"] = False  # the tab has one of its own
    return {**given, **wanted["options"]}


def _figures() -> Any:
    """The module of figures.

    Raises:
        NoPlotly: plotly is not installed.
    """
    script()
    try:
        with _turn:
            return importlib.import_module("keras_grow.tools.figures")
    except GrowthError as error:  # plotly is there, and cannot be imported
        raise NoPlotly(str(error)) from error


def _make_ready() -> None:
    try:
        figures = _figures()
    except NoPlotly:
        return  # the tab is told when it asks
    with _turn:
        figures.timeline([]).to_json()
