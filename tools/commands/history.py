"""``keras-grow history``: how the model in a file has grown."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from keras_grow.tools.cli.console import make_console
from keras_grow.tools.cli.errors import EXIT_CODES_HELP, InputError, one_paragraph
from keras_grow.tools.cli.options import MODEL_FILE, common_options
from keras_grow.tools.words import count

if TYPE_CHECKING:
    from keras_grow.logs.events import GrowthEvent, SiteGrowth

#: Named in the output of --json; it changes when a field changes its meaning or goes away.
SCHEMA = "keras-grow/history/1"

#: Sites of one growth that get a line of their own.
_SHOWN_SITES = 12


def describe(path: Path, events: list[GrowthEvent], left_out: list[str]) -> dict[str, Any]:
    """The history as plain JSON values; an event is what `GrowthEvent.to_dict` gives."""
    return {
        "schema": SCHEMA,
        "file": str(path),
        "events": [event.to_dict() for event in events],
        "left_out": left_out,
    }


def _print(path: Path, events: list[GrowthEvent]) -> None:
    from rich.table import Table
    from rich.text import Text

    console = make_console()
    if not events:
        console.print(Text(f"{path} tells of no growth."), soft_wrap=True)
        return
    table = Table(title=Text(f"Growth of {path}"), title_justify="left", pad_edge=False)
    table.add_column("when", no_wrap=True)
    table.add_column("step", justify="right", no_wrap=True)
    table.add_column("what grew", overflow="fold", ratio=2)
    table.add_column("how", overflow="fold", ratio=1)
    table.add_column("parameters", justify="right")
    table.add_column("outputs\nchanged by", justify="right")
    for event in events:
        table.add_row(
            _date(event.time),
            f"{event.step:,}",
            Text("\n".join(_sites(event.sites)) or "not told"),
            Text("\n".join(dict.fromkeys(f"{s.method}, {s.form}" for s in event.sites))),
            f"{count(event.parameters_before)} -> {count(event.parameters_after)}",
            "" if event.deviation is None else f"{event.deviation:.0e}",
            end_section=True,
        )
    console.print(table)
    first, last = events[0], events[-1]
    console.print(
        f"{len(events)} growth{'s' if len(events) > 1 else ''}: parameters "
        f"{count(first.parameters_before)} -> {count(last.parameters_after)}, FLOPs for one "
        f"sample {count(first.flops_before)} -> {count(last.flops_after)}"
    )


def _sites(sites: list[SiteGrowth]) -> list[str]:
    lines = [
        f"{site.name} new, {site.width_after} wide"
        if site.width_before == 0
        else f"{site.name} {site.width_before} -> {site.width_after}"
        for site in sites[:_SHOWN_SITES]
    ]
    more = len(sites) - len(lines)
    return [*lines, f"and {more} more"] if more else lines


def _date(seconds: float) -> str:
    try:
        return datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M") if seconds else ""
    except (OverflowError, OSError, ValueError):  # no such date
        return "?"


@click.command(
    epilog=f"""\
\b
Examples:
  keras-grow history grown.keras
  keras-grow history grown.keras --json | jq '.events[].parameters_after'

\b
Fields of --json (schema {SCHEMA}):
  schema, file
  events    [step, epoch, time, parameters_before, parameters_after, flops_before,
             flops_after, deviation, tolerance, loss, seconds,
             sites [name, width_before, width_after, method, form, kind, ...]]
  left_out  sentences about entries that could not be read

{EXIT_CODES_HELP}"""
)
@click.argument("model", type=MODEL_FILE)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")
@common_options
def command(model: Path, as_json: bool) -> None:
    """Show how the model in the file MODEL has grown.

    A model that keras_grow has made grow carries its history inside its .keras file. Loading it
    with Keras and saving it again loses that, unless keras_grow.history(file, into=model) was
    called in between. A model without one is no failure. Keras is not started.
    """
    from keras_grow.errors import GrowthError
    from keras_grow.logs.history_file import read_history

    try:
        events, left_out = read_history(model)
    except GrowthError as error:
        raise InputError(one_paragraph(error, 500)) from error
    if as_json:
        click.echo(json.dumps(describe(model, events, left_out), indent=2))
        return
    _print(model, events)
    for sentence in left_out:
        click.echo(f"Warning: {sentence}", err=True)
