"""Every use of a private Keras attribute, in one place.

Keras gives no public way to read a functional graph or to change a built layer. When a
new Keras release moves something, this is the file to mend. Written for Keras 3.13 to 3.15.
"""

import copy
import gc
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
from keras import tree
from keras.src.applications.convnext import LayerScale, StochasticDepth
from keras.src.applications.inception_resnet_v2 import CustomScaleLayer
from keras.src.backend.common.stateless_scope import StatelessScope
from keras.src.layers.rnn.conv_lstm import ConvLSTMCell
from keras.src.models.functional import Functional, functional_like_constructor
from keras.src.ops.function import Function, map_graph
from keras.src.saving.serialization_lib import SafeModeScope

__all__ = ["CustomScaleLayer", "LayerScale", "StatelessScope", "StochasticDepth"]

# --- reading the graph -------------------------------------------------------------------------


def functional_of(model: Any) -> Any | None:
    """The `Functional` that holds the graph of `model`, or None if it has none."""
    if isinstance(model, keras.Sequential):
        return getattr(model, "_functional", None)
    if isinstance(model, Functional) and type(model).call is Functional.call:
        return model
    return None


def functional_class(model: Any) -> Any:
    """The class to copy a functional model with: its own, unless that takes other arguments."""
    return type(model) if functional_like_constructor(type(model)) else Functional


def is_model(op: Any) -> bool:
    return isinstance(op, keras.Model)


def nodes_in_order(functional: Any) -> Iterator[Any]:
    """The nodes of a functional graph, every node after those it depends on."""
    by_depth = functional._nodes_by_depth
    for depth in sorted(by_depth, reverse=True):
        yield from (node for node in by_depth[depth] if node.operation and not node.is_input)


def node_arguments(node: Any) -> tuple[tuple, dict]:
    return node.arguments.args, node.arguments.kwargs


def set_node_argument(node: Any, old: Any, new: Any) -> None:
    """Replaces the constant `old` (by identity) among the arguments recorded in a node."""
    arguments = node.arguments
    arguments.args, arguments.kwargs = arguments.convert(lambda x: new if x is old else x)


def flat_inputs(functional: Any) -> list:
    return list(functional._inputs)


def flat_outputs(functional: Any) -> list:
    return list(functional._outputs)


def pack_outputs(functional: Any, flat: list) -> Any:
    """Outputs in the structure `model(x)` returns them in."""
    packed = tree.pack_sequence_as(functional._outputs_struct, flat)
    single = isinstance(packed, (list, tuple)) and len(packed) == 1
    return packed[0] if single else packed


def standardize_inputs(functional: Any, inputs: Any) -> list:
    return functional._standardize_inputs(inputs)


def traced(layer: Any, args: tuple, kwargs: dict) -> Any | None:
    """The graph of the calls that `layer.call` makes on the symbolic tensors among its arguments.

    The layer and those below it know nothing of it afterwards.

    Returns:
        A `keras.Function` whose inputs are those tensors in order, or None where the layer cannot
        be called so: its code wants real numbers, or a mask comes with the tensors.
    """
    tensors = [t for t in tree.flatten((args, kwargs)) if isinstance(t, keras.KerasTensor)]
    if any(getattr(t, "_keras_mask", None) is not None for t in tensors):
        return None
    inputs = {id(t): keras.Input(batch_shape=t.shape, dtype=t.dtype) for t in tensors}

    def own(x: Any) -> Any:
        return inputs[id(x)] if isinstance(x, keras.KerasTensor) else x

    # `__call__` keeps what `call` does not take from it.
    if not getattr(layer, "_call_has_context_arg", {}).get("training"):
        kwargs = {name: value for name, value in kwargs.items() if name != "training"}
    below = sublayers(layer)
    before = [(op, len(op._inbound_nodes), len(op._outbound_nodes)) for op in below]
    try:
        outputs = layer.call(*tree.map_structure(own, args), **tree.map_structure(own, kwargs))
        return keras.Function(list(inputs.values()), tree.flatten(outputs))
    except Exception:  # whatever its code says to a tensor without values
        return None
    finally:
        for op, calls, uses in before:
            del op._inbound_nodes[calls:], op._outbound_nodes[uses:]


def attribute_names(layer: Any) -> dict[int, str]:
    """Names of the attributes that hold a layer's own layers, by id of those.

    Unlike the names that Keras makes up for layers they are the same in every copy.
    """
    names: dict[int, str] = {}
    # On PyTorch a layer is a Module, which keeps what it contains in a dict of its own.
    for name, value in {**vars(layer), **vars(layer).get("_modules", {})}.items():
        if isinstance(value, keras.layers.Layer):
            names.setdefault(id(value), name.strip("_"))
        elif isinstance(value, (list, tuple)) and not name.startswith("_"):
            for i, part in enumerate(value):
                if isinstance(part, keras.layers.Layer):
                    names.setdefault(id(part), f"{name}.{i}")
    return names


def input_structure(functional: Any) -> Any:
    return functional._inputs_struct


def takes_training(op: Any) -> bool:
    return "training" in getattr(op, "_call_context_args", {})


def input_layers(functional: Any) -> list:
    return [t._keras_history.operation for t in functional._inputs]


def sublayers(layer: Any) -> list:
    """All layers below `layer`, itself first."""
    return list(layer._flatten_layers())


# --- running a model without touching its state ------------------------------------------------


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


# --- changing a built model --------------------------------------------------------------------


def set_shape(tensor: Any, shape: tuple) -> None:
    tensor._shape = tuple(shape)


def set_batch_shape(input_layer: Any, shape: tuple) -> None:
    input_layer._batch_shape = tuple(shape)


def variable_state(variable: Any) -> tuple:
    return variable._value, variable._shape, variable._ndim


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


def refresh_constants(layer: Any) -> None:
    """Recomputes what `Normalization` derives from its statistics."""
    layer.finalize_state()


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


# --- optimizers --------------------------------------------------------------------------------


def optimizer_variables(optimizer: Any) -> list:
    return list(optimizer._trainable_variables)


def optimizer_slots(optimizer: Any) -> dict[str, list]:
    """Lists of per-variable slots by attribute name, each aligned with the trained variables."""
    trained = optimizer._trainable_variables
    slots = {}
    for name, value in vars(optimizer).items():
        if name in ("_trainable_variables", "_variables") or not isinstance(value, list):
            continue
        if len(value) == len(trained) and any(isinstance(v, keras.Variable) for v in value):
            slots[name] = value
    return slots


def state_besides(optimizer: Any, slots: dict[str, list]) -> list:
    """What an optimizer keeps besides per-variable slots and the state of those inside it."""
    known = {id(slot) for of_all in slots.values() for slot in of_all}
    return [v for v in optimizer._variables if id(v) not in known]


def optimizer_keys(optimizer: Any) -> list:
    return [optimizer._var_key(v) for v in optimizer._trainable_variables]


def set_optimizer_keys(optimizer: Any, keys: list, present: list | None = None) -> None:
    """Makes the optimizer find its variables under `keys`.

    On TensorFlow the key of a variable is the inner variable's id, which changes when it is
    re-initialised.

    Args:
        keys: the new keys, in the order of the trained variables.
        present: the keys it uses now; read from its index if left out.
    """
    if present is None:
        index = optimizer._trainable_variables_indices
        present = sorted(index, key=index.__getitem__)
    if keys == present:
        return
    optimizer._trainable_variables_indices = {key: i for i, key in enumerate(keys)}
    renamed = dict(zip(present, keys, strict=True))
    handed = getattr(optimizer, "_var_to_optimizer_idx", None)  # MultiOptimizer's
    if handed is not None:
        optimizer._var_to_optimizer_idx = {renamed[key]: i for key, i in handed.items()}
    excluded = getattr(optimizer, "_exclude_from_weight_decay", None)
    if excluded is not None:
        optimizer._exclude_from_weight_decay = {renamed.get(key, key) for key in excluded}
    if hasattr(optimizer, "_exclude_from_weight_decay_cache"):
        optimizer._exclude_from_weight_decay_cache = {}


# --- compiled functions ------------------------------------------------------------------------


def models_using(layers: list) -> list:
    """Every living Keras model that contains one of `layers`, found through the collector."""
    wanted = {id(layer) for layer in layers}
    found = []
    classes = _subclasses(keras.Model)
    for candidate in _living(classes):
        if type(candidate) in classes and getattr(candidate, "built", False):
            try:
                below = sublayers(candidate)
            except AttributeError:  # a model whose __init__ has not finished
                continue
            if any(id(layer) in wanted for layer in below):
                found.append(candidate)
    return found


def _living(classes: set[type]) -> list:
    """All objects of these classes.

    `gc.get_referrers(*classes)` takes half the time, but asks every object in memory what it
    refers to, and extension types of other packages have crashed over that.
    """
    return [o for o in gc.get_objects() if type(o) in classes]


def _subclasses(cls: type) -> set[type]:
    found: set[type] = {cls}
    direct: list[type] = cls.__subclasses__()
    for below in direct:
        found |= _subclasses(below)
    return found


def drop_compiled(model: Any) -> None:
    """Forgets compiled functions; Keras makes new ones when they are next needed."""
    rebuild_train = getattr(model, "train_function", None) is not None
    model.train_function = None
    model.test_function = None
    model.predict_function = None
    if rebuild_train:
        model.make_train_function(force=True)


def early_stoppings(callback: Any) -> list:
    """The `EarlyStopping` callbacks of the `fit` that `callback` takes part in.

    Keras gives a callback no way to the others, so the lists it stands in are looked for.
    """
    lists = [holder for holder in gc.get_referrers(callback) if isinstance(holder, list)]
    found = {id(c): c for holder in lists for c in holder}
    return [c for c in found.values() if isinstance(c, keras.callbacks.EarlyStopping)]


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


def rate_of(optimizer: Any, value: Callable[[Any], Any] = lambda v: v.value) -> float | None:
    """The learning rate of one optimizer's next step; None where it has none of its own.

    Args:
        value: reads one of its variables.
    """
    rate = getattr(optimizer, "_learning_rate", None)
    if isinstance(rate, keras.optimizers.schedules.LearningRateSchedule):
        rate = rate(value(optimizer.iterations))
    elif isinstance(rate, keras.Variable):
        rate = value(rate)
    return None if rate is None else float(keras.ops.convert_to_numpy(rate))


def nadam_product(optimizer: Any) -> float:
    """The product of momenta that Nadam corrects its means with."""
    return float(keras.ops.convert_to_numpy(optimizer._u_product))


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


# --- saving ------------------------------------------------------------------------------------


def assets_hook(model: Any) -> Any:
    """What was set with `set_assets_hook`, or None."""
    return vars(model).get("save_assets")


def set_assets_hook(model: Any, hook: Callable[[str], None]) -> None:
    """Has Keras call `hook(folder)` when it saves the model; what it writes is in the file.

    Past `__setattr__`, which looks for layers in whatever it is given.
    """
    vars(model)["save_assets"] = hook


# --- layers ------------------------------------------------------------------------------------


def kernel_of(layer: Any) -> Any:
    """The kernel variable itself; `layer.kernel` is a computed property of Dense and Conv."""
    return layer._kernel if hasattr(layer, "_kernel") else layer.kernel


def derived_kernel(layer: Any) -> str | None:
    """Why the kernel in use is not simply a float variable, or None if it is."""
    if getattr(layer, "lora_enabled", False):
        return "has LoRA enabled, so its kernel is a sum; merge the LoRA weights first"
    if getattr(layer, "quantization_mode", None) is not None:
        return f"is quantized ({layer.quantization_mode}); grow the model before quantizing it"
    return None


def op_kind(op: Any) -> str:
    """The registry key of an op that is no layer: 'ops.Relu', or the class name elsewhere."""
    cls = type(op)
    if cls.__module__.startswith(("keras.src.ops.", "keras.src.activations.")):
        return f"ops.{cls.__name__}"
    return f"{cls.__module__}.{cls.__name__}"


def record_reshape(op: Any, newshape: tuple) -> None:
    """Gives an `ops.reshape` node another target, in the op and in the config it is saved with."""
    op.newshape = newshape
    config = auto_config(op)
    if config is not None:
        config["newshape"] = newshape


# --- Normalization (preprocessing) -------------------------------------------------------------


def normalized_axes(layer: Any, rank: int) -> list[int]:
    """Axes along which the layer keeps one mean and variance per entry."""
    return [a % rank for a in layer._keep_axis]


def scalar_statistics(layer: Any) -> tuple[float, float]:
    mean = float(np.asarray(keras.ops.convert_to_numpy(layer.mean)).reshape(()))
    variance = float(np.asarray(keras.ops.convert_to_numpy(layer.variance)).reshape(()))
    return mean, max(float(np.sqrt(variance)), keras.backend.epsilon())


def refresh_normalization(layer: Any, axis: int, size: int) -> None:
    """Brings what `Normalization` derives from its statistics up to date with their new size."""
    for name in ("_broadcast_shape", "_build_input_shape"):
        shape = list(getattr(layer, name))
        shape[axis] = size
        setattr(layer, name, tuple(shape))
    layer._mean_and_var_shape = tuple(layer._build_input_shape[d] for d in layer._keep_axis)
    layer.finalize_state()


# --- op nodes ----------------------------------------------------------------------------------


def constant_of(node: Any) -> tuple[Any, bool]:
    """The constant of a two-argument op, and whether the tensor comes first."""
    args, kwargs = node_arguments(node)
    operands = [*args, *kwargs.values()]
    first = isinstance(operands[0], keras.KerasTensor)
    constant = operands[1] if first else operands[0]
    if isinstance(constant, keras.Variable) or keras.ops.is_tensor(constant):
        constant = keras.ops.convert_to_numpy(constant)
    return constant, first


def pad_width(op: Any, rank: int) -> list[tuple[int, int]]:
    """`ops.pad`'s widths as one pair per axis."""
    return [tuple(p) for p in np.broadcast_to(np.asarray(op.pad_width), (rank, 2)).tolist()]


def pad_constant(node: Any) -> float:
    """What an `ops.pad` call pads with."""
    args, kwargs = node_arguments(node)
    value = args[1] if len(args) > 1 else kwargs.get("constant_values")
    return 0.0 if value is None else float(np.asarray(value).reshape(()))


def argument(node: Any, position: int, name: str) -> Any:
    """What a call was given as its argument at `position`, called `name`; None if nothing."""
    args, kwargs = node_arguments(node)
    return args[position] if len(args) > position else kwargs.get(name)


def set_argument(node: Any, position: int, name: str, value: Any) -> None:
    """Records another constant as an argument of a call; symbolic tensors stay what they are."""
    arguments = node.arguments
    if len(arguments.args) > position:
        before, after = arguments.args[:position], arguments.args[position + 1 :]
        arguments.args = (*before, value, *after)
    else:
        arguments.kwargs = {**arguments.kwargs, name: value}
    arguments._flat_arguments = tree.flatten((arguments.args, arguments.kwargs))


def set_constructor_argument(op: Any, name: str, value: Any) -> None:
    """Changes an attribute of an op, and the constructor argument of that name it is saved with."""
    setattr(op, name, value)
    config = auto_config(op)
    if config is not None:
        config[name] = value


def set_constant(node: Any, value: np.ndarray) -> None:
    """Gives a two-argument op another constant, of the kind that it has now."""
    args, kwargs = node_arguments(node)
    for position, old in enumerate([*args, *kwargs.values()]):
        if isinstance(old, keras.KerasTensor):
            continue
        name = "" if position < len(args) else list(kwargs)[position - len(args)]
        new: Any = value
        if keras.ops.is_tensor(old):
            new = keras.ops.convert_to_tensor(value, dtype=old.dtype)
        elif isinstance(old, np.ndarray):
            new = value.astype(old.dtype)
        elif isinstance(old, (list, tuple)):
            new = value.tolist()
        set_argument(node, position, name, new)
        return


def holds_variable(node: Any) -> bool:
    """Whether a `keras.Variable` is among the arguments of a call."""
    args, kwargs = node_arguments(node)
    return any(isinstance(a, keras.Variable) for a in tree.flatten((args, kwargs)))


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


# --- rewiring a functional graph ---------------------------------------------------------------

_GRAPH_ATTRIBUTES = (
    "_outputs_struct",
    "_outputs",
    "_nodes",
    "_nodes_by_depth",
    "_operations",
    "_operations_by_depth",
)


def all_nodes(functional: Any) -> list:
    """The nodes of a functional graph, those of its inputs included, inputs first."""
    by_depth = functional._nodes_by_depth
    return [node for depth in sorted(by_depth, reverse=True) for node in by_depth[depth]]


def input_tensors(node: Any) -> list:
    return list(node.input_tensors)


def call_count(op: Any) -> int:
    """How often an op was called on symbolic tensors, in any model."""
    return len(op._inbound_nodes)


def set_call_count(op: Any, count: int) -> None:
    """Forgets the symbolic calls of an op made since `call_count` was `count`."""
    for node in op._inbound_nodes[count:]:
        for tensor in node.input_tensors:
            followers = tensor._keras_history.operation._outbound_nodes
            followers[:] = [other for other in followers if other is not node]
    del op._inbound_nodes[count:]


def forget_call(node: Any) -> Callable[[], None]:
    """Takes a symbolic call that no graph holds any more off its op; returns what undoes it."""
    nodes = node.operation._inbound_nodes

    def put(calls: list) -> None:
        nodes[:] = calls
        for number, call in enumerate(calls):  # by which a saved model finds the tensors
            for tensor in call.outputs:
                tensor._keras_history = tensor._keras_history._replace(node_index=number)

    before = list(nodes)
    put([other for other in before if other is not node])
    return lambda: put(before)


def swap_input(node: Any, old: Any, new: Any) -> None:
    """Makes a call read the symbolic tensor `new` wherever it read `old`."""
    arguments = node.arguments

    def swapped(x: Any) -> Any:
        return new if x is old else x

    arguments.args, arguments.kwargs = arguments.convert(swapped)
    arguments._flat_arguments = [swapped(x) for x in arguments._flat_arguments]
    arguments.keras_tensors = [swapped(x) for x in arguments.keras_tensors]
    arguments._single_positional_tensor = swapped(arguments._single_positional_tensor)
    followers = old._keras_history.operation._outbound_nodes
    followers[:] = [other for other in followers if other is not node]
    new._keras_history.operation._outbound_nodes.append(node)


def swap_output(functional: Any, old: Any, new: Any) -> None:
    """Makes a functional give out `new` instead of `old`; `remap` must follow."""

    def swapped(x: Any) -> Any:
        return new if x is old else x

    fresh = {
        "_outputs": [swapped(t) for t in functional._outputs],
        "_outputs_struct": tree.map_structure(swapped, functional._outputs_struct),
    }
    vars(functional).update(fresh)


def remap(functional: Any) -> Callable[[], None]:
    """Brings what a functional derives from its nodes up to date; returns what undoes it.

    Layers are tracked in the order of the graph, in which Keras saves and loads weights.
    """
    before = {name: vars(functional)[name] for name in _GRAPH_ATTRIBUTES}
    names = vars(functional).get("output_names")
    graph = map_graph(functional._inputs, functional._outputs)
    fresh = dict(zip(_GRAPH_ATTRIBUTES[2:], graph, strict=True))
    had = functional.layers if isinstance(functional, keras.Model) else None
    vars(functional).update(fresh)
    if had is None:  # a keras.Function, which tracks no layers
        return lambda: vars(functional).update(before)
    vars(functional)["output_names"] = [maker(t).name for t in functional._outputs]
    layers = list(functional._layers)
    undo_layers = set_layers(functional, _in_graph_order(layers, had, functional.layers))

    def undo() -> None:
        undo_layers()
        vars(functional).update(before)
        vars(functional)["output_names"] = names

    return undo


def _in_graph_order(tracked: list, had: list, now: list) -> list:
    """Tracked layers after a change of the graph; what is tracked besides keeps its place."""
    before = {id(layer) for layer in had}
    after = {id(layer) for layer in now}
    if [layer for layer in tracked if id(layer) in before] == had:
        slots = iter(now)
        result: list = []
        for layer in tracked:  # as many of the new order as there were of the old one, in place
            if id(layer) in before:
                following = next(slots, None)
                if following is not None:
                    result.append(following)
            else:
                result.append(layer)
        return result + list(slots)
    result = [layer for layer in tracked if id(layer) not in before or id(layer) in after]
    for i, layer in enumerate(now):
        if all(layer is not other for other in result):
            previous = [k for k, other in enumerate(result) if i and other is now[i - 1]]
            result.insert(previous[0] + 1 if previous else len(result), layer)
    return result


def set_layers(model: Any, layers: list) -> Callable[[], None]:
    """Gives a model another list of tracked layers; returns what undoes it.

    A Sequential model's own list holds its layers, besides the one its tracker keeps.
    """
    tracker = model._tracker
    store = tracker.config["layers"][1]
    own = model._layers
    before = list(own), list(store), set(tracker.stored_ids["layers"])
    if store is own or own == store:
        kept: list = []
    else:
        kept = [layer for layer in store if all(layer is not other for other in own)]

    def put(own_layers: list, stored: list, ids: set) -> None:
        list.__setitem__(own, slice(None), own_layers)
        if store is not own:
            list.__setitem__(store, slice(None), stored)
        tracker.stored_ids["layers"] = ids

    put(layers, [*kept, *layers], {id(layer) for layer in [*kept, *layers]})
    return lambda: put(*before)


def living_graphs() -> list:
    """Every functional graph in memory, found through the collector."""
    classes = _subclasses(Function)
    return [f for f in _living(classes) if "_nodes_by_depth" in vars(f)]


def living_early_stoppings(model: Any) -> list:
    """The `EarlyStopping` callbacks that watch `model`."""
    classes = _subclasses(keras.callbacks.EarlyStopping)
    found = _living(classes)
    return [c for c in found if getattr(c, "_model", None) is model]


def maker_node(tensor: Any) -> Any:
    """The call that made a symbolic tensor."""
    history = tensor._keras_history
    return history.operation._inbound_nodes[history.node_index]


def readers_of(tensor: Any, graphs: list | None = None) -> list:
    """The calls in graphs (all in memory) that read a symbolic tensor."""
    found: dict[int, Any] = {}
    for functional in living_graphs() if graphs is None else graphs:
        for node in all_nodes(functional):
            if any(tensor is t for t in node.input_tensors):
                found[id(node)] = node
    return list(found.values())


def maker(tensor: Any) -> Any:
    """The layer or op whose call made a symbolic tensor."""
    return tensor._keras_history.operation


def replace_activation(layer: Any, function: Any) -> Callable[[], None]:
    """Gives a built layer another activation, a function; returns what undoes it.

    An activation that is itself a layer is tracked as one, on PyTorch in the module's own register
    too.
    """
    old = layer.activation
    if not isinstance(old, keras.layers.Layer):
        vars(layer)["activation"] = function
        return lambda: vars(layer).update(activation=old)
    undo_layers = set_layers(layer, [below for below in layer._layers if below is not old])
    modules = vars(layer).get("_modules", {})
    was_module = modules.pop("activation", None) is not None
    vars(layer)["activation"] = function

    def undo() -> None:
        if was_module:
            del vars(layer)["activation"]
            modules["activation"] = old
        else:
            vars(layer)["activation"] = old
        undo_layers()

    return undo


# --- optimizers that get new variables ---------------------------------------------------------


def inner_optimizers(optimizer: Any) -> list:
    """The optimizers an optimizer keeps besides `inner_optimizer`."""
    inner = getattr(optimizer, "inner_optimizer", None)
    # TensorFlow's tracking keeps everything once more, in structures of its own.
    kept = [v for v in tree.flatten(list(vars(optimizer).values())) if v is not inner]
    maps = [vars(v) for v in kept if hasattr(v, "_optimizer_map")]
    found = [v for v in tree.flatten([kept, maps]) if isinstance(v, keras.optimizers.Optimizer)]
    return list({id(one): one for one in found}.values())


def hands_out(optimizer: Any) -> bool:
    """Whether it is a `MultiOptimizer`, which Keras has from 3.15 on."""
    cls = getattr(keras.optimizers, "MultiOptimizer", None)
    return cls is not None and isinstance(optimizer, cls)


def handed_to(optimizer: Any, variable: Any) -> Any:
    """The optimizer that a `MultiOptimizer` has for a variable, or wants for a new one."""
    place = optimizer._var_to_optimizer_idx.get(optimizer._var_key(variable))
    if place is not None:
        return optimizer._inner_optimizers[place]
    return optimizer._optimizer_map(variable)


def list_handed_out(optimizer: Any, trained: list, chosen: list) -> Callable[[], None]:
    """Tells a `MultiOptimizer` which optimizer trains what; gives what undoes it.

    Its optimizers stand in the order in which a fresh one would have them.
    """
    undo_list = list_trained(optimizer, trained)
    before = {n: vars(optimizer)[n] for n in ("_inner_optimizers", "_var_to_optimizer_idx")}
    named = optimizer._optimizer_map
    first = []
    if hasattr(named, "values"):
        first = [*named.values(), getattr(named, "default_optimizer", None)]
    order = list({id(one): one for one in [*first, *chosen] if one is not None}.values())
    factors = [(one, one.loss_scale_factor) for one in order]
    for one in order:
        one.loss_scale_factor = optimizer.loss_scale_factor
    place = {id(one): i for i, one in enumerate(order)}
    vars(optimizer)["_inner_optimizers"] = order
    vars(optimizer)["_var_to_optimizer_idx"] = {
        optimizer._var_key(v): place[id(one)] for v, one in zip(trained, chosen, strict=True)
    }

    def undo() -> None:
        vars(optimizer).update(before)
        for one, factor in factors:
            one.loss_scale_factor = factor
        undo_list()

    return undo


def list_trained(optimizer: Any, trained: list) -> Callable[[], None]:
    """Tells an optimizer without slots what it trains; gives what undoes it."""
    names = ("_trainable_variables", "_trainable_variables_indices")
    before = {name: vars(optimizer)[name] for name in names}
    vars(optimizer)["_trainable_variables"] = list(trained)
    vars(optimizer)["_trainable_variables_indices"] = {
        optimizer._var_key(v): i for i, v in enumerate(trained)
    }
    return lambda: vars(optimizer).update(before)


def optimizer_restorer(optimizer: Any) -> Callable[[], None]:
    """What makes an optimizer that is built from now on unbuilt again."""
    own = vars(optimizer)
    before = dict(own)
    variables = list(optimizer._variables)
    tracker = optimizer._tracker
    is_variable, _ = tracker.config["variables"]
    ids = set(tracker.stored_ids["variables"])

    def undo() -> None:
        for name in [n for n in own if n not in before]:
            del own[name]
        own.update(before, _variables=variables, _trainable_variables_indices={})
        tracker.config["variables"] = (is_variable, variables)
        tracker.stored_ids["variables"] = ids

    return undo


def _holds_slots(value: list) -> bool:
    """Whether a list holds slots; Muon's is all None where it hands AdamW nothing."""
    return bool(value) and all(v is None or isinstance(v, keras.Variable) for v in value)


def transplant(optimizer: Any, fresh: Any) -> tuple[list[tuple[int, Any]], Callable[[], None]]:
    """Gives an optimizer the slots of `fresh`, a new one of its kind built on more variables.

    Slots it has already stay the objects they are.

    Returns:
        The new copies of weights for the moving average, as pairs of a variable's position and
        the copy; and what undoes it all.
    """
    place = {id(v): i for i, v in enumerate(optimizer._trainable_variables)}
    places = [place.get(id(v)) for v in fresh._trainable_variables]
    own = vars(optimizer)
    before = {
        name: own[name]
        for name in vars(fresh)
        if name in own and name not in ("_variables", "_tracker")
    }
    kept: dict[int, Any] = {}

    def carry(old: Any, new: Any) -> Any:
        if isinstance(new, keras.Variable) and isinstance(old, keras.Variable):
            kept[id(new)] = old
            return old
        return new

    averages: list[tuple[int, Any]] = []
    changed: dict[str, Any] = {}
    for name, new in vars(fresh).items():
        old = own.get(name)
        if name in ("_variables", "_tracker", "_trainable_variables"):
            continue
        if isinstance(new, keras.Variable):
            carry(old, new)
        elif isinstance(new, list) and _holds_slots(new):
            if len(new) != len(places) or not isinstance(old, list):
                raise TypeError(f"the optimizer's slots '{name}' do not follow its variables")
            changed[name] = [
                slot if i is None else carry(old[i], slot)
                for slot, i in zip(new, places, strict=True)
            ]
            if name == "_model_variables_moving_average":
                averages = [(k, new[k]) for k, i in enumerate(places) if i is None]
        elif isinstance(new, dict) and any(isinstance(v, keras.Variable) for v in new.values()):
            changed[name] = {k: carry((old or {}).get(k), v) for k, v in new.items()}
    changed["_trainable_variables"] = list(fresh._trainable_variables)
    changed["_trainable_variables_indices"] = dict(fresh._trainable_variables_indices)
    tracker = optimizer._tracker
    is_variable, store = tracker.config["variables"]
    ids_before = tracker.stored_ids["variables"]

    def put(attributes: dict, variables: list, ids: set) -> None:
        # New lists instead of changed ones: TensorFlow's wrappers of lists resent changes.
        own.update(attributes, _variables=variables)
        tracker.config["variables"] = (is_variable, variables)
        tracker.stored_ids["variables"] = ids

    variables = [kept.get(id(v), v) for v in fresh._variables]
    put(changed, variables, {id(v) for v in variables})
    restored = {name: before[name] for name in changed}
    return averages, lambda: put(restored, store, ids_before)


# --- embeddings, attention, recurrent layers ----------------------------------------------------


def table_of(layer: Any) -> Any:
    """The table of an embedding; `layer.embeddings` is a computed property."""
    return layer._embeddings


def call_arguments(node: Any) -> dict[str, Any]:
    """The arguments recorded for a layer's call, by the names its `call` gives them."""
    args, kwargs = node_arguments(node)
    bound = inspect.signature(node.operation.call).bind(*args, **kwargs)
    return dict(bound.arguments)


def input_names(node: Any) -> list[str]:
    """By which argument each tensor enters a layer's call, in the order in which they enter."""
    args, kwargs = node_arguments(node)
    names = list(inspect.signature(node.operation.call).parameters)

    def marked(name: str, value: Any) -> Any:
        return tree.map_structure(
            lambda t: name if isinstance(t, keras.KerasTensor) else None, value
        )

    positional = tuple(marked(name, value) for name, value in zip(names, args, strict=False))
    rest = {name: marked(name, value) for name, value in kwargs.items()}
    return [name for name in tree.flatten((positional, rest)) if name is not None]


def projections(layer: Any) -> dict[str, Any]:
    """The EinsumDense layers inside an attention layer, by what they make."""
    found = {"query": layer._query_dense, "key": layer._key_dense, "value": layer._value_dense}
    if hasattr(layer, "_gate_dense"):
        found["gate"] = layer._gate_dense
    return {**found, "output": layer._output_dense}


def attention_axes(layer: Any) -> tuple[int, ...] | None:
    """The axes that a MultiHeadAttention attends over, the batch counted as axis 0."""
    return getattr(layer, "_attention_axes", None)


def refresh_projection(projection: Any) -> None:
    """Brings what an EinsumDense with all inputs first in its kernel says in line with it."""
    shape = tuple(int(d) for d in kernel_of(projection).shape)
    kernel, output = projection.equation.split(",")[1].split("->")
    rows = sum(c not in output for c in kernel)
    target = tuple(projection.partial_output_shape)
    projection.partial_output_shape = (*target[: rows - len(shape)], *shape[rows:])
    shapes = build_shapes(projection)
    if shapes:
        own = {k: (*tuple(v)[:-rows], *shape[:rows]) for k, v in shapes.items()}
        set_build_shapes(projection, own)


def refresh_multi_head_attention(layer: Any) -> None:
    """Brings what a MultiHeadAttention says about itself in line with its kernels."""
    inside = projections(layer)
    for projection in inside.values():
        refresh_projection(projection)
    rows, layer._num_heads, layer._key_dim = (int(d) for d in kernel_of(inside["query"]).shape)
    layer._value_dim = int(kernel_of(inside["value"]).shape[-1])
    layer._inverse_sqrt_key_dim = 1.0 / float(layer._key_dim) ** 0.5
    columns = int(kernel_of(inside["output"]).shape[-1])
    if layer._output_shape is not None:
        layer._output_shape = (*layer._output_shape[:-1], columns)
    elif columns != rows:  # None means as wide as the query
        layer._output_shape = (columns,)


def refresh_group_query_attention(layer: Any) -> None:
    """Brings what a GroupQueryAttention says about itself in line with its kernels."""
    inside = projections(layer)
    for projection in inside.values():
        refresh_projection(projection)
    shape = tuple(int(d) for d in kernel_of(inside["query"]).shape)
    layer.feature_dim, layer.num_query_heads, layer.head_dim = shape
    layer.num_key_value_heads = int(kernel_of(inside["key"]).shape[1])
    layer._inverse_sqrt_head_dim = 1.0 / float(layer.head_dim) ** 0.5


def has_own_activation(op: Any) -> bool:
    """Whether `op.activation` can be replaced; recurrent layers only show that of their cell."""
    return "activation" in vars(op)


def cells_of(layer: Any) -> list:
    """The cells that a recurrent layer runs, first to last."""
    cell = layer.cell
    return list(cell.cells) if isinstance(cell, keras.layers.StackedRNNCells) else [cell]


def is_conv_cell(cell: Any) -> bool:
    return type(cell) is ConvLSTMCell


def state_variables(layer: Any) -> list:
    """Variables that hold the states of a stateful recurrent layer, which Keras tracks nowhere."""
    return tree.flatten(layer.states) if layer.stateful and layer.states is not None else []


def all_states(model: Any) -> list:
    """The state variables of all recurrent layers of a model."""
    found = [below for below in sublayers(model) if isinstance(below, keras.layers.RNN)]
    return [variable for layer in found for variable in state_variables(layer)]


def refresh_recurrent(layer: Any) -> None:
    """Brings what a recurrent layer and its cells say about themselves in line with their kernels.

    For a layer inside of another that includes the shapes which it was built with.
    """
    cells = cells_of(layer)
    for cell in cells:
        rows, units = int(cell.kernel.shape[-2]), int(cell.recurrent_kernel.shape[-2])
        axis = 1 if getattr(cell, "data_format", "") == "channels_first" else -1
        if is_conv_cell(cell):
            cell.filters, cell.input_dim = units, rows
            cell.kernel_shape = tuple(int(d) for d in cell.kernel.shape)
            spec = copy.copy(cell.input_spec)
            spec.shape = _with_size(spec.shape, axis, rows)
            cell.input_spec = spec
        else:
            cell.units = cell.output_size = units
            single = isinstance(cell.state_size, int)
            cell.state_size = units if single else [units] * len(cell.state_size)
        _refresh_build_shape(cell, axis, rows)
    if layer.cell is not cells[0]:
        _refresh_build_shape(layer.cell, -1, int(cells[0].kernel.shape[-2]))
    size = layer.cell.state_size
    layer.state_size = [size] if isinstance(size, int) else list(size)
    axis = 2 if getattr(cells[0], "data_format", "") == "channels_first" else -1
    _refresh_build_shape(layer, axis, int(cells[0].kernel.shape[-2]))


def refresh_spectral(layer: Any) -> None:
    """Brings what SpectralNormalization keeps of its kernel's shape in line with it."""
    layer.kernel_shape = layer.kernel.shape


def set_input_size(layer: Any, rank: int, axis: int, size: int) -> None:
    """Tells a layer inside of another about the new size of its input along one axis."""
    _refresh_build_shape(layer, axis, size)
    spec = layer.input_spec
    if isinstance(spec, keras.layers.InputSpec) and spec.axes:
        spec = copy.copy(spec)
        spec.axes = {a: size if a % rank == axis else d for a, d in spec.axes.items()}
        layer.input_spec = spec


def _refresh_build_shape(layer: Any, axis: int, size: int) -> None:
    """A layer's first build shape with another size along one axis."""
    shapes = build_shapes(layer)
    if shapes:
        first = next(iter(shapes))
        set_build_shapes(layer, {**shapes, first: _with_size(shapes[first], axis, size)})


def _with_size(shape: Any, axis: int, size: int) -> Any:
    changed = list(shape)
    changed[axis] = size
    return type(shape)(changed)
