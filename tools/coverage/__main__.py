"""`python -m keras_grow.tools.coverage`: measures models and writes the report."""

import re
from pathlib import Path

import click

from keras_grow.tools.coverage import report, runner
from keras_grow.tools.coverage.models import ALL_BACKENDS, entries

_FOLDER = click.option(
    "--folder", type=click.Path(path_type=Path), default=Path("build/coverage"),
    show_default=True, help="Where the records are.",
)  # fmt: skip


@click.group()
def main() -> None:
    """Widen every model of keras.applications, keras-cv and keras-hub wherever it can grow."""


@main.command("run")
@_FOLDER
@click.option("--backend", type=click.Choice(ALL_BACKENDS), default="torch", show_default=True)
@click.option(
    "--floatx", type=click.Choice(list(report.TOLERANCE)), default="float32", show_default=True
)
@click.option("--only", default="", help="A regular expression: only these library/model names.")
@click.option("--first", is_flag=True, help="Only the first model of each family.")
@click.option("--singles", default=3, show_default=True, help="Sites widened alone, each model.")
@click.option("--timeout", default=3600.0, show_default=True, help="Seconds for one model.")
@click.option("--again", is_flag=True, help="Measure what has a record already, too.")
def run(
    folder: Path,
    backend: str,
    floatx: str,
    only: str,
    first: bool,
    singles: int,
    timeout: float,
    again: bool,
) -> None:
    """Measure models which have no record yet, each in a process of its own."""
    chosen = [e for e in entries() if re.search(only, e.key)]
    if first:
        families: dict[tuple[str, str], int] = {}
        for i, e in enumerate(chosen):
            if backend in e.backends:
                families.setdefault((e.library, e.family), i)
        chosen = [chosen[i] for i in sorted(families.values())]
    runner.run(chosen, folder, backend, floatx, singles, timeout, again, click.echo)


@main.command("report")
@_FOLDER
@click.option(
    "--target", type=click.Path(path_type=Path), default=Path("docs/coverage.md"),
    show_default=True,
)  # fmt: skip
def write(folder: Path, target: Path) -> None:
    """Write the report of all records. The exit code is 1 if something is not as it should be."""
    problems = report.write(folder, target)
    for problem in problems:
        click.echo(problem, err=True)
    if problems:
        raise click.exceptions.Exit(1)


@main.command("list")
def names() -> None:
    """Print the names of all models."""
    for e in entries():
        click.echo(e.key)


if __name__ == "__main__":
    main()
