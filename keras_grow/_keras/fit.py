"""What a running `fit` holds besides the variables: compiled functions, rates, counters."""

from typing import Any

import keras

from keras_grow._keras.optimizers import rate_of


def drop_compiled(model: Any) -> None:
    """Forgets compiled functions; Keras makes new ones when they are next needed."""
    rebuild_train = getattr(model, "train_function", None) is not None
    model.train_function = None
    model.test_function = None
    model.predict_function = None
    if rebuild_train:
        model.make_train_function(force=True)


def logs_running_means(model: Any) -> bool:
    """Whether "loss" in the logs of a training step is the mean since the epoch began.

    So it is where Keras's own `train_step` returns its metrics.
    """
    own = ("train_step", "get_metrics_result", "reset_metrics", "compute_metrics")
    return all(getattr(type(model), name) is getattr(keras.Model, name) for name in own)


def learning_rate(model: Any) -> float | None:
    """The learning rate of the optimizer's next step; None where it has none of its own.

    Also in the middle of JAX's `fit`, which keeps the values outside the variables.
    """
    optimizer = model.optimizer
    while hasattr(optimizer, "inner_optimizer"):
        optimizer = optimizer.inner_optimizer
    return rate_of(optimizer, lambda variable: _value_in_fit(model, variable))


def is_plain_descent(model: Any) -> bool:
    """Whether the model trains by gradient descent without momentum."""
    optimizer: Any = (
        getattr(model, "optimizer", None) if getattr(model, "compiled", False) else None
    )
    while hasattr(optimizer, "inner_optimizer"):
        optimizer = optimizer.inner_optimizer
    return isinstance(optimizer, keras.optimizers.SGD) and not optimizer.momentum


def _value_in_fit(model: Any, variable: Any) -> Any:
    """The value of one of the optimizer's variables."""
    if getattr(model, "_jax_state_synced", True):
        return variable.value
    places = [i for i, v in enumerate(model.optimizer.variables) if v is variable]
    return model._jax_state["optimizer_variables"][places[0]]


def iterations(model: Any) -> int:
    """Training steps that the model's optimizer has done; 0 without one."""
    optimizer = getattr(model, "optimizer", None) if getattr(model, "compiled", False) else None
    return 0 if optimizer is None else int(keras.ops.convert_to_numpy(optimizer.iterations))
