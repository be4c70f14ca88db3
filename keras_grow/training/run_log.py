"""What `GrowthCallback` writes to its log folder, and when."""

import os
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from keras_grow import _keras
from keras_grow.errors import GrowthError
from keras_grow.graph import Ref
from keras_grow.logs.events import GrowthEvent
from keras_grow.logs.networks import Network, Node
from keras_grow.logs.writing import RunWriter
from keras_grow.planning import Atlas, survey
from keras_grow.planning.cost import graph_flops

# Reading the learning rate may mean computing a schedule. It is read as often as takes this part
# of the time.
RATE_SHARE = 0.002
# A running mean is a float32: its error in units of itself.
PRECISION = 2.0**-22
# The loss of a step is known well enough to be written when its error is below this part of it.
GOOD_ENOUGH = 0.01


class StepLoss:
    """The loss of single training steps, from Keras's mean over the epoch so far."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """An epoch begins."""
        self._steps, self._mean = 0, 0.0

    def __call__(self, steps: int, mean: float) -> float | None:
        """Mean loss of the steps since the last answer; None if it is not known well enough yet.

        Args:
            steps: done in this epoch.
            mean: over them.
        """
        count = steps - self._steps
        if count <= 0:
            return None
        value = (steps * mean - self._steps * self._mean) / count
        error = PRECISION * steps * abs(mean) / count
        if error > GOOD_ENOUGH * max(abs(value), GOOD_ENOUGH * abs(mean)):
            return None
        self._steps, self._mean = steps, mean
        return value


class RunLog:
    """Writes a training down as it goes on, from one `fit` to the next.

    Args:
        log_dir: the folder.
        every: training steps between records of the loss.
        raising: whether a fault in the middle of a training is raised. Otherwise a warning is
            given, and the training goes on without being written down.
    """

    def __init__(self, log_dir: str | os.PathLike, every: int, raising: bool) -> None:
        self.log_dir = log_dir
        self.every = every
        self.raising = raising
        self._writer: RunWriter | None = None
        self._loss = StepLoss()
        self._means = True
        self._widths: dict[str, int] = {}
        self._rate: float | None = None
        self._rate_due = 0.0

    def begin(self, model: Any, atlas: Atlas, step: int) -> None:
        """A `fit` begins.

        Raises:
            GrowthError: the folder cannot be written to.
        """
        self.end()
        self._writer = RunWriter(self.log_dir, step)
        self._means = _keras.logs_running_means(model)
        self._loss.restart()
        self._widths = {}
        self._rate = None
        self._write_model(self._writer, model, atlas, step)
        self._write_rate(self._writer, model, step)

    def epoch_begin(self) -> None:
        """Keras starts its means anew."""
        self._loss.restart()
        self._rate_due = 0.0

    def batch(self, model: Any, before: int, step: int, in_epoch: int, logs: Mapping) -> None:
        """Training steps are done.

        Args:
            before, step: done before and by now.
            in_epoch: done in this epoch.
            logs: what Keras says of them.
        """
        if self._writer is None or before // self.every == step // self.every:
            return
        values = {k: v for k, v in logs.items() if isinstance(v, (float, int))}
        if self._means and "loss" in values:
            loss = self._loss(in_epoch, values.pop("loss"))
            if loss is not None:
                values["loss"] = loss
        try:
            self._writer.scalars(values, step)
            if time.monotonic() >= self._rate_due:
                self._write_rate(self._writer, model, step)
        except GrowthError as error:
            self._fault(error)

    def epoch_end(self, step: int, logs: Mapping | None) -> None:
        """Validation is done."""
        values = {k: v for k, v in (logs or {}).items() if k.startswith("val_")}
        if self._writer is not None and values:
            with self._faults():
                self._writer.scalars(values, step)

    def growth(self, event: GrowthEvent, model: Any) -> None:
        """The model has grown, or failed to."""
        if self._writer is None:
            return
        with self._faults():
            self._writer.growth(event)
            if event.dry_run or not event.sites:
                return
            if any(site.width_before == 0 for site in event.sites):  # a new layer
                self._write_model(self._writer, model, survey(model), event.step)
            else:
                widths = {site.name: site.width_after for site in event.sites}
                self._write_size(
                    self._writer, event.step, event.parameters_after, event.flops_after, widths
                )

    def end(self) -> None:
        """`fit` is over."""
        writer, self._writer = self._writer, None
        if writer is not None:
            with self._faults():
                writer.close()

    # --- how -----------------------------------------------------------------------------------

    @contextmanager
    def _faults(self) -> Iterator[None]:
        try:
            yield
        except GrowthError as error:
            self._fault(error)

    def _fault(self, error: GrowthError) -> None:
        """What becomes of a full disk in the middle of a training."""
        self._writer = None
        if self.raising:
            raise error
        warnings.warn(f"{error} Training goes on without being logged.", stacklevel=4)

    def _write_model(self, writer: RunWriter, model: Any, atlas: Atlas, step: int) -> None:
        writer.network(network_of(atlas, step))
        widths = {site.name: site.width for site in atlas.sites}
        self._write_size(writer, step, model.count_params(), graph_flops(atlas.graph), widths)

    def _write_size(
        self, writer: RunWriter, step: int, parameters: int, flops: float, widths: dict[str, int]
    ) -> None:
        changed = {name: w for name, w in widths.items() if self._widths.get(name) != w}
        self._widths.update(changed)
        sizes: dict[str, float] = {"parameters": parameters, "flops": flops}
        writer.scalars({**sizes, **{f"width/{name}": w for name, w in changed.items()}}, step)
        writer.flush()

    def _write_rate(self, writer: RunWriter, model: Any, step: int) -> None:
        start = time.monotonic()
        rate = _keras.learning_rate(model)
        now = time.monotonic()
        self._rate_due = now + (now - start) / RATE_SHARE
        if rate is not None and rate != self._rate:
            self._rate = rate
            writer.scalar("learning_rate", rate, step)


def network_of(atlas: Atlas, step: int) -> Network:
    """What a model looks like: its inputs, and the calls of its layers and ops."""
    graph = atlas.graph
    nodes = [
        Node(layer.name, type(layer).__name__, _width(atlas, ref))
        for ref, layer in zip(graph.inputs, _keras.input_layers(graph.functional), strict=True)
    ]
    made = {ref: i for i, ref in enumerate(graph.inputs)}
    edges: dict[tuple[int, int], None] = {}
    counted = set()
    for call in graph.calls:
        index = len(nodes)
        edges.update(dict.fromkeys((made[ref], index) for ref in call.inputs))
        made.update(dict.fromkeys(call.outputs, index))
        site = atlas.site_of(call.outputs[0])
        first = id(call.op) not in counted  # a shared layer is called again
        counted.add(id(call.op))
        parameters = call.op.count_params() if first and hasattr(call.op, "count_params") else 0
        width = _width(atlas, call.outputs[0])
        name = None if site is None else site.name
        nodes.append(Node(call.path, call.kind, width, name, parameters))
    return Network(graph.model.name, step, tuple(nodes), tuple(edges))


def _width(atlas: Atlas, ref: Ref) -> int | None:
    """Channels of a tensor; its last axis where nothing says which of them are the channels."""
    if ref.rank < 2:
        return None
    size = ref.shape[atlas.axes.get(ref, -1)]
    return None if size is None else int(size)
