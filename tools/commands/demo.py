"""``keras-grow demo``: grow a network on real data, in front of the user."""

from __future__ import annotations

import importlib.util
import os
import time
from pathlib import Path

import click

from keras_grow.tools.cli.console import make_console
from keras_grow.tools.cli.errors import EXIT_CODES_HELP, InputError
from keras_grow.tools.cli.options import common_options, start_backend
from keras_grow.tools.demo import FILES

_NEEDED = {"sklearn": "scikit-learn", "matplotlib": "matplotlib"}
_DEFAULT_FOLDER = Path("demo-out")


def _earlier_files(folder: Path) -> list[str]:
    return [name for name in FILES if (folder / name).exists()]


def _free_folder() -> Path:
    """``demo-out``; where an earlier demonstration lies there, ``demo-out/run-2`` and so on."""
    folder, number = _DEFAULT_FOLDER, 1
    while _earlier_files(folder):
        number += 1
        folder = _DEFAULT_FOLDER / f"run-{number}"
    return folder


def _prepare_folder(folder: Path, force: bool) -> None:
    """Make the folder; refuse one that holds an earlier demonstration or cannot be written to."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"The output folder {folder} is a file. Give another name with --out.")
    there = _earlier_files(folder)
    if there and not force:
        raise InputError(
            f"{folder} holds the results of an earlier demonstration ({', '.join(there)}). Give "
            "another folder with --out, or --force to replace these files."
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"The folder {folder} cannot be made: {error.strerror}.") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(f"The output folder {folder} cannot be written to.")


def _check_packages() -> None:
    missing = [
        package for module, package in _NEEDED.items() if importlib.util.find_spec(module) is None
    ]
    if missing:
        raise InputError(
            f"The demonstration needs {' and '.join(missing)}, which "
            f"{'are' if len(missing) > 1 else 'is'} not installed. Install with: "
            "pip install 'keras-grow[zoo,plot]'"
        )


@click.command(
    epilog=f"""\
\b
Examples:
  keras-grow demo
  keras-grow demo --backend torch --seeds 1 --out demo-torch

{EXIT_CODES_HELP}"""
)
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="DIR",
    help="Folder for the grown model, the plot and the numbers. Default: demo-out, and "
    "demo-out/run-2 and so on while there are earlier results.",
)  # fmt: skip
@click.option(
    "--seeds", type=click.IntRange(1, 1000), default=3, show_default=True,
    help="How many times to repeat everything, with other initial weights and batches.",
)  # fmt: skip
@click.option(
    "--epochs", type=click.IntRange(1, 100_000), default=30, show_default=True,
    help="Passes over the 1,437 training images, in every training.",
)  # fmt: skip
@click.option("--force", is_flag=True, help="Replace the files of an earlier demonstration in DIR.")
@common_options
def command(out: Path | None, seeds: int, epochs: int, force: bool) -> None:
    """Train a small conv net on handwritten digits four ways, and compare.

    Small from scratch, big from scratch, and grown from small to big in the middle of one fit,
    with Random and with GradMax: the same number of steps, the same optimizer, the same batches.
    Then a table, a plot, the grown model as a .keras file, and what to try next. Takes one to
    three minutes on two CPU cores; --seeds 1 is quicker and says nothing about chance.
    """
    _check_packages()
    if out is None:
        out = _DEFAULT_FOLDER if force else _free_folder()
    _prepare_folder(out, force)
    choice = start_backend()
    _run(out, seeds, epochs, choice.name)


def _run(out: Path, seeds: int, epochs: int, backend: str) -> None:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from keras_grow.tools.demo import experiment, report

    console = make_console()
    settings = experiment.Settings(epochs=epochs)
    steps = experiment.number_of_steps(settings)
    console.print(
        f"Handwritten digits, a conv net of {settings.small} channels growing to {settings.big}; "
        f"{len(experiment.WAYS)} trainings of {steps} steps, {seeds} "
        f"seed{'s' if seeds > 1 else ''}; Keras on {backend}."
    )
    start = time.perf_counter()
    results: list[experiment.Result] = []
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        for seed in range(seeds):
            for way in experiment.WAYS:
                title = f"seed {seed}  {way.title}"
                task = progress.add_task(title, total=steps, loss="")

                def on_step(step: int, loss: float, task: object = task) -> None:
                    progress.update(task, completed=step, loss=f"{loss:.4f}")  # type: ignore[arg-type]

                model, result = experiment.train(way, seed, settings, on_step)
                progress.update(task, loss=f"{result.loss:.4f}")
                results.append(result)
                if not console.is_terminal:  # a bar needs a terminal; a log gets lines
                    console.print(f"{title}: loss {result.loss:.4f}, {result.seconds:.1f} s")
                if way.key == "gradmax" and seed == 0:
                    report.write_model(out, model)
    console.print()
    console.print(report.make_table(results, seeds, steps))
    report.write_results(out, results, settings)
    report.write_plot(out, results, batches_per_epoch=steps // epochs)
    report.print_next(console, out)
    console.print(f"\nAll of it took {time.perf_counter() - start:.0f} s.")
