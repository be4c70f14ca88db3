"""One forward and backward pass serves all sites that grow together.

What is kept of it: the tensors that new channels would be computed from, and the gradient of the
loss by the pre-activations of the layers that would read them.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
from keras import ops, tree

from keras_grow import _backend, _keras
from keras_grow.errors import DataError
from keras_grow.graph import Call, Ref, graph_of, run
from keras_grow.planning import Plan, ReadSlot, SitePlan
from keras_grow.planning.plan import INVERSE
from keras_grow.rules import rule_for

# Gradients of a float16 model are taken of the loss times this, so that they do not underflow.
FLOAT16_SCALE = 1024.0


@dataclass(eq=False)
class Record:
    """One batch as the sites of a plan see it, in backend tensors.

    Attributes:
        loss: of the batch.
        samples: in the batch.
        tensors: of the pass, by `Ref`: inputs of producers, and what joins the new channels.
        gradients: of the loss, by the pre-activations of the consumers.
        weights: gradients of the loss by the variables that were asked for, by id.
        masks: of those tensors that have one: which positions count.
    """

    loss: float
    samples: int
    tensors: dict[Ref, Any]
    gradients: dict[Call, Any]
    weights: dict[int, Any] = field(default_factory=dict)
    masks: dict[Ref, Any] = field(default_factory=dict)

    def counted(self, ref: Ref, tensor: Any, axis: int) -> Any:
        """`tensor`, of the positions of `ref`, with zeros where a mask leaves a position out.

        Args:
            axis: of its channels.
        """
        mask = self.masks.get(ref)
        positions = [d for a, d in enumerate(tensor.shape) if a != axis]
        if mask is None or list(mask.shape) != positions:
            return tensor
        return tensor * ops.expand_dims(ops.cast(mask, tensor.dtype), axis)

    @property
    def size(self) -> int:
        """Bytes it takes."""
        arrays = [*self.tensors.values(), *self.gradients.values()]
        return sum(4 * int(np.prod(tuple(a.shape))) for a in arrays)


def fan_out_slots(site: SitePlan) -> list[ReadSlot]:
    """The kernels that would read the new channels of a site, in the order of a fan-out."""
    return [s for s in site.reads if s.free or site.form == INVERSE]


class Recording:
    """Runs the model of a plan on batches of growth data, and keeps what its sites need.

    Weights, BatchNormalization statistics, seeds and optimizer stay untouched. The pass runs in
    training mode, since that is how the new weights will be trained.

    Args:
        plan: of the growth in question.
        inputs: also keep the inputs of consumers, for methods that look at what they read now.
        weights: variables that the loss is to be differentiated by too, as far as they are
            trained.
        gradients: whether there is a backward pass at all. Without it only what a forward pass
            tells is recorded, and the loss is 0.
    """

    def __init__(
        self,
        plan: Plan,
        inputs: bool = False,
        weights: Iterable[Any] = (),
        gradients: bool = True,
    ) -> None:
        self.plan = plan
        self.graph = plan.atlas.graph
        self.model = self.graph.model
        self.variables = _keras.state_of(self.model)
        wanted = {id(v) for v in weights}
        self.trained = [v for v in self.model.trainable_variables if id(v) in wanted]
        reading = {id(s.call.op) for site in plan.sites for s in fan_out_slots(site)}
        self.producing = {id(w.producer.call.op) for site in plan.sites for w in site.writes}
        # A layer may be called where it reads no new channel; its rule finds that out.
        self.probed = [
            c
            for c in self.graph.calls
            if gradients and id(c.op) in reading and rule_for(c.op).knows_gradient("correlate")
        ]
        self.kept = self._refs_to_keep(inputs)
        work = self._gradients if gradients else self._forward
        self._pass = _backend.compiled(work, self.variables)

    def __call__(self, x: Any, y: Any = None, sample_weight: Any = None) -> Record:
        """Runs one batch.

        Raises:
            DataError: the loss cannot be computed or is not finite.
        """
        value, (tensors, masks, gradients) = self._pass(x, y, sample_weight)
        loss = float(_backend.to_numpy(value))
        if not np.isfinite(loss):
            raise DataError(
                f"The loss of the growth batch is {loss}, so its gradients say nothing. "
                "Check the growth data, or whether training has diverged."
            )
        count = len(self.probed)
        return Record(
            loss,
            len(tree.flatten(x)[0]),
            dict(zip(self.kept, tensors, strict=True)),
            dict(zip(self.probed, gradients[:count], strict=True)),
            {id(v): g for v, g in zip(self.trained, gradients[count:], strict=True)},
            {r: mask for r, mask in zip(self.kept, masks, strict=True) if mask is not None},
        )

    def _refs_to_keep(self, inputs: bool) -> list[Ref]:
        states = self.plan.states
        kept: dict[Ref, None] = {}
        for call in self.graph.calls:
            if id(call.op) in self.producing:
                kept[call.inputs[0]] = None
            if any(r in states for r in call.inputs):
                kept.update(dict.fromkeys(r for r in call.inputs if r not in states))
        if inputs:
            kept.update(dict.fromkeys(call.inputs[0] for call in self.probed))
        return list(kept)

    def _gradients(self, mapping: list, x: Any, y: Any, sample_weight: Any) -> Any:
        scale = FLOAT16_SCALE if self._has_float16() else 1.0
        mapping = mapping or [(v, v.value) for v in self.variables]
        number = {call: i for i, call in enumerate(self.probed)}
        place = {id(v): len(number) + i for i, v in enumerate(self.trained)}

        def forward(probe: Callable[[int, Any], Any]) -> tuple[Any, Any]:
            def hook(call: Call, args: tuple, kwargs: dict) -> Any:
                if call not in number:
                    return call.op(*args, **kwargs)
                plain = call.op.activation
                call.op.activation = lambda z: plain(probe(number[call], z))
                try:
                    return call.op(*args, **kwargs)
                finally:
                    call.op.activation = plain

            def body() -> tuple[Any, Any]:
                y_pred, env = run(self.graph, x, hook, training=True)
                loss = loss_of(self.model, x, y, y_pred, sample_weight)
                return loss * scale, self._kept_of(env)

            values = [
                (v, probe(place[id(v)], value) if id(v) in place else value) for v, value in mapping
            ]
            return _keras.pure_call(body, values)

        loss, gradients, (tensors, masks) = _backend.gradients(forward)
        return loss / scale, (
            [ops.stop_gradient(_single(t)) for t in tensors],
            masks,
            [ops.stop_gradient(_single(g if scale == 1 else g / scale)) for g in gradients],
        )

    def _forward(self, mapping: list, x: Any, y: Any, sample_weight: Any) -> Any:
        mapping = mapping or [(v, v.value) for v in self.variables]

        def body() -> Any:
            _, env = run(self.graph, x, training=True)
            return self._kept_of(env)

        tensors, masks = _keras.pure_call(body, mapping)
        kept = [ops.stop_gradient(_single(t)) for t in tensors]
        return ops.convert_to_tensor(0.0), (kept, masks, [])

    def _kept_of(self, env: dict[Ref, Any]) -> tuple[list[Any], list[Any]]:
        """The tensors to keep, and their masks or None."""
        tensors = [env[r] for r in self.kept]
        return tensors, [_keras.mask_of(t) for t in tensors]

    def _has_float16(self) -> bool:
        return any(la.compute_dtype == "float16" for la in _keras.sublayers(self.model))


class LossOf:
    """The loss of a model on a batch, in training mode; nothing in the model changes."""

    def __init__(self, model: Any) -> None:
        graph, variables = graph_of(model), _keras.state_of(model)

        def forward(mapping: list, x: Any, y: Any, sample_weight: Any) -> Any:
            def body() -> Any:
                y_pred, _ = run(graph, x, training=True)
                return loss_of(model, x, y, y_pred, sample_weight)

            return _keras.pure_call(body, mapping or [(v, v.value) for v in variables])

        self._call = _backend.compiled(forward, variables)

    def __call__(self, x: Any, y: Any = None, sample_weight: Any = None) -> float:
        return float(_backend.to_numpy(self._call(x, y, sample_weight)))


def loss_of(model: Any, x: Any, y: Any, y_pred: Any, sample_weight: Any) -> Any:
    """What the model's compiled loss says, its own losses included."""
    try:
        return _keras.compute_loss(model, x, y, y_pred, sample_weight)
    except Exception as error:
        shapes = [
            tree.map_structure(lambda t: None if t is None else tuple(t.shape), part)
            for part in (x, y, y_pred, sample_weight)
        ]
        missing = "y is missing: pass data=(x, y). " if y is None else ""
        raise DataError(
            f"The loss of model '{model.name}' could not be computed on the growth data. {missing}"
            f"Received: x {shapes[0]}, y {shapes[1]}, predictions {shapes[2]}, sample weights "
            f"{shapes[3]}. The loss said: {error}"
        ) from error


def shares(records: Sequence[Record]) -> list[float]:
    """What each batch counts for in a mean over samples."""
    total = sum(r.samples for r in records)
    return [r.samples / total for r in records]


def _single(tensor: Any) -> Any:
    """Low-precision tensors in float32; others as they are."""
    dtype = keras.backend.standardize_dtype(tensor.dtype)
    return ops.cast(tensor, "float32") if dtype in ("float16", "bfloat16") else tensor
