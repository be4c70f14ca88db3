"""Every function of keras.activations, as `activation=`, as a layer and as an op."""

from pathlib import Path

import keras
import pytest
from helpers.growing import (
    assert_saves,
    chain,
    conv,
    dense,
    image,
    inputs_of,
    randomize,
    run_growth_test,
)
from keras import activations, layers, ops

import keras_grow as kg
from keras_grow.rules.activations import at_zero

KEEPS_ZERO = [
    "celu", "elu", "gelu", "hard_shrink", "hard_silu", "hard_tanh", "leaky_relu", "linear",
    "mish", "relu", "relu6", "selu", "silu", "soft_shrink", "softsign", "tanh", "tanh_shrink",
]  # fmt: skip
MOVES_ZERO = [
    "exponential", "hard_sigmoid", "log_sigmoid", "sigmoid", "softplus", "sparse_plus",
    "sparse_sigmoid", "squareplus",
]  # fmt: skip
# `threshold` needs arguments; the others mix channels.
REFUSED = ["glu", "log_softmax", "softmax", "sparsemax", "threshold"]
ALIASES = {"hard_swish": "hard_silu", "swish": "silu"}


def test_every_activation_of_keras_is_in_this_table() -> None:
    public = {
        name
        for name in dir(activations)
        if not name.startswith("_") and name not in ("get", "serialize", "deserialize")
    }
    assert public == {*KEEPS_ZERO, *MOVES_ZERO, *REFUSED, *ALIASES}


@pytest.mark.parametrize("name", KEEPS_ZERO + MOVES_ZERO)
def test_values_and_slopes_at_zero_are_right(name: str) -> None:
    """By differences; at a kink the slope is the one on the right."""
    function = getattr(activations, name)
    facts = at_zero(function)
    x = ops.convert_to_tensor([-1e-3, 0.0, 1e-3])
    low, here, high = (float(v) for v in keras.ops.convert_to_numpy(function(x)))
    assert here == pytest.approx(facts.value, abs=1e-6)
    assert (high - here) / 1e-3 == pytest.approx(facts.slope, abs=2e-3)
    left = facts.slope if facts.left is None else facts.left
    assert (here - low) / 1e-3 == pytest.approx(left, abs=2e-3)


@pytest.mark.parametrize("name", KEEPS_ZERO + MOVES_ZERO)
def test_as_argument(name: str, tmp_path: Path) -> None:
    model = chain((5,), dense(4, "a", activation=name), dense(3, "b"))
    moves = name in MOVES_ZERO
    assert kg.plan(model, {"a": 6}).sites[0].form == ("inverse" if moves else "outgoing")
    run_growth_test(
        model, {"a": 6}, tmp_path, forms=("inverse",) if moves else ("outgoing", "inverse")
    )


def test_all_as_layers_and_their_new_neurons_learn(tmp_path: Path) -> None:
    """One model with a branch for each, so that one training step shows all of them."""
    inputs = keras.Input((5,))
    outputs, widths = [], {}
    for name in KEEPS_ZERO + MOVES_ZERO:
        tensor = dense(4, f"a_{name}")(inputs)
        tensor = layers.Activation(name, name=f"act_{name}")(tensor)
        outputs.append(dense(2, f"b_{name}")(tensor))
        widths[f"a_{name}"] = 6
    model = keras.Model(inputs, layers.Concatenate()(outputs))
    run_growth_test(model, widths, tmp_path, trains=True)


LAYERS = {
    "ReLU": lambda: layers.ReLU(),
    "ReLU with a maximum": lambda: layers.ReLU(max_value=1.0),
    "ReLU with a slope": lambda: layers.ReLU(negative_slope=0.3),
    "ReLU with a threshold": lambda: layers.ReLU(threshold=0.5),
    "ReLU with a threshold and a slope": lambda: layers.ReLU(negative_slope=0.3, threshold=0.5),
    "LeakyReLU": lambda: layers.LeakyReLU(0.1),
    "ELU": lambda: layers.ELU(0.7),
    "PReLU": lambda: layers.PReLU(),
}


@pytest.mark.parametrize("name", LAYERS)
def test_activation_layers(name: str, tmp_path: Path) -> None:
    model = chain((5,), dense(4, "a"), LAYERS[name](), dense(3, "b"))
    if name == "ReLU with a threshold and a slope":  # -0.3 * 0.5 at zero
        assert kg.plan(model, {"a": 6}).sites[0].form == "inverse"
    run_growth_test(model, {"a": 6}, tmp_path)


@pytest.mark.parametrize("shared_axes", [None, [1, 2], [1], [1, 2, 3]])
def test_prelu_on_images(shared_axes: list | None, tmp_path: Path) -> None:
    model = chain(
        image(2), conv(2, 4, "a"), layers.PReLU(shared_axes=shared_axes), conv(2, 2, "b")
    )  # fmt: skip
    run_growth_test(model, {"a": 6}, tmp_path, trains=shared_axes == [1, 2] or None)


@pytest.mark.parametrize("name", [n for n in REFUSED if n != "threshold"])
@pytest.mark.parametrize("as_layer", [False, True])
def test_mixing_activations_are_refused_by_name(name: str, as_layer: bool) -> None:
    if as_layer:
        model = chain((5,), dense(4, "a"), layers.Activation(name, name="act"), dense(3, "b"))
    else:
        model = chain((5,), dense(4, "a", activation=name), dense(3, "b"))
    (refusal,) = [r for r in kg.sites(model, refused=True) if r.producer == "a"]
    what = "halves the channels" if name == "glu" else "mixes all channels"
    assert f"'{name}', which {what}" in refusal.reason
    with pytest.raises(kg.GrowthError, match=f"'{name}'"):
        kg.widen(model, {"a": 6})


def test_functions_of_the_users_own_are_refused_by_name() -> None:
    def wiggle(x):
        return ops.sin(x) + x

    for activation, name in ((wiggle, "wiggle"), (layers.LeakyReLU(0.1), "LeakyReLU")):
        model = chain((5,), dense(4, "a", activation=activation), dense(3, "b"))
        with pytest.raises(kg.GrowthError, match=f"'{name}', which has no rule"):
            kg.widen(model, {"a": 6})


def test_an_explicit_slope_is_saved_as_the_plain_activation(tmp_path: Path) -> None:
    """While slopes are in place the saved file names only what Keras knows."""
    model = chain(
        (5,), dense(4, "a", activation="relu"), dense(4, "b"), layers.ReLU(), dense(2, "c")
    )
    randomize(model)
    slopes = kg.Slopes()
    kg.grow_(model, {"a": 6, "b": 6}, seed=0, slopes=slopes, form="outgoing")
    assert len(slopes) == 2
    assert_saves(model, inputs_of(model), tmp_path / "grown.keras")
    slopes.remove()
    assert model.get_layer("a").activation is activations.relu
