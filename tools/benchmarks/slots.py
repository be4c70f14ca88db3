"""What the optimizer's slots should hold for new entries: loss after a growth, by what they hold.

Small networks train, grow in the middle of it through `GrowthCallback`, and train on. Every way to
start is measured from the same trained state, with the same new weights and the same batches, so
the ways can be compared seed by seed.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import click
import keras
import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

import keras_grow as kg
from keras_grow import zoo
from keras_grow.apply.slots import BALANCE, INITIAL, LINE, MEAN, TENTH, ZERO, starting
from keras_grow.zoo import digits, teacher_student

BEFORE, AFTER, SPIKE, LATER = 600, 100, 20, 10  # training steps
METHODS = ("gradmax", "random")
optimizers = keras.optimizers


@dataclass(frozen=True)
class Way:
    """One way to start.

    Attributes:
        name: for the table.
        starts: by slot, a start of `keras_grow.apply.optimizers`.
        warmup: of the callback.
    """

    name: str
    starts: dict[str, str]
    warmup: int = 0


def _ways(*slots: str, zero: str = ZERO) -> list[Way]:
    return [Way(start, dict.fromkeys(slots, start)) for start in (zero, MEAN, LINE, TENTH)]


def _warmed(ways: list[Way]) -> list[Way]:
    """The first way with a warm-up of new weights besides."""
    first = ways[0]
    return [*ways, Way(f"{first.name}, warm-up of {SPIKE} steps", first.starts, SPIKE)]


def _moments(first: str, second: str, *more: str) -> list[Way]:
    """First moments at zero or in line; second ones as `_ways`."""
    seconds = _ways(second, *more)
    all_in_line = dict.fromkeys((first, second, *more), LINE)
    return [
        *(Way(f"second moments: {w.name}", {first: ZERO, **w.starts}) for w in seconds),
        Way("first and second moments: line", all_in_line),
    ]


_ADAM = _warmed(_moments("_momentums", "_velocities"))
# By name: the optimizer and the ways that it is measured with, the first as a fresh one would.
CASES: dict[str, tuple[Callable[[], Any], list[Way]]] = {
    "sgd": (lambda: optimizers.SGD(0.01, momentum=0.9), _warmed(_ways("momentums"))),
    "rmsprop": (lambda: optimizers.RMSprop(0.002), _ways("_velocities")),
    "rmsprop centered": (
        lambda: optimizers.RMSprop(0.002, centered=True),
        [
            *_ways("_velocities"),
            Way("both: line", {"_velocities": LINE, "_average_gradients": LINE}),
        ],
    ),
    "adam": (lambda: optimizers.Adam(0.005), _ADAM),
    "adam amsgrad": (
        lambda: optimizers.Adam(0.005, amsgrad=True),
        _moments("_momentums", "_velocities", "_velocity_hats"),
    ),
    "adamw": (lambda: optimizers.AdamW(0.005), _ADAM),
    "nadam": (lambda: optimizers.Nadam(0.005), _ADAM),
    "lamb": (lambda: optimizers.Lamb(0.01), _ADAM),
    "adamax": (lambda: optimizers.Adamax(0.01), _moments("_m", "_u")),
    "adagrad": (lambda: optimizers.Adagrad(0.1), _ways("_accumulators", zero=INITIAL)),
    "adadelta": (
        lambda: optimizers.Adadelta(1.0),
        [
            *_ways("_accumulated_grads", "_accumulated_delta_vars"),
            Way("gradients: line", {"_accumulated_grads": LINE, "_accumulated_delta_vars": ZERO}),
        ],
    ),
    "adafactor": (lambda: optimizers.Adafactor(0.02), _ways("_r", "_c", "_v")),
    "ftrl": (
        lambda: optimizers.Ftrl(0.05),
        [
            Way("linear: zero", {"_linears": ZERO, "_accumulators": INITIAL}),
            Way("balance", {"_linears": BALANCE, "_accumulators": INITIAL}),
            Way("balance, accumulators: mean", {"_linears": BALANCE, "_accumulators": MEAN}),
            Way("balance, accumulators: line", {"_linears": BALANCE, "_accumulators": LINE}),
        ],
    ),
    "lion": (lambda: optimizers.Lion(0.001), _ways("_momentums")),
    "muon": (
        lambda: optimizers.Muon(0.01, exclude_layers=["output", "logits"]),
        _moments("momentums", "adam_velocities"),
    ),
}
if hasattr(optimizers, "ScheduleFreeAdamW"):
    CASES["schedule-free adamw"] = (
        lambda: optimizers.ScheduleFreeAdamW(0.01),
        _ways("_velocities"),
    )


@dataclass
class Setting:
    """A network to be made anew, its data and its growth."""

    make: Callable[[], Any]
    loss: Any
    x: np.ndarray
    y: np.ndarray
    amount: int
    batch_size: int


def _teacher_student(seed: int) -> Setting:
    task = teacher_student.SMALL
    (x, y), _ = teacher_student.load_data(task, seed=seed, test_samples=1)
    return Setting(
        lambda: teacher_student.student(task, seed=seed, use_bias=True), "mse", x, y, 2, 50
    )


def _digits(seed: int) -> Setting:
    (x, y), _ = digits.load_data(seed=seed)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    return Setting(lambda: zoo.convnet.convnet(width=2, seed=seed), loss, x[:512], y[:512], 2, 32)


TASKS = {"teacher-student": _teacher_student, "digits": _digits}


class _Losses(keras.callbacks.Callback):
    """The loss of the whole data set, from right after the growth on."""

    def __init__(self, growth: Any, setting: Setting) -> None:
        super().__init__()
        self.growth, self.setting = growth, setting
        self.losses: list[float] = []
        self._wanted = {*range(SPIKE + 1), *range(AFTER - LATER, AFTER + 1)}
        self._step = 0

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        if not self.growth.events:
            return
        if self._step in self._wanted:
            scores = self.model(self.setting.x, training=False)
            loss = keras.losses.get(self.setting.loss)(self.setting.y, scores)
            self.losses.append(float(np.mean(keras.ops.convert_to_numpy(loss))))
        self._step += 1


def _fit(model: Any, setting: Setting, steps: int, seed: int, callbacks: list) -> None:
    rng = np.random.default_rng(seed)

    def batches() -> Iterator:
        while True:
            rows = rng.choice(len(setting.x), setting.batch_size, replace=False)
            yield setting.x[rows], setting.y[rows]

    model.fit(batches(), steps_per_epoch=steps, verbose=0, callbacks=callbacks)


def _compiled(setting: Setting, optimizer: Any) -> Any:
    model = setting.make()
    model.compile(optimizer, setting.loss)
    optimizer.build(model.trainable_variables)
    return model


def measure(task: str, name: str, seed: int) -> Iterator[tuple[str, str, float, float]]:
    """Trains, then grows and trains on in every way.

    Yields:
        Way, method, spike and later loss, both as ratios to the loss at growth: the highest loss of
        the `SPIKE` steps after it, and the mean of the last `LATER` of `AFTER` steps.
    """
    keras.utils.set_random_seed(seed)
    setting = TASKS[task](seed)
    make, ways = CASES[name]
    model = _compiled(setting, make())
    _fit(model, setting, BEFORE, seed, [])
    state = [keras.ops.convert_to_numpy(v).copy() for v in _state(model)]
    for method in METHODS:
        for way in ways:
            grown = _compiled(setting, make())
            for variable, value in zip(_state(grown), state, strict=True):
                variable.assign(value)
            growth = kg.GrowthCallback(
                (setting.x, setting.y),
                method=method,
                schedule=kg.schedules.Every(1, times=1),
                selector=kg.selectors.All(setting.amount),
                seed=seed,
                verify=False,
                warmup=way.warmup,
            )
            record = _Losses(growth, setting)
            with starting(**way.starts):
                _fit(grown, setting, 1 + AFTER, seed + 1000, [growth, record])
            at, *after = record.losses
            later = float(np.mean(after[-LATER:]))
            yield way.name, method, max(after[:SPIKE]) / at, later / at


def _state(model: Any) -> list:
    return [*model.variables, *model.optimizer.variables]


def _with_error(values: np.ndarray) -> str:
    error = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else float("nan")
    return f"{values.mean():.3f} ± {error:.3f}"


@click.command("slots")
@click.option("--task", "tasks", type=click.Choice(sorted(TASKS)), multiple=True)
@click.option("--optimizer", "names", type=click.Choice(list(CASES)), multiple=True)
@click.option("--seeds", default=3, show_default=True, help="Number of seeds, counted from 0.")
@click.option("--json", "as_json", is_flag=True, help="Print every number as JSON.")
def command(
    tasks: tuple[str, ...] = (),
    names: tuple[str, ...] = (),
    seeds: int = 3,
    as_json: bool = False,
) -> None:
    """Loss spikes after growth, by what new entries of optimizer slots start with."""
    rows: dict[tuple[str, str, str], dict[str, list]] = {}
    console = Console(stderr=True)
    for task in tasks or sorted(TASKS):
        for name in names or CASES:
            for seed in track(
                range(seeds), description=f"{task}, {name}", console=console, transient=True
            ):
                for way, method, spike, later in measure(task, name, seed):
                    own = rows.setdefault((task, name, way), {})
                    own.setdefault(f"{method}: spike", []).append(spike)
                    own.setdefault(f"{method}: later", []).append(later)
    if as_json:
        click.echo(json.dumps([[*key, own] for key, own in rows.items()]))
        return
    table = Table(title=f"Loss after a growth as a ratio to the loss at it, {seeds} seeds")
    table.add_column("task, optimizer, new entries")
    for method in METHODS:
        table.add_column(f"{method}: spike", justify="right")
        table.add_column("later", justify="right")
        table.add_column("later / first way's", justify="right")
    first: dict[str, list] = {}
    last = None
    for (task, name, way), own in rows.items():
        if (task, name) != last:
            table.add_section()
            table.add_row(f"{task}, {name}")
            first, last = own, (task, name)
        cells = []
        for method in METHODS:
            spikes, lasting = (np.array(own[f"{method}: {what}"]) for what in ("spike", "later"))
            ratios = lasting / np.array(first[f"{method}: later"])
            cells += [_with_error(values) for values in (spikes, lasting, ratios)]
        table.add_row(f"  {way}", *cells)
    Console(width=None if Console().is_terminal else 160).print(table)
