"""What surgery costs beside what anybody pays for a copy of a model.

`kg.sites` is compared with building the model, `kg.widen` of every site (verification included)
with `keras.models.clone_model` and `set_weights`. Both sides run in one process, in turn; times
are of the processor, all threads, because they vary less on a busy machine than those of the
clock. Memory is what a process of its own needs more than it had before, at its peak.
"""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from keras_grow.tools.benchmarks.peak import Peak

MODELS: dict[str, dict[str, Any]] = {
    "NASNetLarge": {"input_shape": (64, 64, 3)},
    "ResNet50": {"input_shape": (64, 64, 3)},
    "MobileNetV2": {"input_shape": (64, 64, 3)},
}
WIDENED = ("ResNet50", "MobileNetV2")


def _build(name: str) -> Any:
    import keras

    make = getattr(keras.applications, name)
    return make(weights=None, classifier_activation=None, **MODELS[name])


def _widths(model: Any) -> dict[str, int]:
    """Every site an eighth wider."""
    import keras_grow as kg

    return {
        s.name: s.width + s.granularity * max(1, s.width // (8 * s.granularity))
        for s in kg.sites(model)
    }


def _seconds(body: Callable[[], Any]) -> float:
    start = time.process_time()
    body()
    return time.process_time() - start


def sites_ratio(name: str, repeats: int) -> tuple[float, float]:
    """Median seconds to build a model and to find its sites."""
    import keras_grow as kg

    model = _build(name)
    kg.sites(model)  # what is only done once in a process
    build = [_seconds(lambda: _build(name)) for _ in range(repeats)]
    sites = [_seconds(lambda: kg.sites(model)) for _ in range(repeats)]
    return statistics.median(build), statistics.median(sites)


def widen_ratio(name: str, repeats: int) -> tuple[float, float]:
    """Median seconds to copy a model with Keras and to widen it everywhere."""
    import keras

    import keras_grow as kg

    model = _build(name)
    widths = _widths(model)

    def copy() -> Any:
        clone = keras.models.clone_model(model)
        clone.set_weights(model.get_weights())
        return clone

    def widen() -> Any:
        return kg.widen(model, widths, seed=0)

    copy(), widen()
    pairs = [(_seconds(copy), _seconds(widen)) for _ in range(repeats)]
    return statistics.median(p[0] for p in pairs), statistics.median(p[1] for p in pairs)


def widen_memory(name: str) -> dict[str, float]:
    """What `kg.widen` needs at its peak beyond what the process held before, in MB."""
    import gc

    import numpy as np

    import keras_grow as kg

    warm = _build("MobileNetV2")
    kg.widen(warm, dict(list(_widths(warm).items())[:1]), seed=0)  # code that is loaded once
    del warm
    model = _build(name)
    widths = _widths(model)
    gc.collect()
    with Peak() as peak:
        wider = kg.widen(model, widths, seed=0)
    size = sum(int(np.prod(v.shape)) * 4 for v in model.weights)
    grown = sum(int(np.prod(v.shape)) * 4 for v in wider.weights)
    return {"model": size / 1e6, "wider": grown / 1e6, "peak": peak.extra / 1e6}


def _memory_of(name: str) -> dict[str, float]:
    """`widen_memory` in a process of its own."""
    code = (
        "import json; from keras_grow.tools.benchmarks.surgery import widen_memory; "
        f"print(json.dumps(widen_memory({name!r})))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    if done.returncode:
        raise click.ClickException(f"measuring memory failed: {done.stderr[-500:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


@click.command("surgery")
@click.option("--repeats", default=3, show_default=True)
@click.option("--memory/--no-memory", default=True, show_default=True)
def command(repeats: int = 3, memory: bool = True) -> None:
    """Finding sites and widening, as ratios to building and to cloning the model."""
    import keras

    table = Table(title=f"Surgery on {keras.config.backend()}: ratios of processor time")
    for title in ("model", "what", "beside", "s", "beside s", "ratio"):
        table.add_column(title, justify="left" if title in ("model", "what", "beside") else "right")

    def row(name: str, what: str, beside: str, own: float, other: float) -> None:
        table.add_row(name, what, beside, f"{own:.2f}", f"{other:.2f}", f"{own / other:.2f}")

    for name in MODELS:
        build, sites = sites_ratio(name, repeats)
        row(name, "kg.sites", "building it", sites, build)
    for name in WIDENED:
        copy, widen = widen_ratio(name, repeats)
        row(name, "kg.widen, every site", "clone_model + set_weights", widen, copy)
    console = Console(width=120)
    console.print(table)
    for name in WIDENED if memory else ():
        m = _memory_of(name)
        console.print(
            f"{name}: weights {m['model']:.0f} MB, widened {m['wider']:.0f} MB; kg.widen took at "
            f"most {m['peak']:.0f} MB more than before, {m['peak'] / m['model']:.1f} times the "
            "weights (the result is part of it)"
        )
