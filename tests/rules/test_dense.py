"""Dense as producer and consumer."""

from pathlib import Path

import pytest
from helpers.growing import chain, dense, run_growth_test
from keras import layers

CASES = {
    "2d": lambda: chain((5,), dense(4, "a"), dense(3, "b")),
    "3d": lambda: chain((2, 5), dense(4, "a"), dense(3, "b")),
    "relu": lambda: chain((5,), dense(4, "a", activation="relu"), dense(3, "b")),
    "without bias": lambda: chain(
        (5,), dense(4, "a", use_bias=False), dense(3, "b", use_bias=False)
    ),
    "width 1": lambda: chain((5,), dense(1, "a"), dense(3, "b")),
}


@pytest.mark.parametrize("name", CASES)
def test_dense(name: str, tmp_path: Path) -> None:
    run_growth_test(CASES[name](), {"a": 6}, tmp_path, trains=True if name == "relu" else None)


def test_two_sites_grow_at_once(tmp_path: Path) -> None:
    model = chain(
        (5,),
        dense(4, "a", activation="relu"),
        dense(3, "b"),
        layers.BatchNormalization(),
        dense(2, "c"),
    )
    run_growth_test(model, {"a": 6, "b": 6}, tmp_path)
