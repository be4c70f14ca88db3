"""Log folders on the command line: for ``report`` and ``watch``."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from keras_grow.tools.cli.errors import InputError, one_paragraph

if TYPE_CHECKING:
    from keras_grow.logs.runs import Run

LOGDIRS = click.argument(
    "logdirs", metavar="LOGDIR...", nargs=-1, required=True, type=click.Path(path_type=Path)
)

HOW_TO_LOG = """\
These lines log one:

  growth = keras_grow.GrowthCallback((x_train, y_train), log_dir="logs/run_1")
  model.fit(x_train, y_train, epochs=20, callbacks=[growth])
  # then: keras-grow report logs -o report.html"""


def check_packages(what: str, *modules: str) -> None:
    """Refuse, before any work is done, what needs packages that are not installed.

    Raises:
        InputError: one of them is not.
    """
    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    if missing:
        raise InputError(
            f"{what} needs {' and '.join(missing)}, which "
            f"{'are' if len(missing) > 1 else 'is'} not installed. Install with: "
            "pip install 'keras-grow[tensorboard]'"
        )


def checked_pattern(pattern: str | None) -> re.Pattern[str] | None:
    """The regular expression that runs' names are to match.

    Raises:
        InputError: it is none.
    """
    try:
        return None if pattern is None else re.compile(pattern)
    except re.error as error:
        raise InputError(
            f"--run {pattern!r} is no regular expression: {error.msg} at position {error.pos}."
        ) from error


def read_logdirs(logdirs: Sequence[Path], pattern: str | None = None) -> list[Run]:
    """The runs below all of these folders.

    Raises:
        InputError: a folder is missing or cannot be read, there is no run in any, or none that
            matches the pattern.
    """
    from keras_grow.errors import GrowthError
    from keras_grow.logs.reading import read_runs

    matching = checked_pattern(pattern)
    for one in logdirs:
        check_folder(one)
    found = []
    for one in logdirs:
        try:
            runs = read_runs(one)
        except GrowthError as error:
            raise InputError(one_paragraph(error)) from error
        found += [named(run, one, len(logdirs) > 1) for run in runs]
    if not found:
        raise InputError(f"There is no run below {_listed(logdirs)}.\n\n{HOW_TO_LOG}")
    kept = [run for run in found if matching is None or matching.search(run.name)]
    if not kept:
        names = ", ".join(f"'{run.name}'" for run in found[:5])
        more = f" and {len(found) - 5} more" if len(found) > 5 else ""
        raise InputError(f"--run {pattern!r} matches none of the runs: {names}{more}.")
    return kept


def check_folder(logdir: Path) -> None:
    """Refuse a log folder that is not there.

    Raises:
        InputError: with the lines that would make one.
    """
    if logdir.is_file():
        raise InputError(f"{logdir} is a file. Give the folder that runs are logged in.")
    if not logdir.is_dir():
        raise InputError(f"There is no log folder {logdir}.\n\n{HOW_TO_LOG}")


def named(run: Run, logdir: Path, several: bool) -> Run:
    """The run under a name that tells it from runs of other folders."""
    here = logdir.resolve().name or str(logdir)
    if run.name == ".":
        return replace(run, name=here)
    return replace(run, name=f"{here}/{run.name}") if several else run


def _listed(logdirs: Sequence[Path]) -> str:
    return " or ".join(str(one) for one in logdirs)
