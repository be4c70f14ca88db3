"""Saved models, good and bad, runs to report on, and two ways to run the command line on them."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest
from click.testing import CliRunner
from helpers.written import write_run

from keras_grow.tools.cli.main import cli


class _Outsider(keras.layers.Layer):
    """A layer which is not registered with Keras, as in most people's own code."""

    def call(self, inputs):
        return inputs * 2.0


def outsider_loss(y_true, y_pred):
    return keras.ops.mean(keras.ops.abs(y_true - y_pred))


def residual_net() -> keras.Model:
    """stem and body are tied by the Add; head is the output, which cannot be widened."""
    image = keras.Input((6, 6, 1), name="image")
    stem = keras.layers.Conv2D(4, 3, padding="same", activation="relu", name="stem")(image)
    inner = keras.layers.Conv2D(3, 3, padding="same", activation="relu", name="inner")(stem)
    body = keras.layers.Conv2D(4, 3, padding="same", name="body")(inner)
    x = keras.layers.Add(name="add")([stem, body])
    x = keras.layers.Flatten(name="flatten")(x)
    x = keras.layers.Dense(5, activation="relu", name="hidden")(x)
    return keras.Model(image, keras.layers.Dense(2, name="head")(x), name="residual_net")


def dense_net(*layers: keras.layers.Layer) -> keras.Model:
    return keras.Sequential(
        [keras.Input((3,)), keras.layers.Dense(4, name="first"), *layers, keras.layers.Dense(2)]
    )


@pytest.fixture(scope="session")
def good(tmp_path_factory) -> Path:
    """A folder with models that can be read."""
    folder = tmp_path_factory.mktemp("good")
    net = residual_net()
    net.save(folder / "net.keras")
    net.save(folder / "net.h5")
    dense = dense_net()
    dense.save(folder / "dense.keras")
    dense.compile(keras.optimizers.Adam(1e-3), "mse")
    dense.fit(np.ones((8, 3)), np.zeros((8, 2)), batch_size=4, verbose=0)
    dense.save(folder / "trained.keras")
    own_loss = dense_net()
    own_loss.compile("sgd", outsider_loss)
    own_loss.save(folder / "own_loss.keras")
    return folder


@pytest.fixture(scope="session")
def bad(tmp_path_factory, good) -> Path:
    """A folder with things that no command can read."""
    folder = tmp_path_factory.mktemp("bad")
    noise = np.random.default_rng(0).bytes(500)
    (folder / "noise.keras").write_bytes(noise)
    (folder / "noise.h5").write_bytes(noise)
    (folder / "empty.keras").write_bytes(b"")
    (folder / "text.keras").write_text("this is no model\n", encoding="utf-8")
    with zipfile.ZipFile(folder / "zip.keras", "w") as archive:
        archive.writestr("readme.txt", "nor is this")
    with zipfile.ZipFile(folder / "junk_config.keras", "w") as archive:
        archive.writestr("config.json", "{not json")
    (folder / "cut.keras").write_bytes((good / "net.keras").read_bytes()[:-200])
    (folder / "misnamed.bin").write_bytes((good / "net.keras").read_bytes())
    (folder / "directory.keras").mkdir()
    dense_net().save_weights(folder / "only.weights.h5")
    dense_net(keras.layers.Lambda(lambda x: x * 2, name="twice")).save(folder / "lambda.keras")
    dense_net(_Outsider()).save(folder / "custom.keras")
    return folder


@pytest.fixture(scope="session")
def logdir(tmp_path_factory):
    """Three runs: by two methods, and one in which things went wrong."""
    folder = tmp_path_factory.mktemp("logs")
    write_run(folder / "gradmax", events=4, sites=3, seed=1, every=60)
    write_run(folder / "random", events=3, sites=3, seed=2, every=60, method="random")
    write_run(
        folder / "wrn", events=5, sites=None, seed=3, every=60, network="wide_resnet",
        trouble=("error", "broken"),
    )  # fmt: skip
    return folder


@pytest.fixture
def run():
    """Run ``keras-grow`` in this process: ``run("inspect", path)`` -> click's Result."""

    def call(*arguments, **environment):
        return CliRunner().invoke(
            cli, [str(one) for one in arguments], prog_name="keras-grow", env=environment
        )

    return call


@pytest.fixture
def process(tmp_path):
    """Run Python in a new process, on this process's backend, in an empty folder."""

    def call(*arguments, **environment):
        return subprocess.run(
            [sys.executable, *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=300,
            cwd=tmp_path,
            env={**os.environ, "KERAS_BACKEND": keras.backend.backend(), **environment},
        )

    return call


@pytest.fixture
def snapshot():
    """Every file below a folder with its content, to prove that nothing changed."""

    def take(folder: Path) -> dict[str, bytes]:
        return {
            str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b"directory"
            for path in sorted(folder.rglob("*"))
        }

    return take
