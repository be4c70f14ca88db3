"""What ops do to new channels, to first order, held against the backend's own gradients."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from growth.methods.test_optimality import K, prepare, zero_new_fan_out
from helpers.autodiff import gradient_by, mixed_second_derivative
from keras import layers as L
from keras import ops

import keras_grow as kg
from keras_grow.growth.data import Batches
from keras_grow.growth.guarded import Clock, Guard, guarded
from keras_grow.growth.step import Initialization, Request, prepared
from keras_grow.planning import survey


def _weights(x: Any) -> Any:
    return L.Dense(6, activation="softmax", name="times")(x)


# h is (B, 6, 3 + 4 + 3), of which 4 channels are layer p's; x is the input (B, 6, 3).
CASES: dict[str, Callable[[Any, Any], Any]] = {
    "index": lambda h, x: h[:, ::2, 2:],
    "new axis": lambda h, x: h[:, None, 1, 3:],
    "split": lambda h, x: ops.split(h, [5], axis=-1)[1],
    "split of time": lambda h, x: ops.split(h, 2, axis=1)[1],
    "take": lambda h, x: ops.take(h, [6, 5, 2], axis=-1),
    "take of time": lambda h, x: ops.take(h, [3, 1], axis=1),
    "unstack": lambda h, x: ops.unstack(h, axis=1)[2],
    "flip": lambda h, x: ops.flip(h, axis=(1, 2)),
    "roll": lambda h, x: ops.roll(h, 2, axis=1),
    "repeat": lambda h, x: ops.repeat(h, 2, axis=-1),
    "tile": lambda h, x: ops.tile(h, (1, 1, 2)),
    "moveaxis": lambda h, x: ops.moveaxis(ops.tanh(ops.moveaxis(h, 2, 1)), 1, 2),
    "axes of size 1": lambda h, x: ops.squeeze(ops.expand_dims(h, (1, 3)), (1, 3)),
    "stack": lambda h, x: ops.stack([h, ops.sin(h)], axis=1),
    "append": lambda h, x: ops.append(h, ops.sin(h), axis=1),
    "matmul": lambda h, x: ops.matmul(_weights(x), h),
    "einsum": lambda h, x: ops.einsum("bts,bsc->bct", _weights(x), h)[:, 4:6],
    "Dot": lambda h, x: L.Dot(axes=(2, 1))([_weights(x), h]),
    "sum": lambda h, x: ops.sum(h, axis=1),
    "mean": lambda h, x: ops.mean(h, axis=1, keepdims=True),
    "cumsum": lambda h, x: ops.cumsum(h, axis=1),
    "diff": lambda h, x: ops.diff(h, axis=1),
    "constant by channel": lambda h, x: h * np.linspace(-1, 1, 10, dtype="float32"),
    "constant by time": lambda h, x: h * np.linspace(-1, 1, 6, dtype="float32")[:, None],
    "quotient": lambda h, x: h / (1.0 + ops.exp(h)),
    "quotient of the input": lambda h, x: h / (2.0 + ops.sum(ops.square(x), -1, keepdims=True)),
    "share beside": lambda h, x: h * (1.0 + ops.sum(h, axis=-1, keepdims=True)),
    "glu of time": lambda h, x: ops.glu(h, axis=1),
    "clip": lambda h, x: ops.clip(h, -0.3, 0.4),
    "einops": lambda h, x: L.RepeatVector(2)(h[:, 0]),
}


@pytest.mark.parametrize("name", CASES)
def test_slopes(name: str) -> None:
    def build() -> keras.Model:
        x = keras.Input((6, 3))
        h = L.Concatenate()([x, L.Dense(4, activation="tanh", name="p")(x), x])
        h = CASES[name](h, x)
        if h.shape[-1] in (2, 6):
            h = ops.swapaxes(h, 1, 2)
        return keras.Model(x, L.Dense(2)(L.Flatten()(L.Dense(3, name="c")(h))))

    model, x, y = prepare(build)
    atlas = survey(model)
    (target,) = [s for s in atlas.sites if s.producers == ("p",) and s.consumers == ("c",)]
    init = Initialization(
        kg.methods.GradMax(), np.random.default_rng(0), "outgoing", Batches((x, y, None)),
        kg.Slopes(),
    )  # fmt: skip
    ready = prepared(Request(atlas, {target: K}, init), Clock())
    done = guarded(ready.wider(), Guard(None))
    (site,) = done.plan.sites
    run = gradient_by(model, x, y, [w.edit.variable for w in site.writes])
    zero_new_fan_out(site)
    # What new channels do without their fan-out, through a sum, is no part of M.
    alone = [np.moveaxis(g, w.edit.axis, 0) for g, w in zip(run(), site.writes, strict=True)]
    alone = [g[w.columns[0]].ravel() for g, w in zip(alone, site.writes, strict=True)]
    true = mixed_second_derivative(run, done.plan) - np.concatenate(alone)[:, None]
    assert np.abs(true).max() > 1e-4
    ours = ready.data.sites[site].matrix
    np.testing.assert_allclose(ours, true, atol=2e-4 * np.abs(true).max())


def test_tied_channels_are_told_to_grow_at_random() -> None:
    x = keras.Input((5,))
    a, b = ops.split(L.Dense(6, name="p")(x), 2, axis=-1)
    model = keras.Model(x, L.Dense(2)(a * ops.sigmoid(b)))
    model.compile("sgd", "mse")
    data = np.ones((4, 5), "float32"), np.ones((4, 2), "float32")
    with pytest.raises(kg.GrowthError, match=r"2 channels of 'p' at a time.*method='random'"):
        kg.widen(model, {"p": 8}, method="gradmax", data=data)
