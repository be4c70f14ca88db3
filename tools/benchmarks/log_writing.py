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
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import click
import keras
from rich.console import Console
from rich.table import Table

import keras_grow as kg
from keras_grow.logs.writing import RunWriter
from keras_grow.tools.benchmarks.cost import SETTINGS

# Training steps between growths, as in `schedules.Every(200)`.
EVERY = 200


class _Clocked(kg.GrowthCallback):
    """Grows a model, with a record after every second step, and times its part of each step.

    Attributes:
        spent: processor time of a step's end, with a record and without.
        recorded: whether the last step has one.
    """

    def __init__(self, data: Any, **options: Any) -> None:
        super().__init__(data, log_every=2, on_failure="raise", **options)
        self.spent: dict[bool, list[float]] = {True: [], False: []}
        self.recorded = False

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        grown, start = len(self.events), time.thread_time()
        super().on_train_batch_end(batch, logs)
        self.recorded = self.step % 2 == 0
        if len(self.events) == grown:
            self.spent[self.recorded].append(time.thread_time() - start)


class _Writing:
    """Times what is written while it is entered.

    Attributes:
        flushes: processor time of handing over the records of steps that wait for a growth or the
            end; in a longer training they are handed over with one of their own.
        growths: time from a growth to its being on disk, sizes and widths included.
    """

    def __init__(self) -> None:
        self.flushes: list[float] = []
        self.growths: list[float] = []
        self._begun: float | None = None

    def __enter__(self) -> "_Writing":
        growth, flush, close = RunWriter.growth, RunWriter.flush, RunWriter.close

        def hand_over(writer: RunWriter) -> None:
            start = time.thread_time()
            flush(writer)
            self.flushes.append(time.thread_time() - start)

        def timed_growth(writer: RunWriter, event: kg.GrowthEvent) -> None:
            hand_over(writer)
            self._begun = time.perf_counter()
            growth(writer, event)

        def timed_flush(writer: RunWriter) -> None:
            flush(writer)
            if self._begun is not None:
                self.growths.append(time.perf_counter() - self._begun)
                self._begun = None

        def timed_close(writer: RunWriter) -> None:
            hand_over(writer)
            close(writer)

        self._patch = patch.multiple(
            RunWriter, growth=timed_growth, flush=timed_flush, close=timed_close
        )
        self._patch.start()
        return self

    def __exit__(self, *failure: object) -> None:
        self._patch.stop()


class _Steps(keras.callbacks.Callback):
    """The time from the end of one step to the end of the next, with a record and without."""

    def __init__(self, growth: _Clocked) -> None:
        super().__init__()
        self.growth = growth
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
            self.times[self.growth.recorded].append(now - self._last)
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
        growth = _Clocked((x, y), schedule=schedule, selector=selector, log_dir=folder)
        clock = _Steps(growth)
        with _Writing() as writing:
            model.fit(
                batches(), steps_per_epoch=steps, verbose=0, callbacks=[growth, clock],
                shuffle=False,
            )  # fmt: skip
    recorded, plain = growth.spent[True], growth.spent[False]
    return Cost(
        statistics.median(clock.times[True]),
        statistics.median(clock.times[False]),
        statistics.mean(recorded) - statistics.mean(plain) + sum(writing.flushes) / len(recorded),
        statistics.median(writing.growths),
        len(writing.growths),
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
