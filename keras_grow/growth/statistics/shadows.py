"""The new channels of one site, pushed from its producers through the graph to its consumers.

For a new channel with fan-in W and fan-out V the loss changes, to first order in what the
consumers receive, by the product of V with the correlation of two things: the new channel as the
consumers would see it, and the gradient by their pre-activations. Three kinds of channel are of
use, and the rules know each:

* linear: the channel around zero, as a linear function of W. The change is then V' M' W, with M
  the mixed second derivative of the loss (paper, equations 9 and 16).
* one-sided: the same behind a kink such as relu's, where the step from zero has a direction.
* finite: the channel as it is with a fan-in W of any size. This is exact for a fan-out of zero.

M is exact, borders and strides included, for whatever lies between producer and consumer.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from keras import ops

from keras_grow.graph import Call, Ref
from keras_grow.growth.statistics.recording import Record, fan_out_slots
from keras_grow.planning import Plan, ReadSlot, SitePlan
from keras_grow.rules import NoSlope, Shadow, ShadowContext, activations, rule_for
from keras_grow.rules.shadows import FINITE, LINEAR

Start = Callable[[Call], Shadow | None]


class SiteShadows:
    """What the records of a pass say about the new channels of one site of a plan.

    Raises:
        NoSlope: (every method) a layer on the way has no rule for gradients of new channels.
    """

    def __init__(self, plan: Plan, site: SitePlan) -> None:
        self.plan = plan
        self.site = site
        self.slots = fan_out_slots(site)
        self.calls = _calls_between(plan, site)
        self.fan_in_sizes = [_fan_in_size(slot) for slot in site.writes]

    @property
    def shape(self) -> tuple[int, int]:
        """Entries of a fan-in, of all producers, and of a fan-out, of all consumers."""
        return sum(self.fan_in_sizes), sum(_entries(slot) for slot in self.slots)

    @property
    def normalised(self) -> bool:
        """Whether each channel is divided by its own size before it is read."""
        return any(rule_for(call.op).lifts(call) for call in self.calls)

    def check(self) -> None:
        """Raises NoSlope where a kernel lies in a layer whose rule knows no gradients."""
        for slot in self.slots:
            if not rule_for(slot.call.op).knows_gradient("correlate"):
                raise NoSlope(f"{slot.call!r} has no rule for the gradient of kernels in it")
        for write in self.site.writes:
            call = write.producer.call
            if not rule_for(call.op).knows_gradient("patches"):
                raise NoSlope(f"{call!r} has no rule for the gradient of kernels in it")
            if write.columns.shape[1] > 1:
                raise NoSlope(
                    f"{write.columns.shape[1]} channels of '{write.producer.path}' at a time are "
                    "tied to each other"
                )

    def matrix(self, record: Record) -> Any:
        """M: rows by fan-in entry, columns by fan-out entry. A backend tensor."""
        context = self._context(record, LINEAR)
        rows: list[Any] = []
        for slot in self.site.writes:
            op = slot.producer.call.op

            def start(call: Call, op: Any = op) -> Shadow | None:
                if call.op is not op:
                    return None
                return rule_for(op).patches(call, context.actual(call.inputs[0]))

            rows.append(self._gathered(start, record, context, self.fan_in_sizes[len(rows)]))
        return rows[0] if len(rows) == 1 else ops.concatenate(rows, axis=0)

    def response(self, record: Record, fan_in: Any, mode: str) -> Any:
        """Gradient of the loss by the fan-outs of channels with these fan-ins.

        Args:
            fan_in: backend tensor (fan-in entries, k). The one-sided kind does not depend on its
                length, only the result is proportional to it.
            mode: "linear", "one-sided" or "finite".

        Returns:
            (k, fan-out entries).
        """
        context = self._context(record, mode)
        start = self._responding(fan_in, context)
        return self._gathered(start, record, context, int(fan_in.shape[1]))

    def channels(
        self, record: Record, fan_in: Any, noted: dict[Call, Any] | None = None
    ) -> list[tuple[Call, Shadow]]:
        """Channels with these fan-ins as every consumer of a fan-out sees them in training.

        Args:
            fan_in: backend tensor (fan-in entries, k).
            noted: where batch normalisations on the way put the mean and variance they take.
        """
        context = self._context(record, FINITE, noted)
        arrivals = self._arrivals(self._responding(fan_in, context), context)
        free = {id(slot.call.op) for slot in self.slots}
        return [
            (call, shadow)
            for call, shadow in arrivals
            if shadow is not None and id(call.op) in free
        ]

    def inputs(self, record: Record) -> list[Any]:
        """What a fan-in multiplies, by producer: rows of (positions of all samples, entries).

        Positions that a mask leaves out are zero.
        """
        parts = []
        for slot in self.site.writes:
            op = slot.producer.call.op
            calls = [c for c in self.plan.atlas.graph.calls if c.op is op]
            found = []
            for call in calls:
                ref = call.inputs[0]
                patches = rule_for(op).patches(call, record.tensors[ref])
                found.append((record.counted(ref, patches.tensor, patches.axis), patches.axis))
            parts.append(found)
        return parts

    def _context(
        self, record: Record, mode: str, noted: dict[Call, Any] | None = None
    ) -> ShadowContext:
        states = self.plan.states

        def value(ref: Ref) -> float | None:
            state = states.get(ref)
            if state is None:
                return None
            values = state.values[state.labels < 0]
            return float(values[0]) if (values == values[0]).all() else float("nan")

        def axis(ref: Ref) -> int:
            return states[ref].axis

        def carries(ref: Ref) -> bool:
            state = states.get(ref)
            return state is not None and bool(np.isin(state.labels, -1 - self.site.ids).any())

        return ShadowContext(mode, record.tensors.__getitem__, value, axis, carries, noted)

    def _responding(self, fan_in: Any, context: ShadowContext) -> Start:
        """Channels with given fan-ins, where their producers are called."""
        offsets = np.cumsum([0, *self.fan_in_sizes])
        ids = np.arange(fan_in.shape[1])

        def start(call: Call) -> Shadow | None:
            for slot, a, b in zip(self.site.writes, offsets[:-1], offsets[1:], strict=True):
                if slot.producer.call.op is call.op:
                    x = context.actual(call.inputs[0])
                    weights = ops.cast(fan_in[a:b], x.dtype)
                    pre, axis = rule_for(call.op).respond(call, x, weights)
                    return Shadow(pre, axis, ids)
            return None

        return start

    def _arrivals(
        self, start: Start, context: ShadowContext
    ) -> Iterator[tuple[Call, Shadow | None]]:
        """Pushes shadows from the producers on, to the calls that read them."""
        reading = {id(slot.call.op) for slot in self.site.reads}
        shadows: dict[Ref, Shadow] = {}
        for call in self.calls:
            inputs = [shadows.get(r) for r in call.inputs]
            if any(s is not None for s in inputs):
                if id(call.op) in reading:
                    yield call, inputs[0]
                else:
                    found = rule_for(call.op).shadow(call, inputs, context)
                    shadows.update(
                        (r, s) for r, s in zip(call.outputs, found, strict=True) if s is not None
                    )
            begin = start(call)
            if begin is not None:
                shadows[call.outputs[0]] = activations.shadow_of_layer(call, begin, context)

    def _gathered(self, start: Start, record: Record, context: ShadowContext, count: int) -> Any:
        """The gradient by the fan-out.

        Args:
            count: entries of the shadow.

        Returns:
            (count, fan-out entries of all consumers).
        """
        columns: dict[int, Any] = {}
        for call, shadow in self._arrivals(start, context):
            for slot in self.slots:
                if slot.call.op is call.op:
                    part = _correlate(call, shadow, record.gradients[call])
                    have = columns.get(id(slot))
                    columns[id(slot)] = part if have is None else have + part
        parts = [
            columns[id(slot)]
            if id(slot) in columns
            else ops.zeros((count, _entries(slot)), dtype="float32")
            for slot in self.slots
        ]
        return parts[0] if len(parts) == 1 else ops.concatenate(parts, axis=1)


def _calls_between(plan: Plan, site: SitePlan) -> list[Call]:
    """The calls that new channels of a site are made in, pass or end in."""
    producing = {id(w.producer.call.op) for w in site.writes}
    reached: set[Ref] = set()
    found = []
    for call in plan.atlas.graph.calls:
        touched = any(r in reached for r in call.inputs)
        if touched or id(call.op) in producing:
            found.append(call)
            states = (plan.states.get(r) for r in call.outputs)
            reached |= {
                r
                for r, s in zip(call.outputs, states, strict=True)
                if s is not None and np.isin(s.labels, -1 - site.ids).any()
            }
    return found


def _correlate(call: Call, shadow: Shadow | None, gradient: Any) -> Any:
    assert shadow is not None
    product, ids = rule_for(call.op).correlate(call, shadow, gradient)
    order = np.argsort(ids, kind="stable")
    count = len(np.unique(ids))
    if (order != np.arange(len(ids))).any():
        product = ops.take(product, order, axis=0)
    return ops.reshape(product, (count, -1))


def _entries(slot: ReadSlot) -> int:
    """Fan-out weights of one new channel in one consumer."""
    shape = list(slot.edit.variable.shape)
    del shape[slot.edit.axis]
    return int(np.prod(shape)) * slot.rows.shape[1]


def _fan_in_size(slot: Any) -> int:
    shape = list(slot.edit.variable.shape)
    del shape[slot.edit.axis]
    return int(np.prod(shape))
