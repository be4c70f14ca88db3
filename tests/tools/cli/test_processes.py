"""The command line as users start it: a process of its own."""

import functools
import json
import time

import keras
import numpy as np
import pytest

from keras_grow.tools.demo import experiment

# Keras is there and keras_grow is not.
WITHOUT_US = """
import sys
sys.modules["keras_grow"] = None
import keras, numpy
model = keras.saving.load_model(sys.argv[1])
numpy.save("outputs.npy", model.predict_on_batch(numpy.load("images.npy")))
try:
    import keras_grow
except ImportError:
    print("ok")
"""


def test_help_is_quick_and_imports_no_keras(process):
    program = (
        "import sys\n"
        "from keras_grow.tools.cli.main import cli\n"
        "cli(['--help'], standalone_mode=False)\n"
        "print({'keras', 'jax', 'torch', 'tensorflow', 'rich'} & set(sys.modules))"
    )
    start = time.perf_counter()
    result = process("-c", program)
    seconds = time.perf_counter() - start
    assert result.returncode == 0, result.stderr
    for text in ("demo", "inspect", "widen", "bridge", "diff", "Exit codes", "Examples"):
        assert text in result.stdout
    assert result.stdout.rstrip().endswith("set()")
    assert seconds < 3


def test_every_command_has_examples_and_exit_codes_in_its_help(run):
    for command in (
        "demo",
        "inspect",
        "plan",
        "widen",
        "insert",
        "bridge",
        "verify",
        "diff",
        "report",
        "watch",
    ):
        result = run(command, "--help")
        assert result.exit_code == 0
        assert f"  keras-grow {command} " in result.stdout or command == "demo"
        assert "Exit codes:" in result.stdout


def test_a_missing_file_is_told_before_keras_is_imported(process):
    result = process("-X", "importtime", "-m", "keras_grow.tools", "inspect", "nothing.keras")
    assert result.returncode == 2
    assert "Error: There is no file nothing.keras" in result.stderr
    assert "keras.src" not in result.stderr


@pytest.mark.every_backend
def test_widen_in_a_process(process, good, tmp_path):
    result = process(
        "-m", "keras_grow.tools", "widen", good / "dense.keras", "first=6", "-o", "wider.keras"
    )
    assert result.returncode == 0, result.stderr
    assert "Warning: " not in result.stderr  # what TensorFlow logs there is not ours
    assert "4 -> 6" in result.stdout
    assert keras.saving.load_model(tmp_path / "wider.keras").get_layer("first").units == 6


@pytest.mark.every_backend
def test_demo(run, process, tmp_path, snapshot, monkeypatch):
    # One growth instead of two: what takes the time is compiling for each new width.
    monkeypatch.setattr(experiment, "Settings", functools.partial(experiment.Settings, growths=1))
    out = tmp_path / "demo"
    result = run("demo", "--out", out, "--seeds", 1, "--epochs", 1)
    assert result.exit_code == 0, (result.stderr, result.exception)
    for text in ("small from scratch", "grown, GradMax", "keras-grow widen", "GrowthCallback"):
        assert text in result.stdout
    assert sorted(p.name for p in out.iterdir()) == ["grown.keras", "loss.png", "results.json"]
    assert (out / "loss.png").read_bytes().startswith(b"\x89PNG")
    check_results(json.loads((out / "results.json").read_text(encoding="utf-8")))

    # What it saved is plain Keras.
    images = np.random.default_rng(1).random((4, 8, 8, 1)).astype("float32")
    np.save(tmp_path / "images.npy", images)
    loaded = process("-c", WITHOUT_US, out / "grown.keras")
    assert loaded.stdout == "ok\n", loaded.stderr
    here = keras.saving.load_model(out / "grown.keras").predict_on_batch(images)
    np.testing.assert_allclose(
        np.load(tmp_path / "outputs.npy"), np.asarray(here), rtol=1e-4, atol=1e-5
    )

    before = snapshot(out)
    again = run("demo", "--out", out, "--seeds", 1, "--epochs", 1)
    assert again.exit_code == 2
    assert "--force" in again.stderr
    assert snapshot(out) == before


def test_demo_refuses_a_file_as_its_folder(run, tmp_path):
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    result = run("demo", "--out", tmp_path / "file")
    assert result.exit_code == 2
    assert "is a file" in result.stderr
    assert (tmp_path / "file").read_text(encoding="utf-8") == "mine"


def check_results(found):
    runs = {one["way"]: one for one in found["runs"]}
    assert set(runs) == {"small", "big", "random", "gradmax"}
    small, big = runs["small"], runs["big"]
    for way, one in runs.items():
        assert len(one["losses"]) == len(one["flops_by_step"]) == 22
        assert one["flops_by_step"][-1] == one["training_flops"]
        assert np.isfinite(one["loss"])
        assert found["summary"][way]["accuracy"]["mean"] == one["accuracy"] <= 1
        if way in ("random", "gradmax"):
            assert one["growth_steps"] == [11]
            assert one["parameters"] == big["parameters"]
            assert small["training_flops"] < one["training_flops"] < big["training_flops"]
            # Until it grows, all that starts small is the same network on the same data.
            np.testing.assert_allclose(one["losses"][:11], small["losses"][:11], rtol=1e-4)
            # And growth did not change what it computes.
            assert all(event["deviation"] < 1e-5 for event in one["events"])
    # Random and GradMax train alike; GradMax also looks at the gradients of 512 samples.
    extra = runs["gradmax"]["training_flops"] - runs["random"]["training_flops"]
    assert extra == 3 * runs["random"]["events"][0]["flops_before"] * 512
