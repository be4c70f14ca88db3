"""Gradients of a real Keras model by the backend's own autodiff, to hold keras_grow's against."""

from collections.abc import Callable

import keras
import numpy as np
from keras import ops


def gradient_by(model, x, y, variables: list) -> Callable[[], list[np.ndarray]]:
    """A function that returns d loss / d variables at the variables' present values.

    The loss is the mean squared error of `model(x, training=True)`; state is not updated.
    """
    x, y = keras.tree.map_structure(ops.convert_to_tensor, (x, y))

    def loss_of(y_pred):
        return ops.mean(ops.square(y_pred - y))

    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        every = model.trainable_variables
        places = [next(i for i, v in enumerate(every) if v is w) for w in variables]

        @jax.jit
        def run(trainable, rest):
            def loss(own):
                values = list(trainable)
                for place, value in zip(places, own, strict=True):
                    values[place] = value
                y_pred, _ = model.stateless_call(values, rest, x, training=True)
                return loss_of(y_pred)

            return jax.grad(loss)([trainable[p] for p in places])

        return lambda: [
            np.asarray(g)
            for g in run([v.value for v in every], [v.value for v in model.non_trainable_variables])
        ]
    from keras_grow import _keras

    def pure():
        return _keras.pure_call(lambda: loss_of(model(x, training=True)), [])

    if backend == "tensorflow":
        import tensorflow as tf

        def run():
            with tf.GradientTape() as tape:
                loss = pure()
            return [g.numpy() for g in tape.gradient(loss, [v.value for v in variables])]

        return run
    import torch

    def run_torch():
        grads = torch.autograd.grad(pure(), [v.value for v in variables])
        return [g.detach().numpy() for g in grads]

    return run_torch


def old_part(moved: np.ndarray, edit, plan) -> np.ndarray:
    """Of a kernel with its growing axis first: without the new entries of its other axes.

    Where a new input meets a new output both gradients vanish, and the weight stays zero.
    """
    for other in plan.edits:
        if other.variable is edit.variable and other.axis != edit.axis:
            axis = other.axis + 1 if other.axis < edit.axis else other.axis
            moved = np.take(moved, np.flatnonzero(other.labels >= 0), axis=axis)
    return moved


def mixed_second_derivative(run, plan) -> np.ndarray:
    """M of a grown model, column by column, as `keras_grow` orders it.

    Args:
        run: `gradient_by` the kernels of the site's producers.
        plan: of a growth of one site that has been carried out, its new fan-out all zero.

    Returns:
        (fan-in entries, fan-out entries).
    """
    (site,) = plan.sites
    columns = []
    for slot in site.reads:
        kernel = slot.edit.variable
        base = np.array(kernel)
        position = np.moveaxis(np.arange(base.size).reshape(base.shape), slot.edit.axis, 0)
        position = old_part(position, slot.edit, plan)
        for place in position[slot.rows[0]].ravel():
            value = base.copy()
            value.ravel()[place] = 1.0
            kernel.assign(value)
            parts = [
                old_part(np.moveaxis(g, w.edit.axis, 0), w.edit, plan)[w.columns[0]].ravel()
                for g, w in zip(run(), site.writes, strict=True)
            ]
            columns.append(np.concatenate(parts))
        kernel.assign(base)
    return np.stack(columns, axis=1)
