"""Channels of any fan-in against the backend's autodiff on the really grown model."""

import numpy as np
import pytest
from growth.methods.test_optimality import CASES, K, prepare
from helpers.autodiff import gradient_by

import keras_grow as kg
from keras_grow.growth.data import Batches
from keras_grow.growth.statistics import Recording, measure
from keras_grow.planning import make_plan, survey
from keras_grow.planning.plan import INVERSE


class Given:
    """Neurons with the fan-in they are told to have, read by nobody."""

    name, forms, needs_gradients = "given", (INVERSE,), False

    def __init__(self, fan_in):
        self.fan_in = fan_in

    def solve(self, problem, rng):
        return kg.methods.Solution(np.zeros((K, problem.fan_out.shape[1])), self.fan_in)


@pytest.mark.parametrize("case", CASES)
def test_gradient_by_the_fan_out_of_new_channels(case):
    model, x, y = prepare(CASES[case])
    atlas = survey(model)
    plan = make_plan(atlas, {atlas.find("p"): K}, {atlas.find("p"): INVERSE})
    gradients = measure(plan, Recording(plan), Batches((x, y, None))).sites[plan.sites[0]]
    rng = np.random.default_rng(2)
    fan_in = rng.standard_normal((K, gradients.shape[0])) * 0.5
    found = gradients.finite(fan_in)

    grown = kg.widen(model, {"p": atlas.find("p").width + K}, method=Given(fan_in))
    after = survey(grown)
    own = make_plan(after, {after.find("p"): 1}).sites[0]
    kernels = [s.edit.variable for s in own.reads]
    producing = [w.edit.variable for w in own.writes]
    true = []
    for slot, g in zip(own.reads, gradient_by(grown, x, y, kernels)(), strict=True):
        new = slot.old_rows[-K:]  # new channels are the last of the site
        rows = np.moveaxis(g, slot.edit.axis, 0)[new]
        if any(slot.edit.variable is v for v in producing):
            # Where new rows meet new columns nothing is asked.
            rows = rows[..., :-K]
        true.append(rows.reshape(K, -1))
    true = np.concatenate(true, axis=1)
    assert found.value.shape == true.shape
    assert np.abs(true).max() > 1e-6
    np.testing.assert_allclose(found.value, true, atol=2e-4 * np.abs(true).max())

    weights = rng.standard_normal(found.value.shape)
    step = 1e-2 * rng.standard_normal(fan_in.shape)
    ahead = (gradients.finite(fan_in + step).value * weights).sum()
    behind = (gradients.finite(fan_in - step).value * weights).sum()
    slope = (found.pull(weights) * step).sum()
    assert abs((ahead - behind) / 2 - slope) < 0.1 * np.linalg.norm(found.pull(weights)) * (
        np.linalg.norm(step)
    )
