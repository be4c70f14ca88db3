"""Gradients at sites: one forward and backward pass serves all sites that grow together.

For a new channel with zero fan-in the loss is, to first order, bilinear in its fan-in W and its
fan-out v: the gradient by W is M v with M the mixed second derivative (paper, equations 9 and 16).
M is exact here, borders and strides included, for whatever lies between producer and consumer:
the inputs of the producer are pushed forward through the calls in between ("shadows"), and
correlated with the gradient by the consumer's pre-activation.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops, tree

from keras_grow import _backend, _keras
from keras_grow.errors import DataError, GrowthError
from keras_grow.graph import Call, Ref, run
from keras_grow.planning import Plan, ReadSlot, SitePlan
from keras_grow.rules import NoSlope, Shadow, ShadowContext, activations, rule_for

# Gradients of a float16 model are taken of the loss times this, so that they do not underflow.
FLOAT16_SCALE = 1024.0


class Statistics:
    """Computes the statistics of every site of a plan on batches of growth data.

    Weights, BatchNormalization statistics, seeds and optimizer stay untouched. The pass runs in
    training mode, since that is how the new weights will be trained.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.graph = plan.atlas.graph
        self.model = self.graph.model
        self.variables = _keras.state_of(self.model)
        self.readers: dict[int, list[tuple[SitePlan, ReadSlot]]] = {}
        self.producing: set[int] = set()
        for site in plan.sites:
            for slot in site.reads:
                if slot.free:
                    self.readers.setdefault(id(slot.call.op), []).append((site, slot))
            self.producing |= {id(w.producer.call.op) for w in site.writes}
        self.probed = [c for c in self.graph.calls if id(c.op) in self.readers]
        self.kept = self._refs_to_keep()
        self._pass = _backend.compiled(self._gradients, self.variables)

    def __call__(self, x: Any, y: Any = None, sample_weight: Any = None) -> "Measured":
        """Loss of the batch, and M of every site.

        Raises:
            GrowthError: the new channels of a site get no gradient, with the reason.
            DataError: the loss of the batch is not finite.
        """
        try:
            self._check_rules()
            loss, record = self._pass(x, y, sample_weight)
            matrices = [self._matrix(site, record) for site in self.plan.sites]
        except NoSlope as reason:
            raise GrowthError(
                f"The best direction for new channels cannot be computed: {reason}. "
                "Use method='random' there, or leave the site out with names=."
            ) from None
        loss = float(_backend.to_numpy(loss))
        if not np.isfinite(loss):
            raise DataError(
                f"The loss of the growth batch is {loss}, so its gradients say nothing. "
                "Check the growth data, or whether training has diverged."
            )
        arrays = [_backend.to_numpy(m).astype("float64") for m in matrices]
        return Measured(loss, dict(zip(self.plan.sites, arrays, strict=True)), self, record)

    def steps(
        self, measured: "Measured", directions: dict[SitePlan, np.ndarray]
    ) -> dict[SitePlan, np.ndarray]:
        """First-order change of the loss when new neurons take one step, one site at a time.

        Args:
            directions: fan-outs by site, (fan-out entries, k).

        Returns:
            By site (2, k): the change for a unit step of each neuron's fan-in along +M v, and
            along -M v, one-sided activations included.
        """
        changes = {}
        for site, v in directions.items():
            fan_in = measured.matrices[site] @ v
            norms = np.linalg.norm(fan_in, axis=0, keepdims=True)
            fan_in = np.divide(fan_in, norms, out=np.zeros_like(fan_in), where=norms > 0)
            change = self._site_steps(site, measured.record, fan_in.astype("float32"))
            changes[site] = (change * v.T).sum(axis=2)
        return changes

    def _check_rules(self) -> None:
        """Raises NoSlope where a kernel lies in a layer whose rule knows no gradients."""
        for call in self.probed:
            if not rule_for(call.op).knows_gradient("correlate"):
                raise NoSlope(f"{call!r} has no rule for the gradient of kernels in it")
        for site in self.plan.sites:
            for slot in site.writes:
                call = slot.producer.call
                if not rule_for(call.op).knows_gradient("patches"):
                    raise NoSlope(f"{call!r} has no rule for the gradient of kernels in it")

    # --- the pass ------------------------------------------------------------------------------

    def _refs_to_keep(self) -> list[Ref]:
        """Tensors of the real pass that shadows need: inputs of producers, and what joins."""
        states = self.plan.states
        kept: dict[Ref, None] = {}
        for call in self.graph.calls:
            if id(call.op) in self.producing:
                kept[call.inputs[0]] = None
            if any(r in states for r in call.inputs):
                kept.update(dict.fromkeys(r for r in call.inputs if r not in states))
        return list(kept)

    def _gradients(self, mapping: list, x: Any, y: Any, sample_weight: Any) -> Any:
        scale = FLOAT16_SCALE if self._has_float16() else 1.0
        mapping = mapping or [(v, v.value) for v in self.variables]
        number = {call: i for i, call in enumerate(self.probed)}

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
                loss = self._loss(x, y, y_pred, sample_weight)
                return loss * scale, [env[r] for r in self.kept]

            return _keras.pure_call(body, mapping)

        loss, gradients, tensors = _backend.gradients(forward)
        return loss / scale, (
            [ops.stop_gradient(_single(t)) for t in tensors],
            [ops.stop_gradient(_single(g if scale == 1 else g / scale)) for g in gradients],
        )

    def _loss(self, x: Any, y: Any, y_pred: Any, sample_weight: Any) -> Any:
        try:
            return _keras.compute_loss(self.model, x, y, y_pred, sample_weight)
        except Exception as error:
            shapes = [
                tree.map_structure(lambda t: None if t is None else tuple(t.shape), part)
                for part in (x, y, y_pred, sample_weight)
            ]
            raise DataError(
                f"The loss of model '{self.model.name}' could not be computed on the growth data. "
                f"Received: x {shapes[0]}, y {shapes[1]}, predictions {shapes[2]}, sample weights "
                f"{shapes[3]}. The loss said: {error}"
            ) from error

    def _has_float16(self) -> bool:
        return any(la.compute_dtype == "float16" for la in _keras.sublayers(self.model))

    # --- shadows -------------------------------------------------------------------------------

    def _context(self, site: SitePlan, record: Any, directional: bool) -> ShadowContext:
        tensors = dict(zip(self.kept, record[0], strict=True))

        def value(ref: Ref) -> float | None:
            state = self.plan.states.get(ref)
            if state is None:
                return None
            values = state.values[state.labels < 0]
            return float(values[0]) if (values == values[0]).all() else float("nan")

        def axis(ref: Ref) -> int:
            return self.plan.states[ref].axis

        def carries(ref: Ref) -> bool:
            state = self.plan.states.get(ref)
            return state is not None and bool(np.isin(state.labels, -1 - site.ids).any())

        return ShadowContext(directional, tensors.__getitem__, value, axis, carries)

    def _matrix(self, site: SitePlan, record: Any) -> Any:
        """M of one site: rows by producer, columns by free consumer."""
        for slot in site.writes:
            if slot.columns.shape[1] > 1:
                raise NoSlope(
                    f"{slot.columns.shape[1]} channels of '{slot.producer.path}' at a time are "
                    "tied to each other"
                )
        context = self._context(site, record, directional=False)
        rows = []
        for slot in site.writes:
            op = slot.producer.call.op

            def start(call: Call, op: Any = op) -> Shadow | None:
                if call.op is not op:
                    return None
                return rule_for(op).patches(call, context.actual(call.inputs[0]))

            rows.append(self._propagate(site, start, record, context))
        return rows[0] if len(rows) == 1 else ops.concatenate(rows, axis=0)

    def _site_steps(self, site: SitePlan, record: Any, fan_in: np.ndarray) -> np.ndarray:
        """Loss gradient by the fan-out of neurons whose fan-in takes a step, one-sided.

        Args:
            fan_in: unit steps, (fan-in entries, k).

        Returns:
            (2, k, fan-out entries): for steps along +`fan_in` and along -`fan_in`.
        """
        context = self._context(site, record, directional=True)
        count = fan_in.shape[1]
        both = np.concatenate([fan_in, -fan_in], axis=1)
        offsets = np.cumsum([0, *self._fan_in_sizes(site)])

        def start(call: Call) -> Shadow | None:
            for slot, a, b in zip(site.writes, offsets[:-1], offsets[1:], strict=True):
                if slot.producer.call.op is call.op:
                    x = context.actual(call.inputs[0])
                    weights = ops.convert_to_tensor(both[a:b], x.dtype)
                    pre, axis = rule_for(call.op).respond(call, x, weights)
                    return Shadow(pre, axis, np.arange(2 * count))
            return None

        change = _backend.to_numpy(self._propagate(site, start, record, context))
        return change.astype("float64").reshape(2, count, -1)

    @staticmethod
    def _fan_in_sizes(site: SitePlan) -> list[int]:
        sizes = []
        for slot in site.writes:
            shape = list(slot.edit.variable.shape)
            del shape[slot.edit.axis]
            sizes.append(int(np.prod(shape)))
        return sizes

    def _propagate(
        self,
        site: SitePlan,
        start: Callable[[Call], Shadow | None],
        record: Any,
        context: ShadowContext,
    ) -> Any:
        """Pushes shadows from the producers on; gathers the gradient by the fan-out.

        Returns:
            (entries of the shadow, fan-out entries of all free consumers).
        """
        slots = [slot for slot in site.reads if slot.free]
        columns: dict[int, Any] = {}
        gradients = dict(zip(self.probed, record[1], strict=True))
        reading = {id(slot.call.op) for slot in site.reads}
        shadows: dict[Ref, Shadow] = {}
        count = 0
        for call in self.graph.calls:
            inputs = [shadows.get(r) for r in call.inputs]
            if any(s is not None for s in inputs):
                if id(call.op) in reading:
                    for slot in slots:
                        if slot.call.op is call.op:
                            part = self._correlate(call, inputs[0], gradients[call])
                            have = columns.get(id(slot))
                            columns[id(slot)] = part if have is None else have + part
                else:
                    found = rule_for(call.op).shadow(call, inputs, context)
                    shadows.update(
                        (r, s) for r, s in zip(call.outputs, found, strict=True) if s is not None
                    )
            begin = start(call)
            if begin is not None:
                count = len(begin.ids)
                facts = activations.at_zero(call.op.activation)
                assert facts is not None
                shadows[call.outputs[0]] = activations.shadow_through(call, begin, facts, context)
        parts = [
            columns[id(slot)]
            if id(slot) in columns
            else ops.zeros((count, _entries(slot)), dtype="float32")
            for slot in slots
        ]
        return parts[0] if len(parts) == 1 else ops.concatenate(parts, axis=1)

    def _correlate(self, call: Call, shadow: Shadow | None, gradient: Any) -> Any:
        assert shadow is not None
        product, ids = rule_for(call.op).correlate(call, shadow, gradient)
        order = np.argsort(ids, kind="stable")
        count = len(np.unique(ids))
        if (order != np.arange(len(ids))).any():
            product = ops.take(product, order, axis=0)
        return ops.reshape(product, (count, -1))


@dataclass(eq=False)
class Measured:
    """What one batch says about the sites of a plan.

    Attributes:
        loss: of the batch.
        matrices: M by site, shape (fan-in entries of all producers, fan-out entries of all
            consumers), float64.
        statistics: where it comes from.
        record: tensors of the pass that `Statistics.steps` needs again.
    """

    loss: float
    matrices: dict[SitePlan, np.ndarray]
    statistics: Statistics
    record: Any


def _entries(slot: ReadSlot) -> int:
    """Fan-out weights of one new channel in one consumer."""
    shape = list(slot.edit.variable.shape)
    del shape[slot.edit.axis]
    return int(np.prod(shape)) * slot.rows.shape[1]


def _single(tensor: Any) -> Any:
    """Low-precision tensors in float32; others as they are."""
    dtype = keras.backend.standardize_dtype(tensor.dtype)
    return ops.cast(tensor, "float32") if dtype in ("float16", "bfloat16") else tensor
