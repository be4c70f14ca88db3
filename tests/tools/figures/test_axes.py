"""Smoothing, thinning and what stands where on the x axis."""

import numpy as np
import pytest
from helpers.synthetic import synthetic_run

from keras_grow.logs.runs import GrowthSummary, Run, Series
from keras_grow.tools.figures.axes import (
    XAxis,
    evenly,
    flops_until,
    log_axis,
    parameters_at,
    smoothed,
    thinned,
)


def tensorboards(values, weight):
    """Its scalars tab: a moving average divided by the sum of its weights."""
    last, known, found = 0.0, 0, []
    for value in values:
        if not np.isfinite(value):
            found.append(value)
            continue
        last = last * weight + (1 - weight) * value
        known += 1
        found.append(last / (1 - weight**known))
    return found


@pytest.mark.parametrize("weight", [0.0, 0.3, 0.9, 0.999])
def test_smoothing_is_tensorboards(weight):
    values = np.random.default_rng(0).normal(size=60)
    values[[3, 20]] = np.nan, np.inf
    np.testing.assert_allclose(smoothed(values, weight), tensorboards(values, weight), rtol=1e-9)


def test_full_smoothing_is_tensorboards_strongest():
    values = np.arange(5.0)
    np.testing.assert_array_equal(smoothed(values, 1.0), smoothed(values, 0.999))


def test_thinning_keeps_spikes_and_ends():
    values = np.random.default_rng(0).normal(size=100_000)
    values[[777, 54_321]] = 50.0, -50.0
    kept = thinned(values, 1000)
    assert len(kept) <= 1000
    assert {0, 777, 54_321, 99_999} <= set(kept.tolist())
    assert (np.diff(kept) > 0).all()
    assert len(thinned(values[:1000], 1000)) == 1000


def test_thinning_of_what_is_not_finite():
    kept = thinned(np.full(5000, np.nan), 100)
    assert 2 <= len(kept) <= 100


def test_evenly():
    assert evenly(3, 5).tolist() == [0, 1, 2]
    kept = evenly(100, 7)
    assert len(kept) == 7
    assert kept[[0, -1]].tolist() == [0, 99]


def grown(step, before, after, **rest):
    return GrowthSummary(step, 1000.0 + step, 0, before, after, 10.0 * before, 10.0 * after, **rest)


def test_parameters_at_a_step_are_those_it_was_taken_with():
    run = Run("r", [grown(10, 5, 8, sites=1), grown(20, 8, 9, sites=1)])
    steps = np.array([1, 10, 11, 20, 21, 99])
    np.testing.assert_array_equal(parameters_at(run, steps), [5, 5, 8, 8, 9, 9])


def test_failed_and_tried_growths_change_no_parameters():
    run = Run("r", [grown(5, 5, 5, error="no"), grown(7, 5, 6, dry_run=True, sites=1)])
    np.testing.assert_array_equal(parameters_at(run, np.array([1, 6, 9])), [5, 5, 5])


def test_flops_are_summed_over_steps():
    run = Run("r", [grown(10, 5, 8, sites=1), grown(20, 8, 9, sites=1)])
    of_step = [50] * 10 + [80] * 10 + [90] * 10
    for step in (0, 1, 10, 11, 25, 30):
        assert flops_until(run, np.array([step]))[0] == pytest.approx(sum(of_step[:step]))


def test_a_run_without_growths_takes_sizes_from_its_scalars():
    one = Series(np.array([0]), np.array([1.0]), np.array([7.0]))
    run = Run("r", scalars={"parameters": one, "flops": one})
    assert parameters_at(run, np.array([1, 50])).tolist() == [7, 7]
    assert flops_until(run, np.array([50])).tolist() == [350]


def test_nothing_known_is_nan():
    run = Run("r", scalars={"loss": Series(np.arange(3), np.zeros(3), np.ones(3))})
    for kind in ("time", "parameters", "flops"):
        axis = XAxis.of(kind, [run])
        assert np.isnan(axis.steps(run, np.array([1.0]))).all()


@pytest.mark.parametrize(
    ("seconds", "unit"), [(100, "seconds"), (1000, "minutes"), (50_000, "hours"), (1e6, "days")]
)
def test_the_unit_of_time_fits_the_longest_run(seconds, unit):
    times = 1e9 + np.array([0.0, seconds])
    run = Run("r", scalars={"loss": Series(np.array([1, 2]), times, np.ones(2))})
    axis = XAxis.of("time", [run, synthetic_run(events=1)])
    assert axis.unit[1] == unit
    assert unit in axis.title
    placed = axis.series(run, run.scalars["loss"])
    np.testing.assert_allclose(placed * axis.unit[0], [0, seconds])


def test_logarithmic_axes_have_plain_numbers():
    axis = log_axis([np.array([0.13, 2.9])])
    assert "0.2" in axis["ticktext"]
    assert axis["tickvals"][axis["ticktext"].index("0.2")] == pytest.approx(0.2)
    assert log_axis([np.array([-1.0, np.nan])]) == {"type": "log"}
    assert log_axis([np.array([1e-9, 1.0])])["dtick"] == 1
