"""What a method says of itself, and checks of it and of what it returns: it may be the user's own.

Here and nowhere else is an object asked what it may leave out. Every error names the method.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from keras_grow.errors import GrowthError, is_real, is_whole, nearest, shown
from keras_grow.growth.methods.base import (
    FORMS,
    METHODS,
    SPLIT,
    Method,
    MethodLike,
    Problem,
    Scaled,
    Solution,
)
from keras_grow.planning.plan import OUTGOING

# What a method may say of itself besides its name; where it does not, `Method` says it.
OPTIONAL = ("forms", "needs_gradients", "needs_inputs", "epsilon", "sets_bias")


@dataclass(frozen=True)
class Adapted(Method):
    """A user's own object as a `Method`, with what it said of itself when it was passed.

    Attributes:
        given: the object. Attributes of its own can be read here too.
    """

    given: MethodLike
    name: str
    forms: tuple[str, ...]
    needs_gradients: bool
    needs_inputs: bool
    epsilon: float
    sets_bias: bool

    def solve(self, problem: Problem, rng: np.random.Generator) -> Solution:
        return self.given.solve(problem, rng)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # copying and pickling ask before there is anything given
            raise AttributeError(name)
        return getattr(self.given, name)


def get(method: str | type | MethodLike) -> Method:
    """A method from its name, its class or itself, as `keras.losses.get` does for losses.

    Returns:
        What every part of the library reads, frozen: one of the methods here as it is, an object
        of the user's own in an adapter. What has been returned once is returned as it is.

    Raises:
        GrowthError: no such name, or an object that is no method.
    """
    found: Any = method
    if isinstance(method, str):
        try:
            found = METHODS[method.lower().replace("_", "").replace("-", "")]()
        except KeyError:
            raise GrowthError(
                f"There is no growth method '{method}'. {nearest(method, METHODS)} "
                f"Received: method={method!r}."
            ) from None
    elif isinstance(method, type) and callable(getattr(method, "solve", None)):
        found = method()
    said = _said(found)
    return found if isinstance(found, (Scaled, Adapted)) else Adapted(found, **said)


def _said(method: Any) -> dict[str, Any]:
    """What an object says of itself, by the names of `Method`'s attributes.

    Raises:
        GrowthError: it lacks what a `MethodLike` must have, or says what cannot be.
    """
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
    said = {key: getattr(method, key, getattr(Method, key)) for key in OPTIONAL}
    forms = said["forms"]
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
    for flag in ("needs_gradients", "needs_inputs", "sets_bias"):
        value = said[flag]
        if not isinstance(value, (bool, np.bool_)):
            raise GrowthError(
                f"{flag} of the method '{name}' must be True or False. Received: {flag}={value!r}."
            )
        said[flag] = bool(value)
    epsilon = said["epsilon"]
    if not is_real(epsilon) or not 0 <= epsilon < np.inf:
        raise GrowthError(
            f"epsilon of the method '{name}' must be a number of 0 or more. "
            f"Received: epsilon={epsilon!r}."
        )
    return {**said, "name": name, "forms": tuple(forms), "epsilon": float(epsilon)}


def checked(method: Method, problem: Problem, solution: Any) -> Solution:
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
