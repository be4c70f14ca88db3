"""The requests of the tab and their answers."""

import functools
import gzip
import importlib.metadata
import json
import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import werkzeug
from tensorboard import errors, plugin_util
from tensorboard.backend import http_util
from tensorboard.plugins import base_plugin

from keras_grow.errors import GrowthError
from keras_grow.tools.drawings import Style
from keras_grow.tools.plugin import answers, drawing
from keras_grow.tools.plugin.loader import NAME
from keras_grow.tools.plugin.source import Source

STATIC = Path(__file__).parent / "static"
TYPES = {".js": "text/javascript", ".css": "text/css"}
YEAR = 365 * 86400
MOST_RUNS = 1000  # of one request

logger = logging.getLogger(__name__)


class GrowthPlugin(base_plugin.TBPlugin):
    """The *Growth* tab.

    Args:
        context: TensorBoard's.
    """

    plugin_name = NAME

    def __init__(self, context: base_plugin.TBContext) -> None:
        super().__init__(context)
        kept = (context.sampling_hints or {}).get(NAME) or 0
        self._source = Source(context.data_provider, kept)

    def is_active(self) -> bool:
        """False: TensorBoard itself activates a plugin of which it has data."""
        return False

    def frontend_metadata(self) -> base_plugin.FrontendMetadata:
        return base_plugin.FrontendMetadata(es_module_path="/index.js", tab_name="Growth")

    def get_plugin_apps(self) -> dict[str, Callable[..., Any]]:
        """An application for every request that there is, and for no other path."""
        handlers: dict[str, Callable[..., werkzeug.Response]] = {
            "/overview": self._overview,
            "/events": self._events,
            "/growth": self._growth,
            "/figure": self._figure,
            "/plotly.min.js": self._plotly,
            "/versions.js": self._versions,
        }
        for path in sorted(STATIC.iterdir()):
            if path.suffix in TYPES:
                handlers[f"/{path.name}"] = functools.partial(self._static, path=path)
        return {route: functools.partial(_answer, handler) for route, handler in handlers.items()}

    # --- files ---------------------------------------------------------------------------------

    def _static(
        self, request: werkzeug.Request, ctx: Any, experiment: str, path: Path
    ) -> werkzeug.Response:
        if path.name == "index.js":
            drawing.warm_up()
        return http_util.Respond(request, path.read_bytes(), TYPES[path.suffix])

    def _versions(self, request: werkzeug.Request, ctx: Any, experiment: str) -> werkzeug.Response:
        """A module that tells the others which plotly.js there is, before they ask for runs."""
        try:
            drawing.script()
            version = importlib.metadata.version("plotly")
        except drawing.NoPlotly:
            version = None
        text = f"export const plotly = {json.dumps(version)};\n"
        return http_util.Respond(request, text, "text/javascript")

    def _plotly(self, request: werkzeug.Request, ctx: Any, experiment: str) -> werkzeug.Response:
        # The page asks with the version in the address, so this may be kept for long.
        return http_util.Respond(
            request, _plotly_script(), "text/javascript", content_encoding="gzip", expires=YEAR
        )

    # --- data ----------------------------------------------------------------------------------

    def _overview(self, request: werkzeug.Request, ctx: Any, experiment: str) -> werkzeug.Response:
        version = self._source.version(ctx, experiment)
        if request.args.get("since") == version:
            return _json(request, {"version": version, "unchanged": True})
        runs, versions = self._source.overview(ctx, experiment)
        try:
            colors, missing = drawing.colors(versions), None
        except drawing.NoPlotly as error:
            colors, missing = {}, str(error)
        metrics = self._source.metrics(ctx, experiment, versions)
        last = self._source.last(ctx, experiment, versions, metrics)
        answer = {
            "version": version,
            "missing": missing,
            "metrics": metrics,
            "runs": [
                answers.summary(
                    run,
                    versions[run.name],
                    colors.get(run.name, "#7f858c"),
                    last.get(run.name, {}),
                )
                for run in runs
            ],
        }
        return _json(request, answer)

    def _events(self, request: werkzeug.Request, ctx: Any, experiment: str) -> werkzeug.Response:
        runs = self._source.runs(ctx, experiment, _names(request))
        return _json(request, {run.name: answers.events(run) for run in runs})

    def _growth(self, request: werkzeug.Request, ctx: Any, experiment: str) -> werkzeug.Response:
        (run,) = self._source.runs(ctx, experiment, [_one(request, "run")])
        step = _whole(request, "step")
        found = next((growth for growth in run.growths if growth.step == step), None)
        if found is None:
            raise errors.NotFoundError(f"Run {run.name!r} did not grow at step {step}.")
        before = len(run.left_out)
        self._source.add_sites(ctx, experiment, run, step)
        answer = {
            "growth": answers.growth(found),
            "sites": answers.sites(run.sites.get(found.step, [])),
            "left_out": run.left_out[before:],
        }
        return _json(request, answer)

    def _figure(self, request: werkzeug.Request, ctx: Any, experiment: str) -> werkzeug.Response:
        values = request.values
        wanted = {
            "name": _one(request, "name"),
            "runs": _names(request),
            "metric": values.get("metric") or "loss",
            "site": values.get("site"),
            "step": _whole(request, "step") if "step" in values else None,
            "options": {
                "x": values.get("x", Style.x),
                "smoothing": _real(request, "smoothing", Style.smoothing),
                "log": values.get("log") == "1",
                "theme": values.get("theme", Style.theme),
            },
        }
        text = drawing.draw(self._source, ctx, experiment, wanted)
        return http_util.Respond(request, text, "application/json")


@functools.cache
def _plotly_script() -> bytes:
    """plotly.js, compressed once."""
    return gzip.compress(drawing.script().read_bytes(), 6, mtime=0)


# --- requests and answers ----------------------------------------------------------------------


def _answer(handler: Callable[..., werkzeug.Response], environ: dict, start: Any) -> Any:
    """A WSGI application. What is wrong is told as text, which the tab shows."""
    request = werkzeug.Request(environ)
    try:
        if request.method not in ("GET", "HEAD", "POST"):
            raise errors.InvalidArgumentError("Only GET and POST are answered here.")
        ctx = plugin_util.context(environ)
        response = handler(request, ctx, plugin_util.experiment_id(environ))
    except GrowthError as error:
        response = _text(request, str(error), 400)
    except errors.PublicError as error:
        response = _text(request, str(error), error.http_code)
    except drawing.NoPlotly as error:
        response = _text(request, str(error), 501)
    except Exception as error:
        logger.exception("The Growth tab could not answer %s", request.path)
        said = f"{type(error).__name__}: {error}"
        response = _text(request, f"This could not be answered. {said}", 500)
    return response(environ, start)


def _json(request: werkzeug.Request, value: Any) -> werkzeug.Response:
    # Not by `Respond`, which would walk through all values in search of what is not finite.
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return http_util.Respond(request, text, "application/json")


def _text(request: werkzeug.Request, text: str, code: int) -> werkzeug.Response:
    return http_util.Respond(request, text, "text/plain", code=code)


def _one(request: werkzeug.Request, name: str) -> str:
    value = request.values.get(name)
    if value is None:
        raise errors.InvalidArgumentError(f"The request lacks '{name}'.")
    return value


def _names(request: werkzeug.Request) -> list[str]:
    names = list(dict.fromkeys(request.values.getlist("run")))
    if len(names) > MOST_RUNS:
        raise errors.InvalidArgumentError(
            f"At most {MOST_RUNS} runs can be shown at once. Received: {len(names)}"
        )
    return names


def _whole(request: werkzeug.Request, name: str) -> int:
    value = _one(request, name)
    try:
        return int(value)
    except ValueError:
        raise errors.InvalidArgumentError(
            f"'{name}' must be a whole number. Received: {value[:100]!r}"
        ) from None


def _real(request: werkzeug.Request, name: str, default: float) -> float:
    value = request.values.get(name)
    if not value:
        return default
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise errors.InvalidArgumentError(f"'{name}' must be a number. Received: {value[:100]!r}")
    return number
