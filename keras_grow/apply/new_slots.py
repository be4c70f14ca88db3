"""Makes a live optimizer know variables that a model got after it was built.

Its slots are those of an optimizer freshly built on the model's present trainable variables, in the
same order, since they are saved by position. Slots it had stay the objects they are, values
included; new ones start as in a fresh optimizer. Only a moving average of the weights starts at the
weights themselves: mid-training, an average that starts at zero would pull them there.
"""

from collections.abc import Callable
from typing import Any

import keras

from keras_grow import _backend, _keras
from keras_grow.errors import GrowthError

Undo = list[Callable[[], None]]


def extend_optimizer(model: Any) -> Undo:
    """Brings the optimizer of a compiled model in step with its trainable variables.

    A `MultiOptimizer` is asked which of its optimizers is to train each new variable.

    Returns:
        What undoes it, to be called last first.

    Raises:
        GrowthError: an optimizer whose slots cannot be told apart; nothing has changed.
    """
    optimizer = getattr(model, "optimizer", None)
    if optimizer is None or not optimizer.built:
        return []
    trained = list(model.trainable_variables)
    known = _keras.optimizer_variables(optimizer)
    # What was frozen after training keeps its slots: it may be thawed again.
    wanted = {id(v) for v in [*trained, *known]}
    frozen = {id(v) for v in known} - {id(v) for v in trained}
    if frozen:
        trained = [v for v in model.variables if id(v) in wanted]
    return _extended(optimizer, known, trained)


def extend_loose(optimizer: Any, model: Any, new: set[int]) -> Undo:
    """Brings an optimizer of the user's own in step with a model of which it trains all.

    Args:
        new: ids of the variables that the model has just got.

    Returns:
        What undoes it; nothing where the optimizer trains a part of the model only, which is then
        the user's wish.

    Raises:
        GrowthError: an optimizer whose slots cannot be told apart; nothing has changed.
    """
    trained = list(model.trainable_variables)
    known = _keras.optimizer_variables(optimizer)
    ids = {id(v) for v in known}
    old = {id(v) for v in trained} - new
    if not old or not old <= ids:
        return []
    if old == ids - new:
        return _extended(optimizer, known, trained)
    added = [v for v in trained if id(v) in new and id(v) not in ids]
    return _extended(optimizer, known, [*known, *added])


def _extended(optimizer: Any, known: list, trained: list) -> Undo:
    if len(known) == len(trained) and all(a is b for a, b in zip(known, trained, strict=True)):
        return []
    undo: Undo = []
    try:
        _extend(optimizer, trained, undo)
    except BaseException:
        for step in reversed(undo):
            step()
        raise
    return undo


def _extend(optimizer: Any, trained: list, undo: Undo) -> None:
    """Gives one optimizer, and those inside it, slots for `trained` in this order."""
    if not optimizer.built:  # one that has had nothing to train so far
        undo.append(_keras.optimizer_restorer(optimizer))
        optimizer.build(trained)
        return
    if _keras.hands_out(optimizer):
        _extend_several(optimizer, trained, undo)
        return
    if _keras.inner_optimizers(optimizer):
        raise GrowthError(
            f"The optimizer {type(optimizer).__name__} hands variables to several optimizers, and "
            "it is not known which of them is to train new layers. Compile with one optimizer or "
            "a keras.optimizers.MultiOptimizer, or insert the layer before training."
        )
    inner = getattr(optimizer, "inner_optimizer", None)
    if inner is not None and not _keras.optimizer_slots(optimizer):
        undo.append(_keras.list_trained(optimizer, trained))
    else:
        _transplant(optimizer, trained, undo)
    if inner is not None:
        _extend(inner, trained, undo)


def _extend_several(optimizer: Any, trained: list, undo: Undo) -> None:
    """The same for a `MultiOptimizer`."""
    chosen = {id(v): _keras.handed_to(optimizer, v) for v in trained}
    for variable in trained:
        one = chosen[id(variable)]
        kind = type(one)
        wrapper = hasattr(one, "inner_optimizer") or _keras.hands_out(one)
        if not isinstance(one, keras.optimizers.Optimizer) or wrapper:
            raise GrowthError(
                f"The optimizer map of {type(optimizer).__name__} must name an optimizer for "
                f"'{variable.path}', and neither a LossScaleOptimizer nor a MultiOptimizer. "
                f"Received: {one if kind.__module__ == 'builtins' else kind.__name__}"
            )
    undo.append(_keras.list_handed_out(optimizer, trained, list(chosen.values())))
    for one in _keras.inner_optimizers(optimizer):
        own = [v for v in trained if chosen[id(v)] is one]
        before = _keras.optimizer_variables(one) if one.built else []
        if [id(v) for v in own] != [id(v) for v in before]:
            _extend(one, own, undo)


def _transplant(optimizer: Any, trained: list, undo: Undo) -> None:
    with _keras.unsafe_scope():
        fresh = type(optimizer).from_config(optimizer.get_config())
    fresh.build(trained)
    try:
        averages, back = _keras.transplant(optimizer, fresh)
    except TypeError as error:
        raise GrowthError(
            f"The optimizer {type(optimizer).__name__} cannot take up new variables: {error}. "
            "Use an optimizer of keras.optimizers."
        ) from error
    undo.append(back)
    for position, average in averages:
        _backend.assign_copy(average, trained[position])
