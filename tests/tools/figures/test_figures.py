"""What the figures hold: marks, counts, places, colours, and sentences where there is no data."""

import inspect
import json
import math
import re

import numpy as np
import pytest
from helpers.hostile import hostile_run
from helpers.synthetic import START, synthetic_run, synthetic_runs

import keras_grow as kg
from keras_grow.errors import GrowthError
from keras_grow.logs.runs import GrowthSummary, Run, Series
from keras_grow.tools import figures
from keras_grow.tools.figures.axes import flops_until
from keras_grow.tools.figures.theme import BAD, line_styles

SEVERAL = ("timeline", "costs", "tradeoff", "gain")
SINGLE = ("widths", "width_map", "spectrum", "spectra", "gradients", "network")


def draw(name, run, **options):
    return getattr(figures, name)([run] if name in SEVERAL else run, **options)


def traces(figure, **meta):
    """Traces whose meta has these values."""
    return [
        one
        for one in figure.data
        if one.meta and all(one.meta.get(key) == value for key, value in meta.items())
    ]


def strings(value):
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, inner in value.items():
            if key not in ("bdata", "template"):
                yield from strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from strings(inner)


# --- all of them -------------------------------------------------------------------------------


def test_they_are_public():
    assert kg.figures is figures


@pytest.mark.parametrize("name", SEVERAL + SINGLE)
def test_the_same_options_everywhere(name):
    names = set(inspect.signature(getattr(figures, name)).parameters)
    assert {"x", "smoothing", "log", "theme", "among"} <= names


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("x", ["step", "time", "parameters", "flops"])
@pytest.mark.parametrize("name", SEVERAL + SINGLE)
def test_all_options_draw(name, x, log):
    run = synthetic_run(events=4, sites=3, trouble=("error", "broken"))
    figure = draw(name, run, x=x, log=log, smoothing=0.5, theme="dark")
    assert figure.data
    assert figure.layout.template.layout.paper_bgcolor == "#303030"
    json.loads(figure.to_json(), parse_constant=lambda name: pytest.fail(name))


@pytest.mark.parametrize("name", SEVERAL + SINGLE)
def test_an_empty_run_gives_a_sentence(name):
    figure = draw(name, Run("nothing"))
    assert not figure.data
    (told,) = figure.layout.annotations
    assert told.text.endswith((".", "computed no singular values."))


@pytest.mark.parametrize("name", SEVERAL)
def test_no_runs_give_a_sentence(name):
    assert not getattr(figures, name)([]).data


@pytest.mark.parametrize("name", SEVERAL + SINGLE)
def test_nothing_is_changed_in_the_run(name):
    run = synthetic_run(events=3, sites=3)
    before = {tag: one.values.copy() for tag, one in run.scalars.items()}
    draw(name, run, smoothing=0.9)
    for tag, values in before.items():
        np.testing.assert_array_equal(run.scalars[tag].values, values)


@pytest.mark.parametrize("x", ["step", "time", "parameters", "flops"])
@pytest.mark.parametrize("name", SEVERAL + SINGLE)
def test_markup_from_logs_is_escaped(name, x):
    run = hostile_run()
    figure = json.loads(draw(name, run, x=x).to_json())
    ours = re.compile(r"</?b>|<br>|<extra></extra>|%\{[a-z0-9\[\]]+(:[^}]*)?\}")
    figure["layout"].pop("meta")  # plain text, which pages show as such
    for trace in figure["data"]:
        trace.pop("meta", None)
    for frame in figure.get("frames", []):
        for trace in frame["data"]:
            trace.pop("meta", None)
    figure["layout"].pop("uirevision", None)
    found = 0
    for one in strings(figure):
        plain = ours.sub("", one)
        assert "<" not in plain, one
        assert "%{" not in plain, one
        assert "\n" not in plain
        assert "\u202e" not in plain
        found += "&lt;b&gt;" in plain
    assert found or not figure["data"]
    # `<b>` of ours never holds what a log has closed itself.
    assert not any("<b></b>" in one for one in strings(figure))


# --- timeline ----------------------------------------------------------------------------------


def test_timeline_marks_every_growth():
    runs = synthetic_runs()
    figure = figures.timeline(runs)
    for run in runs:
        marks = traces(figure, run=run.name, what="growths")
        assert sum(len(one.x) for one in marks) == len(run.growths)
        states = {one.meta["state"]: one for one in marks}
        assert ("failed" in states) == (run.name == "gradmax-failed-once")
        steps = sorted(step for one in marks for step in one.x)
        assert steps == [growth.step for growth in run.growths]
    assert [one.text for one in figure.layout.annotations] == ["“resumed” resumed"]
    assert figure.layout.shapes[0].x0 == 900


def test_timeline_says_what_grew():
    run = synthetic_run(events=2, sites=3)
    (marks,) = traces(figures.timeline([run]), what="growths")
    site = run.sites[200][0]
    assert f"{site.name} {site.width_before} → {site.width_after}" in marks.hovertext[0]
    assert "Outputs kept" in marks.hovertext[0]
    assert "gradmax" in marks.hovertext[0]


def test_timeline_shows_what_broke():
    run = synthetic_run(events=4, trouble=("broken", "error"))
    figure = figures.timeline([run])
    bad = {s: traces(figure, state=s)[0] for s in ("failed", "broken")}
    assert bad["failed"].x.tolist() == [600]
    assert bad["broken"].x.tolist() == [800]
    assert {one.marker.color for one in bad.values()} == {BAD}
    assert "no memory" in bad["failed"].hovertext[0]
    assert "NOT kept" in bad["broken"].hovertext[0]
    keys = {one.name for one in traces(figure, what="key")}
    assert keys == {"growth", "outputs changed", "growth failed"}
    order = [one.meta.get("state", one.meta["what"]) for one in figure.data]
    assert order.index("failed") > order.index("grew")


def test_timeline_lines_hold_the_values():
    run = synthetic_run(events=2)
    figure = figures.timeline([run], "accuracy", smoothing=0)
    (line,) = traces(figure, what="line")
    series = run.scalars["accuracy"]
    np.testing.assert_array_equal(line.x, series.steps)
    np.testing.assert_allclose(line.y, series.values, rtol=1e-6)
    assert line.line.color == line_styles([run.name])[run.name].color
    assert not traces(figure, what="raw")
    assert len(traces(figures.timeline([run], smoothing=0.5), what="raw")) == 1


def test_timeline_steps_of_parameters():
    run = synthetic_run(events=3)
    (stairs,) = traces(figures.timeline([run]), what="parameters")
    assert stairs.line.shape == "hv"
    sizes = [run.growths[0].parameters_before] + [g.parameters_after for g in run.growths]
    assert stairs.y.tolist() == [*sizes, sizes[-1]]
    assert stairs.x.tolist() == [0, 200, 400, 600, 800]


def test_timeline_over_flops_and_time():
    run = synthetic_run(events=3)
    (line,) = traces(figures.timeline([run], x="flops"), what="line")
    np.testing.assert_allclose(line.x, flops_until(run, run.scalars["loss"].steps))
    (line,) = traces(figures.timeline([run], x="time"), what="line")
    np.testing.assert_allclose(line.x, run.scalars["loss"].times - START, atol=1e-4)
    (line,) = traces(figures.timeline([run], x="parameters"), what="line")
    assert line.x[0] == run.growths[0].parameters_before
    assert line.x[-1] == run.growths[-1].parameters_after


def test_timeline_thins_long_series_and_tells():
    steps = np.arange(1, 200_001)
    run = Run("long", scalars={"loss": Series(steps, steps + 0.5, np.sin(steps))})
    figure = figures.timeline([run])
    (line,) = traces(figure, what="line")
    assert len(line.x) < 25_000
    assert "of 200,000 values" in figure.layout.meta["notes"][0]
    assert "of 200,000 values" in figure.layout.title.subtitle.text


def test_timeline_marks_where_the_loss_ended():
    run = synthetic_run(events=3, trouble=("nan",))
    (mark,) = traces(figures.timeline([run]), what="not finite")
    assert mark.x.tolist() == [721]
    assert "No finite number from step 721 on" in mark.hovertext[0]


def test_timeline_of_a_run_without_loss_shows_that_of_growth_batches():
    run = synthetic_run(events=3)
    run.scalars.clear()
    (line,) = traces(figures.timeline([run]), what="line")
    np.testing.assert_allclose(line.y, [g.loss for g in run.growths], rtol=1e-6)


def test_an_unknown_metric_is_refused_with_the_nearest():
    for name in ("timeline", "tradeoff", "gain"):
        with pytest.raises(GrowthError, match="Did you mean 'accuracy'"):
            getattr(figures, name)([synthetic_run(events=2)], "acuracy")


# --- costs -------------------------------------------------------------------------------------


def test_costs_of_one_run_are_its_seconds():
    run = synthetic_run(events=5)
    figure = figures.costs([run])
    total = sum(np.sum(one.y) for one in traces(figure, what="seconds"))
    assert total == pytest.approx(sum(sum(g.seconds.values()) for g in run.growths))
    before, added = traces(figure, what="parameters")
    np.testing.assert_allclose(before.y, [g.parameters_before for g in run.growths])
    np.testing.assert_allclose(before.y + added.y, [g.parameters_after for g in run.growths])
    assert list(figure.layout.xaxis3.ticktext) == ["200", "400", "600", "800", "1,000"]


def test_costs_of_several_runs_are_means():
    runs = [synthetic_run("a", events=4), synthetic_run("b", events=3, seed=1)]
    figure = figures.costs(runs)
    (plan,) = traces(figure, what="seconds", phase="plan")
    assert list(figure.layout.yaxis.ticktext) == ["b", "a"]
    means = [np.mean([g.seconds["plan"] for g in run.growths]) for run in runs]
    np.testing.assert_allclose(plan.x, means[::-1])
    assert {one.meta["run"] for one in traces(figure, what="flops")} == {"a", "b"}


# --- comparison --------------------------------------------------------------------------------


def test_tradeoff_places_growths_and_the_end():
    run = synthetic_run(events=3)
    (line,) = traces(figures.tradeoff([run]), what="tradeoff")
    grown = run.growths
    sizes = [g.parameters_before for g in grown] + [grown[-1].parameters_after]
    assert line.x.tolist() == sizes
    values = run.scalars["loss"].values
    assert line.y[-1] == pytest.approx(values[-20:].mean())
    assert line.y[0] == pytest.approx(values[180:200].mean())
    assert np.argmax(line.marker.size) == len(sizes) - 1


def test_tradeoff_of_a_run_that_never_grew_is_one_mark():
    steps = np.arange(1, 101)
    one = Series(np.array([0]), np.array([1.0]), np.array([500.0]))
    loss = Series(steps, steps * 1.0, np.ones(100))
    run = Run("fixed", scalars={"parameters": one, "loss": loss})
    (line,) = traces(figures.tradeoff([run]), what="tradeoff")
    assert (line.x.tolist(), line.y.tolist()) == ([500], [1])


def falling(slopes, every=50):
    """A loss that falls by slopes[i] a step between growths i and i + 1."""
    values = 10 - np.cumsum(np.repeat(slopes, every))
    steps = np.arange(1, len(values) + 1)
    growths = [
        GrowthSummary(
            every * (i + 1), 100.0 + i, 0, 10, 11, 1.0, 1.1, sites=1, added=1, methods=(m,)
        )
        for i, m in enumerate(["gradmax", "random"][: len(slopes) - 1])
    ]
    return Run("r", growths, {"loss": Series(steps, steps * 1.0, values)})


def test_gain_measures_slopes_before_and_after():
    run = falling([0.01, 0.03, 0.02])
    first, second = figures.gains(run, steps=40)
    assert (first.method, second.method) == ("gradmax", "random")
    assert first.slope_before == pytest.approx(-0.01)
    assert first.slope_after == pytest.approx(-0.03)
    assert second.slope_after == pytest.approx(-0.02)
    assert first.steps == 40
    assert first.change < 0
    assert second.change < 0
    assert [g.steps for g in figures.gains(run, steps=400)] == [50, 50]


def test_gain_has_a_mark_for_every_growth_by_method():
    runs = [falling([0.01, 0.03, 0.02])]
    figure = figures.gain(runs, steps=40)
    assert {one.meta["method"] for one in traces(figure, what="change")} == {"gradmax", "random"}
    (slopes,) = traces(figure, what="slopes", method="gradmax")
    np.testing.assert_allclose([slopes.x[0], slopes.y[0]], [-1, -3])
    symbols = {one.meta["method"]: one.marker.symbol for one in traces(figure, what="change")}
    assert len(set(symbols.values())) == 2
    with pytest.raises(GrowthError, match="steps must be a whole number"):
        figures.gain(runs, steps=0)


# --- widths ------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["scalars", "sites"])
def test_widths_are_the_same_from_scalars_and_from_sites(source):
    run = synthetic_run(events=5, sites=4)
    expected = {name: [run.scalars[f"width/{name}"].values[-1]] for name in ("dense_1", "dense_4")}
    if source == "sites":
        run.scalars = {"loss": run.scalars["loss"]}
    else:
        run.sites = {}
    figure = figures.widths(run)
    for name, (last,) in expected.items():
        (line,) = traces(figure, site=name)
        assert line.y[0] == 8
        assert line.y[-1] == last
        assert line.x[-1] == 1200
    assert [one.meta["site"] for one in traces(figure, what="width")] == [
        f"dense_{i}" for i in range(1, 5)
    ]


def test_width_map_has_a_row_for_every_layer_and_a_column_for_every_growth():
    run = synthetic_run(events=5, sites=4)
    (cells,) = traces(figures.width_map(run), what="widths")
    assert cells.z.shape == (4, 5)
    last = [run.scalars[f"width/dense_{i}"].values[-1] for i in range(1, 5)]
    np.testing.assert_allclose(cells.z[:, -1], np.array(last) / 8, rtol=1e-6)
    assert cells.customdata[:, -1, 0].tolist() == last
    assert cells.customdata[:, :, 1].sum() == sum(g.added for g in run.growths)
    assert cells.text[0][0] in ("", f"+{cells.customdata[0, 0, 1]}")


def test_width_map_of_many_growths_is_thinned():
    run = synthetic_run(events=300, sites=20, every=5)
    figure = figures.width_map(run)
    (cells,) = traces(figure, what="widths")
    assert cells.z.shape == (20, 200)
    assert "200 of 300 growths" in figure.layout.meta["notes"][0]
    # Columns that are left out count in the next one.
    total = sum(run.scalars[f"width/{n}"].values[-1] - 8 for n in {s.name for s in run.sites[5]})
    assert cells.customdata[:, :, 1].sum() >= total


# --- why there ---------------------------------------------------------------------------------


def test_spectrum_is_cut_where_channels_were_added():
    run = synthetic_run(events=3, sites=3)
    site = run.sites[400][0]
    added = site.width_after - site.width_before
    figure = figures.spectrum(run, 400, site.name)
    kept, rest = traces(figure, what="kept") + traces(figure, what="not used")
    assert kept.y.tolist() == site.singular_values[:added]
    assert rest.y.tolist() == site.singular_values[added:]
    assert kept.marker.color != rest.marker.color
    assert figure.layout.shapes[0].x0 == added + 0.5


def test_spectrum_that_was_not_computed_is_told():
    figure = figures.spectrum(synthetic_run(events=2, method="random"))
    assert "computed no singular values" in figure.layout.annotations[0].text


def test_spectra_have_a_line_for_every_growth():
    run = synthetic_run(events=6, sites=2)
    figure = figures.spectra(run, "dense_1")
    lines = traces(figure, what="spectrum")
    assert [one.meta["step"] for one in lines] == [g.step for g in run.growths]
    assert len({one.line.color for one in lines}) == 6
    for one in lines:
        assert (one.marker.size > 0).sum() == one.meta["kept"]


def test_gradients_add_up_at_right_angles():
    run = synthetic_run(events=2, sites=3)
    figure = figures.gradients(run, 200)
    before, after = traces(figure, what="before")[0], traces(figure, what="after")[0]
    sites = run.sites[200][::-1]
    np.testing.assert_allclose(before.x, [s.existing_norm for s in sites])
    np.testing.assert_allclose(
        after.x, [math.hypot(s.existing_norm, s.gradient_norm) for s in sites]
    )
    assert list(figure.layout.yaxis.ticktext) == [s.name for s in sites]


def test_steps_and_layers_that_are_not_there_are_refused():
    run = synthetic_run(events=3, sites=3)
    with pytest.raises(GrowthError, match="nearest steps at which it did: 200, 400"):
        figures.gradients(run, 250)
    with pytest.raises(GrowthError, match="Did you mean"):
        figures.spectrum(run, 200, "dense_11")
    with pytest.raises(GrowthError, match="has not grown"):
        figures.spectra(run, "nothing")


# --- scale -------------------------------------------------------------------------------------


def test_twenty_runs_of_500_growths_stay_small():
    runs = [
        synthetic_run(f"run-{i}", 500, 4, i, network=None, every=10, with_sites=False)
        for i in range(20)
    ]
    for name, limit in (("timeline", 2.0), ("costs", 1.0), ("tradeoff", 0.5), ("gain", 1.2)):
        figure = getattr(figures, name)(runs)
        assert len(figure.to_json()) < limit * 1e6
    marks = traces(figures.timeline(runs), what="growths")
    assert sum(len(one.x) for one in marks) == 1000
    note = " ".join(figures.timeline(runs).layout.meta["notes"])
    assert "1,000 of 10,000 growths are marked" in note
