"""Peak memory of one growth event of all sites beside that of one training step.

Each is measured in a process of its own, as what the process needs more than it held before, at
its peak: model, batch and optimizer state are there already, and code that is loaded once was
loaded by a small model. Compilation is part of both.
"""

import gc
import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from keras_grow.tools.benchmarks.peak import Peak


def _wrn() -> tuple[Any, int]:
    from keras_grow import zoo

    return zoo.build("wide_resnet", depth=28, k=1, block_width=0.25, seed=0), 128


def _mobilenet() -> tuple[Any, int]:
    import keras

    return keras.applications.MobileNet(weights=None, classifier_activation=None, classes=100), 32


def _mlp() -> tuple[Any, int]:
    import keras

    inputs = keras.Input((8,))
    x = keras.layers.Dense(6, activation="relu")(inputs)
    return keras.Model(inputs, keras.layers.Dense(3)(x)), 4


SETTINGS: dict[str, tuple[str, Callable[[], tuple[Any, int]]]] = {
    "wrn": ("WRN-28-1 at block width 0.25, 32x32, batch 128", _wrn),
    "mobilenet": ("MobileNet, 224x224, batch 32", _mobilenet),
}


def _prepared(make: Callable[[], tuple[Any, int]]) -> tuple[Any, Any, Any]:
    import keras
    import numpy as np

    model, batch = make()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.01, momentum=0.9), loss)
    model.optimizer.build(model.trainable_variables)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((batch, *model.input_shape[1:]), dtype="float32")
    return model, x, rng.integers(0, 3, batch)


def _train(model: Any, x: Any, y: Any) -> None:
    model.fit(x, y, batch_size=len(x), epochs=1, verbose=0)


def _grow(model: Any, x: Any, y: Any) -> None:
    import keras_grow as kg

    widths = {
        s.name: s.width + s.granularity * max(1, s.width // (8 * s.granularity))
        for s in kg.sites(model)
    }
    kg.grow_(model, widths, method="gradmax", data=(x, y), seed=0, slopes=kg.Slopes())


KINDS = {"training step": _train, "growth event": _grow}


def peak_of(setting: str, kind: str) -> dict[str, float]:
    """MB that a training step or a growth event needs beyond what the process held before."""
    body = KINDS[kind]
    body(*_prepared(_mlp))  # code that is loaded once
    arguments = _prepared(SETTINGS[setting][1])
    gc.collect()
    with Peak() as peak:
        body(*arguments)
    return {"before": peak.before / 1e6, "peak": peak.extra / 1e6}


def in_own_process(setting: str, kind: str) -> dict[str, float]:
    """`peak_of` in a new process."""
    code = (
        "import json; from keras_grow.tools.benchmarks.memory import peak_of; "
        f"print(json.dumps(peak_of({setting!r}, {kind!r})))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    if done.returncode:
        raise click.ClickException(f"measuring memory failed: {done.stderr[-800:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


@click.command("memory")
@click.option(
    "--setting", "names", type=click.Choice(list(SETTINGS)), multiple=True, help="Default: all."
)
def command(names: tuple[str, ...] = ()) -> None:
    """Peak memory of a GradMax event of all sites, as a ratio to a training step's."""
    import keras

    table = Table(
        title=f"Peak memory on {keras.config.backend()}, beyond model and batch, in MB",
        title_justify="left",
    )
    table.add_column("model")
    for column in ("held before", *KINDS, "ratio"):
        table.add_column(column, justify="right")
    for name in names or SETTINGS:
        step, event = (in_own_process(name, kind) for kind in KINDS)
        table.add_row(
            SETTINGS[name][0],
            f"{step['before']:.0f}",
            f"{step['peak']:.0f}",
            f"{event['peak']:.0f}",
            f"{event['peak'] / step['peak']:.2f}",
        )
    Console(width=120).print(table)
