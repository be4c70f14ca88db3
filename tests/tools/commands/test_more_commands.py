"""plan, diff, insert, bridge, inspect --image, --data, --custom and completion."""

import json
import os
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest

from keras_grow.tools.cli import growing
from keras_grow.tools.cli.completion import widths_in
from keras_grow.tools.model.picture import graph_text

OWN_LAYER = """
import keras


class Twice(keras.layers.Layer):
    def call(self, inputs):
        return inputs * 2.0


def gentle(y_true, y_pred):
    return keras.ops.mean(keras.ops.abs(y_true - y_pred))
"""


def fails(result, *patterns):
    assert result.exit_code == 2, (result.stdout, result.stderr, result.exception)
    paragraph = result.stderr.partition("Error: ")[2].strip()
    assert "\n" not in paragraph
    for pattern in patterns:
        assert pattern in paragraph, (pattern, paragraph)


def same_function(first, second, shape=(5, 6, 6, 1)):
    x = np.random.default_rng(0).normal(size=shape).astype("float32")
    a, b = (
        np.asarray(keras.saving.load_model(p, compile=False).predict_on_batch(x))
        for p in (first, second)
    )
    np.testing.assert_allclose(b, a, atol=1e-5 * np.abs(a).max())


@pytest.fixture
def batch(tmp_path):
    random = np.random.default_rng(3)
    path = tmp_path / "batch.npz"
    x = random.normal(size=(16, 6, 6, 1)).astype("float32")
    np.savez(path, x=x, y=random.normal(size=(16, 2)).astype("float32"))
    return path


# --- plan ----------------------------------------------------------------------------------------


@pytest.mark.every_backend
def test_plan_prints_every_edit_and_the_cost(run, good, tmp_path, snapshot):
    before = snapshot(good)
    result = run("plan", good / "net.keras", "inner=5", "hidden=6")
    assert result.exit_code == 0, result.stderr
    for text in ("inner/kernel axis 3: 3 -> 5", "body/kernel axis 2: 3 -> 5", "head/kernel axis 0"):
        assert text in result.stdout
    out = tmp_path / "wider.keras"
    assert run("widen", good / "net.keras", "inner=5", "hidden=6", "-o", out).exit_code == 0
    # inner: 2 x (36 + 1) and body reads 2 x 36; hidden: 144 + 1, and head reads 2.
    assert "adds 293 parameters" in result.stdout
    old, new = (keras.saving.load_model(p).count_params() for p in (good / "net.keras", out))
    assert new - old == 293
    assert snapshot(good) == before


def test_one_branch_alone(run, good, tmp_path):
    out = tmp_path / "alone.keras"
    assert (
        "is padded with zeros to 6" in run("plan", good / "net.keras", "stem=6", "--alone").output
    )
    result = run("widen", good / "net.keras", "stem=6", "--alone", "-o", out)
    assert result.exit_code == 0, result.output
    assert "4 -> 6" in result.stdout
    wider = keras.models.load_model(out)
    assert [wider.get_layer(name).filters for name in ("stem", "body")] == [6, 4]


@pytest.mark.parametrize("widths", [["head=3"], ["stem=2"], ["nothing=3"]])
def test_plan_alone_refuses_too(run, good, widths):
    assert run("plan", good / "net.keras", *widths, "--alone").exit_code == 2


@pytest.mark.parametrize("widths", [["inner=2"], ["head=9"], ["nowhere=9"]])
def test_plan_refuses_what_widen_refuses(run, good, widths):
    fails(run("plan", good / "net.keras", *widths), widths[0].partition("=")[0])


# --- diff ----------------------------------------------------------------------------------------


def test_diff_of_the_same_model(run, good):
    result = run("diff", good / "net.keras", good / "net.keras")
    assert result.exit_code == 0, result.stderr
    assert "the same model" in result.stdout


@pytest.mark.every_backend
def test_diff_after_widening(run, good, tmp_path):
    out = tmp_path / "wider.keras"
    assert run("widen", good / "net.keras", "inner=5", "-o", out).exit_code == 0
    result = run("diff", good / "net.keras", out, "--json")
    assert result.exit_code == 1, result.stderr
    found = json.loads(result.stdout)
    assert found["schema"] == "keras-grow/diff/1"
    assert not found["same"]
    assert found["added"] == found["removed"] == []
    changed = {one["layer"]: one for one in found["changed"]}
    assert set(changed) == {"inner", "body"}
    assert changed["inner"]["settings"] == {"filters": [3, 5]}
    assert changed["inner"]["weights"]["kernel"] == [[3, 3, 4, 3], [3, 3, 4, 5]]
    assert changed["body"]["weights"] == {"kernel": [[3, 3, 3, 4], [3, 3, 5, 4]]}
    models = [keras.saving.load_model(p) for p in (good / "net.keras", out)]
    assert found["parameters"] == [m.count_params() for m in models]
    assert found["flops"][0] < found["flops"][1]
    text = run("diff", good / "net.keras", out).stdout
    assert "filters 3 -> 5" in text
    assert "3x3x3x4 -> 3x3x5x4" in text


def test_diff_sees_a_changed_weight_and_a_new_layer(run, good, tmp_path):
    model = keras.saving.load_model(good / "dense.keras")
    bias = model.get_layer("first").bias
    bias.assign(keras.ops.add(bias, 0.25))
    model.save(tmp_path / "other.keras")
    result = run("diff", good / "dense.keras", tmp_path / "other.keras", "--json")
    assert result.exit_code == 1
    (change,) = json.loads(result.stdout)["changed"]
    assert change == {"layer": "first", "class": "Dense", "values": pytest.approx(0.25)}

    out = tmp_path / "deeper.keras"
    done = run("insert", good / "net.keras", "--layer", "Dense", "--after", "hidden",
               "--name", "extra", "-o", out)  # fmt: skip
    assert done.exit_code == 0, done.stderr
    found = json.loads(run("diff", good / "net.keras", out, "--json").stdout)
    assert found["added"] == [{"layer": "extra", "class": "Dense", "parameters": 30}]
    assert found["changed"] == [
        {"layer": "head", "class": "Dense", "inputs": [["hidden"], ["extra"]]}
    ]


# --- insert and bridge ---------------------------------------------------------------------------


def test_insert_a_convolution_on_one_edge(run, good, tmp_path):
    out = tmp_path / "deeper.keras"
    result = run("insert", good / "net.keras", "--layer", "Conv2D", "--kernel-size", 5,
                 "--activation", "relu", "--name", "new", "--after", "stem", "--before", "inner",
                 "-o", out)  # fmt: skip
    assert result.exit_code == 0, result.stderr
    new = keras.saving.load_model(out).get_layer("new")
    assert (new.filters, new.kernel_size, new.padding) == (4, (5, 5), "same")
    same_function(good / "net.keras", out)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["deeper.keras"]


@pytest.mark.every_backend
def test_insert_a_layer_in_json_and_batch_normalization_with_data(run, good, tmp_path, batch):
    layer = keras.layers.Dense(5, activation="linear", use_bias=False, name="json")
    text = json.dumps(keras.saving.serialize_keras_object(layer))
    out = tmp_path / "deeper.keras"
    result = run("insert", good / "net.keras", "--layer", text, "--after", "hidden", "-o", out)
    assert result.exit_code == 0, result.stderr
    assert not keras.saving.load_model(out).get_layer("json").use_bias
    same_function(good / "net.keras", out)
    result = run("insert", out, "--layer", "BatchNormalization", "--name", "bn", "--after", "inner",
                 "--data", batch, "-o", tmp_path / "bn.keras")  # fmt: skip
    assert result.exit_code == 0, result.stderr
    same_function(good / "net.keras", tmp_path / "bn.keras")
    bn = keras.saving.load_model(tmp_path / "bn.keras").get_layer("bn")
    assert np.abs(np.asarray(keras.ops.convert_to_numpy(bn.moving_mean))).max() > 0


@pytest.mark.parametrize(
    ("arguments", "pattern"),
    [
        (["--layer", "Dens", "--after", "hidden"], "no such layer"),
        (["--layer", "Dense", "--after", "hiden"], "'hidden'"),
        (["--layer", "Dense", "--after", "hidden", "--before", "stem"], "stem"),
        (["--layer", "Dense", "--after", "hidden", "--kernel-size", "3"], "takes no kernel_size"),
        (["--layer", "Dense", "--after", "hidden", "--activation", "tanh"], "tanh"),
        (["--layer", "Lambda", "--after", "hidden"], "Keras cannot make a Lambda"),
        (["--layer", "{nonsense", "--after", "hidden"], "no JSON"),
        (
            ["--layer", '{"module": "os", "class_name": "system", "config": {}}', "--after", "add"],
            "Python module 'os'",
        ),
    ],
)
def test_insert_refuses(run, good, tmp_path, arguments, pattern):
    fails(run("insert", good / "net.keras", *arguments, "-o", tmp_path / "o.keras"), pattern)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.every_backend
@pytest.mark.parametrize("method", ["random", "gradmax"])
def test_bridge(run, good, tmp_path, batch, method):
    out = tmp_path / "bridged.keras"
    data = ["--data", batch, "--loss", "mse"] if method == "gradmax" else []
    result = run("bridge", good / "net.keras", "--after", "stem", "--before", "hidden",
                 "--width", 3, *data, "-o", out)  # fmt: skip
    assert result.exit_code == 0, result.stderr
    assert "New" in result.stdout
    old, new = (keras.saving.load_model(p) for p in (good / "net.keras", out))
    assert new.count_params() > old.count_params()
    same_function(good / "net.keras", out)


def test_bridge_between_layers_that_are_not_there(run, good, tmp_path):
    result = run("bridge", good / "net.keras", "--after", "stm", "--before", "hidden",
                 "-o", tmp_path / "o.keras")  # fmt: skip
    fails(result, "stm", "'stem'")
    assert list(tmp_path.iterdir()) == []


# --- growth data ---------------------------------------------------------------------------------


@pytest.mark.every_backend
def test_widen_with_gradmax_and_data(run, good, tmp_path, batch):
    out = tmp_path / "wider.keras"
    result = run("widen", good / "net.keras", "hidden=8", "--method", "gradmax", "--data", batch,
                 "--loss", "mean_squared_error", "-o", out)  # fmt: skip
    assert result.exit_code == 0, result.stderr
    same_function(good / "net.keras", out)
    wider = keras.saving.load_model(out)
    assert wider.get_layer("hidden").units == 8
    assert wider.loss == "mean_squared_error"


def test_every_method_and_form_is_offered():
    """They are written down in the tools, which parse options before Keras is imported."""
    import keras_grow as kg

    assert sorted(growing.METHODS) == sorted(kg.methods.METHODS)
    keeping = {f for cls in kg.methods.METHODS.values() for f in cls().forms} - {"joint"}
    own = {cls().forms for cls in kg.methods.METHODS.values() if len(cls().forms) == 1}
    assert {"auto", *keeping} - {f for forms in own for f in forms} == set(growing.FORMS)


@pytest.mark.parametrize("method", growing.METHODS)
def test_widen_by_any_method(run, good, tmp_path, batch, method):
    out = tmp_path / "wider.keras"
    result = run("widen", good / "net.keras", "hidden=8", "--method", method.upper(), "--data",
                 batch, "--loss", "mse", "-o", out)  # fmt: skip
    assert result.exit_code == 0, result.stderr
    same_function(good / "net.keras", out)
    assert keras.saving.load_model(out).get_layer("hidden").units == 8


@pytest.mark.parametrize("form", ["outgoing", "inverse"])
@pytest.mark.parametrize("batches", ["2", "all"])
def test_form_and_batches_reach_the_library(run, good, tmp_path, form, batches):
    import keras_grow as kg

    random = np.random.default_rng(3)
    batch = tmp_path / "batch.npz"  # of more samples than two batches have
    np.savez(batch, x=random.normal(size=(1100, 6, 6, 1)), y=random.normal(size=(1100, 2)))
    outs = [tmp_path / "wider.keras", tmp_path / "bridged.keras"]
    how = ("--method", "gradmax", "--form", form, "--batches", batches, "--data", batch, "--loss",
           "mse")  # fmt: skip
    results = [
        run("widen", good / "net.keras", "hidden=8", *how, "-o", outs[0]),
        run("bridge", good / "net.keras", "--after", "stem", "--before", "hidden", *how, "-o",
            outs[1]),
    ]  # fmt: skip
    model = keras.saving.load_model(good / "net.keras")
    model.compile(loss="mse")
    with np.load(batch) as file:
        more = {
            "data": (file["x"], file["y"]), "seed": 0, "method": "gradmax", "form": form,
            "batches": None if batches == "all" else int(batches),
        }  # fmt: skip
    wanted = [
        kg.widen(model, {"hidden": 8}, **more),
        kg.bridge(model, after="stem", before="hidden", **more),
    ]
    for result, out, expected in zip(results, outs, wanted, strict=True):
        assert result.exit_code == 0, result.stderr
        found = keras.saving.load_model(out)
        for a, b in zip(found.weights, expected.weights, strict=True):
            a, b = (keras.ops.convert_to_numpy(v) for v in (a, b))
            # A bridge has the norms of initial kernels, which Keras draws.
            sizes = [np.linalg.norm(v) or 1.0 if "bridge" in out.name else 1.0 for v in (a, b)]
            np.testing.assert_allclose(a / sizes[0], b / sizes[1], rtol=1e-3, atol=1e-6)
    hidden = keras.ops.convert_to_numpy(wanted[0].get_layer("hidden").kernel)
    assert (np.abs(hidden[:, 5:]).max() > 1e-3) == (form == "inverse")


@pytest.mark.parametrize("text", ["0", "-1", "some", "1.5"])
def test_batches_that_are_no_number(run, good, tmp_path, text):
    result = run("widen", good / "net.keras", "hidden=8", f"--batches={text}", "-o",
                 tmp_path / "o.keras")  # fmt: skip
    fails(result, "--batches", "neither a number of batches nor 'all'")


def test_a_form_that_the_method_does_not_know(run, good, tmp_path):
    result = run("widen", good / "net.keras", "hidden=8", "--method", "zeros", "--form", "inverse",
                 "-o", tmp_path / "o.keras")  # fmt: skip
    fails(result, "zeros", "form")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arrays", "pattern"),
    [
        ({}, "nothing"),
        ({"y": np.ones(3)}, "should hold x"),
        ({"x": np.ones(3), "z": np.ones(3)}, "Received: x, z"),
        ({"x": np.array([object()])}, "cannot be read as growth data"),
    ],
)
def test_growth_data_that_cannot_be_used(run, good, tmp_path, arrays, pattern):
    np.savez(tmp_path / "d.npz", **arrays)
    result = run("widen", good / "net.keras", "hidden=8", "--data", tmp_path / "d.npz",
                 "-o", tmp_path / "o.keras")  # fmt: skip
    fails(result, pattern)
    assert not (tmp_path / "o.keras").exists()


def test_growth_data_that_is_missing_or_noise(run, good, tmp_path):
    (tmp_path / "noise.npz").write_bytes(b"PK\x03\x04nothing")
    for name, pattern in (("none.npz", "no file"), ("noise.npz", "cannot be read")):
        result = run("widen", good / "net.keras", "hidden=8", "--data", tmp_path / name,
                     "-o", tmp_path / "o.keras")  # fmt: skip
        fails(result, pattern)


def test_a_loss_for_a_model_that_has_one(run, good, tmp_path):
    result = run("widen", good / "trained.keras", "first=6", "--loss", "mae",
                 "-o", tmp_path / "o.keras")  # fmt: skip
    fails(result, "a loss of its own")
    fails(run("widen", good / "dense.keras", "first=6", "--loss", "nonsense",
              "-o", tmp_path / "o.keras"), "nonsense")  # fmt: skip


# --- --custom ------------------------------------------------------------------------------------


@pytest.fixture
def own_module(tmp_path, monkeypatch):
    """A module in the current folder, and models that use its layer."""
    (tmp_path / "own_layers.py").write_text(OWN_LAYER, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    import own_layers

    model = keras.Sequential(
        [
            keras.Input((3,)),
            keras.layers.Dense(4, name="first"),
            keras.layers.Dense(4, name="second"),
            own_layers.Twice(name="twice"),
            keras.layers.Dense(2),
        ]
    )
    model.compile("sgd", own_layers.gentle)
    model.save(tmp_path / "own.keras")
    model.save(tmp_path / "own.h5")
    yield tmp_path
    sys.modules.pop("own_layers", None)


@pytest.mark.parametrize("name", ["own.keras", "own.h5"])
def test_a_layer_of_ones_own(run, own_module, name):
    result = run("inspect", own_module / name, "--json", "--trust")
    fails(result, "'Twice'", "--custom")  # trusting the file names no module
    result = run("inspect", own_module / name, "--json", "--custom", "own_layers:Twice",
                 "--custom", "own_layers:gentle")  # fmt: skip
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert [site["name"] for site in found["sites"]] == ["first"]


def test_a_loss_of_ones_own_is_kept(run, own_module):
    out = own_module / "wider.keras"
    result = run("widen", own_module / "own.keras", "first=6", "-o", out,
                 "--custom", "own_layers:Twice", "--custom", "own_layers:gentle")  # fmt: skip
    assert result.exit_code == 0, result.stderr
    assert "Warning: " not in result.stderr


@pytest.mark.parametrize(
    ("custom", "pattern"),
    [
        ("own_layers:Thrice", "has no class or function 'Thrice'"),
        ("no_such_module:Twice", "cannot be imported"),
        ("own layers", "not of the form module:Class"),
        ("own_layers:", "not of the form module:Class"),
    ],
)
def test_custom_that_is_not_there(run, own_module, custom, pattern):
    fails(run("inspect", own_module / "own.h5", "--custom", custom), pattern)


# --- pictures ------------------------------------------------------------------------------------


def test_a_picture_as_text(run, good, tmp_path):
    out = tmp_path / "net.dot"
    result = run("inspect", good / "net.keras", "--image", out, "--json")
    assert result.exit_code == 0, result.stderr
    json.loads(result.stdout)  # and nothing else on stdout
    text = out.read_text(encoding="utf-8")
    assert '"inner" [label="inner\\nConv2D\\nwidth 3", fillcolor="#bfe3c4"' in text
    assert '"head" [label="head\\nDense\\ncannot be widened", fillcolor="#f6c6bd"' in text
    for arrow in ('"stem" -> "inner"', '"stem" -> "add"', '"body" -> "add"', '"hidden" -> "head"'):
        assert arrow in text
    assert "cluster_legend" in text
    again = run("inspect", good / "net.keras", "--image", out)
    fails(again, "exists already", "--force")
    assert run("inspect", good / "net.keras", "--image", out, "--force").exit_code == 0


def test_nested_models_are_boxes_and_odd_names_are_escaped():
    class Site:
        producers, width, granularity, name = ("in\\ner/a b",), 4, 2, "in\\ner/a b"

    inner = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4, name="a b")], name="in\\ner")
    inputs = keras.Input((3,), name="x")
    model = keras.Model(inputs, keras.layers.Dense(2, name='q"uote')(inner(inputs)))
    text = graph_text(model, [Site()], [])
    assert 'subgraph "cluster_in\\\\ner"' in text
    assert '"x" -> "in\\\\ner/a b";' in text
    assert '"in\\\\ner/a b" -> "q\\"uote";' in text
    assert "width 4, in steps of 2" in text


@pytest.mark.skipif(shutil.which("dot") is None, reason="Graphviz is not installed")
@pytest.mark.parametrize(
    ("ending", "magic"), [("svg", b"<?xml"), ("png", b"\x89PNG"), ("pdf", b"%PDF")]
)
def test_pictures_drawn_by_graphviz(run, good, tmp_path, ending, magic):
    out = tmp_path / f"net.{ending}"
    result = run("inspect", good / "net.keras", "--image", out)
    assert result.exit_code == 0, result.stderr
    assert out.read_bytes().startswith(magic)
    assert sorted(p.name for p in tmp_path.iterdir()) == [out.name]


def test_pictures_without_graphviz(run, good, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    fails(run("inspect", good / "net.keras", "--image", tmp_path / "a.svg"), "apt install graphviz")
    fails(run("inspect", good / "net.keras", "--image", tmp_path / "a.gif"), "must end in .svg")
    assert list(tmp_path.iterdir()) == []


# --- completion ----------------------------------------------------------------------------------


def complete(shell, *words):
    """What the shell is offered for the last of the words."""
    environment = {
        **os.environ,
        "_KERAS_GROW_COMPLETE": f"{shell}_complete",
        "COMP_WORDS": " ".join(["keras-grow", *map(str, words)]),
        "COMP_CWORD": str(words[-1]) if shell == "fish" else str(len(words)),
    }
    code = (
        "import sys\n"
        "from keras_grow.tools.cli.main import main\n"
        "try:\n    main()\n"
        "finally:\n    assert 'keras' not in sys.modules, 'slow'"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.stderr == "", done.stderr
    return done.stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(shell, good):
    assert "inspect" in complete(shell, "ins")
    for name in ("net.keras", "net.h5"):
        offered = complete(shell, "widen", good / name, "in")
        assert "inner=" in offered
        assert "stem" not in offered
    assert "flatten" in complete(shell, "insert", good / "net.keras", "--after", "fl")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(shell):
    environment = {**os.environ, "_KERAS_GROW_COMPLETE": f"{shell}_source"}
    code = "from keras_grow.tools.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60
    )
    assert f"_KERAS_GROW_COMPLETE={shell}_complete" in done.stdout


def test_completion_of_a_file_that_is_no_model(bad):
    assert complete("bash", "widen", bad / "text.keras", "in").strip() == ""


def test_widths_of_a_configuration():
    inner = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4, name="a")], name="inner")
    model = keras.Sequential([keras.Input((3,)), inner, keras.layers.ReLU(name="r")])
    found = widths_in(keras.saving.serialize_keras_object(model))
    assert found["inner/a"] == 4
    assert found["r"] is None
