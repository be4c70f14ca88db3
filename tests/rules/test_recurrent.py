"""Recurrent layers: gates, states, both directions, and layers applied to every step."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from helpers.growing import (
    ALL,
    BACKEND,
    FORMATS,
    as_array,
    chain,
    dense,
    randomize,
    run_growth_test,
)
from keras import layers

import keras_grow as kg

KINDS = {"SimpleRNN": layers.SimpleRNN, "GRU": layers.GRU, "LSTM": layers.LSTM}
STEPS = (4, 3)
slow = pytest.mark.skipif(not ALL, reason="compiles every shape")


def between(layer: Any, *after: Any) -> keras.Model:
    """A recurrent layer that reads a dense one and is read by another."""
    return chain(STEPS, dense(4, "p"), layer, *after, dense(2, "o"))


def refusals(model: keras.Model) -> dict[str, str]:
    return {r.producer: r.reason for r in kg.sites(model, refused=True)}


@pytest.mark.parametrize("kind", KINDS)
def test_units_and_inputs(kind: str, tmp_path: Path) -> None:
    model = between(KINDS[kind](3, name="a"))
    run_growth_test(model, {"a": 5, "p": 6}, tmp_path, trains=True)


OPTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "sequences": ("LSTM", {"return_sequences": True}),
    "no bias": ("LSTM", {"use_bias": False}),
    "no forget bias": ("LSTM", {"unit_forget_bias": False}),
    "split kernels": ("LSTM", {"implementation": 1}),
    "GRU, split kernels": ("GRU", {"implementation": 1}),
    "reset before": ("GRU", {"reset_after": False}),
    "reset before, split": ("GRU", {"reset_after": False, "implementation": 1}),
    "no bias, reset after": ("GRU", {"use_bias": False}),
    "backwards": ("SimpleRNN", {"go_backwards": True, "return_sequences": True}),
    "unrolled": ("LSTM", {"unroll": True}),
    "kink": ("SimpleRNN", {"activation": "leaky_relu"}),
    "relu": ("SimpleRNN", {"activation": "relu", "return_sequences": True}),
    "hard gates": (
        "LSTM",
        {"activation": "relu", "recurrent_activation": "hard_sigmoid", "return_sequences": True},
    ),
    "sigmoid": ("SimpleRNN", {"activation": "sigmoid"}),
    "softplus": ("LSTM", {"activation": "softplus"}),
}


@pytest.mark.parametrize("name", OPTIONS if ALL else ["sequences", "reset before", "softplus"])
def test_options(name: str, tmp_path: Path) -> None:
    kind, options = OPTIONS[name]
    # A random relu unit may see nothing above zero, as in any network.
    trains = {"trains": False} if options.get("activation") == "relu" else {}
    model = between(KINDS[kind](3, name="a", **options))
    run_growth_test(model, {"a": 5, "p": 5}, tmp_path, **trains)


def test_new_units_remember() -> None:
    """Forget gates of new units start with bias 1, as those of a fresh layer do."""
    model = between(layers.LSTM(3, name="a"))
    grown = kg.widen(model, {"a": 5}, seed=0)
    bias = as_array(grown.get_layer("a").cell.bias).reshape(4, 5)
    np.testing.assert_array_equal(bias[:, 3:], [[0, 0], [1, 1], [0, 0], [0, 0]])


def test_dropout(tmp_path: Path) -> None:
    model = between(layers.LSTM(3, dropout=0.3, recurrent_dropout=0.3, name="a"))
    run_growth_test(model, {"a": 5, "p": 5}, tmp_path, same_in_training=False)


@pytest.mark.parametrize("kind", KINDS if ALL else ["GRU"])
def test_masked_steps(kind: str, tmp_path: Path) -> None:
    inputs = keras.Input((6,), dtype="int32")
    x = layers.Embedding(5, 4, mask_zero=True, name="e")(inputs)
    x = KINDS[kind](3, return_sequences=True, zero_output_for_mask=True, name="a")(x)
    x = KINDS[kind](3, name="b")(x)
    model = keras.Model(inputs, dense(2, "o")(x))
    run_growth_test(model, {"e": 5, "a": 5, "b": 4}, tmp_path)


@pytest.mark.parametrize("kind", ["GRU", "LSTM"] if ALL else ["LSTM"])
def test_encoder_and_decoder_grow_together(kind: str, tmp_path: Path) -> None:
    """The decoder starts from the encoder's state, so their units are tied."""
    inputs = [keras.Input(STEPS), keras.Input((5, 2))]
    _, *states = KINDS[kind](3, return_state=True, name="a")(inputs[0])
    x = KINDS[kind](3, return_sequences=True, name="b")(inputs[1], initial_state=states)
    model = keras.Model(inputs, dense(2, "o")(x))
    assert kg.sites(model)[0].producers == ("a", "b")
    run_growth_test(model, {"b": 5}, tmp_path)


def test_states_from_dense_layers(tmp_path: Path) -> None:
    inputs = [keras.Input(STEPS), keras.Input((5,))]
    states = [dense(3, "h", activation="sigmoid")(inputs[1]), dense(3, "c")(inputs[1])]
    x, h, c = layers.LSTM(3, return_state=True, name="a")(inputs[0], initial_state=states)
    model = keras.Model(inputs, dense(2, "o")(layers.Concatenate()([x, h, c])))
    # A state that starts at sigmoid(0) is not zero: only the inverse form keeps the function.
    assert kg.plan(model, {"a": 5}).sites[0].form == "inverse"
    run_growth_test(model, {"a": 5}, tmp_path)


def test_a_state_from_an_input_is_refused() -> None:
    inputs = [keras.Input(STEPS), keras.Input((3,))]
    x = layers.GRU(3, name="a")(inputs[0], initial_state=inputs[1])
    model = keras.Model(inputs, dense(2, "o")(x))
    assert "starts from a state whose channels cannot grow" in refusals(model)["a"]


def test_shared(tmp_path: Path) -> None:
    inputs = [keras.Input(STEPS), keras.Input((5, 3))]
    p, a, o = dense(4, "p"), layers.LSTM(3, name="a"), dense(2, "o")
    model = keras.Model(inputs, layers.Concatenate()([o(a(p(x))) for x in inputs]))
    run_growth_test(model, {"a": 5, "p": 5}, tmp_path)


def test_stateful(tmp_path: Path) -> None:
    def build() -> keras.Model:
        return chain(STEPS, layers.LSTM(3, stateful=True, name="a"), dense(2, "o"), batch_size=2)

    model = build()
    randomize(model)
    model.get_layer("a").reset_state()
    x = np.random.default_rng(0).standard_normal((2, 2, *STEPS)).astype("float32")
    grown = kg.widen(model, {"a": 5}, seed=1)
    for batch in x:
        np.testing.assert_allclose(as_array(grown(batch)), as_array(model(batch)), atol=1e-5)
    # In the middle of a sequence the state is kept as well.
    later = kg.widen(model, {"a": 5}, seed=1)
    np.testing.assert_allclose(as_array(later(x[0])), as_array(model(x[0])), atol=1e-5)
    later.save(tmp_path / "grown.keras")
    loaded = keras.models.load_model(tmp_path / "grown.keras")
    later.get_layer("a").reset_state()  # Keras saves no state
    np.testing.assert_allclose(as_array(loaded(x[1])), as_array(later(x[1])), atol=1e-5)


# --- cells -------------------------------------------------------------------------------------


CELLS = [layers.SimpleRNNCell, layers.GRUCell, layers.LSTMCell]


@pytest.mark.parametrize("cell", CELLS if ALL else CELLS[1:2])
def test_rnn_of_a_cell(cell: Any, tmp_path: Path) -> None:
    model = between(layers.RNN(cell(3), return_sequences=True, name="a"))
    run_growth_test(model, {"a": 5, "p": 5}, tmp_path)


def stacked(**options: Any) -> Any:
    cells = [layers.LSTMCell(3), layers.GRUCell(4), layers.SimpleRNNCell(3)]
    return layers.RNN(layers.StackedRNNCells(cells), name="a", **options)


def test_stacked_cells(tmp_path: Path) -> None:
    widths = {"a": 5, "a.cell_0": 4, "a.cell_1": 6, "p": 5}
    run_growth_test(between(stacked()), widths, tmp_path)


@slow
def test_stacked_states(tmp_path: Path) -> None:
    inputs = keras.Input(STEPS)
    outputs = keras.tree.flatten(stacked(return_state=True)(inputs))
    outputs = layers.Concatenate()(outputs)
    model = keras.Model(inputs, dense(2, "o")(outputs))
    run_growth_test(model, {"a": 5, "a.cell_0": 4, "a.cell_1": 6}, tmp_path)


class Counting(layers.SimpleRNNCell):
    """A cell of the user's own: anything may happen in it."""


def test_an_unknown_cell_is_refused() -> None:
    reasons = refusals(between(layers.RNN(Counting(3), name="a")))
    assert "runs a cell of class Counting, for which there is no rule" in reasons["p"]


# --- convolutional -----------------------------------------------------------------------------


@pytest.mark.parametrize("data_format", FORMATS)
@pytest.mark.parametrize("rank", [1, 2, 3] if ALL else [1])
def test_conv_lstm(rank: int, data_format: str, tmp_path: Path) -> None:
    first = data_format == "channels_first"
    space = (4, 3, 2)[:rank]
    kind = getattr(layers, f"ConvLSTM{rank}D")
    options = {"data_format": data_format, "padding": "same"}
    model = chain(
        (3, 2, *space) if first else (3, *space, 2),
        kind(3, 2, return_sequences=True, name="a", **options),
        kind(2, 2, return_state=False, name="b", **options),
        layers.Flatten(),
        dense(2, "o"),
    )
    run_growth_test(model, {"a": 5, "b": 3}, tmp_path)


# --- both directions ---------------------------------------------------------------------------


@pytest.mark.parametrize("sequences", [False, True] if ALL else [True])
@pytest.mark.parametrize("mode", ["concat", "sum", "ave", "mul"] if ALL else ["concat", "mul"])
def test_bidirectional(mode: str, sequences: bool, tmp_path: Path) -> None:
    inner = layers.GRU(3, return_sequences=sequences)
    model = between(layers.Bidirectional(inner, merge_mode=mode, name="a"))
    assert [s.name for s in kg.sites(model)] == ["p", "a"]
    run_growth_test(model, {"a": 5, "p": 5}, tmp_path)


def test_bidirectional_states(tmp_path: Path) -> None:
    inputs = [keras.Input(STEPS), keras.Input((5, 2))]
    _, *states = layers.Bidirectional(layers.LSTM(3, return_state=True), name="a")(inputs[0])
    decoder = layers.Bidirectional(layers.LSTM(3), merge_mode=None, name="b")
    outputs = decoder(inputs[1], initial_state=states)
    model = keras.Model(inputs, dense(2, "o")(layers.Concatenate()(outputs)))
    run_growth_test(model, {"b": 5}, tmp_path)


@slow
def test_bidirectional_of_a_backward_layer_of_its_own(tmp_path: Path) -> None:
    """Any two kinds go together if they are as wide."""
    back = layers.SimpleRNN(3, go_backwards=True)
    layer = layers.Bidirectional(layers.LSTM(3), backward_layer=back, name="a")
    run_growth_test(between(layer), {"a": 5, "p": 5}, tmp_path)


def test_bidirectional_of_two_widths_is_refused() -> None:
    back = layers.SimpleRNN(2, go_backwards=True)
    model = between(layers.Bidirectional(layers.LSTM(3), backward_layer=back, name="a"))
    reasons = refusals(model)
    assert "two directions of different widths" in reasons["a"]
    assert [s.name for s in kg.sites(model)] == ["p"]


@slow
def test_bidirectional_convolutions(tmp_path: Path) -> None:
    inner = layers.ConvLSTM1D(3, 2, padding="same", return_sequences=True)
    model = chain((3, 4, 2), dense(3, "p"), layers.Bidirectional(inner, name="a"), dense(2, "o"))
    run_growth_test(model, {"a": 4, "p": 5}, tmp_path)


# --- cost --------------------------------------------------------------------------------------

FLOPS: dict[str, tuple[Callable[[], Any], Callable[[int], int]]] = {
    "LSTM": (lambda: layers.LSTM(3, name="a"), lambda u: 4 * 4 * u * (4 + u)),
    "GRU": (lambda: layers.GRU(3, name="a"), lambda u: 4 * 3 * u * (4 + u)),
    "SimpleRNN": (lambda: layers.SimpleRNN(3, name="a"), lambda u: 4 * u * (4 + u)),
}  # fmt: skip


@pytest.mark.parametrize("kind", FLOPS)
def test_flops(kind: str) -> None:
    build, macs = FLOPS[kind]
    model = between(build())

    def expected(units: int) -> int:
        return 2 * (4 * 3 * 4 + macs(units) + units * 2)

    assert kg.flops(model) == expected(3)
    assert kg.plan(model, {"a": 5}).added_flops == expected(5) - expected(3)


def test_flops_of_both_directions() -> None:
    model = between(layers.Bidirectional(layers.SimpleRNN(3), name="a"))
    assert kg.flops(model) == 2 * (4 * 3 * 4 + 2 * 4 * 3 * (4 + 3) + 6 * 2)
    assert kg.plan(model, {"a": 4}).added_flops == 2 * (2 * 4 * (4 * 8 - 3 * 7) + 2 * 2)


def test_flops_of_convolutions() -> None:
    model = chain((3, 5, 2), layers.ConvLSTM1D(4, 2, padding="same", name="a"), dense(2, "o"))
    assert kg.flops(model) == 2 * (3 * 5 * 2 * 4 * 4 * (2 + 4) + 5 * 4 * 2)


@pytest.mark.skipif(BACKEND != "torch", reason="the same on all backends")
def test_gradmax_says_that_it_does_not_know() -> None:
    model = between(layers.LSTM(3, name="a"))
    model.compile("sgd", "mse")
    data = np.ones((4, *STEPS), "float32"), np.ones((4, 2), "float32")
    for site in ("p", "a"):
        with pytest.raises(kg.GrowthError, match="Use method='random'"):
            kg.widen(model, {site: 7}, method="gradmax", data=data)
