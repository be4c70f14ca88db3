"""The figure of a `growth_check` shows its numbers."""

import numpy as np
import pytest

import keras_grow as kg
from keras_grow.training.trial import GrowthCheck, Trial


def found(seeds):
    rng = np.random.default_rng(0)
    trials = [
        Trial(arm, seed, tuple(losses), 1.0, float(losses[-1]), None, 10, 0.0)
        for seed in range(seeds)
        for arm in ("small", "grown", "big")
        for losses in [np.sort(rng.random(6))[::-1]]
    ]
    return GrowthCheck(tuple(trials), 0.5, ("gradmax", "SGD"))


@pytest.mark.parametrize("seeds", [1, 3])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_lines_are_the_means_of_the_seeds(seeds, theme):
    check = found(seeds)
    figure = kg.figures.check(check, theme=theme, log=True)
    lines = {t.meta["arm"]: t for t in figure.data if t.meta["what"] == "mean"}
    for arm in ("small", "grown", "big"):
        np.testing.assert_allclose(lines[arm].y, np.mean([t.losses for t in check.of(arm)], axis=0))
    ranges = [t for t in figure.data if t.meta["what"] == "range"]
    assert len(ranges) == (3 if seeds > 1 else 0)
    assert figure.layout.yaxis.type == "log"
    assert figure.layout.shapes[0].x0 == 3.5
