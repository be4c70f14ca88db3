"""What the demonstration shows and leaves behind: the table, the plot, the files, what to try."""

from __future__ import annotations

import json
import os
import shlex
import uuid
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import keras
import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

import keras_grow as kg
from keras_grow.tools.demo import MODEL_FILE, PLOT_FILE, RESULTS_FILE
from keras_grow.tools.demo.experiment import WAYS, Result, Settings, Way
from keras_grow.tools.words import count

#: Named in results.json; it changes when a field changes its meaning or goes away.
SCHEMA = "keras-grow/demo/1"

# Okabe and Ito's palette, which colour-blind people can tell apart; the dashes help in grey.
_STYLES: dict[str, dict[str, Any]] = {
    "small": {"color": "#000000", "linestyle": (0, (1, 1.2))},
    "big": {"color": "#0072B2", "linestyle": (0, (5, 2))},
    "random": {"color": "#E69F00", "linestyle": "-"},
    "gradmax": {"color": "#009E73", "linestyle": "-"},
}


def _of(way: Way, results: Iterable[Result]) -> list[Result]:
    return [result for result in results if result.way == way.key]


def summarize(results: list[Result]) -> dict[str, dict[str, dict[str, float]]]:
    """Way -> measure -> ``{"mean", "std"}`` over the seeds (std: of the sample, n - 1)."""
    summary = {}
    for way in WAYS:
        runs = _of(way, results)
        summary[way.key] = {
            name: {
                "mean": float(np.mean(values)),
                "std": float(np.std(values, ddof=1)) if len(values) > 1 else 0.0,
            }
            for name in ("parameters", "training_flops", "loss", "accuracy", "seconds")
            for values in [[float(getattr(run, name)) for run in runs]]
        }
    return summary


def make_table(results: list[Result], seeds: int, steps: int) -> Table:
    """The comparison, one row for each way to train."""
    spread = "mean ± standard deviation" if seeds > 1 else "one seed: the spread is unknown"
    table = Table(
        title=f"After {steps} steps; {seeds} seed{'s' if seeds > 1 else ''} ({spread})",
        caption="Training FLOPs: 3 x forward, over all steps, and the gradients GradMax looks at. "
        "Final loss: over the training set. Seconds: of fit, compilation included.",
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("")
    for heading in ("parameters", "training FLOPs", "final loss", "test accuracy", "seconds"):
        table.add_column(heading, justify="right", no_wrap=True)

    def cell(measure: dict[str, float], write: Callable[[float], str]) -> str:
        mean = write(measure["mean"])
        return f"{mean} ± {write(measure['std'])}" if seeds > 1 else mean

    summary = summarize(results)
    for way in WAYS:
        row = summary[way.key]
        table.add_row(
            way.title,
            f"{row['parameters']['mean']:,.0f}",
            count(row["training_flops"]["mean"]),
            cell(row["loss"], "{:.4f}".format),
            cell(row["accuracy"], "{:.1%}".format),
            cell(row["seconds"], "{:.1f}".format),
        )
    return table


def _written(path: Path, write: Callable[[Path], object]) -> None:
    """Have ``write`` write a temporary file beside ``path``, then give it its name."""
    temporary = path.with_name(f".{path.stem}-{uuid.uuid4().hex}{path.suffix}")
    try:
        write(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_results(folder: Path, results: list[Result], settings: Settings) -> None:
    """Write every number of the demonstration as JSON: settings, summary, and all runs."""
    content = {
        "schema": SCHEMA,
        "backend": keras.backend.backend(),
        "keras": keras.version(),
        "settings": asdict(settings),
        "seeds": sorted({result.seed for result in results}),
        "summary": summarize(results),
        "runs": [result.to_dict() for result in results],
    }
    text = json.dumps(content, indent=1)
    _written(folder / RESULTS_FILE, lambda path: path.write_text(text, encoding="utf-8"))


def write_model(folder: Path, model: keras.Model) -> None:
    """Save the grown model."""
    _written(folder / MODEL_FILE, model.save)


def write_plot(folder: Path, results: list[Result], batches_per_epoch: int) -> None:
    """Draw the training loss by step and by training FLOPs, with the growths marked."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot, ticker

    seeds = len({result.seed for result in results})
    figure, (by_step, by_flops) = pyplot.subplots(
        1, 2, figsize=(11, 4.8), sharey=True, layout="constrained"
    )
    window = min(batches_per_epoch, min(len(result.losses) for result in results))
    for way in WAYS:
        runs = _of(way, results)
        smooth = np.array([_trailing_mean(run.losses, window) for run in runs])
        flops = np.array(runs[0].flops_by_step)[window - 1 :]
        steps = np.arange(window, window + smooth.shape[1])
        # Losses live on a log scale, so the geometric mean is the middle of what is seen.
        middle = np.exp(np.log(np.maximum(smooth, 1e-12)).mean(axis=0))
        style = _STYLES[way.key]
        for axes, horizontal in ((by_step, steps), (by_flops, flops)):
            axes.plot(horizontal, middle, label=way.title, linewidth=1.8, **style)
            if seeds > 1:
                axes.fill_between(
                    horizontal, smooth.min(axis=0), smooth.max(axis=0),
                    color=style["color"], alpha=0.12, linewidth=0,
                )  # fmt: skip
            at = [step - window for step in runs[0].growth_steps if step >= window]
            axes.plot(
                horizontal[at], middle[at], linestyle="none", marker="^", markersize=8,
                color=style["color"], markeredgecolor="white", zorder=3,
            )  # fmt: skip
    growth_steps = sorted({step for result in results for step in result.growth_steps})
    for index, step in enumerate(growth_steps):
        by_step.axvline(step, color="0.6", linewidth=0.8, zorder=0)
        if index == 0:
            by_step.annotate(
                "growth", (step, 1.0), xycoords=("data", "axes fraction"),
                xytext=(3, -3), textcoords="offset points", va="top", fontsize=9, color="0.35",
            )  # fmt: skip
    by_step.set_yscale("log")
    by_step.set_xlabel("training step")
    by_flops.set_xlabel("training FLOPs so far")
    by_flops.xaxis.set_major_formatter(ticker.EngFormatter())
    by_step.set_ylabel(f"training loss (mean of the last {window} batches)")
    for axes in (by_step, by_flops):
        axes.grid(True, which="major", color="0.9", linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
    # Triangles are in neither list of lines; say what they are in the legend's title.
    by_step.legend(title="triangles: growth", frameon=True, framealpha=0.9, loc="lower left")
    over = f"geometric mean and range of {seeds} seeds" if seeds > 1 else "one seed"
    figure.suptitle(f"Handwritten digits, small conv net ({over})")
    _written(folder / PLOT_FILE, lambda path: figure.savefig(path, dpi=150))
    pyplot.close(figure)


def _trailing_mean(values: list[float], window: int) -> np.ndarray:
    """Mean of each value and the ``window`` - 1 before it; the first entry is the first mean."""
    return np.convolve(values, np.ones(window) / window, mode="valid")


def print_next(console: Console, folder: Path) -> None:
    """Say what was written, and what to try now."""
    model, wider = folder / MODEL_FILE, folder / "wider.keras"
    site = kg.sites(keras.saving.load_model(model))[0]
    console.print("\n[bold]Written[/bold]")
    for name, what in (
        (MODEL_FILE, "the network grown by GradMax; Keras loads it without keras_grow"),
        (PLOT_FILE, "loss by step and by training FLOPs, with the growths marked"),
        (RESULTS_FILE, "all numbers"),
    ):
        console.print(Text(f"  {folder / name}  {what}"), soft_wrap=True)
    console.print("\n[bold]Next, on that file or on one of yours[/bold]")
    width = site.width + 4 * site.granularity
    for words in (
        ("inspect", model),
        ("widen", model, f"{site.name}={width}", "-o", wider),
        ("verify", model, wider),
    ):
        line = shlex.join(["keras-grow", *map(str, words)])
        console.print(Text(f"  {line}"), soft_wrap=True)
    console.print("\n[bold]Or grow your own model while it trains[/bold]")
    console.print(
        Text(
            "  import keras_grow as kg\n"
            "  grow = kg.GrowthCallback((x_train[:512], y_train[:512]), method='gradmax',\n"
            "                           schedule=kg.schedules.Every(200, times=3),\n"
            "                           selector=kg.selectors.All(amount=0.5))\n"
            "  model.fit(x_train, y_train, epochs=10, callbacks=[grow])"
        ),
        soft_wrap=True,
    )
