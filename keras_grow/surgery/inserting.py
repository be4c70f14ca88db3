"""`insert` and `insert_`: a layer on an edge of a model, as the identity."""

from dataclasses import dataclass
from typing import Any

import keras
from keras import tree

from keras_grow import _backend, _keras
from keras_grow.apply import copy_model
from keras_grow.apply.copying import copy_layer
from keras_grow.apply.rewiring import Rewiring
from keras_grow.errors import GrowthError
from keras_grow.graph import graph_of
from keras_grow.graph.outputs import Outputs
from keras_grow.graph.places import Edge, edge
from keras_grow.growth import history
from keras_grow.growth.data import GrowthData
from keras_grow.growth.guarded import Change, Clock, Growth, Guard, guarded
from keras_grow.logs.events import SiteGrowth
from keras_grow.surgery.identity import Assignments, Block, NoIdentity, Observed
from keras_grow.surgery.ranges import range_of


def insert(
    model: Any,
    layer: Any,
    *,
    after: str,
    before: str | None = None,
    branch: bool = False,
    data: Any = None,
) -> Any:
    """A deeper model that computes the same: `layer` on an edge, as the identity.

    Dense layers get the identity as their kernel, convolutions a Dirac kernel, depthwise and
    separable ones kernels that copy; BatchNormalization undoes its own statistics; layers with a
    weight per channel (LayerScale, PReLU) get ones or zeros, whichever is the identity. An
    activation is allowed where it changes nothing: relu behind tensors which are known not to be
    negative (Net2DeeperNet, Chen et al. 2016). A whole model can be inserted if each of its layers
    can be the identity, or if it is a sum of a path that can and of branches whose last layer can
    be zero. Weights that this leaves free keep their initial values.

    ```python
    deeper = kg.insert(model, keras.layers.Dense(64, activation="relu"), after="dense_1")
    block = keras.Sequential([keras.layers.Conv2D(32, 3, padding="same", activation="relu"),
                              keras.layers.Conv2D(64, 3, padding="same")])
    deeper = kg.insert(model, block, after="conv_3", branch=True)
    ```

    Args:
        model: a built functional or Sequential model; it is not changed.
        layer: a layer or a functional or Sequential model, which is copied. A name that the model
            has already gets a number.
        after: the layer whose output it reads, `outer/inner` inside a nested model.
        before: the layer that is to read it. By default all that read `after` do, the model's own
            output included.
        branch: insert x + layer(x) with the last layer of `layer` at zero, instead of the
            identity. In a Sequential model this becomes a nested model.
        data: a batch (x, y) or just (x,), as growth data is given. BatchNormalization takes its
            statistics from it, so that its first steps of training, which normalise by the
            statistics of the batch, start near the identity too; and the outputs are compared on
            it. Without it the moving mean is 0 and the moving variance 1.

    Returns:
        A new model that shares no variable with `model`, compiled as it is, with its optimizer
        state. It is a Sequential model if `model` is one.

    Raises:
        GrowthError: no such edge, shapes that do not fit, or a layer that cannot be made the
            identity; the message says why.
    """
    clone, _ = inserted(model, layer, after, before, branch, data)
    return clone


def insert_(
    model: Any,
    layer: Any,
    *,
    after: str,
    before: str | None = None,
    branch: bool = False,
    data: Any = None,
) -> Growth:
    """Inserts a layer in place, as `insert` does in a copy; inside `fit` too, from a callback.

    Layers, variables and optimizer slots stay the objects they are, sub-models built on the same
    tensors (feature extractors) compute what they computed, and the optimizer trains the new
    variables from the next step on. It either succeeds or leaves the model as it was.

    Args:
        model, after, before, branch, data: as for `insert`.
        layer: a layer that is in no model yet; it becomes part of this one. It is renamed if the
            model has one of its name.

    Returns:
        What was done; `.name` is the address of the new layer.

    Raises:
        GrowthError: as `insert`.
    """
    change = insertion(model, layer, after, before, branch, _inputs(model, data))
    done = guarded(change, _guard(change, _keras.Living()))
    history.note(model, done)
    return done


def inserted(
    model: Any, layer: Any, after: str, before: str | None, branch: bool, data: Any
) -> tuple[Any, Growth]:
    """What `insert` returns, and what was done."""
    _check(model, layer)
    edge(model, after, before)  # say what is wrong before copying anything
    clone = copy_model(model)
    history.inherit(clone, model)
    x = _inputs(clone, data)
    change = Insertion(clone, copy_layer(layer), after, before, branch, x)
    done = guarded(change, _guard(change, _keras.Living.within(clone)))
    history.note(clone, done)
    return clone, done


def insertion(
    model: Any, layer: Any, after: str, before: str | None, branch: bool, x: Any | None
) -> "Insertion":
    """The change that `insert_` carries out in a model.

    Args:
        x: inputs on which statistics are taken; None without growth data.

    Raises:
        GrowthError: the layer cannot be part of another model.
    """
    _check(model, layer)
    if _keras.call_count(layer):
        raise GrowthError(
            f"The layer '{layer.name}' is part of a model already. Insert a copy of it: "
            f"{type(layer).__name__}.from_config(layer.get_config())."
        )
    if layer.weights and not _keras.is_model(layer):
        raise GrowthError(
            f"The layer '{layer.name}' is built already, and inserting it would replace its "
            f"weights. Insert a new one: {type(layer).__name__}.from_config(layer.get_config())."
        )
    return Insertion(model, layer, after, before, branch, x)


def _inputs(model: Any, data: Any) -> Any | None:
    graph = graph_of(model)
    return None if data is None else GrowthData(data, batch_size=512, seed=0).batch(0, graph)[0]


def _guard(change: "Insertion", living: _keras.Living) -> Guard:
    batch = None if change.x is None else (change.x, None, None)
    return Guard(Outputs(change.graph), batch, living)


def _check(model: Any, layer: Any) -> None:
    graph_of(model)
    if not isinstance(layer, keras.layers.Layer):
        raise GrowthError(
            "What is inserted must be a Keras layer or model. Wrap a function of keras.ops in "
            f"one. Received: an object of type {type(layer).__name__}."
        )
    if isinstance(layer, keras.layers.InputLayer):
        raise GrowthError("An InputLayer has no input, so it cannot be put on an edge.")


class Insertion(Change):
    """A layer becomes the identity on an edge.

    Args:
        x: inputs on which statistics are taken; None without growth data.
    """

    def __init__(
        self, model: Any, layer: Any, after: str, before: str | None, branch: bool, x: Any | None
    ) -> None:
        self.graph = graph_of(model)
        self.layer, self.after, self.before, self.branch, self.x = layer, after, before, branch, x
        self.where = f"'{after}'" if before is None else f"'{after}' and '{before}'"
        self.doing = f"Inserting '{layer.name}' after {self.where}"
        self._rewiring: Rewiring | None = None

    def apply(self, living: _keras.Living, clock: Clock) -> None:
        with clock("surgery"):
            self._apply(Rewiring(self.graph.model, living))

    def _apply(self, rewiring: Rewiring) -> None:
        self._rewiring, model, layer = rewiring, self.graph.model, self.layer
        place = edge(model, self.after, self.before)
        _check_output_names(model, place)
        interval = range_of(self.graph, place.tensor)
        statistics = None
        if self.x is not None:
            statistics = Observed(self.graph, place.tensor, _backend.as_tensors(self.x))
        _name(rewiring, layer)
        identity = _Identity(self.where, interval, statistics)
        new = _wired(rewiring, place, layer, self.branch, identity)
        _check_shape(layer, place.tensor, new)
        rewiring.swap(place.readers, place.tensor, new)
        if place.is_output:
            rewiring.swap_output(place.functional, place.tensor, new)
        rewiring.finish()

    def undo(self) -> None:
        if self._rewiring is not None:
            self._rewiring.undo()

    def records(self) -> list[SiteGrowth]:
        inside = {id(below) for below in _keras.sublayers(self.layer)}
        calls = [call for call in graph_of(self.graph.model).calls if id(call.op) in inside]
        first = getattr(self.layer, "data_format", None) == "channels_first"
        shape = calls[-1].outputs[0].shape
        record = SiteGrowth(
            name=calls[0].path if len(calls) == 1 else self.layer.name,
            producers=[self.after],
            consumers=[] if self.before is None else [self.before],
            width_before=0,
            width_after=int(shape[1 if first else -1] or 0),
            method="branch" if self.branch else "identity",
            form="zeros" if self.branch else "identity",
            kind="insert",
        )
        return [record]


@dataclass(frozen=True)
class _Identity:
    """What the new layer has to be, where.

    Attributes:
        where: the edge, in words.
        interval: bounds of the values there.
        statistics: of the values there; None without growth data.
    """

    where: str
    interval: Any
    statistics: Any


def _wired(rewiring: Rewiring, place: Edge, layer: Any, branch: bool, identity: _Identity) -> Any:
    """Calls the layer on the edge's tensor, its weights set; returns what is to be read instead."""
    sequential = isinstance(place.owner, keras.Sequential)
    if branch and sequential:
        entry = keras.Input(batch_shape=place.tensor.shape, dtype=place.tensor.dtype)
        for variable, value in _weights(rewiring, layer, place, True, identity):
            rewiring.assign(variable, value)
        name = rewiring.name(f"{layer.name}_residual")
        total = keras.layers.Add(dtype=layer.dtype_policy)([entry, rewiring.call(layer, entry)])
        layer, branch = keras.Model(entry, total, name=name), False
    else:
        for variable, value in _weights(rewiring, layer, place, branch, identity):
            rewiring.assign(variable, value)
    new = rewiring.call(layer, place.tensor)
    if branch:
        name = rewiring.name(f"{layer.name}_add")
        add = keras.layers.Add(name=name, dtype=layer.dtype_policy)
        new = rewiring.call(add, [place.tensor, new])
    if sequential:
        source = _keras.maker(place.tensor)
        position = [i for i, old in enumerate(_keras.layers_of(place.owner)) if old is source]
        rewiring.chain(place.owner, layer, position[0] + 1)
    return new


def _weights(
    rewiring: Rewiring, layer: Any, place: Edge, branch: bool, identity: _Identity
) -> Assignments:
    """Builds the layer on a tensor like the edge's, and finds what its weights have to be."""
    tensor = place.tensor
    if not keras.backend.is_float_dtype(tensor.dtype):
        raise GrowthError(
            f"The tensor after {identity.where} holds {tensor.dtype} values, on which layers with "
            "weights cannot be the identity. Insert behind the embedding or rescaling."
        )
    count = _keras.call_count(layer)
    entry = keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype)
    try:
        result = layer(entry)
        _check_shape(layer, tensor, result)
        trial = keras.Model(entry, result)
        block = Block(graph_of(trial), identity.interval, identity.statistics)
        return block.zero() if branch else block.identity()
    except NoIdentity as reason:
        what = "zero, which x + layer(x) needs" if branch else "the identity"
        way = "" if branch else (
            ", or insert it beside the edge with branch=True, as x + layer(x) with its last "
            "layer at zero"
        )  # fmt: skip
        raise GrowthError(
            f"{type(layer).__name__} '{layer.name}' cannot be made {what} after "
            f"{identity.where}: {reason}. Choose another layer{way}."
        ) from None
    finally:
        _keras.set_call_count(layer, count)


def _check_shape(layer: Any, old: Any, new: Any) -> None:
    if not isinstance(new, keras.KerasTensor) or tuple(new.shape) != tuple(old.shape):
        found = tree.map_structure(lambda t: tuple(t.shape), new)
        hint = ""
        if isinstance(new, keras.KerasTensor) and len(new.shape) == len(old.shape):
            if new.shape[-1] != old.shape[-1] or new.shape[1] != old.shape[1]:
                hint = f" Give it as many units or filters as there are channels ({old.shape[-1]})"
            if None not in new.shape[1:-1] and new.shape[1:-1] != old.shape[1:-1]:
                hint = " Use padding='same' and strides=1"
            hint += "." if hint else ""
        raise GrowthError(
            f"{type(layer).__name__} '{layer.name}' has to give the shape it gets to be the "
            f"identity.{hint} Received: input {tuple(old.shape)}, output {found}."
        )


def _check_output_names(model: Any, place: Edge) -> None:
    """The inserted layer becomes the model's output: refused where that name is relied on."""
    if not place.is_output or place.functional is not _keras.functional_of(model):
        return
    old = _keras.maker(place.tensor).name
    arguments = _keras.compile_arguments(model) or {}
    for argument in ("loss", "metrics", "weighted_metrics", "loss_weights"):
        if isinstance(arguments.get(argument), dict) and old in arguments[argument]:
            raise GrowthError(
                f"'{old}' is an output of model '{model.name}', and {argument} was given to "
                f"compile() by that name, which would then be the inserted layer's. Insert before "
                f"'{old}', or compile with lists."
            )


def _name(rewiring: Rewiring, layer: Any) -> None:
    name = rewiring.name(layer.name)
    if name != layer.name:
        rewiring.attribute(layer, "name", name)
