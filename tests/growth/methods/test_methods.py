"""Methods on bare arrays: norms, directions, rank, repeatability."""

import numpy as np
import pytest
from helpers.bare import FromMatrix

import keras_grow as kg
from keras_grow.growth.methods import METHODS, Problem
from keras_grow.growth.statistics import top_directions
from keras_grow.growth.statistics.spectra import top_of_operator

FAN_IN, FAN_OUT = 5, 6


def matrix_of(shape=(FAN_IN, FAN_OUT), seed=3):
    return np.random.default_rng(seed).standard_normal(shape)


def problem(added=3, form="outgoing", matrix=None, seed=0, **more):
    rng = np.random.default_rng(seed)
    gradients = None if matrix is None else FromMatrix(matrix)
    out, into = rng.standard_normal((4, FAN_OUT)), rng.standard_normal((4, FAN_IN)) * 2
    return Problem(added, form, out, into, gradients, **more)


def solve(method, task, seed=1):
    return method.solve(task, np.random.default_rng(seed))


def lengths(rows):
    return np.linalg.norm(rows, axis=1)


def best_of(matrix, k, norm):
    """The largest gradient norm that k orthogonal fan-outs (or fan-ins) of this norm can have."""
    return norm * np.sqrt((np.linalg.svd(matrix, compute_uv=False)[:k] ** 2).sum())


def cosines(rows, others):
    return np.abs((rows * others).sum(axis=1)) / lengths(rows) / lengths(others)


BOTH = [
    pytest.param(name, form, id=f"{name}, {form}")
    for name, cls in METHODS.items()
    for form in cls().forms
    if form in ("outgoing", "inverse")
]


# --- singular vectors -----------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(7, 5), (5, 7), (1, 4), (4, 1)])
def test_top_directions_are_those_of_the_svd(shape):
    matrix = matrix_of(shape, seed=0)
    values, vectors = top_directions(matrix, 3)
    _, expected, right = np.linalg.svd(matrix)
    np.testing.assert_allclose(values, expected, atol=1e-7)
    k = min(3, *shape)
    assert vectors.shape == (k, shape[1])
    np.testing.assert_allclose(np.abs((vectors * right[:k]).sum(axis=1)), 1, atol=1e-7)
    again = top_directions(matrix.copy(), 3)[1]
    np.testing.assert_array_equal(vectors, again)


@pytest.mark.parametrize("shape", [(40, 60), (60, 40), (1500, 1200)])
def test_block_iteration_finds_what_a_dense_decomposition_does(shape):
    """A gradient matrix: a few directions that matter, and noise."""
    rng = np.random.default_rng(0)
    m, n = shape
    left, right = rng.standard_normal((m, 6)), rng.standard_normal((6, n))
    low = left @ (right * 2.0 ** -np.arange(6)[:, None])
    matrix = (low + 0.05 * rng.standard_normal(shape)).astype("float32").astype("float64")
    # Of the smaller Gram matrix: half a second instead of five for the large one.
    gram = matrix @ matrix.T if m < n else matrix.T @ matrix
    expected = np.sqrt(np.linalg.eigvalsh(gram)[::-1][:4])
    values, vectors = top_of_operator(lambda v: matrix @ v.T, lambda u: u.T @ matrix, shape, 4)
    np.testing.assert_allclose(values[:4], expected, rtol=1e-3)
    np.testing.assert_allclose(vectors @ vectors.T, np.eye(4), atol=1e-8)
    reached = np.sqrt(((matrix @ vectors.T) ** 2).sum())
    assert reached >= 0.999 * np.sqrt((expected**2).sum())
    if min(shape) > 1024:  # which `top_directions` then does by itself
        np.testing.assert_array_equal(top_directions(matrix, 4)[1], vectors)


def test_block_iteration_of_fewer_directions_than_are_asked_for():
    matrix = matrix_of((3, 8))
    values, vectors = top_of_operator(lambda v: matrix @ v.T, lambda u: u.T @ matrix, (3, 8), 5)
    np.testing.assert_allclose(values, np.linalg.svd(matrix, compute_uv=False))
    assert vectors.shape == (3, 8)
    nothing = np.zeros((3, 8))
    values, _ = top_of_operator(lambda v: nothing @ v.T, lambda u: u.T @ nothing, (3, 8), 2)
    assert not values.any()


# --- what all methods have in common --------------------------------------------------------------


@pytest.mark.parametrize(("name", "form"), BOTH)
def test_norms_are_the_same_for_every_method(name, form):
    task = problem(form=form, matrix=matrix_of())
    sides = (task.fan_out, task.fan_in) if form == "outgoing" else (task.fan_in, task.fan_out)

    def free_and_zero(**arguments):
        found = solve(METHODS[name](**arguments), task)
        pair = found.fan_out, found.fan_in
        return pair if form == "outgoing" else pair[::-1]

    free, zero = free_and_zero(scale=0.5)
    np.testing.assert_allclose(lengths(free), 0.5 * lengths(sides[0]).mean())
    assert zero.shape == (3, sides[1].shape[1])
    assert not zero.any()
    free, _ = free_and_zero(scale=0.5, scale_method="fixed")
    np.testing.assert_allclose(lengths(free), 0.5)
    free, zero = free_and_zero(epsilon=1e-3)
    np.testing.assert_allclose(lengths(free), lengths(sides[0]).mean())
    np.testing.assert_allclose(lengths(zero), 1e-3)


@pytest.mark.parametrize(("name", "form"), BOTH)
def test_the_gradient_norm_that_is_reported_is_had(name, form):
    matrix = matrix_of()
    found = solve(METHODS[name](), problem(form=form, matrix=matrix))
    had = matrix @ found.fan_out.T if form == "outgoing" else found.fan_in @ matrix
    if found.gradient_norm is None:  # it would take a method that needs no gradients a pass
        assert (name, form) == ("random", "inverse")
    else:
        np.testing.assert_allclose(found.gradient_norm, np.linalg.norm(had))


@pytest.mark.parametrize("name", METHODS)
def test_the_same_seed_gives_the_same_neurons(name):
    method = METHODS[name]()
    for form in method.forms:
        first, again = (solve(method, problem(form=form, matrix=matrix_of())) for _ in range(2))
        np.testing.assert_array_equal(first.fan_out, again.fan_out)
        np.testing.assert_array_equal(first.fan_in, again.fan_in)


def test_another_seed_gives_other_random_neurons():
    first, second = (solve(kg.methods.Random(), problem(), seed) for seed in (1, 2))
    assert (first.fan_out != second.fan_out).any()


@pytest.mark.parametrize(("name", "form"), BOTH)
def test_neurons_beyond_the_rank_are_random_and_as_long_as_the_others(name, form):
    """Also where there are more new neurons than weights in one."""
    left, right = np.random.default_rng(4).standard_normal((2, FAN_OUT))
    task = problem(added=9, form=form, matrix=np.outer(left[:FAN_IN], right))
    found = solve(METHODS[name](), task)
    free = found.fan_out if form == "outgoing" else found.fan_in
    np.testing.assert_allclose(lengths(free), lengths(free)[0])
    assert np.linalg.matrix_rank(free) == min(9, free.shape[1])
    assert np.abs(np.corrcoef(free) - np.eye(9)).max() < 1 - 1e-6  # no two of them alike


def test_the_rank_is_told():
    left, right = np.random.default_rng(4).standard_normal((2, FAN_OUT))
    task = problem(matrix=np.outer(left[:FAN_IN], right))
    for name in ("gradmax", "tiny"):
        found = solve(METHODS[name](), task)
        assert found.rank == 1
        np.testing.assert_allclose(cosines(found.fan_out[:1], right[None]), 1)
        assert (cosines(found.fan_out[1:], right[None]) < 0.999).all()
    assert solve(kg.methods.GradMax(), problem(matrix=matrix_of())).rank == FAN_IN
    nothing = solve(kg.methods.GradMax(), problem(matrix=np.zeros((FAN_IN, FAN_OUT))))
    assert nothing.rank == 0
    assert nothing.gradient_norm == 0
    np.testing.assert_allclose(lengths(nothing.fan_out), lengths(nothing.fan_out)[0])


@pytest.mark.parametrize(("name", "form"), BOTH)
def test_neurons_of_zero_norm_do_not_make_new_ones_dead(name, form):
    zeros = np.zeros((4, FAN_OUT)), np.zeros((4, FAN_IN))
    found = solve(METHODS[name](), Problem(2, form, *zeros, FromMatrix(matrix_of())))
    free = found.fan_out if form == "outgoing" else found.fan_in
    np.testing.assert_allclose(lengths(free), 1)


@pytest.mark.parametrize(
    "arguments",
    [
        {"scale": 0},
        {"scale": float("nan")},
        {"scale": "large"},
        {"scale_method": "max"},
        {"epsilon": -1},
        {"epsilon": float("inf")},
    ],
)
@pytest.mark.parametrize("name", METHODS)
def test_wrong_arguments_are_named(name, arguments):
    (wrong,) = arguments
    with pytest.raises(kg.GrowthError, match=f"{wrong}.*Received"):
        METHODS[name](**arguments)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("random", {"distribution": "normal"}),
        ("gradmaxopt", {"steps": 0}),
        ("gradmaxopt", {"learning_rate": 0}),
        ("firefly", {"steps": 1.5}),
        ("firefly", {"learning_rate": float("inf")}),
        ("split", {"choice": "best"}),
        ("zeros", {"bias": 0}),
    ],
)
def test_wrong_arguments_of_one_method_are_named(name, arguments):
    (wrong,) = arguments
    with pytest.raises(kg.GrowthError, match=f"{wrong}.*Received"):
        METHODS[name](**arguments)


def test_methods_are_found_by_name_class_and_object():
    for name, cls in METHODS.items():
        assert isinstance(kg.methods.get(name), cls)
        assert isinstance(kg.methods.get(cls), cls)
    assert isinstance(kg.methods.get("GradMax_Opt"), kg.methods.GradMaxOpt)
    own = kg.methods.Random(scale=2.0)
    assert kg.methods.get(own) is own
    with pytest.raises(kg.GrowthError, match=r"no growth method .gradmix.*gradmax"):
        kg.methods.get("gradmix")
    with pytest.raises(kg.GrowthError, match=r"solve\(problem, rng\).*Received: method=3 \(int\)"):
        kg.methods.get(3)


# --- one method each ------------------------------------------------------------------------------


def test_random_is_isotropic_unless_told_to_be_positive():
    isotropic = solve(kg.methods.Random(), problem(added=500)).fan_out
    assert np.abs(isotropic.mean(axis=0)).max() < 0.1 * np.linalg.norm(isotropic[0])
    positive = solve(kg.methods.Random(distribution="positive"), problem(added=500)).fan_out
    assert (positive >= 0).all()
    assert positive.any()


def test_gradmax_has_the_gradient_norm_of_the_top_singular_values():
    matrix = matrix_of()
    task = problem(matrix=matrix)
    for sign_rule in (False, True):
        found = solve(kg.methods.GradMax(sign_rule=sign_rule), task)
        best = best_of(matrix, 3, lengths(task.fan_out).mean())
        np.testing.assert_allclose(found.gradient_norm, best)
    np.testing.assert_allclose(
        found.singular_values, np.linalg.svd(matrix, compute_uv=False), rtol=1e-6
    )


@pytest.mark.parametrize("form", ["outgoing", "inverse"])
@pytest.mark.parametrize("seed", range(5))
def test_gradmaxopt_comes_near_the_optimum(form, seed):
    """Between Random and the closed form, which linear neurons have on both sides.

    The singular values of noise are close to each other, which is the hardest case.
    """
    matrix = matrix_of((40, 30), seed=seed)
    rng = np.random.default_rng(seed)
    out, into = rng.standard_normal((7, 30)), rng.standard_normal((7, 40))
    task = Problem(4, form, out, into, FromMatrix(matrix))
    norm = lengths(out if form == "outgoing" else into).mean()
    best = best_of(matrix, 4, norm)
    found = solve(kg.methods.GradMaxOpt(), task)
    free = found.fan_out if form == "outgoing" else found.fan_in
    np.testing.assert_allclose(free @ free.T, norm**2 * np.eye(4), atol=1e-8)
    random = solve(kg.methods.Random(), task)
    had = matrix @ random.fan_out.T if form == "outgoing" else random.fan_in @ matrix
    assert 1.2 * np.linalg.norm(had) < found.gradient_norm <= best * (1 + 1e-9)
    assert found.gradient_norm > 0.9 * best
    assert solve(kg.methods.GradMaxOpt(steps=1), task).gradient_norm < found.gradient_norm
    assert solve(kg.methods.GradMaxOpt(steps=200), task).gradient_norm > 0.97 * best


def test_firefly_takes_the_pairs_that_lower_the_loss_most():
    """To first order the loss of linear neurons changes by the sum of w M v: singular vectors."""
    matrix = matrix_of((20, 15))
    rng = np.random.default_rng(0)
    values = np.linalg.svd(matrix, compute_uv=False)[:2]
    for form in ("outgoing", "inverse"):
        task = Problem(
            2, form, rng.standard_normal((4, 15)), rng.standard_normal((4, 20)), FromMatrix(matrix)
        )
        found = solve(kg.methods.Firefly(steps=300, epsilon=1e-4), task)
        w, v = (rows / lengths(rows)[:, None] for rows in (found.fan_in, found.fan_out))
        lowered = -np.einsum("ki,ij,kj->k", w, matrix, v)
        assert lowered.sum() > 0.99 * values.sum()
        assert lowered.sum() <= values.sum() * (1 + 1e-9)


def test_tiny_is_the_svd_of_the_whitened_matrix():
    """Verbockhaven et al. 2024: S^(-1/2) M = sum of s u v', fan-in -S^(-1/2) u, fan-out v."""
    matrix = matrix_of()
    rng = np.random.default_rng(5)
    inputs = rng.standard_normal((50, FAN_IN)) * np.arange(1, FAN_IN + 1)
    moment = inputs.T @ inputs / 50
    values, vectors = np.linalg.eigh(moment)
    root = vectors / np.sqrt(values) @ vectors.T
    left, sizes, right = np.linalg.svd(root @ matrix)
    expected_in = -(root @ left[:, :2]).T

    def tiny(form):
        rng = np.random.default_rng(0)
        sides = rng.standard_normal((4, FAN_OUT)), rng.standard_normal((4, FAN_IN))
        task = Problem(2, form, *sides, FromMatrix(matrix, moment))
        return task, solve(kg.methods.Tiny(), task)

    _, found = tiny("outgoing")
    np.testing.assert_allclose(found.singular_values, sizes, rtol=1e-6)
    np.testing.assert_allclose(cosines(found.fan_out, right[:2]), 1)
    _, found = tiny("inverse")
    np.testing.assert_allclose(cosines(found.fan_in, expected_in), 1)
    task, found = tiny("joint")
    assert found.amplitude
    np.testing.assert_allclose(cosines(found.fan_out, right[:2]), 1)
    np.testing.assert_allclose(cosines(found.fan_in, expected_in), 1)
    # Each pair lowers the loss, and the parts of the best update keep their proportions.
    change = np.einsum("ki,ij,kj->k", found.fan_in, matrix, found.fan_out)
    assert (change < 0).all()
    for rows, side in ((found.fan_out, task.fan_out), (found.fan_in, task.fan_in)):
        np.testing.assert_allclose(
            lengths(rows), lengths(side).mean() * np.sqrt(sizes[:2] / sizes[0])
        )


def test_tiny_leaves_directions_out_in_which_the_inputs_never_vary():
    """One input is always zero, one always the same as another: S has no inverse."""
    inputs = np.random.default_rng(0).standard_normal((40, FAN_IN))
    inputs[:, 1] = 0.0
    inputs[:, 2] = inputs[:, 3]
    matrix = inputs.T @ np.random.default_rng(1).standard_normal((40, FAN_OUT))
    gradients = FromMatrix(matrix, inputs.T @ inputs / 40)
    out, into = np.ones((4, FAN_OUT)), np.ones((4, FAN_IN))
    found = solve(kg.methods.Tiny(), Problem(2, "inverse", out, into, gradients))
    assert np.isfinite(found.fan_in).all()
    np.testing.assert_allclose(found.fan_in[:, 1], 0, atol=1e-7)
    np.testing.assert_allclose(found.fan_in[:, 2], found.fan_in[:, 3], rtol=1e-5)
    assert np.abs(found.fan_in).max() < 10


def test_tiny_joint_with_more_neurons_than_directions_leaves_the_rest_to_random_fan_ins():
    task = problem(added=8, form="joint", matrix=matrix_of())
    found = solve(kg.methods.Tiny(), task)
    assert not found.fan_out[FAN_IN:].any()
    np.testing.assert_allclose(lengths(found.fan_in[FAN_IN:]), lengths(task.fan_in).mean())


# --- splitting ------------------------------------------------------------------------------------


@pytest.mark.parametrize("added", [1, 3, 4, 7, 11])
@pytest.mark.parametrize("choice", ["random", "steepest"])
def test_shares_of_a_parent_and_its_copies_differ_and_leave_it_some(added, choice):
    task = problem(added=added, form="split", matrix=matrix_of())
    found = solve(kg.methods.Split(choice=choice), task)
    width = len(task.fan_in)
    copies = np.bincount(found.parents, minlength=width)
    assert copies.max() - copies.min() <= 1  # all once before any is taken twice
    left = np.ones(width)
    np.subtract.at(left, found.parents, found.shares)
    np.testing.assert_allclose(found.fan_out, task.fan_out[found.parents] * found.shares[:, None])
    for parent in range(width):
        parts = np.append(found.shares[found.parents == parent], left[parent])
        assert (parts > 0.1 / (len(parts))).all()
        assert len(np.unique(parts)) == len(parts)  # equal parts would stay equal for ever
    assert not found.fan_in.any()


def test_split_moves_copies_apart_by_a_part_of_the_norm():
    task = problem(form="split")
    found = solve(kg.methods.Split(epsilon=1e-2), task)
    np.testing.assert_allclose(lengths(found.fan_in), 1e-2 * lengths(task.fan_in[found.parents]))


class Quadratic(FromMatrix):
    """Neurons whose fan-out v has the loss v . c (w' A w) / 2: the splitting matrix is v.c A."""

    def __init__(self, curvatures, c):
        super().__init__(np.zeros((curvatures.shape[-1], len(c))))
        self.curvatures, self.c = curvatures, c

    def finite(self, fan_in):
        from keras_grow.growth.statistics import Response

        towards = np.einsum("kij,kj->ki", self.curvatures, fan_in)
        value = ((towards * fan_in).sum(axis=1) / 2)[:, None] * self.c
        return Response(value, lambda weights: (weights @ self.c)[:, None] * towards)


def test_the_steepest_split_is_along_the_smallest_eigenvalue():
    """Of each neuron's own splitting matrix, whether that value is negative or positive."""
    rng = np.random.default_rng(0)
    width, n = 4, 5
    axes = np.stack([np.linalg.qr(rng.standard_normal((n, n)))[0] for _ in range(width)])
    spectra = np.array(
        [[1, 2, 3, 4, 9], [-3, 0, 1, 2, 8], [-7, -1, 0, 1, 2], [-1, 1, 2, 3, 12]], float
    )
    c = np.array([0.5, 2.0])
    fan_out = np.tile([1.0, 0.25], (width, 1))  # v . c = 1
    curvatures = np.einsum("kia,ka,kja->kij", axes, spectra, axes)
    task = Problem(
        4, "split", fan_out, rng.standard_normal((width, n)), Quadratic(curvatures, c), smooth=True
    )
    found = solve(kg.methods.Split(choice="steepest", epsilon=0.1), task)
    np.testing.assert_array_equal(found.parents, [2, 1, 3, 0])
    assert not found.notes
    clear = found.parents != 0  # there the two smallest are close; power iteration needs longer
    np.testing.assert_array_less(0.95, cosines(found.fan_in, axes[found.parents][:, :, 0])[clear])
    behind_a_kink = Problem(4, "split", fan_out, task.fan_in, task.gradients)
    (note,) = solve(kg.methods.Split(choice="steepest"), behind_a_kink).notes
    assert "kink" in note


def test_zeros_have_different_biases_and_nothing_else():
    found = solve(kg.methods.Zeros(bias=2.0), problem(added=5, form="zeros"))
    assert not found.fan_in.any()
    assert not found.fan_out.any()
    assert found.bias[0] == 2.0
    assert ((found.bias >= 1.0) & (found.bias <= 3.0)).all()
    assert len(np.unique(found.bias)) == 5


def test_pursuit_takes_the_neurons_that_explain_most_one_after_another():
    """Of linear neurons with S = 1 that is M's top left singular vectors, in their order.

    A fan-in may also hold some of those before it, which changes nothing that can be reached.
    """
    matrix = matrix_of()
    left, _, right = np.linalg.svd(matrix)
    found = solve(kg.methods.Pursuit(steps=60), problem(added=4, form="inverse", matrix=matrix))
    new = np.linalg.qr(found.fan_in.T)[0].T
    np.testing.assert_allclose(cosines(new, left[:, :4].T), 1, atol=1e-3)
    found = solve(kg.methods.Pursuit(steps=60), problem(added=4, form="outgoing", matrix=matrix))
    np.testing.assert_allclose(cosines(found.fan_out, right[:4]), 1, atol=1e-3)
    assert not found.notes


def test_pursuit_divides_by_what_is_new_of_a_neuron():
    """The score is |M'u|^2 / u'Su: whitening decides what comes first, not the largest gradient."""
    moment = np.diag([100.0, 1.0, 1.0, 1.0, 1.0])
    matrix = np.zeros((FAN_IN, FAN_OUT))
    matrix[0, 0], matrix[1, 1] = 5.0, 2.0  # 25 / 100 of the loss against 4 / 1
    out, into = np.ones((4, FAN_OUT)), np.ones((4, FAN_IN))
    task = Problem(2, "inverse", out, into, FromMatrix(matrix, moment))
    found = solve(kg.methods.Pursuit(steps=60), task)
    np.testing.assert_allclose(cosines(found.fan_in, np.eye(FAN_IN)[[1, 0]]), 1, atol=1e-3)


@pytest.mark.parametrize("form", ["outgoing", "inverse"])
def test_pursuit_says_how_many_are_random_because_nothing_was_left(form):
    left, right = np.random.default_rng(4).standard_normal((2, FAN_OUT))
    matrix = np.outer(left[:FAN_IN], right)
    found = solve(kg.methods.Pursuit(), problem(added=3, form=form, matrix=matrix))
    assert found.notes == ("2 random: nothing was left to explain",)
    row, wanted = (found.fan_in, left[None, :FAN_IN]) if form == "inverse" else (
        found.fan_out, right[None]
    )  # fmt: skip
    np.testing.assert_allclose(cosines(row[:1], wanted), 1, atol=1e-3)
    assert (cosines(row[1:], wanted) < 0.99).all()
