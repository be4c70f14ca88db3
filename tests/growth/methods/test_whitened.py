"""GradMax in the inverse form: what its fan-ins are the largest of."""

import numpy as np
import pytest
from helpers.bare import FromMatrix

import keras_grow as kg
from keras_grow.growth.methods import Problem
from keras_grow.growth.methods.whitened import RIDGE, leading, rotation, whitening
from keras_grow.growth.statistics.spectra import DENSE

FAN_IN, FAN_OUT, WIDTH, ADDED = 9, 6, 4, 3


def inputs():
    """Correlated, and of very different sizes."""
    rng = np.random.default_rng(0)
    return rng.standard_normal((400, FAN_IN)) @ rng.standard_normal((FAN_IN, FAN_IN)) + 1.0


def posed(added=ADDED, normalised=False, moment=None):
    x = inputs()
    rng = np.random.default_rng(1)
    moment = x.T @ x / len(x) if moment is None else moment
    matrix = x.T @ rng.standard_normal((len(x), FAN_OUT)) / len(x)
    sides = rng.standard_normal((WIDTH, FAN_OUT)), rng.standard_normal((WIDTH, FAN_IN))
    problem = Problem(added, "inverse", *sides, FromMatrix(matrix, moment), normalised=normalised)
    return problem, matrix, moment


def solved(problem, **arguments):
    return kg.methods.GradMax(**arguments).solve(problem, np.random.default_rng(2))


def with_ridge(moment):
    return moment + RIDGE * np.trace(moment) / len(moment) * np.eye(len(moment))


def sizes(rows, moment):
    return np.sqrt(np.einsum("ki,ij,kj->k", rows, moment, rows))


def test_fan_ins_are_uncorrelated_and_have_the_largest_gradient():
    """Among fan-ins with w (S + r) w' = 1 and no correlation, by the singular values of R M."""
    problem, matrix, moment = posed()
    found = solved(problem)
    metric = with_ridge(moment)
    rows = found.fan_in / sizes(found.fan_in, metric)[:, None]
    np.testing.assert_allclose(rows @ metric @ rows.T, np.eye(ADDED), atol=1e-6)
    values, vectors = np.linalg.eigh(metric)
    root = vectors / np.sqrt(values) @ vectors.T
    largest = np.linalg.svd(root @ matrix, compute_uv=False)
    np.testing.assert_allclose(found.singular_values[:ADDED], largest[:ADDED], rtol=1e-6)
    had = np.linalg.norm(rows @ matrix)
    np.testing.assert_allclose(had, np.linalg.norm(largest[:ADDED]), rtol=1e-6)


def test_every_neuron_gets_its_part_of_the_gradient():
    """A rotation changes who has it, not how much there is."""
    problem, matrix, moment = posed()
    parts = []
    for seed in range(200):
        found = kg.methods.GradMax().solve(problem, np.random.default_rng(seed))
        rows = found.fan_in / sizes(found.fan_in, with_ridge(moment))[:, None]
        parts.append(np.linalg.norm(rows @ matrix, axis=1) ** 2)
    parts = np.array(parts)
    np.testing.assert_allclose(parts.sum(axis=1), parts[0].sum(), rtol=1e-6)
    np.testing.assert_allclose(parts.mean(axis=0), parts.mean(), rtol=0.1)


def test_they_answer_as_strongly_as_present_neurons():
    problem, _, moment = posed()
    found = solved(problem, scale=0.5)
    wanted = 0.5 * sizes(problem.fan_in, moment).mean()
    np.testing.assert_allclose(sizes(found.fan_in, moment), wanted, rtol=1e-6)


def test_behind_a_normalisation_they_are_as_long_as_present_ones():
    """There the length says how fast a neuron turns, and nothing else."""
    problem, _, _ = posed(normalised=True)
    lengths = np.linalg.norm(solved(problem).fan_in, axis=1)
    np.testing.assert_allclose(lengths, np.linalg.norm(problem.fan_in, axis=1).mean())
    problem, _, _ = posed()
    lengths = np.linalg.norm(solved(problem, scale_method="mean_norm").fan_in, axis=1)
    np.testing.assert_allclose(lengths, np.linalg.norm(problem.fan_in, axis=1).mean())


def test_inputs_that_never_vary_are_left_alone():
    x = inputs()
    x[:, 1] = 0.0
    x[:, 2] = x[:, 3]
    matrix = x.T @ np.random.default_rng(1).standard_normal((len(x), FAN_OUT))
    rng = np.random.default_rng(0)
    sides = rng.standard_normal((WIDTH, FAN_OUT)), rng.standard_normal((WIDTH, FAN_IN))
    task = Problem(ADDED, "inverse", *sides, FromMatrix(matrix, x.T @ x / len(x)))
    found = solved(task)
    assert np.isfinite(found.fan_in).all()
    np.testing.assert_allclose(found.fan_in[:, 1], 0, atol=1e-7)
    mean = np.linalg.norm(sides[1], axis=1).mean()
    assert np.linalg.norm(found.fan_in, axis=1).max() <= 10 * mean * (1 + 1e-9)


def test_more_neurons_than_directions():
    problem, _, moment = posed(added=8)
    found = solved(problem)
    assert found.rank == FAN_OUT
    assert found.fan_in.shape == (8, FAN_IN)
    wanted = sizes(problem.fan_in, moment).mean()
    np.testing.assert_allclose(sizes(found.fan_in, moment), wanted, rtol=1e-6)


def test_what_present_neurons_can_do_is_taken_off():
    """The gradient of a site whose present neurons already answer along its top direction."""
    x = inputs()
    moment = x.T @ x / len(x)
    rng = np.random.default_rng(1)
    matrix = x.T @ rng.standard_normal((len(x), FAN_OUT)) / len(x)
    present = rng.standard_normal((2, FAN_IN))
    matrix = matrix + 100 * moment @ present.T @ rng.standard_normal((2, FAN_OUT))
    gradients = FromMatrix(matrix, moment, present)
    gradients.unexplained = lambda beside=None: FromMatrix(
        gradients.without_those_beside(matrix), moment
    )
    sides = rng.standard_normal((WIDTH, FAN_OUT)), rng.standard_normal((WIDTH, FAN_IN))
    found = solved(Problem(2, "inverse", *sides, gradients))
    answers, old = x @ found.fan_in.T, x @ present.T
    fit = old @ np.linalg.lstsq(old, answers, rcond=None)[0]
    assert (np.linalg.norm(fit, axis=0) < 0.5 * np.linalg.norm(answers, axis=0)).all()


@pytest.mark.parametrize("size", [FAN_IN, DENSE + 6])
def test_leading_directions_of_large_sites(size):
    """Above 1,024 inputs entry by entry, and by block iteration where both sides are large."""
    rng = np.random.default_rng(0)
    scale = np.linspace(0.5, 2.0, size)
    width = size if size > DENSE else FAN_OUT
    matrix = rng.standard_normal((size, 3)) @ rng.standard_normal((3, width)) * scale[:, None]
    gradients = FromMatrix(matrix, np.diag(scale**2))
    white = whitening(gradients)
    assert white.entrywise == (size > DENSE)
    assert bool(white.notes) == (size > DENSE)
    values, left = leading(gradients, white, 2)
    _, expected, _ = np.linalg.svd(matrix / scale[:, None], full_matrices=False)
    np.testing.assert_allclose(values[:2], expected[:2], rtol=1e-3)
    np.testing.assert_allclose(left @ left.T, np.eye(2), atol=1e-6)
    np.testing.assert_allclose(
        np.linalg.norm(left @ (matrix / scale[:, None]), axis=1), expected[:2], rtol=1e-3
    )


def test_rotations_are_orthogonal_and_seeded():
    one = rotation(4, np.random.default_rng(0))
    np.testing.assert_allclose(one @ one.T, np.eye(4), atol=1e-12)
    np.testing.assert_array_equal(one, rotation(4, np.random.default_rng(0)))
    assert np.abs(one - rotation(4, np.random.default_rng(1))).max() > 0.1
