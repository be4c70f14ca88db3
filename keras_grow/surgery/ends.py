"""Where a bridge can be built, and where one is there already."""

from typing import Any

import keras

from keras_grow import _keras
from keras_grow.errors import GrowthError
from keras_grow.graph.places import Place, find
from keras_grow.rules import activations

layers = keras.layers

_CONSUMERS = tuple(
    getattr(layers, name)
    for name in (
        "Dense", "EinsumDense", "Conv1D", "Conv2D", "Conv3D", "DepthwiseConv1D",
        "DepthwiseConv2D", "SeparableConv1D", "SeparableConv2D", "Conv1DTranspose",
        "Conv2DTranspose", "Conv3DTranspose",
    )
)  # fmt: skip
_WITHOUT_WEIGHTS = (
    layers.Flatten,
    layers.Dropout,
    *(
        getattr(layers, f"{name}{rank}D")
        for rank in (1, 2, 3)
        for name in ("GlobalAveragePooling", "GlobalMaxPooling", "MaxPooling", "AveragePooling")
    ),
)


def ends(model: Any, after: str, before: str) -> tuple[Place, Place]:
    """The two layers that a bridge is to connect.

    Raises:
        GrowthError: no such layers, or no bridge is possible between them.
    """
    start, end = find(model, after), find(model, before)
    asked = f"Received: after={after!r}, before={before!r}."
    if start.functional is not end.functional:
        raise GrowthError(
            f"Layers '{after}' and '{before}' lie in different models, of which one is nested, "
            f"and a bridge cannot cross that border. Build it within one of them. {asked}"
        )
    if not isinstance(end.op, _CONSUMERS):
        raise GrowthError(
            f"A bridge leads into the pre-activation of a Dense or convolutional layer. "
            f"'{before}' is a {type(end.op).__name__}. {asked}"
        )
    for place in (start, end):
        if len(place.outputs) != 1:
            raise GrowthError(
                f"Layer '{place.path}' is called {len(place.nodes)} times or has several outputs, "
                f"so where the bridge is to be is not settled. {asked}"
            )
    if depends(start.outputs[0], end.outputs[0]):
        raise GrowthError(
            f"'{before}' comes before '{after}' (or is it), so a bridge would make a cycle. "
            f"Exchange them. {asked}"
        )
    return start, end


def depends(tensor: Any, on: Any) -> bool:
    """Whether a symbolic tensor is computed from another, or is it."""
    seen: set[int] = set()
    open_ends = [tensor]
    while open_ends:
        at = open_ends.pop()
        if at is on:
            return True
        if id(at) not in seen:
            seen.add(id(at))
            open_ends += _keras.input_tensors(_keras.maker_node(at))
    return False


def existing(start: Place, end: Place, activation: Any, living: _keras.Living) -> Any | None:
    """A hidden layer that reads `start`, has the activation, and leads only into `end`."""
    (source,), (target,) = start.outputs, end.outputs
    wanted = keras.activations.get(activation)
    ends = [target]
    for node in living.readers_of(target):
        if isinstance(node.operation, layers.Add):
            ends += [t for t in _keras.input_tensors(node) if t is not target]
    for tensor in ends:
        out = _keras.maker(tensor)
        if not isinstance(out, _CONSUMERS):
            continue
        (at, *more) = _keras.input_tensors(_keras.maker_node(tensor))
        while not more and isinstance(_keras.maker(at), _WITHOUT_WEIGHTS):
            at, *more = _keras.input_tensors(_keras.maker_node(at))
        hidden = _keras.maker(at)
        if (
            isinstance(hidden, (layers.Dense, layers.Conv1D, layers.Conv2D, layers.Conv3D))
            and activations.plain(hidden.activation) is wanted
            and _keras.input_tensors(_keras.maker_node(at))[0] is source
            and len(living.readers_of(at)) == 1
        ):
            return hidden
    return None


def check_owner(end: Place) -> None:
    """Raises GrowthError where the graph is a chain, which cannot hold a bridge."""
    if isinstance(end.owner, keras.Sequential):
        raise GrowthError(
            f"'{end.owner.name}' is a Sequential model, a chain, which cannot hold a bridge. "
            "Build the model from keras.Model(model.inputs, model.outputs), or use kg.bridge, "
            "which turns the outermost model into a functional one."
        )


def check_activation(activation: Any) -> None:
    """Raises GrowthError unless Keras knows the activation."""
    try:
        keras.activations.get(activation)
    except (TypeError, ValueError) as error:
        raise GrowthError(
            "activation must be one that Keras knows, such as 'relu', a function, or None. "
            f"Received: activation={activation!r}"
        ) from error
