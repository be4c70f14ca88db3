"""Methods on bare arrays: norms, directions, rank, repeatability."""

import numpy as np
import pytest

import keras_grow as kg
from keras_grow.growth.methods import Problem, top_directions


def problem(added=3, form="outgoing", matrix=None, seed=0):
    rng = np.random.default_rng(seed)
    return Problem(
        added, form, rng.standard_normal((4, 6)), rng.standard_normal((4, 5)) * 2, matrix
    )


def solve(method, task, seed=1):
    rng = np.random.default_rng(seed)
    return method.solve(task, method.directions(task, rng), None, rng)


@pytest.mark.parametrize("shape", [(7, 5), (5, 7), (1, 4), (4, 1)])
def test_top_directions_are_those_of_the_svd(shape):
    matrix = np.random.default_rng(0).standard_normal(shape)
    values, vectors = top_directions(matrix, 3)
    _, expected, right = np.linalg.svd(matrix)
    np.testing.assert_allclose(values, expected, atol=1e-7)
    k = min(3, *shape)
    assert vectors.shape == (k, shape[1])
    np.testing.assert_allclose(np.abs((vectors * right[:k]).sum(axis=1)), 1, atol=1e-7)
    again = top_directions(matrix.copy(), 3)[1]
    np.testing.assert_array_equal(vectors, again)


def test_random_directions_have_the_mean_norm_of_the_existing_neurons():
    task = problem()
    found = solve(kg.methods.Random(scale=0.5), task)
    norms = np.linalg.norm(found.fan_out, axis=1)
    np.testing.assert_allclose(norms, 0.5 * np.linalg.norm(task.fan_out, axis=1).mean())
    assert not found.fan_in.any()
    fixed = solve(kg.methods.Random(scale=0.5, scale_method="fixed"), task)
    np.testing.assert_allclose(np.linalg.norm(fixed.fan_out, axis=1), 0.5)


def test_random_is_isotropic_unless_told_to_be_positive():
    isotropic = solve(kg.methods.Random(), problem(added=500)).fan_out
    assert np.abs(isotropic.mean(axis=0)).max() < 0.1 * np.linalg.norm(isotropic[0])
    positive = solve(kg.methods.Random(distribution="positive"), problem(added=500)).fan_out
    assert (positive >= 0).all()
    assert positive.any()


def test_the_inverse_form_leaves_the_fan_out_zero():
    task = problem(form="inverse")
    found = solve(kg.methods.Random(), task)
    assert not found.fan_out.any()
    norms = np.linalg.norm(found.fan_in, axis=1)
    np.testing.assert_allclose(norms, np.linalg.norm(task.fan_in, axis=1).mean())


def test_epsilon_is_the_norm_of_the_new_fan_in():
    found = solve(kg.methods.Random(epsilon=1e-3), problem())
    np.testing.assert_allclose(np.linalg.norm(found.fan_in, axis=1), 1e-3)


def test_gradmax_has_the_gradient_norm_of_the_top_singular_values():
    matrix = np.random.default_rng(3).standard_normal((5, 6))
    task = problem(matrix=matrix)
    found = solve(kg.methods.GradMax(sign_rule=False), task)
    norm = np.linalg.norm(task.fan_out, axis=1).mean()
    values = np.linalg.svd(matrix, compute_uv=False)
    np.testing.assert_allclose(found.gradient_norm, norm * np.sqrt((values[:3] ** 2).sum()))
    np.testing.assert_allclose(found.singular_values, values, rtol=1e-6)
    assert found.rank == 5


def test_neurons_beyond_the_rank_are_random():
    left, right = np.random.default_rng(4).standard_normal((2, 6))
    task = problem(matrix=np.outer(left[:5], right))
    found = solve(kg.methods.GradMax(sign_rule=False), task)
    assert found.rank == 1
    units = found.fan_out / np.linalg.norm(found.fan_out, axis=1, keepdims=True)
    along = np.abs(units @ right) / np.linalg.norm(right)
    np.testing.assert_allclose(along[0], 1)
    assert (along[1:] < 0.999).all()
    norms = np.linalg.norm(found.fan_out, axis=1)
    np.testing.assert_allclose(norms, norms[0])


def test_the_same_seed_gives_the_same_neurons():
    for method in (kg.methods.Random(), kg.methods.GradMax(sign_rule=False)):
        task = problem(matrix=np.random.default_rng(5).standard_normal((5, 6)))
        np.testing.assert_array_equal(solve(method, task).fan_out, solve(method, task).fan_out)
    assert (
        solve(kg.methods.Random(), task, 1).fan_out != solve(kg.methods.Random(), task, 2).fan_out
    ).any()


def test_neurons_of_zero_norm_do_not_make_new_ones_dead():
    dead = Problem(2, "outgoing", np.zeros((4, 6)), np.zeros((4, 5)))
    np.testing.assert_allclose(np.linalg.norm(solve(kg.methods.Random(), dead).fan_out, axis=1), 1)


@pytest.mark.parametrize(
    "arguments", [{"scale": 0}, {"scale": float("nan")}, {"scale_method": "max"}, {"epsilon": -1}]
)
def test_wrong_arguments_are_named(arguments):
    (name,) = arguments
    with pytest.raises(kg.GrowthError, match=f"{name}.*Received"):
        kg.methods.GradMax(**arguments)
