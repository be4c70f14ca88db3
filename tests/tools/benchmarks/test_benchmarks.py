"""`benchmarks helps`: its networks grow with the defaults, and its table says what was trained.

`benchmarks slots`: new entries of slots start as it says, and nothing else changes.
"""

import json

import keras
import numpy as np
import pytest
from click.testing import CliRunner

import keras_grow as kg
from keras_grow.tools.benchmarks import helps, slots
from keras_grow.tools.benchmarks.networks import NETWORKS, target


@pytest.mark.parametrize("name", NETWORKS)
def test_all_that_is_to_grow_can_grow(name):
    build = NETWORKS[name][0]
    small, big = build((8, 8, 1), 0.5), build((8, 8, 1), 1.0)
    widths = target(big)
    assert len(widths) >= 2
    now = {producer: s.width for s in kg.sites(small) for producer in s.producers}
    assert all(width == 2 * now[layer] for layer, width in widths.items())
    wider = kg.widen(small, widths, seed=0)
    assert wider.count_params() == big.count_params()


def test_a_table_of_what_was_trained(monkeypatch, tmp_path):
    monkeypatch.setitem(helps.LENGTHS, "digits", (128, 2))
    file = tmp_path / "cells.jsonl"
    arguments = ["--network", "mlp", "--optimizer", "sgd", "--at", "0.5", "--seeds", "1"]
    ways = ["--way", "gradmax", "--way", "zeros"]
    done = CliRunner().invoke(helps.command, [*arguments, *ways, "-o", str(file)])
    assert done.exit_code == 0, done.output
    cells = [json.loads(line) for line in file.read_text().splitlines()]
    assert [c["way"] for c in cells] == ["gradmax", "zeros"]
    found = helps.summary(cells[0])
    by_arm = {t["arm"]: t for t in cells[0]["trials"]}
    np.testing.assert_allclose(found["train"]["grown"], by_arm["grown"]["train"])
    assert found["lower"] == (by_arm["grown"]["train"] < by_arm["small"]["train"])
    lines = done.output.strip().splitlines()
    assert lines[0].startswith("| network | data |")
    assert f"{by_arm['big']['train']:.3f}" in lines[2]
    shown = CliRunner().invoke(helps.command, ["-o", str(file), "--show"])
    assert shown.output.strip() == done.output.strip()


def test_rates_rise_stay_and_fall():
    def rate(kind, step):
        value = helps.Rate(0.5, 100, kind)(step)
        return float(keras.ops.convert_to_numpy(value))

    np.testing.assert_allclose([rate("stable", s) for s in (2, 50, 90, 95, 100)],
                               [0.5, 0.5, 0.5, 0.25, 0], atol=1e-6)  # fmt: skip
    np.testing.assert_allclose([rate("cosine", s) for s in (0, 50, 100)], [0.5, 0.25, 0], atol=1e-6)


def small(optimizer):
    inputs = keras.Input((3,))
    x = keras.layers.Dense(4, activation="relu", name="hidden")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(2, name="output")(x))
    model.compile(optimizer, "mse")
    rng = np.random.default_rng(0)
    return model, rng.random((8, 3), "float32"), rng.random((8, 2), "float32")


def values(variables):
    return [np.array(keras.ops.convert_to_numpy(v)) for v in variables]


STARTS = {
    "zero": lambda old, axis: np.zeros(()),
    "mean": lambda old, axis: old.mean(),
    "line": lambda old, axis: old.mean(axis, keepdims=True),
    "tenth": lambda old, axis: old.mean(axis, keepdims=True) / 10,
}


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize(
    ("name", "slot", "of"),
    [
        ("adam", "velocity", {"hidden": 1, "output": 0}),
        ("muon", "velocity", {"output": 0}),  # the rest is not Adam's
        ("adafactor", "row", {"output": 0}),  # of `hidden` it has no entry for a channel
        ("adafactor", "column", {"hidden": 0}),
    ],
)
def test_other_starts_overwrite_new_entries_only(name, slot, of, start):
    model, *_ = small(optimizer := slots.CASES[name][0]())
    optimizer.build(model.trainable_variables)
    rng = np.random.default_rng(1)
    for variable in optimizer.variables:
        if len(variable.shape):
            variable.assign(rng.random(variable.shape))
    plan = kg.plan(model, {"hidden": 6})
    kg.grow_(model, {"hidden": 6}, method="random", seed=0)
    before = values(optimizer.variables)
    slots.start_otherwise(optimizer, plan, {slot: start})
    after = values(optimizer.variables)
    kernels = {layer: slots.slots_of(optimizer, model.get_layer(layer).kernel) for layer in of}
    changed = {id(found[slot]): of[layer] for layer, found in kernels.items()}
    for variable, was, now in zip(optimizer.variables, before, after, strict=True):
        if id(variable) not in changed:
            if variable.name != "hidden_bias_velocity":  # which goes with its kernel's
                np.testing.assert_array_equal(was, now)
            continue
        axis = changed[id(variable)]
        old, new = np.split(now, [4], axis)
        np.testing.assert_array_equal(old, np.take(was, range(4), axis))
        expected = np.broadcast_to(STARTS[start](old, axis), new.shape)
        np.testing.assert_allclose(new, expected, rtol=1e-6)


def test_where_both_axes_have_grown_the_corner_is_the_mean_of_means():
    value = np.arange(12.0).reshape(3, 4)
    grown = {0: np.array([False, False, True]), 1: np.array([False, True, False, False])}
    found = slots.started(value, grown, "line")
    rest = value[:2, [0, 2, 3]]
    np.testing.assert_array_equal(found[:2, [0, 2, 3]], rest)
    np.testing.assert_array_equal(found[2, [0, 2, 3]], rest.mean(axis=0))
    np.testing.assert_array_equal(found[:2, 1], rest.mean(axis=1))
    assert found[2, 1] == pytest.approx(rest.mean())


def test_another_start_reaches_the_training():
    """The growth comes with the last step, so slots are afterwards what they were started with."""
    model, x, y = small(optimizer := keras.optimizers.Adam())
    growth = kg.GrowthCallback(
        (x, y), "random", kg.schedules.Every(1, times=1), kg.selectors.All(2), log_dir=None
    )
    restart = slots.Restart(growth, kg.plan(model, {"hidden": 6}), {"velocity": "mean"})
    model.fit(x, y, batch_size=8, verbose=0, callbacks=[growth, restart])
    assert len(growth.events) == 1
    for layer, axis in (("hidden", 1), ("output", 0)):
        own = slots.slots_of(optimizer, model.get_layer(layer).kernel)
        for name, variable in own.items():
            old, new = np.split(values([variable])[0], [4], axis)
            assert old.any()
            expected = old.mean() if name == "velocity" else 0
            np.testing.assert_allclose(new, np.full(new.shape, expected), rtol=1e-6)


def test_a_table_of_starts(monkeypatch):
    monkeypatch.setattr(slots, "BEFORE", 3)
    monkeypatch.setattr(slots, "AFTER", 4)
    monkeypatch.setattr(slots, "METHODS", ("random",))
    arguments = ["--task", "teacher-student", "--optimizer", "ftrl", "--seeds", "1"]
    done = CliRunner().invoke(slots.command, [*arguments, "--json"])
    assert done.exit_code == 0, done.output
    rows = json.loads(done.stdout)
    assert [row[:3] for row in rows] == [
        ["teacher-student", "ftrl", way] for way in ("linear: zero", "balance")
    ]
    assert all(np.isfinite(own["random: later"]).all() for *_, own in rows)
    assert rows[0][-1] != rows[1][-1]
