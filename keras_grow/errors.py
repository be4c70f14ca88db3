"""The errors keras_grow raises. All are `ValueError`s, as bad arguments to Keras are."""

import difflib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from numbers import Integral, Real
from typing import Any


class GrowthError(ValueError):
    """Something asked of keras_grow cannot be done. The model is as it was before the call."""


class RefusedError(GrowthError):
    """A layer or op on the way of the growing channels cannot carry them exactly.

    Attributes:
        call: the call in the graph, where there is one.
    """

    def __init__(self, message: str, call: Any = None) -> None:
        super().__init__(message)
        self.call = call


class DataError(GrowthError):
    """The growth data cannot be used: wrong shape, empty, or not finite."""


def is_whole(value: Any) -> bool:
    """Whether a value is a whole number, of Python or NumPy, and no truth value."""
    return not isinstance(value, bool) and isinstance(value, Integral)


def is_real(value: Any) -> bool:
    """Whether a value is a real number, of Python or NumPy, and no truth value."""
    return not isinstance(value, bool) and isinstance(value, Real)


def check_whole(name: str, value: Any, least: int) -> None:
    """Raises GrowthError unless an argument is a whole number of `least` or more."""
    if not is_whole(value) or value < least:
        raise GrowthError(
            f"{name} must be a whole number of {least} or more. Received: {name}={value!r}"
        )


def check_flag(name: str, value: Any) -> None:
    """Raises GrowthError unless an argument is True or False, of Python or NumPy."""
    if type(value).__name__ not in ("bool", "bool_"):
        raise GrowthError(f"{name} must be True or False. Received: {name}={value!r}")


def shown(value: Any) -> str:
    """A value of any kind in one short line, with its type where that is not plain."""
    text = " ".join(repr(value).split())
    text = text if len(text) <= 100 else f"{text[:97]}..."
    kind = type(value).__name__
    return text if value is None or kind in text else f"{text} ({kind})"


def nearest(name: str, names: Iterable[str]) -> str:
    """A sentence naming what the user may have meant, or listing some of the choices."""
    names = list(names)
    inner = [n for n in names if n.endswith(f"/{name}")]  # of a nested model
    close = inner or difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    if close:
        return "Did you mean " + " or ".join(f"'{c}'" for c in close) + "?"
    if not names:
        return ""
    shown = ", ".join(f"'{n}'" for n in names[:8])
    return f"Choose one of: {shown}{', ...' if len(names) > 8 else ''}."


@contextmanager
def all_or_nothing(undo: Callable[[], None], what: str) -> Iterator[None]:
    """Undoes what the body has done if it fails, or is interrupted.

    Args:
        undo: puts everything back.
        what: names what is being done, at the start of a sentence.

    Raises:
        GrowthError: the body failed; one of its own is passed on as it is.
    """
    try:
        yield
    except BaseException as error:  # an interrupt must not leave half a model either
        undo()
        if isinstance(error, GrowthError) or not isinstance(error, Exception):
            raise
        raise GrowthError(
            f"{what} failed and was undone; the model is as it was. "
            f"Received: {type(error).__name__}: {error}"
        ) from error
