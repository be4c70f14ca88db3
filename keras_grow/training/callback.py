"""`GrowthCallback`: a model grows in the middle of one `fit`."""

import math
import os
import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np

from keras_grow import _backend, _keras
from keras_grow.apply import Slopes
from keras_grow.errors import GrowthError, check_flag, check_whole, is_real, is_whole, shown
from keras_grow.graph import graph_of
from keras_grow.graph.outputs import Outputs
from keras_grow.growth import history, methods
from keras_grow.growth.data import GrowthData
from keras_grow.growth.guarded import Growth, Guard
from keras_grow.growth.methods.base import FORMS
from keras_grow.growth.step import Initialization
from keras_grow.logs.events import GrowthEvent
from keras_grow.planning import Atlas, Plan, survey
from keras_grow.planning.cost import Size
from keras_grow.training import schedules
from keras_grow.training.budgets import Room
from keras_grow.training.look import Look, SiteScore
from keras_grow.training.operations import Operation, check, operation
from keras_grow.training.run_log import RunLog
from keras_grow.training.schedules import Moment, Schedule
from keras_grow.training.selectors.base import Occasion, Selector
from keras_grow.training.selectors.widening import All, Widening
from keras_grow.training.warmup import Warmup, warmup_for


class GrowthCallback(keras.callbacks.Callback):
    """Grows a compiled functional or Sequential model while `model.fit` runs.

    The model computes the same before and after every growth; its layers, tensors, optimizer
    (state included), metrics and sub-models stay the objects they were. No recompilation by the
    user is needed.

    ```python
    growth = keras_grow.GrowthCallback(
        (x_train, y_train),
        method="gradmax",
        schedule=keras_grow.schedules.Every(200, times=5),
        selector=keras_grow.selectors.All(amount=4),
    )
    model.fit(x_train, y_train, epochs=20, callbacks=[growth])
    growth.events
    ```

    While it trains, activations at grown sites have an explicit slope at zero, since relu'(0) is
    0 on every backend and a neuron with zero fan-in would never train; the plain ones are put
    back at the end, and a model saved in between is saved with the plain ones.

    Not for: subclassed models, `tf.distribute` or multi-device JAX.

    Args:
        data: what the gradients at growth are taken on: arrays (x, y) or (x, y, sample_weight), a
            `tf.data.Dataset`, torch `DataLoader`, `keras.utils.PyDataset`, another iterable of
            batches such as a list or a generator function, or a function that returns a batch.
        method: "gradmax", "gradmaxopt", "random", "firefly", "tiny", "split", "zeros" or
            "pursuit"; an object from `keras_grow.methods`, which can have settings; or one of your
            own (see docs/methods.md). One that cannot be used at a site that is sure to grow is
            refused when `fit` begins.
        schedule: when to grow, by default `Every(200)`; a function of a `schedules.Moment` too.
        selector: where and how much, by default `All(amount=2)`; new layers and bridges too.
        log_dir: a folder of this run's own. Each event is appended to `growth-events.jsonl` as it
            happens, and where tensorboard is installed (TensorFlow is not needed) everything is
            written that `tensorboard --logdir` shows; see below. Then every growth also notes the
            gradient norm of the weights its sites had, which takes up to two training steps.
        form: a form of growth that the method knows, such as "outgoing" (fan-in zero) or "inverse"
            (fan-out zero). "auto" takes what was measured to help, site by site: the inverse form
            where it is exact, unless the optimizer is SGD without momentum and no batch or group
            normalisation follows.
        batches: how many batches of growth data an event looks at; None for all of it, once: a
            generator is read to its end, so it must have one. New layers and bridges look at the
            first.
        batch_size: samples of one batch drawn from arrays.
        max_parameters, max_flops: what the model may have after a growth. One that would pass it
            is cut down to what fits, or left out; the event's `notes` say so.
        warmup: training steps in which new weights of wider layers move less than the optimizer
            would have them, a linearly rising part of it; 0 for none. "auto" takes 2.5 r steps
            after a growth whose new weights are foreseen to step r > 12 times as far as present
            ones, which happens with Adam and its kin. A warm-up ends with its `fit`. Callbacks
            listed before this one see the weights of a step before that part is taken back.
        dry_run: decide, choose weights and log everything, but change nothing. Every event says
            what would grow from the model as it is.
        seed: of everything random in growth; None draws a fresh one.
        verify: compare the outputs on up to 32 samples before and after every growth; undo it
            and raise if they differ by more than 1e-5 of their scale (float32).
        log_every: training steps between records of loss and metrics.
        on_failure: what to do when a growth fails for want of memory or another fault of the
            machine. The model is as it was either way. "continue" warns, notes it in the events
            and trains on; "raise" ends `fit`.

    With a log_dir these are written, at the number of training steps done:

    * `loss`: of the step itself, or the mean of the `log_every` steps since the last record. Keras
      hands its callbacks the mean since the epoch began; what was added to it is worked out from
      that. Late in epochs of many thousand steps, where rounding would spoil that, a record is the
      mean of a few more steps. The loss that a `train_step` of your own returns is written as it
      is.
    * metrics as Keras gives them, means since the epoch began; `val_*` at the ends of epochs;
    * `learning_rate` when it has changed, looked at as often as takes 0.2 % of the time;
    * `parameters`, `flops` (one sample, forward) and `width/SITE`, at the start and when they
      change; every growth, and what the network looks like.

    `keras.callbacks.TensorBoard` can have the same log_dir. With a state that was set, or in a
    second `fit`, records go on from `step`, and later ones that an earlier session has left in the
    folder are taken back. A disk that is full in the middle of a training ends the log with a
    warning, not the training, unless `on_failure` is "raise".

    Attributes:
        events: a `GrowthEvent` for every growth so far, and for every one that was due and found
            no room.
        step: training steps so far.
        carried_out: the plan of the last growth that has made sites wider.

    Raises:
        GrowthError: when `fit` begins, or at a growth: the model, data, selector or method do
            not fit together; the message says what and what to do.
    """

    def __init__(
        self,
        data: Any,
        method: Any = "gradmax",
        schedule: Schedule | Callable[[Moment], bool] | None = None,
        selector: Selector | None = None,
        log_dir: str | os.PathLike | None = None,
        *,
        form: str = "auto",
        batches: int | None = 1,
        batch_size: int = 512,
        max_parameters: float | None = None,
        max_flops: float | None = None,
        warmup: int | str = "auto",
        dry_run: bool = False,
        seed: int | None = 0,
        verify: bool = True,
        log_every: int = 1,
        on_failure: str = "continue",
    ) -> None:
        super().__init__()
        if on_failure not in ("continue", "raise"):
            raise GrowthError(
                f"on_failure must be 'continue' or 'raise'. Received: on_failure={on_failure!r}"
            )
        if selector is not None and not isinstance(selector, Selector):
            raise GrowthError(
                "selector must say where to grow, such as keras_grow.selectors.All(amount=2). "
                f"Received: selector={selector!r}"
            )
        if log_dir is not None and not isinstance(log_dir, (str, os.PathLike)):
            raise GrowthError(f"log_dir must be a folder's path. Received: log_dir={log_dir!r}")
        if form not in ("auto", *FORMS):
            known = ", ".join(f"'{f}'" for f in ("auto", *FORMS))
            raise GrowthError(f"form must be one of {known}. Received: form={form!r}")
        if batches is not None:
            check_whole("batches", batches, 1)
        limits = {"max_parameters": max_parameters, "max_flops": max_flops}
        for name, limit in limits.items():
            if limit is not None and not (is_real(limit) and limit > 0):
                raise GrowthError(f"{name} must be a positive number. Received: {name}={limit!r}")
        if isinstance(warmup, str) and warmup != "auto":
            raise GrowthError(
                "warmup must be a whole number of training steps, or 'auto'. "
                f"Received: warmup={warmup!r}"
            )
        if warmup != "auto":
            check_whole("warmup", warmup, 0)
        check_flag("dry_run", dry_run)
        check_flag("verify", verify)
        if seed is None:
            seed = int(np.random.default_rng().integers(2**31))
        check_whole("seed", seed, 0)
        check_whole("log_every", log_every, 1)
        self.method = methods.get(method)
        self.schedule = schedules.get(schedule)
        self.selector = All(amount=2) if selector is None else selector
        self.log_dir = log_dir
        self.form = form
        self.batches = batches
        self.max_parameters = max_parameters
        self.max_flops = max_flops
        self.warmup = warmup
        self.dry_run = bool(dry_run)
        self.seed = seed
        self.verify = verify
        self.on_failure = on_failure
        self.log_every = log_every
        raising = on_failure == "raise"
        self._log = None if log_dir is None else RunLog(log_dir, log_every, raising)
        self.data = GrowthData(data, batch_size, seed)
        self.events: list[GrowthEvent] = []
        self.step = 0
        self.carried_out: Plan | None = None
        self._count = 0
        self._last: int | None = None
        self._initial: dict[str, int] = {}
        self._grown: set[str] = set()
        self._slopes = Slopes()
        self._outputs: Outputs | None = None
        self._living = _keras.Living()
        self._warming = self._new_warmup()
        self._look: Look | None = None
        self._epoch = 0
        self._epoch_start = 0
        self._ended: dict[str, Any] | None = None  # logs of an epoch that no schedule has seen

    # --- state ---------------------------------------------------------------------------------

    def get_state(self) -> dict[str, Any]:
        """Where the callback is, schedule and selector included, as one plain value that `json`
        can hold.
        """
        return {
            "step": self.step,
            "count": self._count,
            "last": self._last,
            "initial_widths": dict(self._initial),
            "grown": sorted(self._grown),
            "events": [event.to_dict() for event in self.events],
            "schedule": _state_of(self.schedule),
            "selector": _state_of(self.selector),
            "ended": None if self._ended is None else {k: float(v) for k, v in self._ended.items()},
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes on from a value of `get_state`, for a model with the widths it had then.

        Raises:
            GrowthError: `state` is no such value.
        """
        wanted = {"step", "count", "initial_widths", "grown", "events"}
        missing = wanted.difference(state) if isinstance(state, Mapping) else wanted
        if missing:
            raise GrowthError(
                "The state must be a value of GrowthCallback.get_state(). "
                f"Received: {state!r:.200}, which lacks {sorted(missing)}."
            )
        for name in ("step", "count"):
            if not is_whole(state[name]) or state[name] < 0:
                raise GrowthError(
                    f"'{name}' in the state must be a whole number of 0 or more. "
                    f"Received: {shown(state[name])}."
                )
        for owner, name in ((self.schedule, "schedule"), (self.selector, "selector")):
            ours = type(owner).__module__.startswith("keras_grow.")
            if ours and (own := state.get(name)) and set(own) != set(_state_of(owner)):
                raise GrowthError(
                    f"The state is that of a callback with another {name}: this one's, "
                    f"{type(owner).__name__}, remembers {sorted(_state_of(owner))}. "
                    f"Received: {shown(own)}."
                )
        self.step = int(state["step"])
        self._count = int(state["count"])
        self._last = state.get("last")
        self._initial = {k: int(v) for k, v in state["initial_widths"].items()}
        self._grown = set(state["grown"])
        self.events = [GrowthEvent.from_dict(e) for e in state["events"]]
        self._ended = state.get("ended")
        for owner, name in ((self.schedule, "schedule"), (self.selector, "selector")):
            if state.get(name):
                owner.set_state(state[name])

    # --- Keras's hooks -------------------------------------------------------------------------

    def on_train_begin(self, logs: dict | None = None) -> None:
        model = self._model
        atlas = survey(model)
        if not getattr(model, "compiled", False):
            raise GrowthError(f"Model '{model.name}' must be compiled before it can grow in fit.")
        for site in atlas.sites:
            self._initial.setdefault(site.name, site.width)
        self.selector.check(atlas)
        occasion = self._occasion_of(atlas)
        for growth in [] if occasion.remaining == 0 else self.selector.foreseen(occasion):
            check(growth, atlas, self.method, self.form, self._slopes)
        if not self._count and isinstance(self.selector, Widening) and self.selector.reached(atlas):
            warnings.warn(
                f"Model '{model.name}' has its target widths already, so nothing will grow. "
                "They are widths to reach, not channels to add.",
                stacklevel=2,
            )
        self._outputs = Outputs(atlas.graph) if self.verify else None
        # Looked at once, at the first growth: that takes a tenth of a second.
        self._living = _keras.Living(_keras.early_stoppings(self))
        self._look = None
        self._warming = self._new_warmup()  # weights may have changed since the last fit
        self._slopes.remove()  # of a fit that ended in an error, where `on_train_end` is not called
        for call in atlas.graph.calls:
            if call.path in self._grown:
                self._slopes.install(call)
        if len(self._slopes):
            _keras.drop_compiled(model)
        if self._log is not None:
            self._log.begin(model, atlas, self.step)

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        self._epoch = epoch
        self._epoch_start = self.step
        if self._log is not None:
            self._log.epoch_begin()

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        self._ended = logs or {}
        if self._log is not None:
            self._log.epoch_end(self.step, logs)

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        # `batch` is the last step of the block when steps_per_execution is more than 1.
        before, self.step = self.step, self._epoch_start + batch + 1
        try:
            if self._log is not None:
                self._log.batch(self._model, before, self.step, batch + 1, logs or {})
            if self._warming is not None and self._warming.active:
                _ = self.model  # on JAX this puts the state of the fit back into the variables
                self._warming.step(self.step - before)
            if schedules.truth(self.schedule.due(self._moment(logs))):
                self._grow()
        except BaseException:
            self.on_train_end()  # which Keras does not call when `fit` ends in an error
            raise
        self._look = self._ended = None

    def on_train_end(self, logs: dict | None = None) -> None:
        if self._log is not None:
            self._log.end()
        self._living = _keras.Living()
        self._look = None
        if not self._slopes.remove():
            return
        _keras.drop_compiled(self._model)
        last = self.events[-1] if self.events else None
        if last and last.sites and not last.dry_run and last.step == self.step:
            warnings.warn(
                f"The last growth, at step {self.step}, was the end of training: its neurons have "
                "not taken a step, and the plain activation has no slope where they are. Train "
                "on with the same callback, or let the schedule end earlier.",
                stacklevel=2,
            )

    # --- looking -------------------------------------------------------------------------------

    def _moment(self, logs: dict | None) -> Moment:
        return Moment(
            step=self.step,
            epoch=self._epoch,
            count=self._count,
            last=self._last,
            logs=logs or {},
            epoch_ended=self._ended is not None,
            epoch_logs=self._ended,
            epoch_start=self._epoch_start,
            scores=self._scores,
        )

    def _looked(self) -> Look:
        """The model now; a schedule that looked at it has made it already."""
        if self._look is None:
            number = self._count
            self._look = Look(
                self.model,  # on JAX this puts the state of the fit back into the variables
                lambda graph: self.data.batches(number, graph, self.batches),
                keep=self.batches is not None,
            )
            for site in self._look.atlas.sites:
                self._initial.setdefault(site.name, site.width)
        return self._look

    def _occasion(self) -> Occasion:
        look = self._looked()
        return self._occasion_of(look.atlas, look)

    def _occasion_of(self, atlas: Atlas, look: Look | None = None) -> Occasion:
        remaining = getattr(self.schedule, "remaining", None)
        left = None if remaining is None else remaining(self._count)
        return Occasion(atlas, self._initial, self._count, left, look)

    def _scores(self) -> list[SiteScore]:
        occasion = self._occasion()
        return list(occasion.score(self.selector.considered(occasion)).values())

    # --- growing -------------------------------------------------------------------------------

    def _grow(self) -> None:
        start = time.perf_counter()
        occasion = self._occasion()
        look = self._looked()
        chosen = self.selector.select(occasion)
        self._count += 1
        if not chosen and not occasion.notes:
            return
        selected = time.perf_counter()
        size = Size.of(look.atlas.graph)
        event = GrowthEvent(
            step=self.step,
            epoch=self._epoch,
            sites=[],
            parameters_before=size.parameters,
            parameters_after=size.parameters,
            flops_before=size.flops,
            flops_after=size.flops,
            notes=occasion.notes,
            dry_run=self.dry_run,
            time=time.time(),
        )
        try:
            done = self._carry_out(chosen, event) if chosen else None
        except Exception as error:
            if self.on_failure == "raise" or not _backend.is_machine_fault(error):
                raise
            event.error = str(error) or type(error).__name__
            self._note(event)
            warnings.warn(
                f"Growth at step {self.step} failed; training goes on with the model as it was. "
                f"{event.error}",
                stacklevel=2,
            )
            return
        event.scores = {name: score.to_dict() for name, score in look.scored.items()}
        event.skipped = look.skipped
        if done is not None:
            self._last = self.step
            event.sites = done.sites
            event.loss = done.loss
            if done.report is not None:
                event.deviation, event.tolerance = done.report.relative, done.report.tolerance
            event.parameters_after, event.flops_after = done.after.parameters, done.after.flops
            event.seconds = {"survey": selected - start, **done.seconds}
        self._note(event)

    def _carry_out(self, chosen: Any, event: GrowthEvent) -> Growth | None:
        """Does what the selector chose, as far as the limits allow it."""
        look = self._looked()
        init = Initialization(
            self.method, np.random.default_rng([self.seed, self._count]), self.form,
            look.batches(), self._slopes, norms=self._log is not None,
        )  # fmt: skip
        guard = Guard(self._outputs, living=self._living)
        work: Operation | None = operation(chosen, look, init, guard)
        if work is not None and (self.max_parameters is not None or self.max_flops is not None):
            work, cut = work.cut(self._room(event))
            if cut is not None:
                limits = f"max_parameters={self.max_parameters}, max_flops={self.max_flops}"
                event.notes.append(f"With {limits}, {cut}.")
        if work is None:
            return None
        if self.dry_run:
            done = work.preview()
        else:
            done = work.run()
            self.carried_out = done.plan
            if done.plan is None or done.plan.rewires:
                self._living.look_again()  # there are new models and graphs
            calls = graph_of(look.model).calls
            self._grown = {c.path for c in calls if id(c.op) in self._slopes.ops}
            self._warm_up(done, event)
        done.seconds = {"data": look.seconds, **done.seconds}
        return done

    def _new_warmup(self) -> Warmup | None:
        if self.warmup == "auto":
            return Warmup(1)
        return Warmup(int(self.warmup)) if self.warmup else None

    def _warm_up(self, done: Growth, event: GrowthEvent) -> None:
        """Holds the new weights back, where that was asked for or is needed."""
        if self._warming is None or done.plan is None:
            return
        if self.warmup != "auto":
            return self._warming.note(done.plan)
        steps = warmup_for(site.first_step for site in done.sites)
        self._warming.note(done.plan, max(steps, 1))
        if steps:
            event.notes.append(
                f"new weights move slowly for {steps} steps: their first one would be up to "
                f"{max(s.first_step or 0 for s in done.sites):.0f} times that of present ones"
            )

    def _room(self, event: GrowthEvent) -> Room:
        most = (math.inf if n is None else n for n in (self.max_parameters, self.max_flops))
        return Room(next(most) - event.parameters_before, next(most) - event.flops_before)

    def _note(self, event: GrowthEvent) -> None:
        self.events.append(event)
        if event.sites and not event.dry_run:
            history.remember(self._model, event)
        if self._log is not None:
            self._log.growth(event, self._model)


def _state_of(owner: Any) -> dict[str, Any]:
    read = getattr(owner, "get_state", None)
    return {} if read is None else read()
