"""What a method says of itself, and checks of it and of what it returns: it may be the user's own.

Every error names the method.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from keras_grow.errors import GrowthError, is_real, is_whole, shown
from keras_grow.growth.methods.base import FORMS, SPLIT, Problem, Solution
from keras_grow.planning.plan import INVERSE, OUTGOING


def forms_of(method: Any) -> tuple[str, ...]:
    """The forms a method knows; outgoing and inverse if it does not say."""
    return tuple(getattr(method, "forms", (OUTGOING, INVERSE)))


def wants_gradients(method: Any) -> bool:
    """Whether a method looks at gradients; not if it does not say."""
    return bool(getattr(method, "needs_gradients", False))


def wants_inputs(method: Any) -> bool:
    """Whether a method looks at what consumers read now; not if it does not say."""
    return bool(getattr(method, "needs_inputs", False))


def epsilon_of(method: Any) -> float:
    """The norm of the side that is zero in the method's form; 0 if it does not say."""
    return float(getattr(method, "epsilon", 0.0))


def check_method(method: Any) -> None:
    """Raises GrowthError unless an object has what a `Method` must have."""
    if not callable(getattr(method, "solve", None)):
        raise GrowthError(
            "method must be a name or an object with solve(problem, rng). "
            f"Received: method={shown(method)}."
        )
    name = getattr(method, "name", None)
    if not isinstance(name, str) or not name:
        raise GrowthError(
            f"The growth method {type(method).__name__} needs a name, a text for events and "
            f"messages. Received: name={name!r}."
        )
    forms = getattr(method, "forms", (OUTGOING, INVERSE))
    if (
        isinstance(forms, str)
        or not isinstance(forms, Sequence)
        or not len(forms)
        or not all(isinstance(f, str) and f in FORMS for f in forms)
    ):
        listed = ", ".join(f"'{f}'" for f in FORMS)
        raise GrowthError(
            f"The forms of the method '{name}' must be a tuple of one or more of {listed}. "
            f"Received: forms={forms!r}."
        )
    for flag in ("needs_gradients", "needs_inputs"):
        value = getattr(method, flag, False)
        if not isinstance(value, (bool, np.bool_)):
            raise GrowthError(
                f"{flag} of the method '{name}' must be True or False. Received: {flag}={value!r}."
            )
    epsilon = getattr(method, "epsilon", 0.0)
    if not is_real(epsilon) or not 0 <= epsilon < np.inf:
        raise GrowthError(
            f"epsilon of the method '{name}' must be a number of 0 or more. "
            f"Received: epsilon={epsilon!r}."
        )


def checked(method: Any, problem: Problem, solution: Any) -> Solution:
    """A method's solution with arrays in it.

    Raises:
        GrowthError: it does not answer the problem; the message names the method and the part.
    """
    name, k, width = method.name, problem.added, len(problem.fan_in)
    if not isinstance(solution, Solution):
        raise GrowthError(
            f"The method '{name}' must return a keras_grow.methods.Solution. "
            f"Received: {shown(solution)}."
        )
    found: dict[str, Any] = {
        side: _numbers(name, side, getattr(solution, side), (k, getattr(problem, side).shape[1]))
        for side in ("fan_out", "fan_in")
    }
    if solution.bias is not None:
        found["bias"] = _numbers(name, "bias", solution.bias, (k,))
    if solution.parents is not None or solution.shares is not None:
        found.update(_copies(name, problem, solution, width))
    values = solution.singular_values
    found["singular_values"] = _numbers(name, "singular_values", values, (np.size(values),))
    if not (solution.gradient_norm is None or is_real(solution.gradient_norm)):
        raise _wrong(name, "a gradient_norm that is a number or None", solution.gradient_norm)
    if not (solution.rank is None or is_whole(solution.rank)):
        raise _wrong(name, "a rank that is a whole number or None", solution.rank)
    notes: Any = solution.notes
    notes = (notes,) if isinstance(notes, str) else notes
    if not isinstance(notes, Sequence) or not all(isinstance(note, str) for note in notes):
        raise _wrong(name, "notes that are a tuple of texts", notes)
    return replace(solution, notes=tuple(notes), **found)


def sides_set(problem_form: str, solution: Solution) -> str | None:
    """Which sides of one new neuron are not zero so that the function changes, in words."""
    if solution.parents is not None:
        return None
    out, into = solution.fan_out.any(axis=1), solution.fan_in.any(axis=1)
    if (out & into).any():
        return "both fan-in and fan-out"
    if solution.bias is not None and (out & (solution.bias != 0)).any():
        return "both bias and fan-out"
    if problem_form == OUTGOING and into.any():
        return "the fan-in, which is zero in the outgoing form,"
    return None


def _copies(name: str, problem: Problem, solution: Solution, width: int) -> dict[str, Any]:
    k = problem.added
    if problem.form != SPLIT:
        raise GrowthError(
            f"The method '{name}' returned parents or shares, which belong to forms=('{SPLIT}',). "
            f"Received: them in the {problem.form} form."
        )
    if solution.parents is None or solution.shares is None:
        lacks = "parents" if solution.parents is None else "shares"
        raise GrowthError(
            f"The method '{name}' must return parents and shares together: of which present "
            f"neuron each new one is a copy, and what part of its fan-out it gets. "
            f"Received: {lacks}=None."
        )
    parents = _numbers(name, "parents", solution.parents, (k,))
    if ((parents < 0) | (parents >= width) | (parents % 1 != 0)).any():
        raise _wrong(name, f"parents that are whole numbers from 0 to {width - 1}", parents)
    shares = _numbers(name, "shares", solution.shares, (k,))
    return {"parents": parents.astype(np.int64), "shares": shares}


def _numbers(name: str, part: str, value: Any, shape: tuple[int, ...]) -> np.ndarray:
    try:
        if hasattr(value, "detach"):  # a tensor of PyTorch
            value = value.detach().cpu()
        array = np.asarray(value)
    except (TypeError, ValueError) as error:
        raise _wrong(name, f"{part} as an array of shape {shape}", value) from error
    rows = " with a row for every new neuron" if len(shape) == 2 else ""
    what = None
    if array.dtype.kind not in "biuf":
        what = f"values of type {array.dtype}"
    elif array.shape != shape:
        what = f"shape {array.shape}"
    elif not np.isfinite(array).all():
        what = "values not finite"
    if what is not None:
        raise GrowthError(
            f"The method '{name}' must return {part} of finite real numbers{rows}, shape {shape}. "
            f"Received: {what}."
        )
    return array if array.dtype.kind == "f" else array.astype("float64")


def _wrong(name: str, wanted: str, value: Any) -> GrowthError:
    return GrowthError(f"The method '{name}' must return {wanted}. Received: {shown(value)}.")
