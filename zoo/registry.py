"""The zoo's registry: builders of models and loaders of data, found by name."""

import difflib
import inspect
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

import keras
import numpy as np

from keras_grow.errors import GrowthError

Split: TypeAlias = tuple[np.ndarray, np.ndarray]
Data: TypeAlias = tuple[Split, Split]
ModelBuilder: TypeAlias = Callable[..., keras.Model]
DataLoader: TypeAlias = Callable[..., Data]

_MODELS: dict[str, ModelBuilder] = {}
_DATASETS: dict[str, DataLoader] = {}


class ZooError(GrowthError):
    """The zoo was asked for something that it does not have or cannot build."""


def register_model(name: str) -> Callable[[ModelBuilder], ModelBuilder]:
    """Return a decorator which makes a function available as `build(name)`.

    Args:
        name: the name to register; it must be free.

    Raises:
        ZooError: if the name is taken.
    """
    return _registrar(_MODELS, "model", name)


def register_data(name: str) -> Callable[[DataLoader], DataLoader]:
    """Return a decorator which makes a function available as `load_data(name)`.

    The function returns `(x_train, y_train), (x_test, y_test)`, NumPy arrays, as the loaders in
    `keras.datasets` do.

    Args:
        name: the name to register; it must be free.

    Raises:
        ZooError: if the name is taken.
    """
    return _registrar(_DATASETS, "data set", name)


def models() -> list[str]:
    """Return the names that `build` knows, sorted."""
    return sorted(_MODELS)


def datasets() -> list[str]:
    """Return the names that `load_data` knows, sorted."""
    return sorted(_DATASETS)


def build(name: str, **options: Any) -> keras.Model:
    """Build a model of the zoo, with new weights and not compiled.

    Args:
        name: one of `models()`.
        **options: arguments of that model's builder, whose docstring lists them.

    Raises:
        ZooError: if there is no such model, or its builder has no such option.
    """
    builder = _find(_MODELS, "model", name)
    _check_options(builder, name, options)
    return builder(**options)


def load_data(name: str, **options: Any) -> Data:
    """Load a data set of the zoo.

    Args:
        name: one of `datasets()`.
        **options: arguments of that data set's loader, whose docstring lists them.

    Returns:
        `(x_train, y_train), (x_test, y_test)` as NumPy arrays.

    Raises:
        ZooError: if there is no such data set, or its loader has no such option.
        ImportError: if the data comes with a package that is not installed.
    """
    loader = _find(_DATASETS, "data set", name)
    _check_options(loader, name, options)
    return loader(**options)


def _registrar(entries: dict[str, Any], kind: str, name: str) -> Callable[[Any], Any]:
    def register(function: Any) -> Any:
        if name in entries:
            raise ZooError(
                f"The zoo already has a {kind} named {name!r}. Choose another name. "
                f"Received: name={name!r}"
            )
        entries[name] = function
        return function

    return register


def _find(entries: dict[str, Any], kind: str, name: str) -> Any:
    if name not in entries:
        raise ZooError(
            f"The zoo has no {kind} named {name!r}.{_nearest(str(name), entries)} It has "
            f"{', '.join(sorted(entries))}. Received: name={name!r}"
        )
    return entries[name]


def _check_options(function: Callable[..., Any], name: str, options: dict[str, Any]) -> None:
    known = inspect.signature(function).parameters
    if any(p.kind is p.VAR_KEYWORD for p in known.values()):
        return
    for option in options:
        if option not in known:
            raise ZooError(
                f"{name!r} of the zoo has no option {option!r}.{_nearest(option, known)} Its "
                f"options are {', '.join(known) or 'none'}. "
                f"Received: {option}={options[option]!r}"
            )


def _nearest(name: str, candidates: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(candidates), n=1)
    return f" Did you mean {close[0]!r}?" if close else ""
