"""EinsumDense: letters of its equation decide what each axis of the kernel does."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import pytest
from helpers.growing import ALL, chain, dense, run_growth_test
from keras import layers

import keras_grow as kg


def einsum(equation: str, output: Any, name: str, bias: str | None = None, **options: Any) -> Any:
    return layers.EinsumDense(equation, output, bias_axes=bias, name=name, **options)


# model, new widths
CASES: dict[str, tuple[Callable[[], keras.Model], dict[str, int]]] = {
    "like dense": (
        lambda: chain((4, 3), einsum("abc,cd->abd", (None, 5), "a", "d"), dense(2, "b")),
        {"a": 7},
    ),
    "activation": (
        lambda: chain(
            (4, 3), einsum("abc,cd->abd", (4, 5), "a", "d", activation="relu"), dense(2, "b")
        ),
        {"a": 7},
    ),
    "ellipsis on the left": (
        lambda: chain(
            (4, 3), einsum("...x,xy->...y", 5, "a", "y"), einsum("...y,yz->...z", 2, "b")
        ),
        {"a": 8},
    ),
    "ellipsis on the right": (
        lambda: chain(
            (3, 4),
            einsum("ab...,bc->ac...", 5, "a", "c"),
            einsum("ab...,bc->ac...", 2, "b", "c"),
        ),
        {"a": 8},
    ),
    "two letters made, the last grows": (
        lambda: chain(
            (4, 3),
            einsum("abc,cde->abde", (None, 2, 5), "a", "de"),
            einsum("abde,def->abf", (None, 2), "b", "f"),
        ),
        {"a": 6},
    ),
    "two letters contracted": (
        lambda: chain(
            (4, 3),
            dense(6, "p"),
            layers.Reshape((4, 2, 3)),
            einsum("abde,def->abf", (None, 5), "a", "f"),
            dense(2, "b"),
        ),
        {"a": 6},
    ),
    "a letter that passes": (
        lambda: chain(
            (4, 3), dense(5, "p"), einsum("abc,bd->adc", (3, 5), "a", "c"), dense(2, "b")
        ),
        {"p": 7},
    ),
    "a letter in input, kernel and output": (
        lambda: chain(
            (4, 3), dense(5, "p"), einsum("abc,bcd->adc", (3, 5), "a", "dc"), dense(2, "b")
        ),
        {"p": 7},
    ),
    "a product with each channel's own weight": (
        lambda: chain((4, 3), dense(5, "p"), einsum("abc,c->abc", (4, 5), "a", "c"), dense(2, "b")),
        {"p": 7},
    ),
    "centred before a layer normalisation": (
        lambda: chain(
            (4, 3),
            einsum("abc,dc->abd", (4, 5), "a", "d"),
            layers.LayerNormalization(),
            dense(2, "b"),
        ),
        {"a": 7},
    ),
    "a shared bias before a layer normalisation": (
        lambda: chain(
            (4, 3),
            einsum("abc,cd->abd", (4, 5), "a", "b"),
            layers.LayerNormalization(),
            dense(2, "b"),
        ),
        {"a": 7},
    ),
    "a bias that new channels share": (
        lambda: chain((4, 3), einsum("abc,cd->abd", (4, 5), "a", "b"), dense(2, "b")),
        {"a": 7},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_growth(name: str, tmp_path: Path) -> None:
    build, widths = CASES[name]
    options: dict[str, Any] = {"trains": True} if name == "activation" else {}
    if "layer normalisation" in name:
        options["forms"] = ("outgoing",)
    run_growth_test(build(), widths, tmp_path, **options)


def test_shared(tmp_path: Path) -> None:
    first, second = keras.Input((4, 3)), keras.Input((4, 3))
    a = einsum("abc,cd->abd", (4, 5), "a", "d", activation="tanh")
    b = einsum("abd,de->abe", (4, 2), "b", "e")
    model = keras.Model([first, second], layers.Concatenate()([b(a(first)), b(a(second))]))
    run_growth_test(model, {"a": 6}, tmp_path)


def test_a_bias_that_new_channels_share_takes_the_inverse_form() -> None:
    build, widths = CASES["a bias that new channels share"]
    assert kg.plan(build(), widths, form="outgoing").sites[0].form == "inverse"


def refusals(model: keras.Model) -> dict[str, str]:
    return {r.producer: r.reason for r in kg.sites(model, refused=True)}


def test_the_other_letter_is_refused() -> None:
    build, _ = CASES["two letters made, the last grows"]
    assert "only the latter are followed" in refusals(build())["a.d"]


def test_two_axes_of_one_tensor_are_refused() -> None:
    build, _ = CASES["a letter that passes"]
    model = build()
    assert "only one axis can grow" in refusals(model)["a"]
    assert [s.name for s in kg.sites(model)] == ["p"]


def test_flops() -> None:
    model = chain((4, 3), einsum("abc,cd->abd", (4, 5), "a", "d"), dense(2, "b"))
    assert kg.flops(model) == 2 * 4 * (3 * 5 + 5 * 2)
    assert kg.plan(model, {"a": 6}).added_flops == 2 * 4 * (3 + 2)


@pytest.mark.skipif(not ALL, reason="compiles every shape")
def test_lora_is_refused() -> None:
    model = chain((4, 3), einsum("abc,cd->abd", (4, 5), "a", "d"), dense(2, "b"))
    model.get_layer("a").enable_lora(1)
    with pytest.raises(kg.GrowthError, match="LoRA"):
        kg.widen(model, {"a": 6})
