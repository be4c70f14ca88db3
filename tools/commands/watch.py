"""``keras-grow watch``: runs that grow, followed in the terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from keras_grow.tools.cli.console import make_console
from keras_grow.tools.cli.errors import EXIT_CODES_HELP, InputError, one_paragraph
from keras_grow.tools.cli.logdirs import LOGDIRS, check_folder, checked_pattern, named
from keras_grow.tools.cli.options import common_options

if TYPE_CHECKING:
    from rich.console import Console

    from keras_grow.logs.runs import Run


@click.command(
    epilog=f"""\
\b
Examples:
  keras-grow watch logs
  keras-grow watch logs --run 'wrn_.*' --interval 10
  keras-grow watch logs --once > now.txt

{EXIT_CODES_HELP}"""
)
@LOGDIRS
@click.option("--once", is_flag=True, help="Print how it is now, and end.")
@click.option(
    "--interval", type=click.FloatRange(0.2, 3600), default=2.0, show_default=True, metavar="S",
    help="Seconds between two looks.",
)  # fmt: skip
@click.option("--run", "pattern", metavar="REGEX", help="Only runs whose name this matches.")
@common_options
def command(logdirs: tuple[Path, ...], once: bool, interval: float, pattern: str | None) -> None:
    """Show the runs below each LOGDIR while they train: loss, size, last growths, warnings.

    Ctrl-C ends it. Where the output is no terminal, it is printed once.
    """
    matching = checked_pattern(pattern)
    for one in logdirs:
        check_folder(one)
    from keras_grow.logs.reading import Follower

    followers = [(one, Follower(one)) for one in logdirs]

    def look() -> list[Run]:
        found = []
        for folder, follower in followers:
            follower.update()
            found += [named(run, folder, len(logdirs) > 1) for run in follower.runs()]
        return [run for run in found if matching is None or matching.search(run.name)]

    console = make_console()
    if not _unicode(console) and hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")  # names of runs may hold anything
    try:
        if once or not console.is_terminal:
            console.print(_view(look(), logdirs, console, live=False))
        else:
            _follow(look, logdirs, console, interval)
    except ValueError as error:
        from keras_grow.errors import GrowthError

        if not isinstance(error, GrowthError):
            raise
        raise InputError(one_paragraph(error)) from error


def _view(runs: list[Run], logdirs: tuple[Path, ...], console: Console, live: bool) -> Any:
    from keras_grow.tools.report.watch import view

    height = console.height if live else None
    return view(runs, logdirs, console.width, height, _unicode(console))


def _unicode(console: Console) -> bool:
    return console.encoding.lower().startswith("utf")


def _follow(
    look: Callable[[], list[Run]], logdirs: tuple[Path, ...], console: Console, interval: float
) -> None:
    """Shows what is new until Ctrl-C, and leaves the last of it on the screen."""
    from rich.live import Live

    try:
        with Live(console=console, auto_refresh=False, vertical_overflow="ellipsis") as live:
            while True:
                live.update(_view(look(), logdirs, console, live=True), refresh=True)
                time.sleep(interval)
    except KeyboardInterrupt:
        return
