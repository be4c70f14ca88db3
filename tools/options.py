"""The options which every command has, and how a command starts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from keras_grow.tools.backend import BACKENDS, Choice, choose_backend

Function = TypeVar("Function", bound=Callable[..., Any])

_PREFIX = "keras_grow."


def _remember(context: click.Context, parameter: click.Parameter, value: Any) -> None:
    # The options stand both before and after the command's name; the one that was given counts.
    if value:
        context.meta[f"{_PREFIX}{parameter.name}"] = value


def common_options(function: Function) -> Function:
    """Add ``--backend`` and ``--debug``; their values are kept in the click context."""
    debug = click.option(
        "--debug",
        is_flag=True,
        expose_value=False,
        callback=_remember,
        help="Show the traceback when something fails.",
    )
    backend = click.option(
        "--backend",
        type=click.Choice(BACKENDS),
        expose_value=False,
        callback=_remember,
        help="Keras backend to run on. Default: KERAS_BACKEND, then Keras' own configuration "
        "file, then the first of these that is installed.",
    )
    return backend(debug(function))


def wants_debug(context: click.Context) -> bool:
    """Whether ``--debug`` was given."""
    return bool(context.meta.get(f"{_PREFIX}debug", False))


def start_backend() -> Choice:
    """Choose the backend for the running command; to be called before Keras is imported."""
    context = click.get_current_context()
    choice = choose_backend(context.meta.get(f"{_PREFIX}backend"))
    context.meta[f"{_PREFIX}choice"] = choice
    return choice


def chosen_backend(context: click.Context) -> Choice | None:
    """The backend which :func:`start_backend` chose, or None if it did not come to that."""
    choice: Choice | None = context.meta.get(f"{_PREFIX}choice")
    return choice
