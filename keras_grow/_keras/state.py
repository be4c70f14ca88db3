"""What layers, ops and variables are made of: values, shapes, configs, snapshots."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
from keras.src.backend.common.stateless_scope import StatelessScope
from keras.src.saving.serialization_lib import SafeModeScope

from keras_grow._keras.graph import sublayers


def pure_call(body: Callable[[], Any], mapping: list) -> Any:
    """Runs `body` so that assignments to variables (BatchNorm statistics, seeds) are dropped.

    `mapping` pairs every variable of the model with the value it has in the call.
    """
    with StatelessScope(state_mapping=mapping, collect_losses=True):
        return body()


def mask_of(tensor: Any) -> Any | None:
    """The mask that Keras has noted for a tensor in the running call."""
    return getattr(tensor, "_keras_mask", None)


def compute_loss(model: Any, x: Any, y: Any, y_pred: Any, sample_weight: Any) -> Any:
    """`model.compute_loss`, which may be the user's own; call inside `pure_call`."""
    return model._compute_loss(x=x, y=y, y_pred=y_pred, sample_weight=sample_weight, training=True)


def state_of(model: Any) -> list:
    """Every variable a forward pass and the loss may read."""
    return list(model.variables) + [v for v in model.metrics_variables]


def set_shape(tensor: Any, shape: tuple) -> None:
    tensor._shape = tuple(shape)


def set_batch_shape(input_layer: Any, shape: tuple) -> None:
    input_layer._batch_shape = tuple(shape)


def variable_state(variable: Any) -> tuple:
    return variable._value, variable._shape, variable._ndim


def value_of(variable: Any) -> Any:
    """The backend's own object behind a variable, past any scope."""
    return variable._value


def set_value(variable: Any, value: Any) -> None:
    """Puts another object of the backend behind a variable."""
    variable._value = value


def track_variables(layer: Any) -> None:
    """Brings PyTorch's register of a layer's parameters up to date."""
    if hasattr(layer, "_torch_params"):
        layer._track_variables()


def restore_variable(variable: Any, state: tuple) -> None:
    variable._value, variable._shape, variable._ndim = state


def reinitialize(variable: Any, value: np.ndarray) -> None:
    """Gives the same `keras.Variable` object a value of another shape."""
    variable._shape = tuple(int(d) for d in value.shape)
    variable._ndim = value.ndim
    variable._initialize(variable._convert_to_tensor(value, dtype=variable._dtype))


def build_shapes(layer: Any) -> dict | None:
    return getattr(layer, "_build_shapes_dict", None)


def set_build_shapes(layer: Any, shapes: dict | None) -> None:
    vars(layer)["_build_shapes_dict"] = shapes  # on TensorFlow an assignment would wrap it


def auto_config(op: Any) -> Any:
    """The constructor arguments an op without `get_config` is saved with, or None."""
    config = getattr(op, "_auto_config", None)
    return None if config is None else config.config


def bare_copy(op: Any) -> Any:
    """A shallow copy. `copy.copy` would save and load it, which turns tuples into lists."""
    clone = object.__new__(type(op))
    vars(clone).update(vars(op))
    return clone


def forget_nodes(op: Any) -> None:
    """Detaches a copied op from the graph its original is part of."""
    op._inbound_nodes = []
    op._outbound_nodes = []


def compile_arguments(model: Any) -> dict | None:
    """The arguments of the `compile()` call as the user gave them, or None."""
    config = getattr(model, "_compile_config", None)
    return dict(config.config) if config is not None and model.compiled else None


def run_symbolically(functional: Any, inputs: list, replace: Callable[[Any], Any]) -> Any:
    """Builds the graph again on new symbolic inputs, with `replace(op)` for every op."""
    return functional._run_through_graph(inputs, operation_fn=replace)


def unsafe_scope() -> Any:
    """Lets a layer that is already in memory be made again from its own config."""
    return SafeModeScope(False)


def seed_states(layer: Any) -> list:
    return [g.state for below in sublayers(layer) for g in below._seed_generators]


def assets_hook(model: Any) -> Any:
    """What was set with `set_assets_hook`, or None."""
    return vars(model).get("save_assets")


def set_assets_hook(model: Any, hook: Callable[[str], None]) -> None:
    """Has Keras call `hook(folder)` when it saves the model; what it writes is in the file.

    Past `__setattr__`, which looks for layers in whatever it is given.
    """
    vars(model)["save_assets"] = hook


def remove_instance_call(op: Any) -> None:
    """Takes an overriding `call` off one object, so that its class's own is used again."""
    del op.call


def snapshot(op: Any) -> tuple[dict, dict | None, list]:
    """All attributes of a layer or op, the constructor arguments Keras recorded, and its calls'."""
    config = auto_config(op)
    calls = [(node.arguments, dict(vars(node.arguments))) for node in op._inbound_nodes]
    return dict(vars(op)), None if config is None else dict(config), calls


def restore_snapshot(op: Any, before: tuple[dict, dict | None, list]) -> None:
    """Puts attributes back without Keras's tracking, which is locked on built layers."""
    attributes, config_before, calls = before
    for arguments, recorded in calls:
        vars(arguments).update(recorded)
    now = vars(op)
    for name in [n for n in now if n not in attributes]:
        del now[name]
    now.update(attributes)
    if config_before is not None:
        config = auto_config(op)
        config.clear()
        config.update(config_before)


def own_config(op: Any) -> None:
    """Gives a copied op its own record of constructor arguments."""
    if getattr(op, "_auto_config", None) is not None:
        vars(op)["_auto_config"] = copy.deepcopy(op._auto_config)
