"""Convolutions: geometry, data formats, groups."""

from collections.abc import Callable
from pathlib import Path

import keras
import pytest
from helpers.growing import FORMATS, chain, conv, dense, image, run_growth_test
from keras import layers

import keras_grow as kg

CASES: dict[str, Callable[[], keras.Model]] = {
    "1d": lambda: chain(image(1), conv(1, 4, "a"), conv(1, 2, "b")),
    "2d": lambda: chain(image(2), conv(2, 4, "a", activation="relu"), conv(2, 2, "b")),
    "3d": lambda: chain(image(3), conv(3, 4, "a"), conv(3, 2, "b")),
    "causal and dilation": lambda: chain(
        image(1),
        conv(1, 4, "a", padding="causal", dilation_rate=2),
        conv(1, 2, "b", padding="causal", dilation_rate=2),
    ),
    "valid": lambda: chain(
        image(2), conv(2, 4, "a", padding="valid"), conv(2, 2, "b", padding="valid")
    ),
    "strides": lambda: chain(image(2), conv(2, 4, "a", strides=2), conv(2, 2, "b", strides=2)),
    "uneven kernel and strides": lambda: chain(
        image(2), conv(2, 4, "a", size=(1, 3), strides=(2, 1)), conv(2, 2, "b", size=(3, 1))
    ),
    "dilation 2d": lambda: chain(
        image(2), conv(2, 4, "a", dilation_rate=2), conv(2, 2, "b", dilation_rate=(1, 2))
    ),
    "without bias": lambda: chain(
        image(2), conv(2, 4, "a", use_bias=False), conv(2, 2, "b", use_bias=False)
    ),
    "any size": lambda: chain((None, None, 3), conv(2, 4, "a"), conv(2, 2, "b")),
    "into dense": lambda: chain(image(2), conv(2, 4, "a"), dense(2, "b")),
}


@pytest.mark.parametrize("name", CASES)
def test_geometry(name: str, tmp_path: Path) -> None:
    run_growth_test(CASES[name](), {"a": 6}, tmp_path, trains=True if name == "2d" else None)


@pytest.mark.parametrize("data_format", FORMATS)
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_data_formats(rank: int, data_format: str, tmp_path: Path) -> None:
    model = chain(
        image(rank, data_format=data_format),
        conv(rank, 4, "a", data_format=data_format),
        conv(rank, 2, "b", strides=2, data_format=data_format),
    )
    run_growth_test(model, {"a": 7}, tmp_path)


# model, the site's granularity, and a width that works
GROUPS: dict[str, tuple[Callable[[], keras.Model], int, int]] = {
    "producer": (
        lambda: chain(image(2, 4), conv(2, 4, "a", groups=2), conv(2, 2, "b")),
        2,
        8,
    ),
    "consumer": (
        lambda: chain(image(2), conv(2, 4, "a"), conv(2, 2, "b", groups=2)),
        2,
        8,
    ),
    "both": (
        lambda: chain(image(2, 4), conv(2, 6, "a", groups=2), conv(2, 6, "b", groups=3)),
        6,
        12,
    ),
    "depthwise over the input": (
        lambda: chain(image(2), conv(2, 6, "a", groups=3), conv(2, 2, "b")),
        3,
        9,
    ),
    "depthwise between": (
        lambda: chain(
            image(2), conv(2, 4, "a"), conv(2, 4, "dw", groups=4), conv(2, 2, "b")
        ),
        1,
        7,
    ),
    "depthwise between, multiplier 2, 1d": (
        lambda: chain(
            image(1), conv(1, 4, "a"), conv(1, 8, "dw", groups=4), conv(1, 2, "b")
        ),
        1,
        6,
    ),
    "1d": (
        lambda: chain(image(1, 4), conv(1, 6, "a", groups=2), conv(1, 2, "b", groups=2)),
        2,
        10,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", GROUPS)
def test_groups(name: str, tmp_path: Path) -> None:
    build, granularity, width = GROUPS[name]
    model = build()
    assert next(s for s in kg.sites(model) if s.name == "a").granularity == granularity
    run_growth_test(model, {"a": width}, tmp_path)


def test_grouped_layers_in_a_row_grow_at_once(tmp_path: Path) -> None:
    """The second kernel grows along both axes, each in blocks."""
    model = chain(
        image(1, 4),
        conv(1, 4, "a", groups=2),
        layers.ReLU(),
        conv(1, 6, "b", groups=2),
        conv(1, 2, "c", groups=2),
    )
    run_growth_test(model, {"a": 8, "b": 10}, tmp_path)


def test_conv_into_flatten_into_dense(tmp_path: Path) -> None:
    model = chain(
        image(2), conv(2, 4, "a", activation="relu"), layers.Flatten(), dense(2, "b")
    )  # fmt: skip
    run_growth_test(model, {"a": 6}, tmp_path, trains=True)
