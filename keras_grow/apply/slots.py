"""What each optimizer slot holds for new entries of a variable.

Old entries keep theirs exactly. New ones start as in a fresh optimizer, with two exceptions: copies
of the weights (moving averages, ScheduleFreeAdamW's iterate) start at the new weights, and Ftrl's
`linear` at what the new weights come out of.

With Adam, whose `iterations` are large by then, a gradient that stays the same first moves a new
entry by (1 - beta_1) / sqrt(1 - beta_2) = 3.2 learning rates, by 6.6 in its twelfth step, and by 1
within some 1 / (1 - beta_2) steps. Starting second moments at the mean of the old ones, whole or
along the axis that grows, avoids this, but new neurons then learn slowly. Measured with
`python -m keras_grow.tools.benchmarks slots --task .. --optimizer .. --seeds ..` on PyTorch, as
ratios to the loss at growth, mean and standard error: the highest loss in the next 20 steps
(spike), and the loss 100 steps later, with GradMax unless said otherwise.

| optimizer, task, seeds | zero: spike, later | mean (along the axis: the same within the errors) |
| --- | --- | --- |
| Adam, teacher-student, 10 | 0.990, 0.658 ± 0.018 | 0.998, 0.726 ± 0.014 |
| the same, Random | 0.996, 0.705 ± 0.020 | 0.999, 0.876 ± 0.014 |
| Adam, digits, 8 | 2.97 ± 0.38, 0.743 ± 0.043 | 1.29 ± 0.14, 0.746 ± 0.036 |
| RMSprop, digits, 5 | 1.22 ± 0.05, 0.804 ± 0.018 | 1.12 ± 0.04, 0.832 ± 0.016 |
| Adafactor, teacher-student, 10 | 0.973, 0.491 ± 0.020 | 0.976, 0.555 ± 0.020 |
| Adafactor, digits, 5 | 9.2 ± 2.0, 0.921 ± 0.072 | 12.6 ± 2.9, 0.986 ± 0.070 |
| Muon, teacher-student, 10 | 0.997, 0.670 ± 0.022 | 0.997, 0.721 ± 0.017 |
| Muon, digits, 3 | 21.7 ± 8.9, 0.788 ± 0.148 | 1.94 ± 0.32, 0.810 ± 0.140 |
| Adagrad, teacher-student, 10 | 0.953, 0.653 ± 0.019 | 0.988, 0.722 ± 0.014 |
| Adamax, teacher-student, 5 | 0.999, 0.740 ± 0.011 | 0.999, 0.766 ± 0.009 |
| Adadelta, teacher-student, 5 | 0.998, 0.776 ± 0.006 | 0.997, 0.789 ± 0.006 |

So means take most of the spike that Adam and Muon (whose AdamW part trains convolutions) have with
GradMax on the digits, and cost later loss on the other task. A tenth of the mean lies between.
First moments and the momenta of SGD and Lion make no difference beyond the errors to
spikes. The spike is better dealt with by a warm-up of new weights: Adam, digits, 5 seeds, 2.86 ±
0.61 without and 1.36 ± 0.10 with 20 steps of it, 0.766 and 0.765 later; 0.636 and 0.644 later on
the teacher-student task. With Ftrl's `linear` at zero the next step would clear all new weights:
0.920 ± 0.007 later on the teacher-student task, 0.720 ± 0.015 as it is here (10 seeds). AdamW,
Nadam, Lamb and ScheduleFreeAdamW were not measured and start as Adam does.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from keras_grow import _backend, _keras
from keras_grow.errors import GrowthError
from keras_grow.planning import Edit
from keras_grow.planning.arrays import in_order, moved, new_entries

# What new entries of a slot can start with.
ZERO = "zero"
INITIAL = "initial"  # the optimizer's `initial_accumulator_value`, as when it was built
WEIGHT = "weight"  # the slot is a second copy of the weights: the new weights
BALANCE = "balance"  # Ftrl computes weights from its slots: what the new weights come out of

# By attribute name. Optimizers of other authors may use the same names for the same things.
_START: dict[str, str] = {
    "momentums": ZERO,  # SGD, Muon
    "_momentums": ZERO,  # Adam, AdamW, Nadam, RMSprop, Lion, Lamb
    "_velocities": ZERO,  # Adam, AdamW, Nadam, RMSprop, Lamb, ScheduleFreeAdamW
    "_velocity_hats": ZERO,  # Adam(amsgrad=True)
    "adam_velocities": ZERO,  # Muon, of variables that it hands to AdamW
    "_average_gradients": ZERO,  # RMSprop(centered=True)
    "_accumulated_grads": ZERO,  # Adadelta
    "_accumulated_delta_vars": ZERO,  # Adadelta
    "_m": ZERO,  # Adamax
    "_u": ZERO,  # Adamax
    "_r": ZERO,  # Adafactor
    "_c": ZERO,  # Adafactor
    "_v": ZERO,  # Adafactor
    "_linears": BALANCE,  # Ftrl
    "_accumulators": INITIAL,  # Adagrad, Ftrl
    "_accumulated_gradients": ZERO,  # gradient accumulation
    "_model_variables_moving_average": WEIGHT,  # use_ema
}
# Where a class means something else by the name.
_OWN_START: dict[tuple[str, str], str] = {
    ("ScheduleFreeAdamW", "_momentums"): WEIGHT,  # its iterate z, which averages make the weights
}
# Slots that lack one axis of their variable, counted from the end. Adafactor factors every
# variable of two axes or more, whatever their lengths, so growth never changes whether it does.
_LACKS: dict[tuple[str, str], int] = {("Adafactor", "_r"): -1, ("Adafactor", "_c"): -2}


def optimizers_of(model: Any) -> list[Any]:
    """The model's optimizer and all that it hands work to, outer ones first; only built ones."""
    return with_inner(getattr(model, "optimizer", None))


def with_inner(optimizer: Any) -> list[Any]:
    """An optimizer and all that it hands work to, outer ones first; only built ones."""
    found: list[Any] = []
    waiting = [optimizer]
    while waiting:
        optimizer = waiting.pop(0)
        if optimizer is None or any(optimizer is known for known in found):
            continue
        if optimizer.built:
            found.append(optimizer)
        waiting += [getattr(optimizer, "inner_optimizer", None)]
        waiting += _keras.inner_optimizers(optimizer)
    return found


def grown_slots(
    optimizer: Any,
    edits: dict[int, list[Edit]],
    new_values: dict[int, np.ndarray],
    rewritten: Callable[[Any, np.ndarray], np.ndarray],
    copied: Callable[[Any, np.ndarray], np.ndarray | None] = lambda variable, value: None,
) -> Iterator[tuple[Any, np.ndarray]]:
    """Slot variables of the optimizer with their new values.

    Args:
        edits: by id of the model variable.
        new_values: of the model variables that change, by id.
        rewritten: how the old entries of a variable change; copies of it change with them.
        copied: where new entries of a variable are copies of its old ones (neurons that split),
            the same done to other values of it; else None.

    Raises:
        GrowthError: a slot whose meaning is not known.
    """
    trained = _keras.optimizer_variables(optimizer)
    slots = _keras.optimizer_slots(optimizer)
    if any(id(variable) in new_values for variable in trained):
        _check_all_known(optimizer, slots)
    for i, variable in enumerate(trained):
        if id(variable) not in new_values:
            continue
        grown = _Grown(
            optimizer,
            variable,
            edits.get(id(variable), []),
            new_values[id(variable)],
            rewritten,
            copied,
            {name: of_all[i] for name, of_all in slots.items() if of_all[i] is not None},
        )
        for name, slot in grown.slots.items():
            if len(slot.shape) or not len(variable.shape):  # Adafactor's place holders are scalars
                yield slot, grown.value(name)


@dataclass
class _Grown:
    """One trained variable with its slots."""

    optimizer: Any
    variable: Any
    edits: Sequence[Edit]
    weights: np.ndarray  # new ones
    rewritten: Callable[[Any, np.ndarray], np.ndarray]
    copied: Callable[[Any, np.ndarray], np.ndarray | None]
    slots: dict[str, Any]

    def value(self, name: str) -> np.ndarray:
        """The new value of a slot."""
        slot, shape = self.slots[name], tuple(self.variable.shape)
        start = _about(self.optimizer, name, _OWN_START) or _START.get(name)
        lacks = _about(self.optimizer, name, _LACKS)
        edits = in_order(self.edits)
        if lacks is not None:
            edits = _without_axis(edits, lacks % len(shape), len(shape))
            shape = tuple(np.delete(shape, lacks))
        if start is None or tuple(slot.shape) != shape:
            raise _unknown(self.optimizer, name, slot, self.variable)
        old = _backend.to_numpy(slot)
        if start == WEIGHT:
            split = self.copied(self.variable, old)
            if split is not None:
                return split
            old = self.rewritten(self.variable, old)
        value = moved(old, edits)
        new = new_entries(edits, shape)
        if start == ZERO:
            return value
        if start == BALANCE:
            # The optimizer would undo a rewriting of old weights too.
            before = moved(_backend.to_numpy(self.variable), edits)
            source: Any = self._balanced()
            new |= before != self.weights
        elif start == WEIGHT:
            source = self.weights
        else:
            source = float(self.optimizer.initial_accumulator_value)
        return np.where(new, source, value).astype(value.dtype)

    def _balanced(self) -> np.ndarray:
        """Ftrl's `linear` for which a step without gradient leaves the weights what they are.

        Ftrl computes weights anew from its slots, w = (clip(linear, -l1, l1) - linear) / quadratic
        (McMahan et al. 2013, algorithm 1); from a `linear` of zero it would clear new weights.
        """
        optimizer = self.optimizer
        rate = float(_backend.to_numpy(optimizer.learning_rate))
        quadratic = self.value("_accumulators") ** -optimizer.learning_rate_power / rate
        quadratic += 2 * optimizer.l2_regularization_strength + optimizer.beta / rate
        one = np.sign(self.weights) * optimizer.l1_regularization_strength
        return -(self.weights * quadratic + one)


def _about(optimizer: Any, name: str, table: dict[tuple[str, str], Any]) -> Any:
    """What a table says of a slot of the optimizer's class or one it is derived from."""
    for cls in type(optimizer).__mro__:
        if (cls.__name__, name) in table:
            return table[cls.__name__, name]
    return None


def _without_axis(edits: list[Edit], axis: int, rank: int) -> list[Edit]:
    """The same moves of an array that lacks an axis."""
    moved = []
    for edit in edits:
        own = edit.axis % rank
        if own == axis:
            continue
        labels = edit.labels
        if edit.groups > 1:  # in the whole kernel every group's rows move as the first group's
            labels = np.maximum(labels[: len(labels) // edit.groups], -1)
        moved.append(replace(edit, axis=own - (own > axis), labels=labels, groups=1))
    return moved


def _check_all_known(optimizer: Any, slots: dict[str, list]) -> None:
    """Refuses an optimizer that keeps arrays which belong to no variable it trains."""
    for variable in _keras.state_besides(optimizer, slots):
        if len(variable.shape):
            raise GrowthError(
                f"The optimizer {type(optimizer).__name__} keeps '{variable.path}' of shape "
                f"{tuple(variable.shape)}, and it is not known how that grows. "
                "Use an optimizer of keras.optimizers, or grow the model before it is compiled."
            )


def _unknown(optimizer: Any, name: str, slot: Any, variable: Any) -> GrowthError:
    return GrowthError(
        f"The optimizer {type(optimizer).__name__} keeps a slot '{name}' of shape "
        f"{tuple(slot.shape)} for '{variable.path}' of shape {tuple(variable.shape)}, "
        "and it is not known how that grows. Use an optimizer of keras.optimizers, or grow the "
        "model before it is compiled."
    )
