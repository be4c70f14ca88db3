"""`GrowthCallback`: a model grows in the middle of one `fit`."""

import os
import time
import warnings
from typing import Any

import keras
import numpy as np

from keras_grow import _backend, _keras
from keras_grow.apply import Slopes
from keras_grow.errors import GrowthError, check_whole
from keras_grow.growth import events as event_log
from keras_grow.growth import methods
from keras_grow.growth.data import GrowthData
from keras_grow.growth.engine import GrowthStep
from keras_grow.growth.events import GrowthEvent
from keras_grow.growth.outputs import Outputs
from keras_grow.planning import survey
from keras_grow.planning.cost import graph_flops
from keras_grow.training.schedules import Every, Schedule
from keras_grow.training.selectors import All, Occasion, Selector


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
            `tf.data.Dataset`, torch `DataLoader`, `keras.utils.PyDataset`, or a function that
            returns a batch.
        method: "gradmax", "random", or an object from `keras_grow.methods`.
        schedule: when to grow, by default `Every(200)`.
        selector: where and how much, by default `All(amount=2)`.
        log_dir: where each event is appended to `growth-events.jsonl` as it happens.
        batch_size: samples that one event draws from arrays.
        seed: of everything random in growth.
        verify: compare the outputs on up to 32 samples before and after every growth; undo it
            and raise if they differ by more than 1e-5 of their scale (float32).
        on_failure: what to do when a growth fails for want of memory or another fault of the
            machine. The model is as it was either way. "continue" warns, notes it in the events
            and trains on; "raise" ends `fit`.

    Attributes:
        events: a `GrowthEvent` for every growth so far.
        step: training steps so far.

    Raises:
        GrowthError: when `fit` begins, or at a growth: the model, data, selector or method do
            not fit together; the message says what and what to do.
    """

    def __init__(
        self,
        data: Any,
        method: Any = "gradmax",
        schedule: Schedule | None = None,
        selector: Selector | None = None,
        log_dir: str | os.PathLike | None = None,
        *,
        batch_size: int = 512,
        seed: int = 0,
        verify: bool = True,
        on_failure: str = "continue",
    ) -> None:
        super().__init__()
        if on_failure not in ("continue", "raise"):
            raise GrowthError(
                f"on_failure must be 'continue' or 'raise'. Received: on_failure={on_failure!r}"
            )
        if schedule is not None and (isinstance(schedule, type) or not hasattr(schedule, "due")):
            raise GrowthError(
                "schedule must say when to grow, such as keras_grow.schedules.Every(200). "
                f"Received: schedule={schedule!r}"
            )
        if selector is not None and not isinstance(selector, Selector):
            raise GrowthError(
                "selector must say where to grow, such as keras_grow.selectors.All(amount=2). "
                f"Received: selector={selector!r}"
            )
        if log_dir is not None and not isinstance(log_dir, (str, os.PathLike)):
            raise GrowthError(f"log_dir must be a folder's path. Received: log_dir={log_dir!r}")
        check_whole("seed", seed, 0)
        self.method = methods.get(method)
        self.schedule = Every(200) if schedule is None else schedule
        self.selector = All(amount=2) if selector is None else selector
        self.log_dir = log_dir
        self.seed = seed
        self.verify = verify
        self.on_failure = on_failure
        self.data = GrowthData(data, batch_size, seed)
        self.events: list[GrowthEvent] = []
        self.step = 0
        self._count = 0
        self._initial: dict[str, int] = {}
        self._grown: set[str] = set()
        self._slopes = Slopes()
        self._outputs: Outputs | None = None
        self._stoppings: list[Any] = []
        self._epoch = 0
        self._epoch_start = 0

    # --- state ---------------------------------------------------------------------------------

    def get_state(self) -> dict[str, Any]:
        """Where the callback is, as one plain value that `json` can hold."""
        return {
            "step": self.step,
            "count": self._count,
            "initial_widths": dict(self._initial),
            "grown": sorted(self._grown),
            "events": [event.to_dict() for event in self.events],
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes on from a value of `get_state`, for a model with the widths it had then.

        Raises:
            GrowthError: `state` is no such value.
        """
        missing = {"step", "count", "initial_widths", "grown", "events"}.difference(state)
        if missing:
            raise GrowthError(
                "The state must be a value of GrowthCallback.get_state(). "
                f"Received: {state!r:.200}, which lacks {sorted(missing)}."
            )
        self.step = int(state["step"])
        self._count = int(state["count"])
        self._initial = {k: int(v) for k, v in state["initial_widths"].items()}
        self._grown = set(state["grown"])
        self.events = [GrowthEvent.from_dict(e) for e in state["events"]]

    # --- Keras's hooks -------------------------------------------------------------------------

    def on_train_begin(self, logs: dict | None = None) -> None:
        model = self._model
        atlas = survey(model)
        if not getattr(model, "compiled", False):
            raise GrowthError(f"Model '{model.name}' must be compiled before it can grow in fit.")
        for site in atlas.sites:
            self._initial.setdefault(site.name, site.width)
        self.selector.check(atlas)
        self._outputs = Outputs(atlas.graph) if self.verify else None
        self._stoppings = _keras.early_stoppings(self)
        self._slopes.remove()  # of a fit that ended in an error, where `on_train_end` is not called
        for call in atlas.graph.calls:
            if call.path in self._grown:
                self._slopes.install(call)
        if len(self._slopes):
            _keras.drop_compiled(model)

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        self._epoch = epoch
        self._epoch_start = self.step

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        # `batch` is the last step of the block when steps_per_execution is more than 1.
        self.step = self._epoch_start + batch + 1
        if self.schedule.due(self.step, self._count):
            try:
                self._grow()
            except BaseException:
                self.on_train_end()  # which Keras does not call when `fit` ends in an error
                raise

    def on_train_end(self, logs: dict | None = None) -> None:
        self._stoppings = []
        if not self._slopes.remove():
            return
        _keras.drop_compiled(self._model)
        if self.events and self.events[-1].sites and self.events[-1].step == self.step:
            warnings.warn(
                f"The last growth, at step {self.step}, was the end of training: its neurons have "
                "not taken a step, and the plain activation has no slope where they are. Train "
                "on with the same callback, or let the schedule end earlier.",
                stacklevel=2,
            )

    # --- growing -------------------------------------------------------------------------------

    def _grow(self) -> None:
        model = self.model  # on JAX this puts the state of the fit back into the variables
        start = time.perf_counter()
        atlas = survey(model)
        occasion = Occasion(atlas, self._initial, self._count, self.schedule.remaining(self._count))
        amounts = self.selector.select(occasion)
        self._count += 1
        if not amounts:
            return
        surveyed = time.perf_counter()
        event = GrowthEvent(
            step=self.step,
            epoch=self._epoch,
            sites=[],
            parameters_before=model.count_params(),
            parameters_after=model.count_params(),
            flops_before=graph_flops(atlas.graph),
            flops_after=graph_flops(atlas.graph),
        )
        rng = np.random.default_rng([self.seed, self._count])
        try:
            batch = self.data.batch(self._count - 1, atlas.graph)
            drawn = time.perf_counter()
            step = GrowthStep(atlas, amounts, self.method, rng, batch, self._slopes, self._outputs)
            done = step.run()
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
        for stopping in self._stoppings:
            if stopping.best_weights is not None:
                # They have the old shapes; restoring them would fail halfway.
                kept = step.surgery.grown(model.weights, stopping.best_weights)
                stopping.best_weights = kept
        self._grown |= {call.path for call in done.plan.activations.values()}
        event.sites = done.sites
        event.loss = done.loss
        event.deviation = None if done.report is None else done.report.relative
        event.parameters_after = model.count_params()
        event.flops_after = graph_flops(atlas.graph)
        event.seconds = {"survey": surveyed - start, "data": drawn - surveyed, **done.seconds}
        self._note(event)

    def _note(self, event: GrowthEvent) -> None:
        self.events.append(event)
        if self.log_dir is not None:
            event_log.append(self.log_dir, event)
