"""When to grow.

A schedule is asked after every training step (or block of steps) and gets a `Moment`. All of them
take the same limits: `start`, `stop`, `times` and `cooldown`.
"""

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

from keras_grow.errors import GrowthError, check_whole, is_real, nearest, shown
from keras_grow.training.look import SiteScore


def _no_scores() -> list[SiteScore]:
    raise GrowthError(
        "These scores need a model in training: they can be had from the moments that "
        "GrowthCallback makes."
    )


@dataclass(frozen=True)
class Moment:
    """What a schedule may look at after a training step.

    Attributes:
        step: training steps so far, over all calls of `fit`.
        epoch: index of the epoch.
        count: growths so far, those included which found nothing to grow.
        last: step of the last growth; None before the first.
        logs: Keras' logs of this step: running means over the epoch. On JAX they may still be on
            their way; `float` waits for them.
        epoch_ended: whether an epoch ended before this step. In-place surgery is safe after a
            step and not at the end of an epoch, so what is decided there happens one step later.
        epoch_logs: the logs of the epoch that ended, validation included; None at other steps.
        epoch_start: step at which the present epoch began.
        scores: a function that gives a `SiteScore` for every site that the selector would
            consider now. It takes a forward and backward pass on the growth data, so call it
            seldom.
    """

    step: int
    epoch: int = 0
    count: int = 0
    last: int | None = None
    logs: Mapping[str, Any] = field(default_factory=dict)
    epoch_ended: bool = False
    epoch_logs: Mapping[str, Any] | None = None
    epoch_start: int = 0
    scores: Callable[[], list[SiteScore]] = _no_scores


class Schedule:
    """Base of the schedules. Any object with `due` will do; the rest is optional.

    Attributes:
        start: no growth before this training step.
        stop: no growth after it.
        times: how many growths; no end if None.
        cooldown: training steps after a growth in which nothing grows.
    """

    start: int | None = None
    stop: int | None = None
    times: int | None = None
    cooldown: int = 0

    def due(self, moment: Moment) -> bool:
        """Whether to grow now."""
        raise NotImplementedError

    def remaining(self, count: int) -> int | None:
        """How many growths are still to come after `count`; None if there is no known end."""
        return None if self.times is None else max(self.times - count, 0)

    def get_state(self) -> dict[str, Any]:
        """What the schedule remembers, as plain values that `json` can hold."""
        return {}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Goes on from a value of `get_state`."""

    def allows(self, moment: Moment) -> bool:
        """Whether the limits leave room for a growth now."""
        return (
            (self.times is None or moment.count < self.times)
            and (self.start is None or moment.step >= self.start)
            and (self.stop is None or moment.step <= self.stop)
            and not self.cooling(moment)
        )

    def cooling(self, moment: Moment) -> bool:
        """Whether the last growth was less than the cool-down ago."""
        return moment.last is not None and 0 < moment.step - moment.last <= self.cooldown

    def _check_limits(self) -> None:
        for name in ("start", "stop", "times"):
            if getattr(self, name) is not None:
                check_whole(name, getattr(self, name), 1)
        check_whole("cooldown", self.cooldown, 0)
        if self.stop is not None and self.stop < (self.start or 1):
            raise GrowthError(
                "No step lies between start and stop, so nothing would ever grow. "
                f"Received: start={self.start}, stop={self.stop}"
            )


@dataclass(frozen=True)
class Every(Schedule):
    """Grow every `steps` training steps.

    Args:
        steps: training steps between growths.
        start: training steps before the first growth; `steps` if left out.
        times: how many growths; no end if left out.
        stop: no growth after this training step.
        cooldown: training steps after a growth in which nothing grows; of use where training was
            resumed late or blocks of steps are long, and growths would follow one another.

    Raises:
        GrowthError: not whole numbers of 1 or more.
    """

    steps: int
    start: int | None = None
    times: int | None = None
    stop: int | None = None
    cooldown: int = 0

    def __post_init__(self) -> None:
        check_whole("steps", self.steps, 1)
        self._check_limits()

    @property
    def first(self) -> int:
        return self.steps if self.start is None else self.start

    def due(self, moment: Moment) -> bool:
        return self.allows(moment) and moment.step >= self.first + moment.count * self.steps

    def remaining(self, count: int) -> int | None:
        ends = [] if self.times is None else [self.times]
        if self.stop is not None:
            pace = max(self.steps, self.cooldown + 1)
            ends.append(max(0, (self.stop - self.first) // pace + 1))
        return max(min(ends) - count, 0) if ends else None


class When(Schedule):
    """Grow when a function says so; a bare function as `schedule=` is one without limits.

    ```python
    schedule = kg.schedules.When(lambda moment: moment.step in (100, 250, 700), cooldown=50)
    ```

    Args:
        function: takes a `Moment` and returns whether to grow now. It is not asked where the
            limits forbid growth.
        start, stop, times, cooldown: as for `Schedule`.
    """

    def __init__(
        self,
        function: Callable[[Moment], bool],
        *,
        start: int | None = None,
        stop: int | None = None,
        times: int | None = None,
        cooldown: int = 0,
    ) -> None:
        if not callable(function):
            raise GrowthError(
                "When takes a function of a Moment that returns whether to grow. "
                f"Received: function={function!r}"
            )
        try:
            inspect.signature(function).bind(None)
        except TypeError:
            raise GrowthError(
                "When calls its function with a Moment, so it must take one argument, such as "
                f"lambda moment: moment.step == 100. Received: function={function!r}"
            ) from None
        except ValueError:  # written in C, with no signature that Python can see
            pass
        self.function = function
        self.start, self.stop, self.times, self.cooldown = start, stop, times, cooldown
        self._check_limits()

    def due(self, moment: Moment) -> bool:
        return self.allows(moment) and truth(self.function(moment))


class OnPlateau(Schedule):
    """Grow when a metric has stopped improving, as `keras.callbacks.ReduceLROnPlateau` acts.

    It looks at the end of every epoch, and growth happens after the first step of the next. With
    `steps=` it looks every so many training steps instead, at the mean of a training metric over
    those steps. That mean is taken from Keras' running mean over the epoch, batches counted
    alike.

    What it remembers (the best value, and for how long there was none better) is part of the
    callback's state and goes on in a second `fit`.

    Args:
        monitor: name of the metric in Keras' logs, such as "loss" or "val_accuracy".
        patience: looks without improvement before growth.
        min_delta: only a change by more than this is an improvement.
        mode: "min", "max", or "auto": "max" if the name holds "acc" or "auc", else "min".
        steps: look every so many training steps, not at the ends of epochs.
        cooldown: training steps after a growth in which nothing grows; looks that fall into it
            do not count.
        start, stop, times: as for `Schedule`. Before `start` the metric may be missing from the
            logs, which helps where validation runs in some epochs only.

    Raises:
        GrowthError: arguments that do not fit; or, in `fit`, a metric that is not in the logs.
    """

    def __init__(
        self,
        monitor: str = "loss",
        patience: int = 3,
        min_delta: float = 1e-4,
        mode: str = "auto",
        steps: int | None = None,
        cooldown: int = 0,
        times: int | None = None,
        *,
        start: int | None = None,
        stop: int | None = None,
    ) -> None:
        if not isinstance(monitor, str) or not monitor:
            raise GrowthError(
                f"monitor must be the name of a metric in Keras' logs. Received: {monitor!r}"
            )
        check_whole("patience", patience, 1)
        if not is_real(min_delta) or not 0 <= min_delta < math.inf:
            raise GrowthError(f"min_delta must be 0 or more. Received: min_delta={min_delta!r}")
        if mode not in ("auto", "min", "max"):
            raise GrowthError(f"mode must be 'auto', 'min' or 'max'. Received: mode={mode!r}")
        if steps is not None:
            check_whole("steps", steps, 1)
            if monitor.startswith("val_"):
                raise GrowthError(
                    "Validation metrics are known at the ends of epochs only. Leave out steps=, "
                    f"or monitor '{monitor[4:]}'. Received: monitor={monitor!r}, steps={steps}"
                )
        self.monitor = monitor
        self.patience = patience
        self.min_delta = min_delta
        self.mode = mode
        self.steps = steps
        self.start, self.stop, self.times, self.cooldown = start, stop, times, cooldown
        self._check_limits()
        self.best: float | None = None
        self.wait = 0
        self._seen = False
        self._window = _Window()

    def due(self, moment: Moment) -> bool:
        value = self._value(moment)
        if value is None or not math.isfinite(value):  # a diverging loss is no reason to grow
            return False
        if self.best is None or self._better(value, self.best):
            self.best, self.wait = value, 0
        elif not self.cooling(moment):
            self.wait += 1
        if self.wait < self.patience or not self.allows(moment):
            return False
        self.wait = 0
        return True

    def get_state(self) -> dict[str, Any]:
        return {
            "best": self.best, "wait": self.wait, "seen": self._seen, "window": vars(self._window),
        }  # fmt: skip

    def set_state(self, state: Mapping[str, Any]) -> None:
        self.best, self.wait = state["best"], state["wait"]
        self._seen, self._window = state["seen"], _Window(**state["window"])

    def _better(self, value: float, best: float) -> bool:
        maximise = self.mode == "max" or (
            self.mode == "auto" and ("acc" in self.monitor or "auc" in self.monitor)
        )
        return value > best + self.min_delta if maximise else value < best - self.min_delta

    def _value(self, moment: Moment) -> float | None:
        if self.steps is not None:
            return self._window.value(moment, self.steps, lambda logs: self._metric(logs, moment))
        if not moment.epoch_ended:
            return None
        return self._metric(moment.epoch_logs or {}, moment)

    def _metric(self, logs: Mapping[str, Any], moment: Moment) -> float | None:
        if self.monitor in logs:
            self._seen = True
            return float(logs[self.monitor])
        if self._seen or (self.start is not None and moment.step < self.start):
            return None
        hint = ""
        if self.monitor.startswith("val_") and not any(name.startswith("val_") for name in logs):
            hint = (
                "No validation has run yet: pass validation_data= to fit. If it runs in some "
                "epochs only (validation_freq=), set start= to a step behind the first of them. "
            )
        raise GrowthError(
            f"OnPlateau(monitor='{self.monitor}') finds no such metric. {hint}"
            f"{nearest(self.monitor, logs)} Received: logs with {sorted(logs)}"
        )


@dataclass
class _Window:
    """The mean of a metric over a number of steps, from running means over epochs.

    Attributes:
        begun: step at which the window began.
        total: sum of the metric over those steps of the window that earlier epochs hold.
        before: sum over the steps of this epoch before the window.
        epoch_start: step at which the epoch began that was looked at last.
    """

    begun: int = 0
    total: float = 0.0
    before: float = 0.0
    epoch_start: int = 0

    def value(
        self, moment: Moment, steps: int, metric: Callable[[Mapping[str, Any]], float | None]
    ) -> float | None:
        """The mean, if the window is full; a new one begins then."""
        if moment.epoch_start != self.epoch_start:
            mean = metric(moment.epoch_logs or {}) if moment.epoch_ended else None
            if mean is None:  # a fit that was broken off: its last epoch is not known
                self.begun, self.total = moment.epoch_start, 0.0
            else:
                self.total += mean * (moment.epoch_start - self.epoch_start) - self.before
            self.before = 0.0
            self.epoch_start = moment.epoch_start
        if moment.step < self.begun + steps:
            return None
        mean = metric(moment.logs)
        if mean is None:
            return None
        running = mean * (moment.step - moment.epoch_start)
        value = (self.total + running - self.before) / (moment.step - self.begun)
        self.begun, self.total, self.before = moment.step, 0.0, running
        return value


class OnSpectrum(Schedule):
    """Grow when new neurons would get a gradient that is worth having beside the old ones'.

    Every `steps` training steps it predicts, for each site the selector considers, the largest
    gradient norm that its new weights could have (singular values of M times the norm of new
    fan-outs; Evci et al. 2022, equation 11), and compares it with the gradient norm of the
    existing kernels of the site's producers and consumers. A look costs about what the statistics
    of a growth cost.

    Args:
        threshold: grow when the ratio of the two norms reaches this at some site.
        steps: training steps between looks.
        start, stop, times, cooldown: as for `Schedule`.

    Raises:
        GrowthError: arguments that do not fit; in `fit`, a model that has no gradients.
    """

    def __init__(
        self,
        threshold: float,
        steps: int = 100,
        *,
        start: int | None = None,
        stop: int | None = None,
        times: int | None = None,
        cooldown: int = 0,
    ) -> None:
        if not is_real(threshold) or not 0 < threshold < math.inf:
            raise GrowthError(
                f"threshold must be a positive number. Received: threshold={threshold!r}"
            )
        check_whole("steps", steps, 1)
        self.threshold = threshold
        self.steps = steps
        self.start, self.stop, self.times, self.cooldown = start, stop, times, cooldown
        self._check_limits()
        self.looked = 0

    def due(self, moment: Moment) -> bool:
        if moment.step < self.looked + self.steps or not self.allows(moment):
            return False
        self.looked = moment.step
        worth = [  # of all sites, so that the event can say
            score.gradient_norm >= self.threshold * score.existing_norm
            for score in moment.scores()
            if score.gradient_norm > 0
        ]
        return any(worth)

    def get_state(self) -> dict[str, Any]:
        return {"looked": self.looked}

    def set_state(self, state: Mapping[str, Any]) -> None:
        self.looked = state["looked"]


def truth(answer: Any) -> bool:
    """A schedule's answer to whether to grow: true, false, or nothing, which is false.

    Raises:
        GrowthError: it is something else, such as a text or an array of several values.
    """
    if answer is None:
        return False
    if isinstance(answer, (bool, Real)) or math.prod(getattr(answer, "shape", (0,))) == 1:
        return bool(answer)
    raise GrowthError(
        f"A schedule must answer True or False to whether to grow. Received: {shown(answer)}."
    )


def get(schedule: Any) -> Any:
    """A schedule from itself or a function.

    Raises:
        GrowthError: neither.
    """
    if schedule is None:
        return Every(200)
    if not isinstance(schedule, type):
        if callable(getattr(schedule, "due", None)):
            return schedule
        if callable(schedule):
            return When(schedule)
    raise GrowthError(
        "schedule must say when to grow, such as keras_grow.schedules.Every(200), or a function "
        f"of a Moment. Received: schedule={schedule!r}"
    )
