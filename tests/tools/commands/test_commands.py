"""inspect, widen and verify on models that can be read."""

import json

import keras
import numpy as np
import pytest


def predict(path, x):
    return np.asarray(keras.saving.load_model(path, compile=False).predict_on_batch(x))


@pytest.fixture
def images():
    return np.random.default_rng(0).normal(size=(5, 6, 6, 1)).astype("float32")


@pytest.fixture
def other(tmp_path, good):
    """net.keras with one weight changed a little."""
    model = keras.saving.load_model(good / "net.keras")
    bias = model.get_layer("head").bias
    bias.assign(keras.ops.add(bias, 0.01))
    model.save(tmp_path / "other.keras")
    return tmp_path / "other.keras"


# --- inspect -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["net.keras", "net.h5"])
def test_inspect_json(run, good, name):
    result = run("inspect", good / name, "--json")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["schema"] == "keras-grow/inspect/1"
    assert found["backend"] == keras.backend.backend()
    model = keras.saving.load_model(good / name)
    assert found["model"]["parameters"] == model.count_params()
    assert found["model"]["inputs"] == [
        {"name": "image", "shape": [None, 6, 6, 1], "dtype": "float32"}
    ]
    assert [output["shape"] for output in found["model"]["outputs"]] == [[None, 2]]

    sites = {tuple(sorted(site["producers"])): site for site in found["sites"]}
    assert set(sites) == {("body", "stem"), ("inner",), ("hidden",)}
    tied = sites["body", "stem"]
    assert (tied["width"], tied["granularity"]) == (4, 1)
    assert sorted(tied["consumers"]) == ["hidden", "inner"]
    # One more channel: a filter of stem (9 x 1 + bias) and of body (9 x 3 + bias), a slice of
    # inner (9 x 3) and 36 rows of hidden (5 each).
    assert tied["parameters_per_channel"] == 10 + 28 + 27 + 36 * 5
    # Two FLOPs per multiply-add, on 36 positions for the convolutions.
    assert tied["flops_per_channel"] == 2 * (36 * 9 + 36 * 27 + 36 * 27 + 36 * 5)
    assert sites["hidden",]["parameters_per_channel"] == 36 * 4 + 1 + 2

    assert [one["producer"] for one in found["refused"]] == ["head"]
    assert "output" in found["refused"][0]["reason"]


@pytest.mark.every_backend
def test_inspect_for_people(run, good):
    result = run("inspect", good / "net.keras")
    assert result.exit_code == 0, result.stderr
    for text in ("residual_net", "Can be widened", "stem", "body", "245", "Cannot be widened"):
        assert text in result.stdout
    assert result.stderr == ""


def test_inspect_a_model_in_which_nothing_can_grow(run, tmp_path):
    keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]).save(tmp_path / "one.keras")
    result = run("inspect", tmp_path / "one.keras")
    assert result.exit_code == 0
    assert "No layer of this model can be widened" in result.stdout


# --- widen ---------------------------------------------------------------------------------------


@pytest.mark.every_backend
def test_widen_saves_a_wider_model_that_computes_the_same(run, good, tmp_path, images, snapshot):
    before = snapshot(good)
    out = tmp_path / "wider.keras"
    result = run("widen", good / "net.keras", "stem=6", "hidden=9", "-o", out)
    assert result.exit_code == 0, result.stderr
    for text in ("4 -> 6", "5 -> 9", "differ by at most", "wider.keras"):
        assert text in result.stdout
    wider = keras.saving.load_model(out)
    assert [wider.get_layer(n).filters for n in ("stem", "body", "inner")] == [6, 6, 3]
    assert wider.get_layer("hidden").units == 9
    expected = predict(good / "net.keras", images)
    np.testing.assert_allclose(predict(out, images), expected, atol=1e-5 * np.abs(expected).max())
    assert snapshot(good) == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["wider.keras"]  # no temporary file left
    assert (out.stat().st_mode & 0o777) == ((good / "net.keras").stat().st_mode & 0o777)


def test_widen_depends_on_the_seed_alone(run, good, tmp_path):
    weights = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        out = tmp_path / f"{name}.keras"
        assert (
            run("widen", good / "dense.keras", "first=6", "-o", out, "--seed", seed).exit_code == 0
        )
        weights.append(np.concatenate([w.ravel() for w in _weights(out)]))
    np.testing.assert_array_equal(weights[0], weights[1])
    assert np.abs(weights[0] - weights[2]).max() > 1e-3


def _weights(path):
    return keras.saving.load_model(path, compile=False).get_weights()


def test_widen_in_place_with_force(run, good, tmp_path):
    path = tmp_path / "dense.keras"
    path.write_bytes((good / "dense.keras").read_bytes())
    assert run("widen", path, "first=6", "-o", path, "--force").exit_code == 0
    assert keras.saving.load_model(path).get_layer("first").units == 6
    x = np.random.default_rng(2).normal(size=(4, 3)).astype("float32")
    expected = predict(good / "dense.keras", x)
    np.testing.assert_allclose(predict(path, x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.every_backend
def test_widen_keeps_the_training_settings(run, good, tmp_path):
    out = tmp_path / "wider.keras"
    result = run("widen", good / "trained.keras", "first=6", "-o", out)
    assert result.exit_code == 0, result.stderr
    assert "Warning: " not in result.stderr
    wider, trained = (keras.saving.load_model(p) for p in (out, good / "trained.keras"))
    assert wider.loss == "mse"
    assert int(wider.optimizer.iterations) == int(trained.optimizer.iterations) == 2
    wider.fit(np.ones((4, 3)), np.zeros((4, 2)), verbose=0)
    assert int(wider.optimizer.iterations) == 3


def test_widen_says_when_the_training_settings_are_lost(run, good, tmp_path):
    result = run("widen", good / "own_loss.keras", "first=6", "-o", tmp_path / "wider.keras")
    assert result.exit_code == 0
    assert "outsider_loss" in result.stderr
    assert "compile()" in result.stderr
    assert keras.saving.load_model(tmp_path / "wider.keras").layers[0].units == 6


# --- verify --------------------------------------------------------------------------------------


@pytest.mark.every_backend
def test_verify_agrees(run, good):
    result = run("verify", good / "net.keras", good / "net.h5")
    assert result.exit_code == 0, result.stderr
    assert "compute the same" in result.stdout


def test_verify_finds_a_difference(run, good, other):
    result = run("verify", good / "net.keras", other, "--samples", 8, "--seed", 3)
    assert result.exit_code == 1
    assert "compute NOT the same" in result.stdout
    assert "8 random inputs" in result.stdout


def test_verify_tolerance(run, good, other):
    assert run("verify", good / "net.keras", other, "--tolerance", 10).exit_code == 0


def test_verify_models_with_different_inputs(run, good):
    result = run("verify", good / "net.keras", good / "own_loss.keras")
    assert result.exit_code == 2
    assert result.stderr.startswith("Error: ")
    assert "Traceback" not in result.stderr


def test_verify_several_inputs_of_several_types(run, tmp_path):
    left = keras.Input((None, 3), name="left")
    right = keras.Input((2,), dtype="int32", name="right")
    x = keras.layers.GlobalAveragePooling1D()(keras.layers.Dense(4, name="wide")(left))
    x = keras.layers.Concatenate()([x, keras.ops.cast(right, "float32")])
    model = keras.Model({"left": left, "right": right}, keras.layers.Dense(1)(x))
    model.save(tmp_path / "two.keras")
    assert run("widen", tmp_path / "two.keras", "wide=6", "-o", tmp_path / "w.keras").exit_code == 0
    result = run("verify", tmp_path / "two.keras", tmp_path / "w.keras", "--samples", 1)
    assert result.exit_code == 0, result.stderr
    assert "on 1 random input " in result.stdout
