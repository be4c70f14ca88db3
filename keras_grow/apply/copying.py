"""A copy of a model that shares no variable with it."""

import inspect
import types
from collections.abc import Callable
from typing import Any

import keras
from keras import tree

from keras_grow import _backend, _keras
from keras_grow.apply.new_slots import extend_optimizer
from keras_grow.apply.slots import optimizers_of
from keras_grow.graph import graph_of

Made = dict[int, tuple[Any, Any]]  # layers and ops with their copies, by id
Pairs = dict[int, tuple[Any, Any]]  # variables with their copies, by id


# Layers whose initial values nobody sees, since the copy gets its original's; drawing them would
# take as long as all else. Only layers that hold these weights themselves.
_KERNELS = tuple(
    getattr(keras.layers, name)
    for name in (
        "Dense", "EinsumDense", "Embedding", "Conv1D", "Conv2D", "Conv3D", "Conv1DTranspose",
        "Conv2DTranspose", "Conv3DTranspose", "DepthwiseConv1D", "DepthwiseConv2D",
        "SeparableConv1D", "SeparableConv2D",
    )
)  # fmt: skip
_INITIALIZERS = (
    "kernel_initializer",
    "depthwise_initializer",
    "pointwise_initializer",
    "embeddings_initializer",
)


def copy_model(model: Any) -> Any:
    """The same layers, weights, random seeds, compile settings and optimizer state, anew.

    Unlike `keras.models.clone_model` it copies op nodes too (which clones share), nested models,
    and layers with custom functions or classes that are not registered for saving.
    """
    clone, own = borrow_model(model)
    own()
    return clone


def borrow_model(model: Any) -> tuple[Any, Callable[[], None]]:
    """A copy whose weights may lie in the memory of the original's until `own` is called.

    Variables that are given new values in between (which surgery does, never writing into old
    ones) are copied once instead of twice.

    Returns:
        The copy, and the function that gives all its variables memory of their own.
    """
    graph_of(model)  # refuses what has no graph, with the reason
    _backend.attach_state(model)
    made: Made = {}
    clone = _copy_op(model, made)
    for _, target in made.values():
        _draw(target)
    pairs = _pairs(made)
    lent = [(source, target, _backend.lend(target, source)) for source, target in pairs.values()]

    def own() -> None:
        for _, target, value in lent:
            if value is not None and _backend.holds(target, value):
                _keras.reinitialize(target, _backend.to_numpy(target).copy())
        _backend.after_variables_changed(_keras.sublayers(clone))

    for layer in _keras.sublayers(clone):
        if isinstance(layer, keras.layers.Normalization):
            layer.finalize_state()
    _copy_compilation(model, clone, pairs)
    return clone, own


class _Undrawn(keras.initializers.Zeros):
    """Zeros in the place of another initializer."""

    def __init__(self, real: Any) -> None:
        self.real = real


def _do_not_draw(layer: Any) -> None:
    if type(layer) in _KERNELS:
        for name in _INITIALIZERS:
            if name in vars(layer):
                vars(layer)[name] = _Undrawn(vars(layer)[name])


def _draw(layer: Any) -> None:
    """Puts back what `_do_not_draw` has replaced."""
    for name in _INITIALIZERS:
        held = getattr(layer, "__dict__", {}).get(name)
        if isinstance(held, _Undrawn):
            vars(layer)[name] = held.real


def _pairs(made: Made) -> Pairs:
    """Weights, seeds and other state of the copied layers with their copies.

    By layer: a subclass of Functional may track its layers in another order than its graph, and
    others besides.
    """
    pairs: Pairs = {}
    for source, target in made.values():
        if isinstance(source, keras.layers.Layer) and _keras.functional_of(source) is None:
            for state in (_weights_of, _keras.seed_states, _keras.all_states):
                both = zip(state(source), state(target), strict=True)
                pairs.update({id(v): (v, w) for v, w in both})
    return pairs


def _weights_of(layer: Any) -> list:
    return layer.weights


def fresh_copy(model: Any) -> Any:
    """The same architecture and compile settings with fresh initial weights and optimizer."""
    graph_of(model)  # refuses what has no graph, with the reason
    clone = keras.models.clone_model(model)
    copy_compilation(model, clone)
    return clone


def copy_as_functional(model: Any) -> Any:
    """A copy as `copy_model` makes it; of a Sequential model, with a graph that may branch."""
    clone = copy_model(model)
    if not isinstance(clone, keras.Sequential):
        return clone
    functional: Any = _keras.functional_of(clone)
    functional.name = clone.name
    functional.trainable = clone.trainable
    pairs = {id(v): (v, w) for v, w in zip(model.weights, functional.weights, strict=True)}
    _copy_compilation(model, functional, pairs)
    return functional


def copy_layer(layer: Any) -> Any:
    """The same layer or model anew, not built unless it is a model; a model with its weights."""
    if _keras.functional_of(layer) is not None:
        return copy_model(layer)
    made = _copy_single(layer)
    _draw(made)
    return made


def _copy_op(op: Any, made: Made) -> Any:
    if id(op) not in made:
        made[id(op)] = (op, _make(op, made))
    return made[id(op)][1]


def _make(op: Any, made: Made) -> Any:
    if isinstance(op, keras.Sequential) and _keras.functional_of(op) is not None:
        layers = [_copy_op(layer, made) for layer in op.layers]
        (entry,) = _keras.flat_inputs(_keras.functional_of(op))
        clone = keras.Sequential([_copy_input(entry), *layers], name=op.name)
    elif _keras.is_model(op) and _keras.functional_of(op) is not None:
        functional = _keras.functional_of(op)
        inputs = tree.map_structure(_copy_input, _keras.input_structure(functional))
        outputs = _keras.run_symbolically(functional, inputs, lambda inner: _copy_op(inner, made))
        clone = _keras.functional_class(op)(inputs, outputs, name=op.name)
    elif isinstance(op, keras.layers.Layer):
        return _copy_single(op)
    else:
        clone = _keras.bare_copy(op)
        _keras.forget_nodes(clone)
        _keras.own_config(clone)
        return clone
    if not op.trainable:
        clone.trainable = False
    return clone


def _copy_single(layer: Any) -> Any:
    functions = {
        value.__name__: value
        for value in vars(layer).values()
        if isinstance(value, types.FunctionType)
    }
    config = layer.get_config()
    with keras.saving.custom_object_scope(functions), _keras.unsafe_scope():
        try:
            made = type(layer).from_config(config)
        except TypeError:
            # Some layers (keras-hub's patch embeddings) list what their constructor does not take.
            taken = inspect.signature(type(layer).__init__).parameters
            extra = config.keys() - taken.keys() - {"name", "trainable", "dtype"}
            if not extra:
                raise
            made = type(layer)(**{k: v for k, v in config.items() if k not in extra})
    _do_not_draw(made)
    if made.name != layer.name:  # some constructors add to the name they are given
        made.name = layer.name
    return made


def _copy_input(tensor: Any) -> Any:
    return keras.Input(
        batch_shape=tensor.shape,
        dtype=tensor.dtype,
        name=_keras.maker(tensor).name,
        sparse=tensor.sparse,
    )


def copy_compilation(model: Any, clone: Any) -> bool:
    """Compiles a copy as the model is, with a fresh optimizer; whether the model is compiled."""
    arguments = _keras.compile_arguments(model)
    if arguments is None:
        return False
    copied = {name: tree.map_structure(_fresh, value) for name, value in arguments.items()}
    copied["optimizer"] = _fresh(model.optimizer)
    clone.compile(**copied)
    return True


def _copy_compilation(model: Any, clone: Any, pairs: Pairs) -> None:
    sources = optimizers_of(model) if copy_compilation(model, clone) else []
    if not sources:
        return
    trained = [pairs.get(id(v), (v, v))[1] for v in _keras.optimizer_variables(sources[0])]
    clone.optimizer.build(trained)
    for source, target in zip(sources, optimizers_of(clone), strict=True):
        for old, new in zip(source.variables, target.variables, strict=True):
            _backend.assign_copy(new, old)
    extend_optimizer(clone)  # in the order of the copy; without what is not in the graph


def _fresh(value: Any) -> Any:
    """A copy of what holds variables (metrics, optimizers); anything else as it is."""
    if isinstance(value, (keras.metrics.Metric, keras.optimizers.Optimizer)):
        with _keras.unsafe_scope():
            return type(value).from_config(value.get_config())
    return value
