"""What the optimizer's slots should hold for new entries: loss after a growth, by what they hold.

Small networks train, grow in the middle of it through `GrowthCallback`, and train on. Every way to
start is measured from the same trained state, with the same new weights and the same batches, so
the ways can be compared seed by seed. Ways other than the library's are done here: right after the
growth new entries are overwritten.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import click
import keras
import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

import keras_grow as kg
from keras_grow import zoo
from keras_grow.zoo import digits, teacher_student

BEFORE, AFTER, SPIKE, LATER = 600, 100, 20, 10  # training steps
METHODS = ("gradmax", "random")
optimizers = keras.optimizers


# What new entries of a slot can start with, besides what the library gives them.
ZERO = "zero"
MEAN = "mean"  # the mean of the slot's old entries
LINE = "line"  # the mean of the old entries in line with it along the axis that has grown
TENTH = "tenth"  # a tenth of that


@dataclass(frozen=True)
class Way:
    """One way to start.

    Attributes:
        name: for the table.
        starts: by slot, as `slots_of` calls it, one of the starts above. What is left out starts
            as the library has it.
        warmup: of the callback.
    """

    name: str
    starts: dict[str, str] = field(default_factory=dict)
    warmup: int = 0


def _ways(*slots: str, first: str = "zero") -> list[Way]:
    """The library's way, which is called `first`, and the others."""
    others = (MEAN, LINE, TENTH)
    return [Way(first), *(Way(start, dict.fromkeys(slots, start)) for start in others)]


def _warmed(ways: list[Way]) -> list[Way]:
    """The first way with a warm-up of new weights besides."""
    first = ways[0]
    return [*ways, Way(f"{first.name}, warm-up of {SPIKE} steps", first.starts, SPIKE)]


def _moments(first: str, second: str, *more: str) -> list[Way]:
    """First moments at zero or in line; second ones as `_ways`."""
    seconds = _ways(second, *more)
    all_in_line = dict.fromkeys((first, second, *more), LINE)
    return [
        *(Way(f"second moments: {w.name}", w.starts) for w in seconds),
        Way("first and second moments: line", all_in_line),
    ]


_ADAM = _warmed(_moments("momentum", "velocity"))
# By name: the optimizer and the ways that it is measured with, the first as a fresh one would.
CASES: dict[str, tuple[Callable[[], Any], list[Way]]] = {
    "sgd": (lambda: optimizers.SGD(0.01, momentum=0.9), _warmed(_ways("momentum"))),
    "rmsprop": (lambda: optimizers.RMSprop(0.002), _ways("velocity")),
    "rmsprop centered": (
        lambda: optimizers.RMSprop(0.002, centered=True),
        [
            *_ways("velocity"),
            Way("both: line", {"velocity": LINE, "average_gradient": LINE}),
        ],
    ),
    "adam": (lambda: optimizers.Adam(0.005), _ADAM),
    "adam amsgrad": (
        lambda: optimizers.Adam(0.005, amsgrad=True),
        _moments("momentum", "velocity", "velocity_hat"),
    ),
    "adamw": (lambda: optimizers.AdamW(0.005), _ADAM),
    "nadam": (lambda: optimizers.Nadam(0.005), _ADAM),
    "lamb": (lambda: optimizers.Lamb(0.01), _ADAM),
    "adamax": (lambda: optimizers.Adamax(0.01), _moments("momentum", "norm")),
    "adagrad": (lambda: optimizers.Adagrad(0.1), _ways("accumulator", first="initial")),
    "adadelta": (
        lambda: optimizers.Adadelta(1.0),
        [
            *_ways("accumulated_grad", "accumulated_delta_var"),
            Way("gradients: line", {"accumulated_grad": LINE}),
        ],
    ),
    "adafactor": (lambda: optimizers.Adafactor(0.02), _ways("row", "column", "velocity")),
    "ftrl": (
        lambda: optimizers.Ftrl(0.05),
        [Way("linear: zero", {"linear": ZERO}), Way("balance")],
    ),
    "lion": (lambda: optimizers.Lion(0.001), _ways("momentum")),
    "muon": (
        lambda: optimizers.Muon(0.01, exclude_layers=["output", "logits"]),
        _moments("momentum", "velocity"),
    ),
}
if hasattr(optimizers, "ScheduleFreeAdamW"):
    CASES["schedule-free adamw"] = (
        lambda: optimizers.ScheduleFreeAdamW(0.01),
        _ways("velocity"),
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


def slots_of(optimizer: Any, variable: Any) -> dict[str, Any]:
    """The slots of one variable by the end of their names, such as "velocity".

    Adafactor's factors have no such names: "row" and "column", which stand before the velocity.
    """
    stem = variable.path.replace("/", "_") + "_"
    every = optimizer.variables
    slots = {v.name.removeprefix(stem): v for v in every if v.name.startswith(stem)}
    if isinstance(optimizer, optimizers.Adafactor) and len(variable.shape) > 1:
        at = next(i for i, v in enumerate(every) if v is slots["velocity"])
        slots["row"], slots["column"] = every[at - 2], every[at - 1]
    return slots


def started(value: np.ndarray, grown: dict[int, np.ndarray], start: str) -> np.ndarray:
    """A slot with another start.

    Args:
        value: of the grown slot.
        grown: by axis that has grown, which places along it are new.
        start: one of those above.
    """
    new = np.zeros(value.shape, bool)
    along = {}
    for axis, places in grown.items():
        shape = [1] * value.ndim
        shape[axis] = -1
        along[axis] = places.reshape(shape)
        new |= along[axis]
    if start == ZERO:
        return np.where(new, np.zeros_like(value), value)
    if start == MEAN:
        return np.where(new, value[~new].mean(), value)
    line = value
    for axis, places in grown.items():
        mean = np.compress(~places, line, axis).mean(axis, keepdims=True)
        line = np.where(along[axis], mean, line)
    return np.where(new, line if start == LINE else line / 10, value)


def start_otherwise(optimizer: Any, plan: kg.Plan, starts: dict[str, str]) -> None:
    """Overwrites the new entries of slots.

    Args:
        optimizer: whose slots have grown.
        plan: of the growth, from before it.
        starts: as of `Way`.
    """
    grown: dict[int, dict[int, np.ndarray]] = {}
    variables = {}
    for edit in plan.edits:
        variables[id(edit.variable)] = edit.variable
        axis = edit.axis % len(edit.variable.shape)
        grown.setdefault(id(edit.variable), {})[axis] = edit.labels < 0
    for key, variable in variables.items():
        slots = slots_of(optimizer, variable)
        for name, start in starts.items():
            if name not in slots:
                continue
            rank, places = len(variable.shape), grown[key]
            if name in ("row", "column"):  # which lack an axis each
                lacks = rank - 1 if name == "row" else rank - 2
                places = {a - (a > lacks): p for a, p in places.items() if a != lacks}
            slots[name].assign(started(keras.ops.convert_to_numpy(slots[name]), places, start))


class Restart(keras.callbacks.Callback):
    """Starts new entries of slots otherwise, right after the growth."""

    def __init__(self, growth: Any, plan: kg.Plan, starts: dict[str, str]) -> None:
        super().__init__()
        self.growth, self.plan, self.starts = growth, plan, starts

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        if self.starts and self.growth.events:
            start_otherwise(self.model.optimizer, self.plan, self.starts)
            self.starts = {}


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
            widths = {site.name: site.width + setting.amount for site in kg.sites(grown)}
            restart = Restart(growth, kg.plan(grown, widths), way.starts)
            record = _Losses(growth, setting)
            _fit(grown, setting, 1 + AFTER, seed + 1000, [growth, restart, record])
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
