"""From what a method chose to the pieces of every kernel, and back."""

from typing import Any

import numpy as np

from keras_grow import _backend
from keras_grow.apply import Surgery
from keras_grow.errors import GrowthError
from keras_grow.growth.methods import Problem, Solution
from keras_grow.growth.statistics import SiteGradients, fan_out_slots
from keras_grow.planning import SitePlan
from keras_grow.planning.arrays import Copying, split_groups
from keras_grow.planning.plan import CarrySlot
from keras_grow.rules import activations


def problem_of(site: SitePlan, form: str, gradients: SiteGradients | None) -> Problem:
    """One site as arrays: a row per neuron, its weights in all free consumers (or producers)."""
    out = [_weights(slot.edit, slot.old_rows) for slot in fan_out_slots(site)]
    into = [_weights(slot.edit, slot.old_columns) for slot in site.writes]
    empty = np.zeros((site.site.width, 0))
    ends = {id(slot.call.op) for slot in site.reads}
    smooth = gradients is not None and not any(
        activations.kinked(c) for c in gradients.shadows.calls if id(c.op) not in ends
    )
    normalised = gradients is not None and gradients.shadows.normalised
    sides = _side_by_side(out or [empty]), _side_by_side(into)
    fan_out, fan_in = (_read_only(side) for side in sides)
    return Problem(site.added, form, fan_out, fan_in, gradients, smooth, normalised)


def place(surgery: Surgery, site: SitePlan, solution: Solution, method: str) -> None:
    """Hands a solution over to the surgery, cut up kernel by kernel.

    Args:
        method: the name of the method, for messages.
    """
    if solution.parents is not None:
        _place_copies(surgery, site, solution)
        return
    slots = fan_out_slots(site)
    for slot, rows in zip(slots, cut_rows(solution.fan_out, slots), strict=True):
        if rows.any():
            surgery.fan_out.setdefault(slot.edit, []).append((slot.rows, rows))
    for write, columns in zip(site.writes, cut_rows(solution.fan_in, site.writes), strict=True):
        if columns.any():
            surgery.fan_in.setdefault(write.edit, []).append((write.columns, columns))
    if solution.bias is not None:
        _place_bias(surgery, site, solution.bias, method)


def has_moments(site: SitePlan) -> bool:
    """Whether new channels of a site pass a normalisation that keeps moving statistics."""
    return any(_is(slot.edit, "moving_variance") for slot in site.carries)


def place_moments(
    surgery: Surgery, site: SitePlan, gradients: SiteGradients, fan_in: np.ndarray
) -> None:
    """Moving statistics of batch normalisations start at those of the growth batch.

    At mean 0 and variance 1 the new channels would be normalised wrongly in inference until the
    moving averages have caught up, which takes hundreds of steps.
    """
    found = {id(call.op): pair for call, pair in gradients.moments(fan_in).items()}
    for slot in site.carries:
        op: Any = None if slot.edit.call is None else slot.edit.call.op
        if id(op) not in found or slot.rows.shape[1] > 1:
            continue
        mean, variance = found[id(op)]
        for variable, values in ((op.moving_mean, mean), (op.moving_variance, variance)):
            if slot.edit.variable is variable:
                surgery.entries.setdefault(slot.edit, []).append((slot.rows, values))


def way_out(others: list[str] | None = None) -> str:
    """What a user can do where a method cannot be used at a site.

    Args:
        others: sites where it can be.
    """
    names = f"names={others}" if others else "names= or pattern="
    return (
        "Use method='random', for all sites, or leave the site out: a selector with "
        f"{names} in GrowthCallback."
    )


def bias_slots(site: SitePlan, method: str) -> list[CarrySlot]:
    """Where the bias of new neurons is set so that it reaches their activation.

    Raises:
        GrowthError: there is none.
    """
    betas = [s for s in site.carries if _is(s.edit, "beta")]
    slots = betas[-1:] or [s for s in site.carries if _is(s.edit, "bias", site)]
    normalised = any(_is(s.edit, "moving_mean") for s in site.carries)
    if not slots or (normalised and not betas):
        lacks, build = "no bias", ""
        if normalised:
            lacks, build = "a batch normalisation without beta", "Build it with center=True, or "
        elif any(hasattr(w.producer.call.op, "use_bias") for w in site.writes):
            build = "Build the layer with use_bias=True, or "
        way = way_out()
        raise GrowthError(
            f"The method '{method}' sets the bias of new neurons, but site '{site.site.name}' has "
            f"{lacks}. {build}{way if not build else way[0].lower() + way[1:]}"
        )
    return slots


def _place_bias(surgery: Surgery, site: SitePlan, bias: np.ndarray, method: str) -> None:
    for slot in bias_slots(site, method):
        surgery.entries.setdefault(slot.edit, []).append((slot.rows, bias))


def _is(edit: Any, name: str, site: SitePlan | None = None) -> bool:
    op = edit.call.op if edit.call is not None else None
    made_here = site is None or any(w.producer.call.op is op for w in site.writes)
    return made_here and getattr(op, name, None) is edit.variable


def _place_copies(surgery: Surgery, site: SitePlan, solution: Solution) -> None:
    parents, shares = solution.parents, solution.shares
    assert parents is not None
    assert shares is not None
    left = np.ones(site.site.width)  # of every present neuron's fan-out
    np.subtract.at(left, parents, shares)
    for carry in site.carries:
        _copied(surgery, carry.edit, carry.rows, carry.old_rows[parents])
    for slot in site.reads:
        copying = _copied(surgery, slot.edit, slot.rows, slot.old_rows[parents])
        if copying.factors is None:
            copying.factors = np.ones(len(slot.edit.labels))
        copying.factors[slot.rows] = shares[:, None]
        copying.factors[grown_places(slot.edit, slot.old_rows)] = left[:, None]
    for write, apart in zip(site.writes, cut_rows(solution.fan_in, site.writes), strict=True):
        copying = _copied(surgery, write.edit, write.columns, write.old_columns[parents])
        if apart.any():
            copying.shifts.append((write.columns, apart))
            first = np.unique(parents, return_index=True)[1]  # a parent moves once
            there = grown_places(write.edit, write.old_columns[parents[first]])
            copying.shifts.append((there, -apart[first]))


def _copied(surgery: Surgery, edit: Any, rows: np.ndarray, source: np.ndarray) -> Copying:
    copying = surgery.copies.setdefault(edit, Copying(edit.labels.copy()))
    copying.labels[rows] = source
    return copying


def grown_places(edit: Any, old: np.ndarray) -> np.ndarray:
    """Where old positions lie along the grown axis."""
    place_of = np.empty(edit.old_size, dtype=np.int64)
    there = np.flatnonzero(edit.labels >= 0)
    place_of[edit.labels[there]] = there
    return place_of[old]


def cut_rows(rows: np.ndarray, slots: list) -> list[np.ndarray]:
    """Rows of all kernels side by side, as (k, n, *other axes) of every kernel."""
    parts, start = [], 0
    for slot in slots:
        rest = _kernel_rows_shape(slot.edit)
        positions = slot.rows if hasattr(slot, "rows") else slot.columns
        size = positions.shape[1] * int(np.prod(rest))
        parts.append(rows[:, start : start + size].reshape(*positions.shape, *rest))
        start += size
    return parts


def present_rows(edit: Any, kernel: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Present rows of a kernel, all of one channel side by side: (channels, entries).

    Args:
        kernel: its values, or others of its shape such as its gradient.
    """
    rows = _kernel_rows(edit, kernel)
    if places.shape[1] > 1 or len(places) != len(rows) or (np.diff(places[:, 0]) != 1).any():
        rows = rows[places]  # a copy, which whole kernels do without
    return rows.reshape(len(places), -1)


def _weights(edit: Any, places: np.ndarray) -> np.ndarray:
    return present_rows(edit, _backend.to_numpy(edit.variable), places)


def _side_by_side(parts: list[np.ndarray]) -> np.ndarray:
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)


def _read_only(array: np.ndarray) -> np.ndarray:
    """On the CPU it may be the kernel itself, into which a method must not write."""
    view = array.view()
    view.flags.writeable = False
    return view


def _kernel_rows(edit: Any, kernel: np.ndarray) -> np.ndarray:
    """A kernel's present values with the growing axis first."""
    if edit.groups > 1:
        kernel = split_groups(kernel, edit.groups)
    return np.moveaxis(kernel, edit.axis, 0)


def _kernel_rows_shape(edit: Any) -> tuple:
    shape = list(edit.variable.shape)
    if edit.groups > 1:
        shape[-1] //= edit.groups
    del shape[edit.axis]
    return tuple(shape)
