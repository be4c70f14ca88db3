"""Regularisers whose gradient is not finite where a whole row of a kernel is zero."""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_grow import _backend
from keras_grow.errors import GrowthError
from keras_grow.planning import Plan

# Sums over entries: their gradients are finite everywhere.
_PLAIN = (keras.regularizers.L1, keras.regularizers.L2, keras.regularizers.L1L2)


def check_penalties(plan: Plan) -> None:
    """Raises GrowthError if a penalty on a grown variable has no finite gradient any more.

    `OrthogonalRegularizer` divides by the norms of rows or columns, and new neurons have some
    that are zero: on PyTorch and JAX the next training step would make every weight NaN.
    """
    done: set[int] = set()
    for edit in plan.edits:
        variable = edit.variable
        regularizer = getattr(variable, "regularizer", None)
        if regularizer is None or type(regularizer) in _PLAIN or id(variable) in done:
            continue
        done.add(id(variable))
        if not _finite(regularizer, variable):
            kind = type(regularizer).__name__
            raise GrowthError(
                f"The penalty {kind} on '{variable.path}' of layer '{edit.path}' has no finite "
                "gradient after this growth: new neurons start with weights that are zero, and "
                "training would turn all weights into NaN. It was undone. Use the other form "
                "(form='inverse' or 'outgoing'), method='split', a method with epsilon=1e-4, or "
                "another regularizer. "
                f"Received: {kind}({regularizer.get_config()!r:.200})"
            )


def _finite(regularizer: Any, variable: Any) -> bool:
    value = ops.convert_to_tensor(variable)
    penalty, pull = _backend.pullback(lambda w: ops.sum(regularizer(w)), value)
    slope = _backend.to_numpy(pull(ops.ones_like(penalty)))
    return bool(np.isfinite(_backend.to_numpy(penalty)) and np.isfinite(slope).all())
