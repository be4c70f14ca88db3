"""What has become of new neurons some steps after a growth: alive, and still learning?"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from keras import ops, tree

from keras_grow import _backend
from keras_grow.graph import run
from keras_grow.growth.problem import grown_places, present_rows
from keras_grow.growth.statistics import fan_out_slots, unit
from keras_grow.planning import Plan, SitePlan
from keras_grow.training.callback import GrowthCallback

# A new neuron is alive if what it says varies by more than this part of what present ones' does
# (median), and its fan-out is longer than this part of theirs (mean).
LEAST = 1e-3
# It is turning if its fan-in has turned by more than this part of what present ones' have (median).
LEAST_TURN = 0.1
# Samples on which neurons are listened to.
HEARD = 256


@dataclass(frozen=True)
class Vitality:
    """New neurons of a growth, some steps later.

    Attributes:
        steps: training steps since the growth.
        alive: part of the new neurons whose answer varies from sample to sample and is read.
        turning: part of them whose fan-ins have turned, by a tenth of what present ones have at
            least.
        new_angle, present_angle: by how many degrees fan-ins have turned since the first step
            after the growth, mean over new and over present neurons.
    """

    steps: int
    alive: float
    turning: float
    new_angle: float
    present_angle: float


class Watched(GrowthCallback):
    """A `GrowthCallback` that looks after the new neurons of its first growth.

    Args:
        settled: steps after which it looks.

    Attributes:
        vitality: what it has seen; None before, and for growths that put new layers in.
    """

    def __init__(self, data: Any, settled: int, **growth: Any) -> None:
        super().__init__(data, **growth)
        self.settled = settled
        self.vitality: Vitality | None = None
        self._watch: Watch | None = None

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        super().on_train_batch_end(batch, logs)
        if self._watch is None:
            if self.carried_out is not None and not self.carried_out.rewires:
                samples = tree.map_structure(lambda a: a[:HEARD], self._looked().batches().first[0])
                self._watch = Watch(self.carried_out, samples, self.step)
                self._look = None
            return
        since = self.step - self._watch.step
        if self.vitality is None and (self._watch.fresh or since >= self.settled):
            _ = self.model  # on JAX this puts the state of the fit back into the variables
            if self._watch.fresh:
                self._watch.remember()
            if since >= self.settled:
                self.vitality = self._watch.look(since)


class Watch:
    """The neurons of one growth that has been carried out.

    Args:
        plan: of the growth.
        samples: inputs of the model.
        step: training steps when it happened.
    """

    def __init__(self, plan: Plan, samples: Any, step: int) -> None:
        self.plan = plan
        self.samples = samples
        self.step = step
        self.fresh = True
        self._before: list[tuple[np.ndarray, np.ndarray]] = []

    def remember(self) -> None:
        """Notes where fan-ins point now."""
        self._before = [_fan_ins(site) for site in self.plan.sites]
        self.fresh = False

    def look(self, steps: int) -> Vitality:
        """Compares with what was noted, `steps` after the growth."""
        angles = [
            (_angles(new, new_now), _angles(old, old_now))
            for (new, old), (new_now, old_now) in zip(
                self._before, map(_fan_ins, self.plan.sites), strict=True
            )
        ]
        turning = [new > LEAST_TURN * np.median(old) for new, old in angles]
        new, old = (np.concatenate(side) for side in zip(*angles, strict=True))
        return Vitality(
            steps,
            float(np.mean(np.concatenate(self._alive()))),
            float(np.mean(np.concatenate(turning))),
            float(new.mean()),
            float(old.mean()),
        )

    def _alive(self) -> list[np.ndarray]:
        _, env = run(self.plan.atlas.graph, _backend.as_tensors(self.samples), training=False)
        found = []
        for site in self.plan.sites:
            alive = np.zeros(site.added, bool)
            for slot in fan_out_slots(site):
                ref = slot.call.inputs[0]
                state = self.plan.states[ref]
                others = [a for a in range(ref.rank) if a != state.axis]
                said = _backend.to_numpy(ops.std(env[ref], axis=others))
                heard = np.median(said[state.labels >= 0])
                loud = np.array(
                    [said[state.labels == -1 - number].max(initial=0.0) for number in site.ids]
                )
                kernel = _backend.to_numpy(slot.edit.variable)
                old = present_rows(slot.edit, kernel, grown_places(slot.edit, slot.old_rows))
                new = present_rows(slot.edit, kernel, slot.rows)
                read = np.linalg.norm(new, axis=1) > LEAST * np.linalg.norm(old, axis=1).mean()
                alive |= (loud > LEAST * heard) & read
            found.append(alive)
        return found


def _fan_ins(site: SitePlan) -> tuple[np.ndarray, np.ndarray]:
    """Fan-ins of new and of present neurons as they are now, a row each."""
    new, old = [], []
    for slot in site.writes:
        kernel = _backend.to_numpy(slot.edit.variable).copy()
        new.append(present_rows(slot.edit, kernel, slot.columns))
        old.append(present_rows(slot.edit, kernel, grown_places(slot.edit, slot.old_columns)))
    return np.concatenate(new, axis=1), np.concatenate(old, axis=1)


def _angles(before: np.ndarray, now: np.ndarray) -> np.ndarray:
    """Degrees between rows."""
    cosine = (unit(before) * unit(now)).sum(axis=1)
    return np.degrees(np.arccos(np.clip(cosine, -1.0, 1.0)))
