"""New weights move slowly at first, whatever the optimizer."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from keras import ops

from keras_grow.errors import check_whole
from keras_grow.planning import Edit, Plan
from keras_grow.planning.arrays import moved, new_entries


class Warmup:
    """Holds new weights back: they move a part r of the optimizer's step, old ones all of it.

    r rises linearly from 1 / steps in the first training step after a growth to 1 in step number
    `steps`. What an optimizer does to a weight in one step, weight decay and constraint included,
    is known from the weight before and after; so this works with every optimizer, and old weights
    keep every bit of what it gave them. The optimizer itself knows nothing of it: its slots, and a
    moving average of the weights (`use_ema`), are those of the whole step. Ftrl and
    ScheduleFreeAdamW compute weights from slots, so under them new weights follow with a delay.
    A constraint like `UnitNorm` that ties new weights to old ones holds again only after the
    warm-up.

    ```python
    warmup = Warmup(50)
    warmup.note(plan)   # right after the growth
    while warmup.active:
        model.train_on_batch(...)
        warmup.step()
    ```

    Only new entries of trainable variables are held back: statistics of new channels
    (BatchNormalization) follow the data from the start, and whole layers that a growth puts beside
    old ones move freely. On JAX the model's variables must hold the present state when a method
    is called (inside of `fit`, after reading `callback.model`).

    Args:
        steps: training steps until new weights move as the others; 1 means at once.

    Raises:
        GrowthError: `steps` is no whole number of at least 1.
    """

    def __init__(self, steps: int) -> None:
        check_whole("steps", steps, 1)
        self.steps = steps
        self._growths: list[_Recent] = []
        self._before: dict[int, Any] = {}

    @property
    def active(self) -> bool:
        """Whether weights are being held back."""
        return bool(self._growths)

    def note(self, plan: Plan, steps: int | None = None) -> None:
        """Remembers which weights a growth that has just been carried out has added.

        Weights of an earlier growth go on with their own warm-up where the plan has put them.

        Args:
            plan: what was carried out.
            steps: of this growth's warm-up, instead of the usual ones.
        """
        steps = self.steps if steps is None else steps
        edits: dict[int, list[Edit]] = {}
        for edit in plan.edits:
            edits.setdefault(id(edit.variable), []).append(edit)
        for growth in self._growths:
            for key, held in growth.held.items():
                if key in edits:
                    held.put(moved(held.new, edits[key]))
        latest = _Recent(steps)
        for key, own in edits.items():
            variable = own[0].variable
            if variable.trainable:
                held = _Held(variable)
                held.put(new_entries(own, _shape_before(own)))
                latest.held[key] = held
        if steps > 1 and latest.held:
            self._growths.append(latest)
        self._remember()

    def step(self, count: int = 1) -> None:
        """Takes back what new weights moved too far in the last training step.

        Args:
            count: training steps since the last call, where several run in one
                (`steps_per_execution`). New weights then move the mean part of these steps.
        """
        check_whole("count", count, 1)
        after = {key: ops.stop_gradient(h.variable.value) for key, h in self._all().items()}
        for growth in self._growths:
            parts = np.arange(growth.age + 1, growth.age + count + 1) / growth.steps
            part = float(np.minimum(parts, 1.0).mean())
            growth.age += count
            if part == 1.0:
                continue
            for key, held in growth.held.items():
                before, now = self._before[key], after[key]
                after[key] = ops.where(held.mask, before + part * (now - before), now)
                held.variable.assign(after[key])
        # The step that comes next is the whole one for those of age steps - 1.
        self._growths = [g for g in self._growths if g.age < g.steps - 1]
        self._remember()

    def _all(self) -> dict[int, "_Held"]:
        return {key: held for growth in self._growths for key, held in growth.held.items()}

    def _remember(self) -> None:
        # Copies: PyTorch changes values in place, JAX gives their memory away.
        self._before = {
            key: ops.copy(ops.stop_gradient(held.variable.value))
            for key, held in self._all().items()
        }


# A new neuron may step this many times as far as a present one without holding anything up; one
# that would step r times as far gets a warm-up of STEPS_PER_RATIO * r steps, up to LONGEST.
UNHURRIED, STEPS_PER_RATIO, LONGEST = 12.0, 2.5, 200


def warmup_for(first_steps: Iterable[float | None]) -> int:
    """How many steps of warm-up a growth needs; 0 for none.

    Adam and its kin divide by the root of past squared gradients. New weights have no past: their
    updates are of the size of the rate at once, all one way, while present ones, whose gradients
    change sign from batch to batch, take small ones.

    Args:
        first_steps: what is foreseen of every site, as `SiteGrowth.first_step` tells it.
    """
    largest = max((s for s in first_steps if s is not None), default=0.0)
    return 0 if largest <= UNHURRIED else min(round(STEPS_PER_RATIO * largest), LONGEST)


class _Recent:
    """What one growth has added, and how many training steps ago."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.held: dict[int, _Held] = {}
        self.age = 0


@dataclass
class _Held:
    """A variable with some entries held back: as an array and as a tensor."""

    variable: Any
    new: Any = None
    mask: Any = None

    def put(self, new: np.ndarray) -> None:
        self.new, self.mask = new, ops.convert_to_tensor(new)


def _shape_before(edits: list[Edit]) -> tuple[int, ...]:
    """The shape of a variable before edits that have been carried out."""
    shape = [int(d) for d in edits[0].variable.shape]
    for edit in edits:
        shape[edit.axis] = edit.old_size // edit.groups
    return tuple(shape)
