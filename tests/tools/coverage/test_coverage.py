"""The coverage report: fast samples of it."""

import json
from pathlib import Path

import keras
import numpy as np
import pytest

from keras_grow.tools.coverage import models, report, runner
from keras_grow.tools.coverage.measure import measure
from keras_grow.tools.coverage.weights import randomize


def _model() -> keras.Model:
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3, name="a")(inputs)
    x = keras.layers.BatchNormalization()(x)
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.ReLU()(x))
    return keras.Model(inputs, keras.layers.Dense(2, name="out")(x))


def test_measure() -> None:
    record = measure(_model, singles=1)
    assert (record["producers"], record["growable"], record["sites"]) == (2, 1, 1)
    assert list(record["refused"].values()) == [1]
    assert set(record["all"]) == {"auto"}
    assert set(record["alone"]) == {"a"}
    assert max(*record["all"].values(), *record["alone"].values()) < 1e-5
    assert not record["errors"]
    assert record["scale"] > 0.1
    json.dumps(record)


def test_measure_sees_a_broken_growth(monkeypatch: pytest.MonkeyPatch) -> None:
    import keras_grow as kg

    widen = kg.widen

    def broken(*args, **options):
        wider = widen(*args, **options)
        bias = wider.get_layer("a").bias
        bias.assign(bias + 0.1)
        return wider

    monkeypatch.setattr(kg, "widen", broken)
    record = measure(_model, singles=0)
    assert record["all"]["auto"] > 1e-3


def test_random_weights_leave_sane_activations() -> None:
    model = _model()
    x = keras.ops.convert_to_tensor(np.random.default_rng(0).normal(5, 3, (4, 8, 8, 3)))
    randomize(model, x)
    y = keras.ops.convert_to_numpy(model(x, training=False))
    assert 0.01 < np.abs(y).max() < 100
    norm = model.layers[2]
    for variable in (norm.gamma, norm.beta, norm.moving_mean, norm.moving_variance):
        assert len(set(keras.ops.convert_to_numpy(variable).tolist())) == 4


def test_a_broken_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured = []

    def fake(entry, backend, floatx, singles, timeout):
        measured.append(entry.name)
        if entry.name == "two":
            raise KeyboardInterrupt
        return {"key": entry.key, "all": {}, "alone": {}, "errors": {}, "growable": 0,
                "producers": 0}  # fmt: skip

    entries = [models.Entry("lib", n, n, _model) for n in ("one", "two", "three")]
    monkeypatch.setattr(runner, "_measure", fake)
    with pytest.raises(KeyboardInterrupt):
        runner.run(entries, tmp_path, "torch", say=lambda text: None)
    with runner.path_of(tmp_path, "torch", "float32").open("a") as file:
        file.write('{"key": "lib/thr')
    monkeypatch.setattr(runner, "_measure", lambda e, *rest: fake(e, *rest))
    entries[1] = models.Entry("lib", "zwei", "zwei", _model)
    runner.run(entries, tmp_path, "torch", say=lambda text: None)
    assert measured == ["one", "two", "zwei", "three"]
    found = runner.read(runner.path_of(tmp_path, "torch", "float32"))
    assert list(found) == ["lib/one", "lib/zwei", "lib/three"]


def test_report(tmp_path: Path) -> None:
    key = "keras.applications/VGG16"
    base = {"key": key, "library": "keras.applications", "family": "VGG", "name": "VGG16",
            "backend": "torch", "floatx": "float32", "layers": 3, "producers": 5, "growable": 3,
            "sites": 2, "refused": {"it makes an output of the model.": 1, "odd": 1},
            "all": {"outgoing": 1e-6}, "alone": {"a": 1e-3}, "errors": {"inverse": "No"},
            "seconds": {"sites": 0.1, "outgoing": 1.0}, "scale": 2.0}  # fmt: skip
    jax = {**base, "backend": "jax", "alone": {}, "errors": {}}
    for record in (base, jax):
        path = runner.path_of(tmp_path, record["backend"], "float32")
        path.write_text(json.dumps(record) + "\n")
    problems = report.write(tmp_path, tmp_path / "docs" / "coverage.md")
    assert len(problems) == 2
    assert "a: deviation 1.0e-03" in " ".join(problems)
    text = (tmp_path / "docs" / "coverage.md").read_text()
    assert "| keras.applications | 1 | 5 | 3 | 1 | 1 | 1e-06 |" in text
    assert "| 1 | 1 | odd |" in text
    assert "On several backends" in text


def test_all_models_are_listed() -> None:
    entries = models.entries()
    assert sum(e.library == "keras.applications" for e in entries) == 40
    assert len({e.key for e in entries}) == len(entries)
