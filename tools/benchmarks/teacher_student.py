"""Section 4.1 of the paper through `GrowthCallback`: final training loss of every way to train."""

import json
from collections.abc import Iterator

import click
import keras
import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

import keras_grow as kg
from keras_grow.zoo import teacher_student as zoo

TASKS = {"small": zoo.SMALL, "large": zoo.LARGE}
METHODS: dict[str, tuple[object, str]] = {
    "random, isotropic": (kg.methods.Random(), "outgoing"),
    "random, positive": (kg.methods.Random(distribution="positive"), "outgoing"),
    "gradmax, no sign rule": (kg.methods.GradMax(sign_rule=False), "outgoing"),
    "gradmax": (kg.methods.GradMax(), "outgoing"),
    "gradmax, inverse": (kg.methods.GradMax(), "inverse"),
    "gradmaxopt": (kg.methods.GradMaxOpt(), "outgoing"),
    "firefly": (kg.methods.Firefly(), "outgoing"),
    "tiny": (kg.methods.Tiny(), "outgoing"),
    "pursuit, outgoing": (kg.methods.Pursuit(), "outgoing"),
    "pursuit": (kg.methods.Pursuit(), "inverse"),
    "pursuit, scale 2": (kg.methods.Pursuit(scale=2), "inverse"),
    "random, inverse": (kg.methods.Random(), "inverse"),
    "gradmaxopt, inverse": (kg.methods.GradMaxOpt(), "inverse"),
    "firefly, inverse": (kg.methods.Firefly(), "inverse"),
    "tiny, inverse": (kg.methods.Tiny(), "inverse"),
    "tiny, joint": (kg.methods.Tiny(), "joint"),
    "split": (kg.methods.Split(), "auto"),
    "split, steepest": (kg.methods.Split(choice="steepest"), "auto"),
    "zeros (with biases)": (kg.methods.Zeros(), "auto"),
}


def _same_batch(x: np.ndarray, y: np.ndarray) -> Iterator:
    while True:
        yield x, y


def final_loss(
    task: zoo.Task,
    width: int,
    seed: int,
    task_seed: int,
    method: object | None = None,
    form: str = "auto",
) -> float:
    """Trains one student by full-batch gradient descent in one `fit`; its final training loss.

    Args:
        width: hidden units at the start.
        seed: of the initial weights and the growth.
        task_seed: of the teacher and its data.
        method: how it grows to the teacher's width; None for no growth.
        form: of the growth.
    """
    keras.utils.set_random_seed(seed)
    (x, y), _ = zoo.load_data(task, seed=task_seed, test_samples=1)
    needs_bias = isinstance(method, kg.methods.Zeros)
    model = zoo.student(task, width, use_bias=needs_bias, seed=seed)
    model.compile(keras.optimizers.SGD(task.learning_rate), "mse")
    callbacks = []
    if method is not None:
        callbacks.append(
            kg.GrowthCallback(
                (x, y),
                method=method,
                form=form,
                schedule=kg.schedules.Every(task.every, times=task.growths),
                selector=kg.selectors.All(task.amount),
                batch_size=len(x),
                seed=seed,
                verify=False,
            )
        )
    model.fit(_same_batch(x, y), steps_per_epoch=task.steps, verbose=0, callbacks=callbacks)
    return float(np.mean((np.asarray(model.predict_on_batch(x)) - y) ** 2))


@click.command("teacher-student")
@click.option("--task", type=click.Choice(sorted(TASKS)), default="small", show_default=True)
@click.option("--seeds", default=10, show_default=True, help="Number of seeds, counted from 0.")
@click.option("--one-teacher", is_flag=True, help="The same teacher and data for every seed.")
@click.option("--only", multiple=True, help="Rows to measure, by name. Default: all.")
@click.option("--json", "as_json", is_flag=True, help="Print every final loss as JSON.")
def command(
    task: str = "small",
    seeds: int = 10,
    one_teacher: bool = False,
    only: tuple[str, ...] = (),
    as_json: bool = False,
) -> None:
    """Final losses on the paper's teacher-student task (section 4.1)."""
    setting = TASKS[task]
    rows: dict[str, list[float]] = {}
    runs: list[tuple[str, int, tuple]] = [
        ("small from scratch", setting.student_width, ()),
        ("big from scratch", setting.teacher_width, ()),
        *((name, setting.student_width, chosen) for name, chosen in METHODS.items()),
    ]
    if unknown := set(only).difference(name for name, *_ in runs):
        raise click.BadParameter(f"there is no row {sorted(unknown)}", param_hint="--only")
    runs = [run for run in runs if not only or run[0] in only]
    console = Console(stderr=True)
    for name, width, chosen in runs:
        for seed in track(range(seeds), description=name, console=console, transient=True):
            loss = final_loss(setting, width, seed, 0 if one_teacher else seed, *chosen)
            rows.setdefault(name, []).append(loss)
    if as_json:
        click.echo(json.dumps(rows))
        return
    table = Table(title=f"Final training loss, {task} task, {seeds} seeds")
    for title in ("", "mean", "standard error", "median", "best", "worst"):
        table.add_column(title, justify="left" if not title else "right")
    for name, losses in rows.items():
        values = np.array(losses)
        error = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else float("nan")
        numbers = (values.mean(), error, np.median(values), values.min(), values.max())
        table.add_row(name, *(f"{v:.4f}" for v in numbers))
    Console().print(table)
