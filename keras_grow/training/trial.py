"""`growth_check`: does growing help here? Small, grown and big, trained side by side."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import keras
import numpy as np
from scipy import stats

from keras_grow import _keras
from keras_grow.apply.copying import copy_compilation, fresh_copy
from keras_grow.errors import GrowthError, check_whole, is_real, shown
from keras_grow.growth import methods
from keras_grow.surgery.widening import widen
from keras_grow.training import schedules
from keras_grow.training.selectors.widening import All
from keras_grow.training.vitality import Vitality, Watched

SMALL, GROWN, BIG = "small", "grown", "big"
# Steps after a growth at which new neurons are looked at, if training lasts that long.
SETTLED = 100
# A growth does harm if the epoch after it has more than this part of the loss of the one before.
WORST_SPIKE = 1.05


@dataclass(frozen=True)
class Trial:
    """One training.

    Attributes:
        arm: "small", "grown" or "big".
        seed: of initial weights, order of the batches and growth.
        losses: mean training loss of every epoch.
        spike: mean loss of an epoch's worth of steps after the growth over that before it; for
            the arms that do not grow, at the same step.
        train: training loss, mean of the last epoch.
        test: loss on the validation data; None without any.
        parameters: at the end.
        seconds: of `fit`, compilation included.
        vitality: of the new neurons; None for arms that do not grow.
        first_step, first_reach: largest of the growth's sites, as a `SiteGrowth` tells them; None
            where not known.
        form: that the sites have grown in, each once.
    """

    arm: str
    seed: int
    losses: tuple[float, ...]
    spike: float
    train: float
    test: float | None
    parameters: int
    seconds: float
    vitality: Vitality | None = None
    first_step: float | None = None
    first_reach: float | None = None
    form: tuple[str, ...] = ()


@dataclass(frozen=True)
class GrowthCheck:
    """What `growth_check` found. `print` it.

    Attributes:
        trials: every training.
        at: where in training the growth was, a part of its steps.
        names: of method and optimizer, for the heading.
    """

    trials: tuple[Trial, ...]
    at: float
    names: tuple[str, ...] = field(default=())

    def of(self, arm: str) -> list[Trial]:
        """The trainings of one arm, by seed."""
        return sorted((t for t in self.trials if t.arm == arm), key=lambda t: t.seed)

    def mean(self, arm: str, what: str) -> float:
        """The mean of `what`, an attribute of `Trial`, over seeds; NaN where it is not known."""
        found = [getattr(t, what) for t in self.of(arm)]
        return float(np.mean(found)) if found and None not in found else math.nan

    @property
    def closed(self) -> float:
        """The part of the gap between small and big in training loss that growing closes.

        1: grown is as good as big; below 0: worse than never growing. NaN where big is no better
        than small.
        """
        return self._closed("train")

    @property
    def closed_test(self) -> float:
        """The same of the validation loss."""
        return self._closed("test")

    def _closed(self, what: str) -> float:
        small, grown, big = (self.mean(arm, what) for arm in (SMALL, GROWN, BIG))
        return (small - grown) / (small - big) if small > big else math.nan

    @property
    def spike(self) -> float:
        """Loss of the epoch after the growth over that before it, mean over seeds."""
        return self.mean(GROWN, "spike")

    @property
    def difference(self) -> tuple[float, float]:
        """Grown less small in final training loss, by seed: mean and standard error."""
        pairs = zip(self.of(GROWN), self.of(SMALL), strict=True)
        found = [grown.train - small.train for grown, small in pairs]
        error = float(stats.sem(found)) if len(found) > 1 else math.nan
        return float(np.mean(found)), error

    def __bool__(self) -> bool:
        """Whether growing ends lower than not growing, and its spike is small."""
        return self.difference[0] < 0 and self.spike <= WORST_SPIKE

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as `json` takes them."""
        return {
            "at": self.at,
            "names": list(self.names),
            "trials": [asdict(trial) for trial in self.trials],
            "closed": self.closed,
            "closed_test": self.closed_test,
            "spike": self.spike,
            "helps": bool(self),
        }

    def __str__(self) -> str:
        seeds = len(self.of(GROWN))
        lines = [
            f"Growing at {self.at:.0%} of training, {', '.join(self.names)}, {seeds} "
            f"seed{'s' if seeds > 1 else ''}:",
            "",
            f"{'':8}{'parameters':>12}{'training loss':>15}{'validation loss':>17}"
            f"{'epoch after / before':>22}",
        ]
        for arm in (SMALL, GROWN, BIG):
            test = self.mean(arm, "test")
            lines.append(
                f"{arm:8}{int(self.mean(arm, 'parameters')):>12,}{self.mean(arm, 'train'):>15.4g}"
                f"{'' if math.isnan(test) else format(test, '.4g'):>17}"
                f"{self.mean(arm, 'spike'):>22.3f}"
            )
        mean, error = self.difference
        sure = "" if math.isnan(error) else f" ± {error:.2g}"
        verdict = "Growing helps here" if self else "Growing does not help here"
        lines += ["", f"{verdict}: {mean:+.3g}{sure} in final training loss beside never growing."]
        if not math.isnan(self.closed):
            lines.append(f"It closes {self.closed:.0%} of the gap between small and big.")
        seen = [t.vitality for t in self.of(GROWN) if t.vitality is not None]
        if seen:
            lines.append(
                f"Of the new neurons {np.mean([v.alive for v in seen]):.0%} are alive and "
                f"{np.mean([v.turning for v in seen]):.0%} turning {seen[0].steps} steps later: "
                f"by {np.mean([v.new_angle for v in seen]):.0f} degrees, present ones by "
                f"{np.mean([v.present_angle for v in seen]):.0f}."
            )
        step, reach = (self.mean(GROWN, name) for name in ("first_step", "first_reach"))
        if not math.isnan(step):
            lines.append(
                f"Their first step was foreseen {step:.3g} times as long as that of present ones, "
                f"and to carry them {reach:.2g} times as far as those are long."
            )
        return "\n".join(lines)


def growth_check(
    model: Any,
    widths: Any,
    data: Any,
    *,
    validation_data: Any = None,
    epochs: int = 10,
    batch_size: int = 32,
    at: float = 0.5,
    method: Any = "gradmax",
    form: str = "auto",
    seeds: int | Sequence[int] = 3,
    names: Sequence[str] | None = None,
    known: GrowthCheck | None = None,
    **growth: Any,
) -> GrowthCheck:
    """Whether growing helps on a model and data of your own.

    Three networks train on the same batches for the same number of steps: the model as it is, one
    that grows to `widths` in the middle, and one that has `widths` from the start; every seed with
    fresh initial weights, which small and grown share. Nothing happens to `model`.

    A few epochs on a part of the data tell much, if the learning rate's schedule fits them: one
    that has come to its end leaves no time for new neurons to learn.

    Args:
        model: the small model, compiled; or a function without arguments that makes it.
        widths: target widths by layer or site, a model that has them, or a function that makes it.
        data: (x, y) or (x, y, sample_weight), arrays.
        validation_data: likewise; or None.
        epochs, batch_size: of every training.
        at: when to grow, as a part of all steps.
        method, form: of the growth.
        seeds: how many, counted from 0, or which.
        names: only these sites grow, as for a selector. `widths` given as a dict name them anyway.
        known: an earlier check on the same model, widths, data, epochs and seeds, with another
            growth: what it trained without growing is not trained again.
        growth: other arguments of `GrowthCallback`, such as `warmup=20`.

    Returns:
        Every training, and what follows from them; `bool(...)` tells whether growing helps.

    Raises:
        GrowthError: the model is not compiled, widths do not fit, arrays are too short.
    """
    check_whole("epochs", epochs, 2)
    check_whole("batch_size", batch_size, 1)
    if not is_real(at) or not 0 < at < 1:
        raise GrowthError(f"at must lie between 0 and 1. Received: at={at!r}.")
    chosen = list(range(seeds)) if isinstance(seeds, int) else list(seeds)
    if not chosen:
        raise GrowthError(f"There must be at least one seed. Received: seeds={shown(seeds)}.")
    x, y, weights = _arrays("data", data)
    test = None if validation_data is None else _arrays("validation_data", validation_data)
    samples = len(keras.tree.flatten(x)[0])
    steps = epochs * -(-samples // batch_size)
    when = round(steps * at)
    if when < 1 or when >= steps:
        raise GrowthError(
            f"There is no step to grow at: training has {steps} steps. Received: at={at!r}."
        )
    make_small = _maker(model)
    make_big = _maker(widen(model, widths) if isinstance(widths, Mapping) else widths)
    target = widths if isinstance(widths, Mapping) else make_big()
    trials = []
    for seed in chosen:
        for arm in (SMALL, GROWN, BIG):
            done = [] if known is None or arm == GROWN else known.of(arm)
            if seed in [t.seed for t in done]:
                trials += [t for t in done if t.seed == seed]
                continue
            keras.utils.set_random_seed(seed)
            trained = make_big() if arm == BIG else make_small()
            if not getattr(trained, "compiled", False):
                _compile_like(trained, make_small())
            grower = None
            if arm == GROWN:
                grower = Watched(
                    (x, y) if weights is None else (x, y, weights),
                    settled=min(SETTLED, steps - when),
                    method=method,
                    form=form,
                    schedule=schedules.Every(when, times=1),
                    selector=All(amount=target, names=names),
                    seed=seed,
                    **growth,
                )
            keras.utils.set_random_seed(seed)  # the same order of batches for all three
            run = _Run(arm, seed, (x, y, weights), test, epochs, batch_size, when)
            trials.append(run(trained, grower))
            optimizer = type(trained.optimizer).__name__
            del trained, grower
    label = method if isinstance(method, str) else methods.get(method).name
    return GrowthCheck(tuple(trials), at, (label, optimizer))


@dataclass(frozen=True)
class _Run:
    """One training to be done."""

    arm: str
    seed: int
    data: tuple[Any, Any, Any]
    test: tuple[Any, Any, Any] | None
    epochs: int
    batch_size: int
    when: int

    def __call__(self, model: Any, grower: Watched | None) -> Trial:
        recorder = _StepLosses()
        x, y, weights = self.data
        start = time.perf_counter()
        model.fit(
            x,
            y,
            sample_weight=weights,
            batch_size=self.batch_size,
            epochs=self.epochs,
            callbacks=[recorder, *([] if grower is None else [grower])],
            verbose=0,
        )
        seconds = time.perf_counter() - start
        losses = np.array(recorder.losses)
        epoch = len(losses) // self.epochs
        before, after = losses[: self.when][-epoch:], losses[self.when :][:epoch]
        vitality = None
        first: dict[str, Any] = {}
        if grower is not None:
            if not grower.events or not grower.events[0].sites:
                raise GrowthError(
                    "Nothing has grown. Check that widths are larger than the model's. "
                    f"{'; '.join(note for e in grower.events for note in e.notes)}"
                )
            sites = grower.events[0].sites
            vitality = grower.vitality
            first = {
                name: max((v for s in sites if (v := getattr(s, name)) is not None), default=None)
                for name in ("first_step", "first_reach")
            }
            first["form"] = tuple(dict.fromkeys(s.form for s in sites))
        return Trial(
            self.arm,
            self.seed,
            tuple(float(part.mean()) for part in losses.reshape(self.epochs, epoch)),
            float(after.mean() / before.mean()),
            float(losses[-epoch:].mean()),
            None if self.test is None else _loss(model, self.test, self.batch_size),
            model.count_params(),
            seconds,
            vitality,
            **first,
        )


def _loss(model: Any, data: tuple[Any, Any, Any], batch_size: int) -> float:
    x, y, weights = data
    result = model.evaluate(
        x, y, sample_weight=weights, batch_size=batch_size, verbose=0, return_dict=True
    )
    return float(result["loss"])


def _maker(model: Any) -> Callable[[], Any]:
    """What makes a model with fresh initial weights."""
    if isinstance(model, keras.Model):
        return lambda: fresh_copy(model)
    if callable(model):
        return model
    raise GrowthError(
        "model and widths must be a Keras model or a function that makes one; widths may be a dict "
        f"of target widths too. Received: {shown(model)}."
    )


def _compile_like(model: Any, other: Any) -> None:
    if not getattr(other, "compiled", False):
        raise GrowthError(
            f"Model '{other.name}' must be compiled: growth_check trains it, and the big one as it."
        )
    copy_compilation(other, model)


def _arrays(name: str, data: Any) -> tuple[Any, Any, Any]:
    if not isinstance(data, tuple) or not 2 <= len(data) <= 3:
        raise GrowthError(
            f"{name} must be a tuple of arrays, (x, y) or (x, y, sample_weight). "
            f"Received: {name}={shown(data)}."
        )
    x, y, *weights = data
    return x, y, weights[0] if weights else None


class _StepLosses(keras.callbacks.Callback):
    """The loss of every training step."""

    def __init__(self) -> None:
        super().__init__()
        self.losses: list[float] = []
        self._sum = 0.0

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        loss = float((logs or {})["loss"])
        if _keras.logs_running_means(self._model):
            # Keras tells the mean since the epoch began: the difference of the sums is the step's.
            before = self._sum if batch else 0.0
            self._sum = loss * (batch + 1)
            loss = self._sum - before
        self.losses.append(loss)
