"""Moving and filling the entries of a variable, in NumPy alone."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_grow.planning import Edit
from keras_grow.planning.arrays import grown_value, merge_groups, split_groups, take


def edit(axis: int, labels: list[int], role: str, **options) -> Edit:
    return Edit("layer", None, axis, np.array(labels), role, **options)


def test_take_moves_old_entries_and_fills_new_ones() -> None:
    value = np.arange(6.0).reshape(2, 3)
    found = take(value, 1, np.array([0, -1, 1, 2, -2]), fill=9.0)
    np.testing.assert_array_equal(found, [[0, 9, 1, 2, 9], [3, 9, 4, 5, 9]])


def test_take_without_new_entries_is_a_permutation() -> None:
    value = np.arange(6.0).reshape(3, 2)
    np.testing.assert_array_equal(take(value, 0, np.array([2, 0, 1])), value[[2, 0, 1]])


def test_take_counts_axes_from_the_end_and_keeps_the_dtype() -> None:
    value = np.arange(6, dtype="float16").reshape(2, 3)
    found = take(value, -2, np.array([0, -1, 1]))
    assert found.dtype == "float16"
    np.testing.assert_array_equal(found[[0, 2]], value)


sizes = st.integers(1, 3)


@given(sizes, sizes, sizes, st.integers(1, 4), sizes)
def test_split_and_merge_groups_are_inverse(k1: int, k2: int, rows: int, groups: int, f: int):
    kernel = np.arange(k1 * k2 * rows * groups * f).reshape(k1, k2, rows, groups * f)
    seen = split_groups(kernel, groups)
    assert seen.shape == (k1, k2, groups * rows, f)
    np.testing.assert_array_equal(merge_groups(seen, groups), kernel)


def test_split_groups_puts_the_inputs_in_their_order_on_the_tensor() -> None:
    """Input channel g * rows + r meets filters g * f ... of the kernel's row r."""
    kernel = np.arange(12).reshape(2, 6)  # two rows for each of 3 groups, two filters a group
    seen = split_groups(kernel, 3)
    for group in range(3):
        for row in range(2):
            np.testing.assert_array_equal(
                seen[group * 2 + row], kernel[row, group * 2 : group * 2 + 2]
            )


def test_fan_out_and_fan_in_are_placed() -> None:
    kernel = np.ones((2, 2))
    rows = edit(0, [0, -1, 1], "fan-out")
    columns = edit(1, [0, 1, -1], "fan-in")
    found = grown_value(
        kernel,
        [columns, rows],
        fan_out={rows: [(np.array([[1]]), np.array([[[5.0, 6.0]]]))]},
        fan_in={columns: [(np.array([2]), np.array([[7.0, 8.0]]))]},
    )
    # Where the new row meets the new column there is a zero, which keeps both proofs.
    np.testing.assert_array_equal(found, [[1, 1, 7], [5, 6, 0], [1, 1, 8]])


def test_what_is_not_chosen_is_zero() -> None:
    found = grown_value(np.ones((2, 2)), [edit(0, [0, 1, -1], "fan-out")])
    np.testing.assert_array_equal(found, [[1, 1], [1, 1], [0, 0]])


def test_fan_out_may_repeat_a_channel() -> None:
    """A flattened map: every new channel has a row at each position."""
    kernel = np.ones((4, 1))
    rows = edit(0, [0, 1, -1, 2, 3, -1], "fan-out")
    found = grown_value(
        kernel, [rows], fan_out={rows: [(np.array([[2, 5]]), np.array([[[3.0], [4.0]]]))]}
    )
    np.testing.assert_array_equal(found[:, 0], [1, 1, 3, 1, 1, 4])


def test_fan_in_of_a_kernel_that_grows_by_groups_gets_zeros_at_its_new_rows() -> None:
    kernel = np.ones((1, 2, 4))  # a window of 1, two rows a group, two groups of two filters
    rows = edit(1, [0, 1, -1, 2, 3, -2], "fan-out", groups=2)
    columns = edit(2, [0, 1, -1, 2, 3, -2], "fan-in")
    found = grown_value(
        kernel,
        [rows, columns],
        fan_out={rows: [(np.array([[2], [5]]), np.full((2, 1, 1, 2), 5.0))]},
        fan_in={columns: [(np.array([2, 5]), np.full((2, 1, 2), 7.0))]},
    )
    assert found.shape == (1, 3, 6)
    np.testing.assert_array_equal(
        found[0], [[1, 1, 7, 1, 1, 7], [1, 1, 7, 1, 1, 7], [5, 5, 0, 5, 5, 0]]
    )


@pytest.mark.parametrize("fill", [2.0, np.array([[1.0], [2.0]])])
def test_per_channel_entries_take_their_fill(fill) -> None:
    """A number, or an array for one channel such as the identity kernel."""
    value = np.zeros((2, 2, 1))
    found = grown_value(value, [edit(1, [0, -1, 1], "per-channel", fill=fill)])
    np.testing.assert_array_equal(found[:, 1], np.broadcast_to(fill, (2, 1)))
    np.testing.assert_array_equal(found[:, [0, 2]], 0.0)


@pytest.mark.every_backend
def test_the_result_can_be_handed_to_a_backend() -> None:
    found = grown_value(np.ones((2, 3), "float32"), [edit(1, [0, -1, 1, 2], "fan-in")])
    assert found.flags.c_contiguous
    assert found.dtype == "float32"
