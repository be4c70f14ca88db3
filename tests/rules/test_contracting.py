"""Products that sum over an axis: einsum, matmul, dot, attention."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from helpers.growing import dense, run_growth_test
from keras import layers, ops
from keras.src.ops.numpy import Einsum

import keras_grow as kg
from keras_grow.graph import graph_of
from keras_grow.rules.contracting import EinsumOpRule, Equation

LENGTH = 6


def _wide(x: Any, name: str, units: int = 4) -> Any:
    """Channels in the middle of others which are made of a layer of their own."""
    return layers.Concatenate()([dense(2, f"{name}_0")(x), dense(units, name)(x), x])


def _times(x: Any) -> tuple[Any, Any]:
    """Weights between the positions, (B, T, T), that have nothing to do with channels."""
    weights = dense(LENGTH, "times", activation="softmax")(x)
    return weights, _wide(x, "a")


def _pass(function: Callable[[Any, Any], Any]) -> Callable[[Any], Any]:
    return lambda x: function(*_times(x))


# Channels of layer `a` pass.
PASSING: dict[str, Callable[[Any], Any]] = {
    "matmul from the left": _pass(lambda w, h: ops.matmul(w, h)),
    "matmul from the right": _pass(
        lambda w, h: ops.transpose(ops.matmul(ops.transpose(h, (0, 2, 1)), w), (0, 2, 1))
    ),
    "matmul of other rank": _pass(
        lambda w, h: ops.matmul(ops.transpose(h, (0, 2, 1))[..., None, :], w[:, None])[..., 0, :]
        + 0 * h[:, 0, :, None]
    ),
    "einsum": _pass(lambda w, h: ops.einsum("bts,bsc->btc", w, h)),
    "einsum of one": lambda x: ops.einsum("btc->bct", _wide(x, "a")),
    "einsum with a constant": lambda x: ops.einsum(
        "btc,ts->bsc", _wide(x, "a"), np.sin(np.arange(36.0, dtype="float32").reshape(6, 6))
    ),
    "einsum of equal channels": lambda x: ops.einsum(
        "btc,btc->btc", _wide(x, "a"), 1 + ops.square(_wide(x, "c"))
    ),
    "einsum with one over all times": lambda x: ops.einsum(
        "btc,bc->btc", _wide(x, "a"), ops.mean(_wide(x, "c"), axis=1)
    ),
    "tensordot": lambda x: ops.tensordot(
        _wide(x, "a"), np.linspace(-1, 1, 12, dtype="float32").reshape(LENGTH, 2), [[1], [0]]
    ),
    "Dot layer over time": _pass(lambda w, h: layers.Dot(axes=(2, 1))([w, h])),
    "attention of values": lambda x: layers.Attention()(
        [dense(3, "q")(x), _wide(x, "a"), dense(3, "k")(x)]
    ),
    "additive attention of values": lambda x: layers.AdditiveAttention()(
        [dense(3, "q")(x), _wide(x, "a"), dense(3, "k")(x)]
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PASSING)
def test_channels_pass(name: str, tmp_path: Path) -> None:
    x = keras.Input((LENGTH, 5))
    y = PASSING[name](x)
    if y.shape[-1] == LENGTH or y.shape[-1] == 2:
        y = ops.swapaxes(y, 1, 2)
    model = keras.Model(x, dense(2, "out")(y))
    run_growth_test(model, {"a": 6}, tmp_path)


@pytest.mark.parametrize(
    ("given", "operands"),
    [
        ("...ts,...sc->...tc", 2),
        ("...tc", 1),
        ("c...a", 1),
    ],
)
def test_an_ellipsis_stands_for_letters(given: str, operands: int) -> None:
    """Asked of the rule alone: Keras gets the shapes of most such results wrong."""
    x = keras.Input((LENGTH, LENGTH), batch_size=2)
    y = Einsum(given).symbolic_call(*[x] * operands)
    (call,) = graph_of(keras.Model(x, y)).calls
    equation = EinsumOpRule().equation(call)
    assert isinstance(equation, Equation)
    array = np.arange(2.0 * LENGTH**2).reshape(2, LENGTH, LENGTH)
    mine = np.einsum(",".join(equation.operands) + "->" + equation.output, *[array] * operands)
    np.testing.assert_array_equal(mine, np.einsum(given, *[array] * operands))


def _scores(q: Any, k: Any) -> Any:
    return ops.matmul(q, ops.swapaxes(k, 1, 2)) / 3.0


def _both(function: Callable[[Any, Any], Any]) -> Callable[[Any], Any]:
    return lambda x: function(_wide(x, "a"), _wide(x, "b"))


# Channels of the layers `a` and `b` end in a sum over them; `a` is also read by a layer.
ENDING: dict[str, Callable[[Any], Any]] = {
    "matmul": _both(_scores),
    "einsum": _both(lambda q, k: ops.einsum("btc,bsc->bts", q, k)),
    "Dot layer": _both(lambda q, k: layers.Dot(axes=-1)([q, k])),
    "Dot layer of unit vectors": _both(
        lambda q, k: layers.Dot(axes=(2, 2), normalize=True)([q, k])
    ),
    "attention": lambda x: layers.Attention(use_scale=True)(
        [_wide(x, "a"), dense(4, "v")(x), _wide(x, "b")]
    ),
    "attention by sums": lambda x: layers.Attention(score_mode="concat")(
        [_wide(x, "a"), dense(4, "v")(x), _wide(x, "b")]
    ),
    "additive attention": lambda x: layers.AdditiveAttention()(
        [_wide(x, "a"), dense(4, "v")(x), _wide(x, "b")]
    ),
}


@pytest.mark.parametrize("name", ENDING)
def test_channels_end(name: str, tmp_path: Path) -> None:
    """Growth must leave the new channels at zero, whatever form is asked for."""
    x = keras.Input((LENGTH, 5))
    y = ENDING[name](x)
    a, b = (next(t for t in _layers_outputs(y, n)) for n in "ab")
    outs = [dense(2, "out")(y), dense(2, "read_a")(a), dense(2, "read_b")(b)]
    model = keras.Model(x, outs)
    (site,) = [s for s in kg.sites(model) if "a" in s.producers]
    assert set(site.producers) == {"a", "b"}
    assert kg.plan(model, {"a": 6}, form="inverse").sites[0].form == (
        "inverse" if name == "additive attention" else "outgoing"
    )
    run_growth_test(model, {"a": 6}, tmp_path)


def _layers_outputs(tensor: Any, name: str) -> list:
    """The output of a layer somewhere before `tensor`."""
    found = keras.Model(_root(tensor), tensor)
    return [found.get_layer(name).output]


def _root(tensor: Any) -> Any:
    operation = tensor._keras_history.operation
    while not isinstance(operation, layers.InputLayer):
        operation = operation.input[0] if isinstance(operation.input, list) else operation.input
        operation = operation._keras_history.operation
    return operation.output


def test_scores_alone_teach_new_channels_nothing() -> None:
    """Query and key both start at zero, where neither gets a gradient."""
    x = keras.Input((LENGTH, 5))
    model = keras.Model(x, dense(2, "out")(_scores(dense(4, "a")(x), dense(4, "b")(x))))
    with pytest.raises(kg.GrowthError, match="no kernel reads its channels"):
        kg.widen(model, {"a": 6})


@pytest.mark.parametrize("scale", [None, 0.7])
def test_dot_product_attention(scale: float | None, tmp_path: Path) -> None:
    """The scale of the old head size is kept when queries and keys get wider."""
    x = keras.Input((LENGTH, 5))
    q, k, v = (layers.Reshape((LENGTH, 2, 3))(dense(6, n)(x)) for n in "qkv")
    y = ops.dot_product_attention(q, k, v, scale=scale, flash_attention=False)
    outs = [dense(2, "out")(layers.Reshape((LENGTH, 6))(y))]
    outs += [dense(2, f"read_{n}")(layers.Reshape((LENGTH, 6))(t)) for n, t in (("q", q), ("k", k))]
    model = keras.Model(x, outs)
    run_growth_test(model, {"q": 10}, tmp_path)


def test_dot_product_attention_with_more_heads(tmp_path: Path) -> None:
    """Heads are channels where a layer makes one number for each of them at every size."""
    x = keras.Input((LENGTH, 3, 5))
    q, k, v = (layers.Permute((1, 3, 2))(dense(2, n)(x)) for n in "qkv")
    y = layers.Permute((1, 3, 2))(ops.dot_product_attention(q, k, v, flash_attention=False))
    model = keras.Model(x, dense(2, "out")(y))
    run_growth_test(model, {"q": 4}, tmp_path)


REFUSED: dict[str, tuple[Callable[[Any], Any], str]] = {
    "a constant for every channel": (
        lambda x: ops.matmul(dense(4, "a")(x), np.ones((4, 3), "float32")),
        "multiplies the channels with a constant",
    ),
    "two kinds of channels": (
        lambda x: ops.einsum("btc,btd->bcd", dense(4, "a")(x), dense(3, "b")(x)),
        "whose channels differ",
    ),
    "a tensor that cannot grow": (
        lambda x: ops.einsum("btc,bsc->bts", dense(5, "a")(x), x),
        "the model input",
    ),
    "a diagonal": (
        lambda x: ops.einsum("bcc->bc", dense(LENGTH, "a")(x))[:, None],
        "a diagonal",
    ),
    "the batch": (
        lambda x: ops.transpose(ops.einsum("btc->ctb", dense(4, "a")(x)), (2, 1, 0)),
        "the place of the batch",
    ),
    "unit vectors of single channels": (
        lambda x: layers.Dot(axes=1, normalize=True)([dense(4, "a")(x), dense(3, "b")(x)]),
        "has no direction",
    ),
    "attention with a query that cannot grow": (
        lambda x: layers.Attention()([x, dense(3, "v")(x), dense(5, "a")(x)]),
        "cannot grow with them",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    function, message = REFUSED[name]
    x = keras.Input((LENGTH, 5))
    model = keras.Model(x, dense(2, "out")(function(x)))
    (refusal,) = [r for r in kg.sites(model, refused=True) if r.producer == "a"]
    assert message in refusal.reason
