"""What one growth event costs, as a ratio to one compiled training step of the same model.

Both sides run in one process, on the same model and batch. Compilation is measured apart: every
growth changes shapes, so the training step (and on JAX the gradient pass) is compiled anew, by us
as by anybody. Phases are timed on a second run, after compilation; the model is put back as it was
between runs. Where gromo is installed it does the same job beside (see `gromo`).
"""

import statistics
import time
from collections.abc import Callable
from typing import Any

import click
import keras
import numpy as np
from rich.console import Console
from rich.table import Table

import keras_grow as kg
from keras_grow import zoo
from keras_grow.tools.benchmarks import gromo


def _mlp() -> tuple[Any, np.ndarray, np.ndarray, dict[str, int]]:
    inputs = keras.Input((100,))
    x = keras.layers.Dense(25, activation="relu", name="hidden")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(10, name="output")(x))
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((1000, 100)), rng.standard_normal((1000, 10))
    model.compile(keras.optimizers.SGD(0.01), "mse")
    return model, x.astype("float32"), y.astype("float32"), {"hidden": 5}


def _images(model: Any) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((128, *model.input_shape[1:])).astype("float32")
    return x, rng.integers(0, 10, 128)


def _convs() -> tuple[Any, np.ndarray, np.ndarray, dict[str, int]]:
    inputs = keras.Input((32, 32, 3))
    x = keras.layers.Conv2D(16, 3, padding="same", activation="relu", name="first")(inputs)
    x = keras.layers.Conv2D(16, 3, padding="same", activation="relu", name="second")(x)
    x = keras.layers.Dense(10, name="logits")(keras.layers.GlobalAveragePooling2D()(x))
    model = keras.Model(inputs, x)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.01, momentum=0.9), loss)
    return model, *_images(model), {"first": 4}


def _wrn() -> tuple[Any, np.ndarray, np.ndarray, dict[str, int]]:
    model = zoo.build("wide_resnet", depth=28, k=1, block_width=0.25, seed=0)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.01, momentum=0.9), loss)
    sites = {s.name: s.width for s in kg.sites(model) if s.name.endswith("conv1")}
    return model, *_images(model), {name: width // 2 for name, width in sites.items()}


SETTINGS: dict[str, tuple[str, Callable]] = {
    "mlp": ("MLP 100:25:10, 1,000 samples, +5", _mlp),
    "convs": ("two 3x3 convs of 16 on 32x32, batch 128, +4", _convs),
    "wrn": ("WRN-28-1 at block width 0.25, batch 128, 12 sites at once", _wrn),
}


class _StepEnds(keras.callbacks.Callback):
    """Time of every training step, results included (the callback makes them synchronous)."""

    def __init__(self) -> None:
        super().__init__()
        self.ends: list[float] = []

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        self.ends.append(time.perf_counter())


def training_step(model: Any, x: np.ndarray, y: np.ndarray, steps: int) -> float:
    """Median seconds of one compiled training step on the batch (x, y)."""

    def batches() -> Any:
        while True:
            yield x, y

    clock = _StepEnds()
    model.fit(batches(), steps_per_epoch=steps, verbose=0, callbacks=[clock], shuffle=False)
    return statistics.median(np.diff(clock.ends)[2:])


def growth_event(
    model: Any,
    x: np.ndarray,
    y: np.ndarray,
    added: dict[str, int],
    method: Any,
    repeats: int,
    form: str = "auto",
) -> tuple[dict[str, float], float]:
    """Median seconds by phase of one growth event without compilation, and the first run's sum."""
    sites = {name: site for site in kg.sites(model) for name in (site.name, *site.producers)}
    widths = {name: sites[name].width + n for name, n in added.items()}
    runs = kg.testing.time_growth(model, widths, method, [(x, y)], form=form, repeats=repeats)
    first, warm = runs[0], runs[1:]
    phases = {name: statistics.median(r[name] for r in warm) for name in first if name in warm[0]}
    return phases, sum(first.values())


def table_of(setting: str, methods: list[str], steps: int, repeats: int) -> Table:
    """One setting: a row for every form of every method."""
    title, make = SETTINGS[setting]
    model, x, y, added = make()
    step = training_step(model, x, y, steps)
    rows: list[tuple[str, str, dict[str, float], float]] = []
    for name in methods:
        for form in kg.methods.get(name).forms:
            try:
                phases, cold = growth_event(model, x, y, added, name, repeats, form)
            except kg.GrowthError as refusal:  # no bias where `zeros` wants one
                rows.append((name, f"{form}: {refusal}", {}, 0.0))
            else:
                rows.append((name, form, phases, cold))
    step = min(step, training_step(model, x, y, steps))  # the machine may have been busier
    table = Table(
        title=f"{title}; on {keras.config.backend()} a training step takes {1000 * step:.1f} ms",
        title_justify="left",
    )
    for column in ("method", "form", "event ms", "ratio", "phases ms", "first event s"):
        left = column in ("method", "form", "phases ms")
        table.add_column(column, justify="left" if left else "right")
    for name, form, phases, cold in rows:
        if not phases:
            table.add_row(name, form, "", "", "", "")
            continue
        table.add_row(name, form, *_cells(phases, step), f"{cold:.1f}")
    if setting in gromo.SETTINGS and gromo.available():
        for name in gromo.METHODS:
            other, phases = gromo.growth_event(setting, name, x, y, added, steps, repeats)
            table.add_row(f"gromo, {name}", "", *_cells(phases, other), "")
    return table


def _cells(phases: dict[str, float], step: float) -> tuple[str, str, str]:
    event = sum(phases.values())
    detail = ", ".join(f"{k} {1000 * v:.1f}" for k, v in phases.items())
    return f"{1000 * event:.1f}", f"{event / step:.2f}", detail


@click.command("cost")
@click.option(
    "--setting", "names", type=click.Choice(list(SETTINGS)), multiple=True, help="Default: all."
)
@click.option(
    "--method",
    "methods",
    type=click.Choice([*kg.methods.names(), "all"]),
    multiple=True,
    default=("all",),
    show_default=True,
    help="May be repeated.",
)
@click.option("--steps", default=30, show_default=True, help="Training steps to time.")
@click.option("--repeats", default=5, show_default=True, help="Growth events to time.")
def command(
    names: tuple[str, ...] = (),
    methods: tuple[str, ...] = ("all",),
    steps: int = 30,
    repeats: int = 5,
) -> None:
    """Cost of one growth event as a ratio to one compiled training step."""
    console = Console(width=150)
    chosen = kg.methods.names() if "all" in methods else list(dict.fromkeys(methods))
    for name in names or SETTINGS:
        console.print(table_of(name, chosen, steps, repeats))
    console.print(gromo.WHAT if gromo.available() else gromo.HOW)
