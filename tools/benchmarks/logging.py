"""What logging costs: training with a record of every step, as a ratio to training without.

One `fit` of a growing model. The callback writes a record after every second step and none after
the others, so that both kinds of steps are measured side by side on the same machine in the same
state. And the time that is spent in writing is measured by itself, which is less noisy where the
machine is busy: processor time for the records of steps, most of which are written some hundred at
a time; real time for growths, each of which waits for the disk. Growths are counted as one per 200
steps.
"""

import statistics
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import click
import keras
from rich.console import Console
from rich.table import Table

import keras_grow as kg
from keras_grow.tools.benchmarks.cost import SETTINGS
from keras_grow.training.run_log import RunLog

# Training steps between growths, as in `schedules.Every(200)`.
EVERY = 200


class _Clocked(RunLog):
    """A log that writes after every second step, and measures how long it takes."""

    def __init__(self, log_dir: str) -> None:
        super().__init__(log_dir, every=1, raising=True)
        self.writing = False
        self.steps: list[float] = []
        self.records = 0
        self.growths: list[float] = []

    def batch(self, model: Any, before: int, step: int, in_epoch: int, logs: Mapping) -> None:
        self.writing = step % 2 == 1
        if self.writing:
            start = time.thread_time()
            super().batch(model, before, step, in_epoch, logs)
            self.records += 1
            self.steps.append(time.thread_time() - start)

    def growth(self, event: Any, model: Any) -> None:
        self.flush()
        start = time.perf_counter()
        super().growth(event, model)
        self.growths.append(time.perf_counter() - start)

    def end(self) -> None:
        self.flush()
        super().end()

    def flush(self) -> None:
        """Writes what waits, as part of the records of steps."""
        if self._writer is not None:
            start = time.thread_time()
            self._writer.flush()
            self.steps.append(time.thread_time() - start)


class _Steps(keras.callbacks.Callback):
    """The time from the end of one step to the end of the next, with a record and without."""

    def __init__(self, log: _Clocked, growth: Any) -> None:
        super().__init__()
        self.log, self.growth = log, growth
        self.times: dict[bool, list[float]] = {True: [], False: []}
        self._last: float | None = None
        self._events = 0
        self._skip = 3

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        now = time.perf_counter()
        if len(self.growth.events) != self._events:  # then the step is compiled again
            self._events = len(self.growth.events)
            self._skip = 3
        if self._skip:
            self._skip -= 1
        elif self._last is not None:
            self.times[self.log.writing].append(now - self._last)
        self._last = now


@dataclass
class Cost:
    """Seconds.

    Attributes:
        with_record, without: of a training step, medians.
        record: spent in writing one, mean.
        growth: spent in writing one growth with its sites, median.
        events: growths.
        sites: that grew at each.
    """

    with_record: float
    without: float
    record: float
    growth: float
    events: int
    sites: int

    @property
    def beside(self) -> float:
        """Steps with a record to steps without."""
        return self.with_record / self.without

    @property
    def whole(self) -> float:
        """All that is written, growths included, to training alone."""
        return 1 + (self.record + self.growth / EVERY) / self.without


def measure(setting: str, steps: int, growths: int) -> Cost:
    """Trains the model of a setting of the cost benchmark for so many steps."""
    _, make = SETTINGS[setting]
    model, x, y, added = make()

    def batches() -> Any:
        while True:
            yield x, y

    with tempfile.TemporaryDirectory(prefix="keras-grow-") as folder:
        schedule = kg.schedules.Every(max(steps // (growths + 1), 1), times=growths)
        selector = kg.selectors.All(1, names=list(added))
        growth = kg.GrowthCallback((x, y), schedule=schedule, selector=selector, log_dir=folder)
        log = _Clocked(folder)
        growth._log = log
        clock = _Steps(log, growth)
        model.fit(
            batches(), steps_per_epoch=steps, verbose=0, callbacks=[growth, clock], shuffle=False
        )
    return Cost(
        statistics.median(clock.times[True]),
        statistics.median(clock.times[False]),
        sum(log.steps) / log.records,
        statistics.median(log.growths),
        len(log.growths),
        len(growth.events[0].sites),
    )


@click.command("logging")
@click.option("--setting", "settings", multiple=True, type=click.Choice(list(SETTINGS)))
@click.option("--steps", default=120, show_default=True, help="Training steps.")
@click.option("--growths", default=3, show_default=True, help="Growths among them.")
def command(settings: tuple[str, ...], steps: int, growths: int) -> None:
    """Cost of a record of every step, as a ratio to training without."""
    table = Table(title=f"Logging on {keras.backend.backend()}, a growth every {EVERY} steps")
    table.add_column("model")
    for column in ("step, ms", "record, ms", "growth, ms", "step with / without", "all / none"):
        table.add_column(column, justify="right")
    for setting in settings or SETTINGS:
        found = measure(setting, steps, growths)
        table.add_row(
            SETTINGS[setting][0],
            f"{1e3 * found.without:.2f}",
            f"{1e3 * found.record:.3f}",
            f"{1e3 * found.growth:.1f} ({found.sites} sites)",
            f"{found.beside:.4f}",
            f"{found.whole:.4f}",
        )
    Console().print(table)
