"""The command line as users start it: a process of its own."""

import json
import time

import keras
import numpy as np

# Keras is there and keras_grow is not.
WITHOUT_US = """
import sys
sys.modules["keras_grow"] = None
import keras, numpy
model = keras.saving.load_model(sys.argv[1])
numpy.save(sys.argv[2], model.predict_on_batch(numpy.load(sys.argv[3])))
try:
    import keras_grow
except ImportError:
    print("ok")
"""


def test_help_is_quick_and_imports_no_keras(process):
    program = (
        "import sys\n"
        "from keras_grow.tools.cli import cli\n"
        "cli(['--help'], standalone_mode=False)\n"
        "print({'keras', 'jax', 'torch', 'tensorflow', 'rich'} & set(sys.modules))"
    )
    start = time.perf_counter()
    result = process("-c", program)
    seconds = time.perf_counter() - start
    assert result.returncode == 0, result.stderr
    for text in ("demo", "inspect", "widen", "verify", "Exit codes", "Examples"):
        assert text in result.stdout
    assert result.stdout.rstrip().endswith("set()")
    assert seconds < 3


def test_every_command_has_examples_and_exit_codes_in_its_help(run):
    for command in ("demo", "inspect", "widen", "verify"):
        result = run(command, "--help")
        assert result.exit_code == 0
        assert f"  keras-grow {command} " in result.stdout or command == "demo"
        assert "Exit codes:" in result.stdout


def test_a_missing_file_is_told_before_keras_is_imported(process):
    result = process("-X", "importtime", "-m", "keras_grow.tools", "inspect", "nothing.keras")
    assert result.returncode == 2
    assert "Error: There is no file nothing.keras" in result.stderr
    assert "keras.src" not in result.stderr


def test_widen_and_load_without_keras_grow(process, good, tmp_path):
    result = process(
        "-m", "keras_grow.tools", "widen", good / "net.keras", "inner=5", "-o", "wider.keras"
    )
    assert result.returncode == 0, result.stderr
    assert "Warning: " not in result.stderr  # what TensorFlow logs there is not ours
    images = np.random.default_rng(1).normal(size=(4, 6, 6, 1)).astype("float32")
    np.save(tmp_path / "images.npy", images)
    result = process("-c", WITHOUT_US, "wider.keras", "outputs.npy", "images.npy")
    assert result.returncode == 0, result.stderr
    assert result.stdout == "ok\n"
    expected = keras.saving.load_model(good / "net.keras", compile=False).predict_on_batch(images)
    np.testing.assert_allclose(
        np.load(tmp_path / "outputs.npy"), np.asarray(expected), rtol=1e-4, atol=1e-5
    )


def test_demo(run, process, tmp_path, snapshot):
    out = tmp_path / "demo"
    result = run("demo", "--out", out, "--seeds", 1, "--epochs", 1)
    assert result.exit_code == 0, (result.stderr, result.exception)
    for text in ("small from scratch", "grown, GradMax", "keras-grow widen", "GrowthCallback"):
        assert text in result.stdout
    assert sorted(p.name for p in out.iterdir()) == ["grown.keras", "loss.png", "results.json"]
    assert (out / "loss.png").read_bytes().startswith(b"\x89PNG")

    found = json.loads((out / "results.json").read_text(encoding="utf-8"))
    runs = {one["way"]: one for one in found["runs"]}
    assert set(runs) == {"small", "big", "random", "gradmax"}
    small, big = runs["small"], runs["big"]
    for way, one in runs.items():
        assert len(one["losses"]) == 22
        assert 0 <= one["accuracy"] <= 1
        assert np.isfinite(one["loss"])
        if way in ("random", "gradmax"):
            assert len(one["growth_steps"]) == 3
            assert one["parameters"] == big["parameters"]
            assert small["training_flops"] < one["training_flops"] < big["training_flops"]
            # Until the first growth all that starts small is the same network on the same data.
            first = one["growth_steps"][0]
            np.testing.assert_allclose(one["losses"][:first], small["losses"][:first], rtol=1e-4)
            # And growth did not change what it computes.
            assert all(event["deviation"] < 1e-3 for event in one["events"])
    # Random and GradMax spend the same on training; GradMax also looks at gradients to grow.
    assert runs["gradmax"]["training_flops"] > runs["random"]["training_flops"]

    np.save(tmp_path / "images.npy", np.ones((2, 8, 8, 1), "float32"))
    loaded = process("-c", WITHOUT_US, out / "grown.keras", "logits.npy", "images.npy")
    assert loaded.stdout == "ok\n", loaded.stderr
    assert np.load(tmp_path / "logits.npy").shape == (2, 10)

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
