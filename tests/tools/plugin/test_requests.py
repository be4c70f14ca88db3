"""What the plugin answers, asked directly: a real TensorBoard, no browser."""

import gzip
import json
import urllib.request
from pathlib import Path
from urllib.parse import urlencode

import numpy as np
import pytest
from helpers.browser import TensorBoard, serving, wait
from helpers.synthetic import synthetic_events
from helpers.written import RUNS, write_run
from tensorboard.data import provider as tb

from keras_grow.logs import records
from keras_grow.logs.writing import RunWriter
from keras_grow.tools.plugin import source

FIGURES = {
    "timeline": {},
    "costs": {},
    "gain": {},
    "tradeoff": {"x": "parameters"},
    "widths": {},
    "width_map": {},
    "spectrum": {"step": 400, "site": "dense_1"},
    "spectra": {"site": "dense_1"},
    "gradients": {"step": 400},
    "network": {"step": 400},
}


def answer(board: TensorBoard, path: str, **values):
    status, body = board.get(f"{path}?{urlencode(values, doseq=True)}")
    assert status == 200, body
    return json.loads(body)


def overview(board: TensorBoard, runs: int) -> dict:
    """The overview once TensorBoard has read so many runs."""
    return wait(
        f"{runs} runs",
        lambda: (found := answer(board, "overview")) and len(found["runs"]) == runs and found,
    )


def complete(board: TensorBoard) -> dict:
    """The overview once all growths of RUNS are read."""

    def found():
        all_runs = overview(board, len(RUNS))
        grown = sum(run["growths"] for run in all_runs["runs"])
        return grown == sum(options["events"] for options in RUNS.values()) and all_runs

    return wait("all growths", found)


def test_overview_counts_what_was_written(board):
    runs = {run["name"]: run for run in complete(board)["runs"]}
    assert set(runs) == set(RUNS)
    events, _, _ = synthetic_events(**RUNS["mlp/gradmax"])
    run = runs["mlp/gradmax"]
    assert run["steps"] == [event.step for event in events]
    assert run["parameters_last"] == events[-1].parameters_after
    assert run["checked"] == 8
    assert run["broken"] == run["failed"] == 0
    assert runs["mlp/failed-once"]["failed"] == 1
    assert runs["mlp/outputs-changed"]["broken"] == 1
    assert "outputs changed" in runs["mlp/outputs-changed"]["warnings"][0]
    assert not run["resumed"]
    assert len({run["color"] for run in runs.values()}) == len(RUNS)


def test_nothing_is_sent_twice(board):
    version = complete(board)["version"]
    assert answer(board, "overview", since=version) == {"version": version, "unchanged": True}


def test_events_are_those_that_were_written(board):
    complete(board)
    events, _, _ = synthetic_events(**RUNS["mlp/random"])
    table = answer(board, "events", run="mlp/random")["mlp/random"]
    assert table["step"] == [event.step for event in events]
    assert table["sites"] == [len(event.sites) for event in events]
    assert table["kept"] == [True] * len(events)
    assert table["seconds"] == pytest.approx([sum(e.seconds.values()) for e in events], rel=1e-3)


def test_one_growth_with_its_layers(board):
    complete(board)
    events, _, _ = synthetic_events(**RUNS["mlp/gradmax"])
    event = events[3]
    found = answer(board, "growth", run="mlp/gradmax", step=event.step)
    assert [s["name"] for s in found["sites"]] == [s.name for s in event.sites]
    assert [s["width_after"] for s in found["sites"]] == [s.width_after for s in event.sites]
    assert found["left_out"] == []


@pytest.mark.parametrize(("name", "theme"), [*((n, "light") for n in FIGURES), ("gain", "dark")])
def test_every_figure(board, name, theme):
    complete(board)
    figure = answer(
        board, "figure", name=name, run="mlp/gradmax", theme=theme, smoothing=0.5, **FIGURES[name]
    )
    assert figure["data"]
    assert figure["layout"]["meta"]["title"]
    assert "sliders" not in figure["layout"]
    background = figure["layout"]["template"]["layout"]["paper_bgcolor"]
    assert background == {"light": "#ffffff", "dark": "#303030"}[theme]


@pytest.mark.parametrize(
    ("path", "status", "said"),
    [
        ("events?run=nobody", 404, "There is no run 'nobody'"),
        ("growth?run=mlp/random", 400, "lacks 'step'"),
        ("growth?run=mlp/random&step=x", 400, "must be a whole number"),
        ("growth?run=mlp/random&step=7", 404, "did not grow at step 7"),
        ("figure?run=mlp/random", 400, "lacks 'name'"),
        ("figure?name=timelin&run=mlp/random", 400, "timeline"),
        ("figure?name=network&run=mlp/random&run=wrn-28", 400, "is of one run"),
        ("figure?name=timeline&run=mlp/random&x=moon", 400, "x must be one of"),
        ("figure?name=timeline&run=mlp/random&smoothing=nan", 400, "must be a number"),
        ("figure?name=timeline&run=mlp/random&metric=los", 400, "No run has logged 'los'"),
        ("figure?name=__import__&run=mlp/random", 400, "There is no figure"),
        ("../keras_grow/%2e%2e/plugin.py", 404, ""),
        ("plugin.py", 404, ""),
    ],
)
def test_what_cannot_be_answered_is_said(board, path, status, said):
    complete(board)
    found, body = board.get(path)
    assert found == status
    assert said in body.decode()
    assert "Traceback" not in board.log


def test_files_are_sent_compressed_and_plotly_is_kept(board):
    def ask(path):
        address = f"{board.address}/data/plugin/keras_grow/{path}"
        request = urllib.request.Request(address, headers={"Accept-Encoding": "gzip"})
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.headers, response.read()

    headers, body = ask("plotly.min.js?v=1")
    assert headers["Content-Encoding"] == "gzip"
    assert len(body) < 2_000_000
    assert b"plotly.js" in gzip.decompress(body)[:200]
    assert "max-age=31536000" in headers["Cache-Control"]
    headers, _ = ask("index.js")
    assert headers["Content-Type"].startswith("text/javascript")
    assert "no-cache" in headers["Cache-Control"]
    assert headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize("load_fast", ["true", "false"])
def test_what_a_resumed_run_took_back_is_not_shown(tmp_path, without_tensorflow, load_fast):
    events, networks, _ = synthetic_events(events=6, seed=3)
    with RunWriter(tmp_path / "run") as writer:
        writer.network(networks[0])
        for event in events:
            event.time = 0.0  # now
            writer.growth(event)
    with RunWriter(tmp_path / "run", step=700) as writer:
        writer.network(networks[0])
        event.step = 900
        writer.growth(event)
    with serving(tmp_path, f"--load_fast={load_fast}", env=without_tensorflow) as board:
        (run,) = overview(board, 1)["runs"]
        run = wait("the last growth", lambda: _run_at(board, 900))
    assert run["steps"] == [200, 400, 600, 900]
    assert run["resumed"] == [700]
    assert "The run was resumed at step 700." in run["warnings"]


def _run_at(board, step):
    (run,) = answer(board, "overview")["runs"]
    return run["last_step"] == step and run


def test_only_what_is_new_is_parsed(monkeypatch):
    growths, _, _ = synthetic_events(events=5, seed=1)
    stored = []

    class Provider:
        def list_tensors(self, ctx, *, experiment_id, plugin_name, run_tag_filter=None):
            last = stored[-1]
            series = tb.TensorTimeSeries(
                max_step=last.step,
                max_wall_time=last.time,
                plugin_content=b"",
                description="",
                display_name="",
            )
            return {"run": {records.GROWTH: series}}

        def list_scalars(self, ctx, **_):
            return {}

        def read_tensors(self, ctx, *, experiment_id, plugin_name, downsample, run_tag_filter):
            data = [
                tb.TensorDatum(e.step, e.time, np.array(records.encode_growth(e), object))
                for e in stored
            ]
            return {"run": {records.GROWTH: data}}

    parsed = []
    decode = records.decode_growth
    monkeypatch.setattr(
        records, "decode_growth", lambda *given: parsed.append(given) or decode(*given)
    )
    found = source.Source(Provider())
    for event in growths:
        stored.append(event)
        (run,), _ = found.overview(None, "")
        assert [g.step for g in run.growths] == [e.step for e in stored]
    assert len(parsed) == len(growths)


def test_tensorboard_that_keeps_only_some_says_so(tmp_path, without_tensorflow):
    write_run(tmp_path / "run", events=12, seed=1)
    arguments = ("--samples_per_plugin=keras_grow=5", "--load_fast=false")
    with serving(tmp_path, *arguments, env=without_tensorflow) as board:
        run = wait("the last growth", lambda: _run_at(board, 2400))
    assert run["growths"] == 5
    assert any("told to keep 5 growths" in warning for warning in run["warnings"])


def test_static_files_are_all_of_the_package():
    folder = Path(source.__file__).parent / "static"
    assert {path.suffix for path in folder.iterdir()} == {".js", ".css"}
