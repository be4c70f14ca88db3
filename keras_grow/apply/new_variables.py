"""Makes a live optimizer know variables that a model got after it was built.

Its slots are those of an optimizer freshly built on the model's present trainable variables, in the
same order, since they are saved by position. Slots it had stay the objects they are, values
included; new ones start as in a fresh optimizer. Only a moving average of the weights starts at the
weights themselves: mid-training, an average that starts at zero would pull them there.
"""

from collections.abc import Callable
from typing import Any

from keras_grow import _backend, _keras
from keras_grow.errors import GrowthError


def extend_optimizer(model: Any) -> list[Callable[[], None]]:
    """Brings the optimizer of a compiled model in step with its trainable variables.

    Returns:
        What undoes it, to be called last first.

    Raises:
        GrowthError: an optimizer whose slots cannot be told apart; nothing has changed.
    """
    optimizer = getattr(model, "optimizer", None)
    if optimizer is None or not optimizer.built:
        return []
    trained = list(model.trainable_variables)
    inner = optimizer
    while getattr(inner, "inner_optimizer", None) is not None:
        inner = inner.inner_optimizer
    known = _keras.optimizer_variables(inner)
    # What was frozen after training keeps its slots: it may be thawed again.
    wanted = {id(v) for v in [*trained, *known]}
    frozen = {id(v) for v in known} - {id(v) for v in trained}
    if frozen:
        trained = [v for v in model.variables if id(v) in wanted]
    if len(known) == len(trained) and all(a is b for a, b in zip(known, trained, strict=True)):
        return []
    if _keras.inner_optimizers(inner):
        raise GrowthError(
            f"The optimizer {type(inner).__name__} hands variables to several optimizers, and it "
            "is not known which of them is to train new layers. Compile with one optimizer, or "
            "insert the layer before training."
        )
    with _keras.unsafe_scope():
        fresh = type(optimizer).from_config(optimizer.get_config())
    fresh.build(trained)
    undo: list[Callable[[], None]] = []
    while optimizer is not None:
        try:
            averages, back = _keras.transplant(optimizer, fresh)
        except TypeError as error:
            for step in reversed(undo):
                step()
            raise GrowthError(
                f"The optimizer {type(optimizer).__name__} cannot take up new variables: {error}. "
                "Use SGD, Adam, AdamW or RMSprop."
            ) from error
        undo.append(back)
        for position, average in averages:
            _backend.assign_copy(average, trained[position])
        optimizer = getattr(optimizer, "inner_optimizer", None)
        fresh = getattr(fresh, "inner_optimizer", None)
    return undo
