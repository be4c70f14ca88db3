"""The flattened graph of a model: nested models are entered, so only layer and op calls remain.

So are layers that call layers of their own and are known to do nothing else (`open_layers`): their
`call` is run once on symbolic tensors.
"""

from dataclasses import dataclass, field
from typing import Any

import keras
from keras import tree

from keras_grow import _keras
from keras_grow.errors import GrowthError


class Ref:
    """One tensor of the flattened graph.

    A tensor that enters or leaves a nested model has a `KerasTensor` outside and one inside;
    `tensors` holds them all, so that their shapes stay in step.
    """

    __slots__ = ("maker", "tensors")

    def __init__(self, tensor: Any) -> None:
        self.tensors = [tensor]
        self.maker: Call | None = None

    @property
    def shape(self) -> tuple:
        return tuple(self.tensors[0].shape)

    @property
    def rank(self) -> int:
        return len(self.tensors[0].shape)


@dataclass(eq=False)
class Call:
    """One call of a layer or op. `path` is its address, `outer/inner` inside nested models.

    `owner` is the layer that makes and calls this one, if it is part of one that was opened.
    """

    op: Any
    path: str
    node: Any
    scope: dict = field(repr=False)
    inputs: list[Ref]
    outputs: list[Ref]
    owner: "Container | None" = field(default=None, repr=False)

    @property
    def kind(self) -> str:
        return type(self.op).__name__

    def __repr__(self) -> str:
        return f"{self.kind} '{self.path}'"


@dataclass(eq=False)
class Container:
    """A nested model and the tensors that enter it, one list per call of the model.

    Or a layer that was opened: then `owner` is the opened layer which it is part of, if any.
    """

    model: Any
    path: str
    functional: Any
    entries: list[list[Ref]]
    owner: "Container | None" = field(default=None, repr=False)

    def __repr__(self) -> str:
        return f"{type(self.model).__name__} '{self.path}'"


@dataclass(eq=False)
class Graph:
    """The calls of a model in an order in which they can run.

    Attributes:
        model: the model the user handed over.
        functional: the Keras object that holds the outermost graph.
        calls: every layer and op call, nested models entered.
        inputs, outputs: the model's own tensors.
        containers: the nested models.
    """

    model: Any
    functional: Any
    calls: list[Call]
    inputs: list[Ref]
    outputs: list[Ref]
    containers: list[Container]

    def __post_init__(self) -> None:
        self.consumers: dict[Ref, list[Call]] = {}
        for call in self.calls:
            for ref in call.inputs:
                self.consumers.setdefault(ref, []).append(call)

    @property
    def paths(self) -> dict[str, Any]:
        """Layers and ops by their address."""
        return {call.path: call.op for call in self.calls}

    def layer(self, path: str) -> Any:
        return self.paths[path]


# Full names of layer classes whose calls are entered.
_OPENED: set[str] = set()


def open_layers(*names: str) -> None:
    """Enters the calls of these layers ("module.Class") in graphs read from now on.

    Such a layer must do all its work by other layers and Keras ops, all of which work on symbolic
    tensors. By name, so that no library has to be imported.
    """
    _OPENED.update(names)


def class_name(layer: Any) -> str:
    return f"{type(layer).__module__}.{type(layer).__name__}"


def graph_of(model: Any) -> Graph:
    """Reads the graph of a built functional or Sequential model.

    Raises:
        GrowthError: `model` is not a Keras model, is subclassed, or is not built.
    """
    if not isinstance(model, keras.Model):
        raise GrowthError(
            "keras_grow works on Keras models. Received: an object of type "
            f"{type(model).__module__}.{type(model).__name__}."
        )
    functional = _keras.functional_of(model)
    if functional is None:
        if isinstance(model, keras.Sequential):
            raise GrowthError(
                f"The Sequential model '{model.name}' is not built, so its layers have no weights "
                "to grow. Add a keras.Input(shape) as its first layer, or call "
                "model.build(input_shape) first."
            )
        raise GrowthError(
            f"The model '{model.name}' is subclassed ({type(model).__name__} defines its own "
            "call()), so it has no graph that could be read. Build it with "
            "keras.Model(inputs, outputs) or keras.Sequential; layers inside may stay custom."
        )
    builder = _Builder()
    inputs = [Ref(t) for t in _keras.flat_inputs(functional)]
    env = {id(r.tensors[0]): r for r in inputs}
    outputs = builder.enter(functional, "", env)
    return Graph(
        model, functional, builder.calls, inputs, outputs, list(builder.containers.values())
    )


class _Builder:
    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.containers: dict[int, Container] = {}
        self.names: dict[int, str] = {}
        self.owner: Container | None = None

    def enter(self, functional: Any, prefix: str, env: dict[int, Ref]) -> list[Ref]:
        """Adds the calls of one graph; returns its outputs. `env` maps id(KerasTensor) to Ref."""
        inside = self.owner is not None and prefix == self.owner.path + "/"
        names = _keras.attribute_names(self.owner.model) if inside and self.owner else {}
        for node in _keras.nodes_in_order(functional):
            args, kwargs = _keras.node_arguments(node)
            tensors = [t for t in tree.flatten((args, kwargs)) if isinstance(t, keras.KerasTensor)]
            if any(id(t) not in env for t in tensors):
                continue  # belongs to another model that shares layers with this one
            ins = [env[id(t)] for t in tensors]
            op = node.operation
            path = self.names.setdefault(id(op), prefix + names.get(id(op), op.name))
            opened = class_name(op) in _OPENED
            if opened:
                inner = _keras.traced(op, args, kwargs)
            else:
                inner = _keras.functional_of(op) if _keras.is_model(op) else None
            if inner is None:
                outs = [Ref(t) for t in node.outputs]
                call = Call(op, path, node, env, ins, outs, self.owner)
                for ref in outs:
                    ref.maker = call
                self.calls.append(call)
            else:
                outs = self._enter_nested(op, inner, path, ins, opened)
                for ref, tensor in zip(outs, node.outputs, strict=True):
                    ref.tensors.append(tensor)
            env.update({id(t): r for t, r in zip(node.outputs, outs, strict=True)})
        return [env[id(t)] for t in _keras.flat_outputs(functional)]

    def _enter_nested(
        self, model: Any, inner: Any, path: str, ins: list[Ref], opened: bool
    ) -> list[Ref]:
        entries = _keras.flat_inputs(inner)
        if len(entries) != len(ins):
            raise GrowthError(
                f"The nested model '{path}' takes {len(entries)} inputs but is called with "
                f"{len(ins)} tensors; optional inputs of nested models are not supported."
            )
        env = {}
        for tensor, ref in zip(entries, ins, strict=True):
            if len(tensor.shape) != ref.rank:
                raise GrowthError(
                    f"The nested model '{path}' expects an input of rank {len(tensor.shape)} but "
                    f"is called with shape {ref.shape}. Call it with the rank it was built for."
                )
            if all(tensor is not t for t in ref.tensors):
                ref.tensors.append(tensor)
            env[id(tensor)] = ref
        container = self.containers.setdefault(
            id(model), Container(model, path, inner, [], self.owner)
        )
        container.entries.append(ins)
        before = self.owner
        if opened:
            self.owner = container
        outputs = self.enter(inner, path + "/", env)
        self.owner = before
        return outputs
