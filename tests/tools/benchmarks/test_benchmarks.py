"""`benchmarks helps`: its networks grow with the defaults, and its table says what was trained."""

import json

import keras
import numpy as np
import pytest
from click.testing import CliRunner

import keras_grow as kg
from keras_grow.tools.benchmarks import helps
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
