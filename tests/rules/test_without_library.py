"""A grown file needs only Keras: it loads where `import keras_grow` fails."""

import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from helpers.growing import (
    as_array,
    assert_close,
    conv,
    dense,
    image,
    inputs_of,
    predict,
    randomize,
)
from keras import layers

import keras_grow as kg

SCRIPT = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "keras_grow":
            raise ModuleNotFoundError(f"No module named '{name}'", name=name)

sys.meta_path.insert(0, Absent())
try:
    import keras_grow
except ModuleNotFoundError:
    pass
else:
    raise SystemExit("keras_grow can be imported")

import numpy as np

backend = sys.argv[2]
if backend != "tensorflow":
    sys.modules["tensorflow"] = None  # Keras would spend seconds on importing it, if it is there
import keras

folder = sys.argv[1]
x = np.load(folder + "/x.npy")
for kind in ("before", "during", "after"):
    model = keras.models.load_model(f"{folder}/{kind}.keras")
    np.save(f"{folder}/{kind}.npy", keras.ops.convert_to_numpy(model(x, training=False)))
assert not any(name.partition(".")[0] == "keras_grow" for name in sys.modules)
"""


@pytest.fixture
def model() -> keras.Model:
    x = keras.Input(image(2))
    h = conv(2, 4, "stem", activation="relu")(x)
    y = layers.PReLU(shared_axes=[1, 2])(layers.BatchNormalization()(conv(2, 4, "b")(h)))
    h = layers.Add()([h, conv(2, 4, "c")(y)])
    h = keras.ops.relu(keras.ops.reshape(h, (-1, 20, 4)))
    h = layers.LeakyReLU(0.1)(dense(5, "d")(layers.Reshape((-1,))(h)))
    model = keras.Model(x, dense(2, "out", activation="softmax")(h))
    model.compile(keras.optimizers.SGD(0.01), "mse")
    randomize(model)
    return model


def test_files_load_and_predict_the_same_without_keras_grow(
    model: keras.Model, tmp_path: Path
) -> None:
    """Widened before training; saved in the middle, with slopes in place; and after it."""
    x = inputs_of(model)
    slopes = kg.Slopes()
    kg.widen(model, {"stem": 6, "b": 5, "d": 7}, seed=0).save(tmp_path / "before.keras")
    kg.grow_(model, {"stem": 6, "b": 5, "d": 7}, seed=0, slopes=slopes, form="outgoing")
    assert len(slopes) == 4
    model.fit(x, np.zeros((4, 2)), verbose=0)
    model.save(tmp_path / "during.keras")
    during = predict(model, x)
    slopes.remove()
    model.save(tmp_path / "after.keras")
    before = predict(keras.models.load_model(tmp_path / "before.keras"), x)

    np.save(tmp_path / "x.npy", as_array(x))
    backend = keras.config.backend()
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path), backend],
        env={**os.environ, "KERAS_BACKEND": backend},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for kind, wanted in (("before", before), ("during", during), ("after", predict(model, x))):
        assert_close([np.load(tmp_path / f"{kind}.npy")], wanted, 1e-6, kind)
