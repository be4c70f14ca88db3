"""The options which every command has, and how a command starts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from keras_grow.tools.cli.backend import BACKENDS, ChosenBackend, choose_backend
from keras_grow.tools.modelfile.trust import Trust

Function = TypeVar("Function", bound=Callable[..., Any])

#: The argument that names a model's file. Whether it can be read is for `modelfile` to say.
MODEL_FILE = click.Path(path_type=Path, readable=False)

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


class _Custom(click.ParamType):
    """``module:Class``, or ``module`` for all that the module registers with Keras."""

    name = "MODULE[:CLASS]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Check the form; nothing is imported yet."""
        module, colon, name = str(value).partition(":")
        if not all(part.isidentifier() for part in module.split(".")) or (
            colon and not name.isidentifier()
        ):
            self.fail(
                f"{value!r} is not of the form module:Class, such as mypackage.layers:Swish.",
                param,
                ctx,
            )
        return str(value)


def model_options(function: Function) -> Function:
    """Add ``--trust`` and ``--custom``, for commands that load a model; see :func:`trust`."""
    allow = click.option(
        "--trust",
        is_flag=True,
        expose_value=False,
        callback=_remember,
        help="Run Python code that the file holds (Lambda layers). Only for files whose maker you "
        "trust: such code can do anything that you can.",
    )
    custom = click.option(
        "--custom",
        multiple=True,
        type=_Custom(),
        expose_value=False,
        callback=_remember,
        help="A layer or function of your own that the model uses, as module:Class; the module is "
        "imported. Or a module alone, whose classes register themselves (keras_hub). May be "
        "repeated.",
    )
    return custom(allow(function))


def trust() -> Trust:
    """What the user of the running command vouches for."""
    meta = click.get_current_context().meta
    return Trust(bool(meta.get(f"{_PREFIX}trust")), tuple(meta.get(f"{_PREFIX}custom", ())))


def wants_debug(context: click.Context) -> bool:
    """Whether ``--debug`` was given."""
    return bool(context.meta.get(f"{_PREFIX}debug", False))


def start_backend() -> ChosenBackend:
    """Choose the backend for the running command; to be called before Keras is imported."""
    context = click.get_current_context()
    choice = choose_backend(context.meta.get(f"{_PREFIX}backend"))
    context.meta[f"{_PREFIX}choice"] = choice
    return choice


def chosen_backend(context: click.Context) -> ChosenBackend | None:
    """The backend which :func:`start_backend` chose, or None if it did not come to that."""
    choice: ChosenBackend | None = context.meta.get(f"{_PREFIX}choice")
    return choice
