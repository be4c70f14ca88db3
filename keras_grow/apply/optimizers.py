"""What each optimizer slot holds for new entries of a variable.

Old entries keep theirs exactly. New entries start as a fresh optimizer's would: moments and
accumulators at their initial value. With Adam, whose `iterations` are large by then, the first
update of an entry with zero moments is about (1 - beta_1) / sqrt(1 - beta_2) = 3.2 times the
learning rate, then settles within some 1 / (1 - beta_1) steps.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from keras_grow import _backend, _keras
from keras_grow.errors import GrowthError
from keras_grow.planning import Edit
from keras_grow.planning.arrays import grown_value

# Slots by attribute name, with the value new entries start at: a number, or the name of the
# optimizer's argument that holds it.
_START: dict[str, float | str] = {
    "momentums": 0.0,  # SGD
    "_momentums": 0.0,  # Adam, AdamW, Nadam, RMSprop, Lion, Lamb
    "_velocities": 0.0,  # Adam, AdamW, Nadam, RMSprop, Lamb
    "_velocity_hats": 0.0,  # Adam(amsgrad=True)
    "_average_gradients": 0.0,  # RMSprop(centered=True)
    "_accumulated_grads": 0.0,  # Adadelta
    "_accumulated_delta_vars": 0.0,  # Adadelta
    "_m": 0.0,  # Adamax
    "_u": 0.0,  # Adamax
    "_linears": 0.0,  # Ftrl
    "_accumulators": "initial_accumulator_value",  # Adagrad, Ftrl
    "_accumulated_gradients": 0.0,  # gradient accumulation
}
_AVERAGE = "_model_variables_moving_average"  # a copy of the weights: new entries are the weights


def optimizers_of(model: Any) -> list[Any]:
    """The model's optimizer and, inside a LossScaleOptimizer, the one that does the work."""
    found = []
    optimizer = getattr(model, "optimizer", None)
    while optimizer is not None:
        if optimizer.built:
            found.append(optimizer)
        optimizer = getattr(optimizer, "inner_optimizer", None)
    return found


def grown_slots(
    optimizer: Any,
    edits: dict[int, list[Edit]],
    new_values: dict[int, np.ndarray],
    rewritten: Callable[[Any, np.ndarray], np.ndarray],
) -> Iterator[tuple[Any, np.ndarray]]:
    """Slot variables of the optimizer with their new values.

    Args:
        edits: by id of the model variable.
        new_values: of the model variables that change, by id.
        rewritten: how the old entries of a variable change; copies of it change with them.

    Raises:
        GrowthError: a slot whose meaning is not known.
    """
    trained = _keras.optimizer_variables(optimizer)
    for name, slots in _keras.optimizer_slots(optimizer).items():
        for variable, slot in zip(trained, slots, strict=True):
            if slot is None or id(variable) not in new_values:
                continue
            own = edits.get(id(variable), [])
            if name == _AVERAGE:
                start = None
            elif name in _START:
                rule = _START[name]
                start = float(getattr(optimizer, rule)) if isinstance(rule, str) else rule
            else:
                start = None
            known = name == _AVERAGE or start is not None
            if not known or tuple(slot.shape) != tuple(variable.shape):
                raise GrowthError(
                    f"The optimizer {type(optimizer).__name__} keeps a slot '{name}' of shape "
                    f"{tuple(slot.shape)} for '{variable.path}' of shape {tuple(variable.shape)}, "
                    "and it is not known how that grows. Use SGD, Adam, AdamW or RMSprop."
                )
            old = _backend.to_numpy(slot)
            if name == _AVERAGE:
                old = rewritten(variable, old)
            value = grown_value(old, _fill_with(own, 0.0))
            new = _new_entries(own, tuple(variable.shape))
            source = new_values[id(variable)] if start is None else start
            yield slot, np.where(new, source, value).astype(value.dtype)


def _fill_with(edits: list[Edit], fill: float) -> list[Edit]:
    """The same moves with nothing but `fill` in new entries."""
    return [replace(e, fill=fill) for e in edits]


def _new_entries(edits: list[Edit], shape: tuple) -> np.ndarray:
    """Which entries of the grown variable are new."""
    return grown_value(np.ones(shape, "float32"), _fill_with(edits, 0.0)) == 0
