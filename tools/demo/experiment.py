"""The demonstration: a network which grows in the middle of one ``fit``, on real data.

scikit-learn's handwritten digits and the zoo's small conv net are trained four ways, with the same
number of steps, the same optimizer and the same batches in the same order:

1. small from scratch;
2. big from scratch;
3. from small to big in one ``fit``, the new neurons chosen at random;
4. from small to big in one ``fit``, the new neurons chosen by GradMax.

1, 3 and 4 start from the same weights. This module holds the experiment and no printing;
``report`` shows what came out.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import keras
import numpy as np

import keras_grow as kg
from keras_grow import zoo

#: Called after every training step with the step (from 1) and that step's loss.
OnStep = Callable[[int, float], None]


@dataclass(frozen=True)
class Settings:
    """What is trained and how. Widths are those of ``conv1`` and ``conv2``; ``conv3`` has twice.

    A grown network starts at ``small`` and gets to ``big`` in ``growths`` equal parts. The events
    are evenly spaced over the first half of training; the second half is left to the finished
    network.

    The learning rate is the one that is best for training from scratch, for all four alike.
    """

    epochs: int = 30
    batch_size: int = 64
    learning_rate: float = 0.02
    momentum: float = 0.9
    small: int = 2
    big: int = 8
    growths: int = 2
    growth_samples: int = 512

    def growth_every(self, steps: int) -> int:
        """Steps from one growth to the next, in a training of ``steps`` steps."""
        return max(1, steps // (2 * self.growths))

    def growth_amount(self) -> float:
        """What one growth adds to every layer, as a fraction of its initial width."""
        return (self.big / self.small - 1) / self.growths


@dataclass(frozen=True)
class Way:
    """One of the four ways to train."""

    key: str
    title: str
    starts_big: bool
    method: str | None = None


WAYS = (
    Way("small", "small from scratch", starts_big=False),
    Way("big", "big from scratch", starts_big=True),
    Way("random", "grown, Random", starts_big=False, method="random"),
    Way("gradmax", "grown, GradMax", starts_big=False, method="gradmax"),
)


@dataclass
class Result:
    """What one training gave.

    ``training_flops`` is the sum over the steps of 3 x the forward FLOPs of the network of that
    step x the batch (one forward pass, and a backward pass which costs two), plus 3 x the forward
    FLOPs x the growth samples for every growth by GradMax, which looks at the gradients there.
    ``flops_by_step`` is its running sum. ``loss`` is the cross-entropy over the whole training set
    after the last step; ``losses`` are those of the training batches. ``seconds`` is the time of
    ``fit``, compilation included.
    """

    way: str
    seed: int
    parameters: int
    training_flops: float
    loss: float
    accuracy: float
    seconds: float
    losses: list[float]
    flops_by_step: list[float]
    growth_steps: list[int] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """The result as plain JSON values."""
        return asdict(self)


class _Batches(keras.utils.PyDataset):
    """Full batches of the training set in an order that depends on the seed and on nothing else.

    One epoch is one pass over a new permutation; what is left over after the last full batch is
    dropped, since a batch of another size would have to be compiled for.
    """

    def __init__(self, x: np.ndarray, y: np.ndarray, batch_size: int, seed: int) -> None:
        super().__init__()
        self._x, self._y, self._size = x, y, batch_size
        self._random = np.random.default_rng(seed)
        self._order = self._random.permutation(len(x))

    def __len__(self) -> int:
        return len(self._x) // self._size

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        chosen = self._order[index * self._size : (index + 1) * self._size]
        return self._x[chosen], self._y[chosen]

    def on_epoch_end(self) -> None:
        """Shuffle anew."""
        self._order = self._random.permutation(len(self._x))


class _Losses(keras.callbacks.Callback):
    """Note the loss of every step."""

    def __init__(self, on_step: OnStep | None) -> None:
        super().__init__()
        self.losses: list[float] = []
        self._on_step, self._sum = on_step, 0.0

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        # Keras reports the mean over the epoch so far; the difference of the sums is this step's.
        before = self._sum if batch else 0.0
        self._sum = float((logs or {})["loss"]) * (batch + 1)
        self.losses.append(self._sum - before)
        if self._on_step is not None:
            self._on_step(len(self.losses), self.losses[-1])


def number_of_steps(settings: Settings) -> int:
    """The steps of one training."""
    (x_train, _), _ = zoo.load_data("digits")
    return settings.epochs * (len(x_train) // settings.batch_size)


def train(
    way: Way, seed: int, settings: Settings, on_step: OnStep | None = None
) -> tuple[keras.Model, Result]:
    """Train once and measure.

    ``seed`` decides the initial weights, the order of the batches and the new random weights; the
    split into training and test images is the same for all seeds.
    """
    (x_train, y_train), (x_test, y_test) = zoo.load_data("digits")
    width = settings.big if way.starts_big else settings.small
    model = zoo.build("convnet", width=width, seed=seed)
    model.compile(
        optimizer=keras.optimizers.SGD(settings.learning_rate, momentum=settings.momentum),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    flops_at_start = float(kg.flops(model))
    recorder = _Losses(on_step)
    callbacks: list[keras.callbacks.Callback] = [recorder]
    grower = None
    if way.method is not None:
        every = settings.growth_every(number_of_steps(settings))
        grower = kg.GrowthCallback(
            (x_train[: settings.growth_samples], y_train[: settings.growth_samples]),
            method=way.method,
            schedule=kg.schedules.Every(every, times=settings.growths),
            selector=kg.selectors.All(amount=settings.growth_amount()),
            seed=seed,
            on_failure="raise",  # a run that did not grow would be shown as one that did
        )
        callbacks.append(grower)

    start = time.perf_counter()
    model.fit(
        _Batches(x_train, y_train, settings.batch_size, seed),
        epochs=settings.epochs,
        callbacks=callbacks,
        shuffle=False,  # the batches come shuffled; fit would do it again, with another seed
        verbose=0,
    )
    seconds = time.perf_counter() - start

    events = [] if grower is None else [event.to_dict() for event in grower.events]
    flops_by_step = _flops_by_step(flops_at_start, events, way, settings, len(recorder.losses))
    # One call for both sets: one compilation instead of two.
    logits = np.asarray(model.predict_on_batch(np.concatenate([x_train, x_test])), dtype=np.float64)
    return model, Result(
        way=way.key,
        seed=seed,
        parameters=model.count_params(),
        training_flops=flops_by_step[-1],
        loss=_cross_entropy(logits[: len(y_train)], y_train),
        accuracy=float(np.mean(logits[len(y_train) :].argmax(axis=1) == y_test)),
        seconds=seconds,
        losses=recorder.losses,
        flops_by_step=flops_by_step,
        growth_steps=[event["step"] for event in events],
        events=events,
    )


def _flops_by_step(
    at_start: float, events: list[dict[str, Any]], way: Way, settings: Settings, steps: int
) -> list[float]:
    """The training FLOPs spent when each step is over (see :class:`Result`)."""
    forward = at_start
    due = {int(event["step"]): event for event in events}
    spent, total = [], 0.0
    for step in range(1, steps + 1):
        total += 3 * forward * settings.batch_size
        spent.append(total)
        if step in due:
            if way.method == "gradmax":
                total += 3 * forward * settings.growth_samples
            forward = float(due[step]["flops_after"])
    return spent


def _cross_entropy(logits: np.ndarray, labels: np.ndarray) -> float:
    """The mean cross-entropy in nats of ``logits`` (n, classes) for ``labels`` (n,)."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_sum = np.log(np.exp(shifted).sum(axis=1))
    return float(np.mean(log_sum - shifted[np.arange(len(labels)), labels]))
