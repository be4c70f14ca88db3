"""Recurrent layers: SimpleRNN, GRU, LSTM, ConvLSTM, RNN(cell), stacked cells, Bidirectional.

A cell's kernel holds its gates one after another along its last axis: new units go to the end of
each. A new unit with zero fan-in stays at zero for good if the activation maps 0 to 0 and its
state starts at 0, whatever its gates do. What reads it are the consumers and, through the
recurrent kernel, all units of the same layer.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import keras
import numpy as np

from keras_grow import _keras
from keras_grow.graph import Call
from keras_grow.rules import activations
from keras_grow.rules.base import Rule
from keras_grow.rules.registry import register
from keras_grow.rules.space import UNKNOWN, Channels, Production, Space, Weight, along
from keras_grow.rules.values import zero_stays
from keras_grow.rules.weighted import size_of

layers = keras.layers

# Gates and states of every cell. A new unit of an LSTM remembers: forget gates have bias 1.
_GATES: dict[type, int] = {
    layers.SimpleRNNCell: 1,
    layers.GRUCell: 3,
    layers.LSTMCell: 4,
    _keras.ConvLSTMCell: 4,
}
_STATES: dict[type, int] = {
    layers.SimpleRNNCell: 1,
    layers.GRUCell: 1,
    layers.LSTMCell: 2,
    _keras.ConvLSTMCell: 2,
}


class _Run:
    """One recurrent layer in one call: alone, or one direction of a Bidirectional.

    Args:
        part: prefix of the names of the channels it makes; the last cell's have no other name.
    """

    def __init__(self, call: Call, layer: Any, space: Space, part: str = "") -> None:
        self.call, self.layer, self.space, self.part = call, layer, space, part
        self.cells = _keras.cells_of(layer)
        first = getattr(self.cells[0], "data_format", "channels_last") == "channels_first"
        # Of the channels in a state, which has no time axis.
        self.axis = 1 if first else call.inputs[0].rank - 2

    @property
    def unknown(self) -> str | None:
        """Why the layer's cells are not understood, or None if they are."""
        for cell in self.cells:
            if type(cell) not in _GATES:
                return f"runs a cell of class {type(cell).__name__}, for which there is no rule"
        return None

    def __call__(
        self, x: Channels | None, initial: Sequence[Channels | None] | None
    ) -> list[Channels | None]:
        """The channels of the states of every cell, along `axis`; the last cell's come out.

        Args:
            x: channels of the input.
            initial: of the initial states that the call is given.
        """
        variables = _keras.state_variables(self.layer)
        result: list[Channels | None] = []
        refresh = partial(_refresh, self.layer)
        if x is not None:
            self.space.attribute(self.call, x, refresh, f"input {self.part}")
        for i, cell in enumerate(self.cells):
            last = i == len(self.cells) - 1
            part = self.part if last else f"{self.part}{'_' if self.part else ''}cell_{i}"
            count, start = _STATES[type(cell)], len(result)
            states = None if initial is None else initial[start : start + count]
            x = self._cell(cell, x, states, part, refresh)
            if x is not None:
                for variable in variables[start : start + count]:
                    self.space.carry(self.call, variable, self.axis, x, 0.0)
            result += [x] * count
        return result

    def _cell(
        self,
        cell: Any,
        x: Channels | None,
        states: Sequence[Channels | None] | None,
        part: str,
        refresh: Callable[[int], None],
    ) -> Channels | None:
        space, call = self.space, self.call
        kernel, recurrent, gates = cell.kernel, cell.recurrent_kernel, _GATES[type(cell)]
        rows, columns = len(kernel.shape) - 2, len(kernel.shape) - 1
        if x is not None:
            space.read(call, kernel, rows, x)
        weights = [Weight(kernel, columns, gates), Weight(recurrent, columns, gates)]
        if cell.bias is not None:
            forgets = getattr(cell, "unit_forget_bias", False)
            fill = np.array([0.0, 1.0, 0.0, 0.0]) if forgets else 0.0
            weights.append(Weight(cell.bias, len(cell.bias.shape) - 1, gates, fill))
        made = space.produce(
            call,
            Production(
                weights, self.axis, part=part, width=int(recurrent.shape[rows]), resize=refresh
            ),
        )
        if made is None:
            return None
        if activations.at_zero(cell.recurrent_activation if gates > 1 else cell.activation) is None:
            space.refuse(call, [made], "has gates with an activation for which there is no rule")
            return None
        if states is not None:
            made = self._started(made, states)
        made = activations.through(space, call, made, cell.activation)
        if made is None:
            return None
        # With f(0) = 0 a unit stays at zero; otherwise it moves.
        made = made.mapped(zero_stays)
        space.read(call, recurrent, rows, made)
        return made

    def _started(self, made: Channels, states: Sequence[Channels | None]) -> Channels:
        """The new units when their state starts with the channels of `states`."""
        known = [s for s in states if s is not None]
        if len(known) < len(states) or any(s.axis != self.axis for s in known):
            self.space.refuse(
                self.call,
                [made, *known],
                "starts from a state whose channels cannot grow with its own",
            )
            return made
        joined = self.space.join(self.call, [made, *known])
        zero = np.all([s.values == 0 for s in (made, *known)], axis=0)
        return joined.mapped(lambda v: np.where(zero, 0.0, UNKNOWN))


def _refresh(layer: Any, size: int = 0) -> None:
    _keras.refresh_recurrent(layer)


class Recurrent(Rule):
    """What one recurrent layer and two of them share."""

    def enter(
        self, call: Call, inputs: list, space: Space, axis: int
    ) -> tuple[Channels | None, list[Channels | None] | None]:
        """Channels of the sequence and, if there are any, of the initial states."""
        if len(inputs) == 1:  # inside a TimeDistributed it has another name
            return along(space, call, inputs[0], axis + 1), None
        found: dict[str, list[Channels | None]] = {}
        for name, channels in zip(_keras.input_names(call.node), inputs, strict=True):
            found.setdefault(name, []).append(channels)
        (x,) = found.pop("sequences")
        states = found.pop("initial_state", None)
        for name, others in found.items():
            if any(c is not None for c in others):
                space.refuse(call, others, f"takes it as its {name}, which must keep its shape")
        return along(space, call, x, axis + 1), states

    def runs(self, call: Call) -> list[Any]:
        """The recurrent layers in it."""
        raise NotImplementedError

    def cost(
        self,
        call: Call,
        inputs: list[tuple],
        outputs: list[tuple],
        weights: Callable[[Any], tuple],
    ) -> float:
        steps, total = float(inputs[0][1] or 1), 0.0
        for layer in self.runs(call):
            for cell in _keras.cells_of(layer):
                if type(cell) not in _GATES:
                    continue
                positions = 1.0
                if _keras.is_conv_cell(cell):
                    shape = cell.get_initial_state(1)[0].shape
                    positions = size_of(tuple(shape)) / cell.filters
                for kernel in (cell.kernel, cell.recurrent_kernel):
                    total += positions * float(np.prod(weights(kernel)))
        return 2.0 * steps * total


@register(
    layers.SimpleRNN,
    layers.GRU,
    layers.LSTM,
    layers.RNN,
    layers.ConvLSTM1D,
    layers.ConvLSTM2D,
    layers.ConvLSTM3D,
)
class RecurrentRule(Recurrent):
    """A layer's own name means the units of its (last) cell; `layer.cell_0` those of the first."""

    def runs(self, call: Call) -> list[Any]:
        return [call.op]

    def flow(self, call: Call, inputs: list, space: Space) -> list:
        run = _Run(call, call.op, space)
        if run.unknown is not None:
            space.refuse(call, inputs, run.unknown)
            return [None] * len(call.outputs)
        x, initial = self.enter(call, inputs, space, run.axis)
        states = run(x, initial)
        out = states[-1]
        if out is not None and call.op.return_sequences:
            out = out.at(run.axis + 1)
        return [out, *states][: len(call.outputs)]


@register(layers.Bidirectional)
class BidirectionalRule(Recurrent):
    """Both directions grow together, so that the user's one number stays one.

    `merge_mode="concat"` puts the new channels after each half.
    """

    def runs(self, call: Call) -> list[Any]:
        return [call.op.forward_layer, call.op.backward_layer]

    def flow(self, call: Call, inputs: list, space: Space) -> list:
        layer = call.op
        runs = [
            _Run(call, inner, space, part)
            for inner, part in zip(self.runs(call), ("", "backward"), strict=True)
        ]
        nothing: list[Channels | None] = [None] * len(call.outputs)
        for run in runs:
            if type(run.layer) not in _LAYERS:
                reason = f"wraps a {type(run.layer).__name__}, for which there is no rule"
                space.refuse(call, inputs, reason)
                return nothing
            if run.unknown is not None:
                space.refuse(call, inputs, run.unknown)
                return nothing
        axis = runs[0].axis
        x, initial = self.enter(call, inputs, space, axis)
        half = None if initial is None else len(initial) // 2
        there = runs[0](x, None if initial is None else initial[:half])
        back = runs[1](x, None if initial is None else initial[half:])
        states = [*there, *back]
        out: list[Channels | None] = [None] * (2 if layer.merge_mode is None else 1)
        ends = [c for c in (there[-1], back[-1]) if c is not None]
        if len(ends) == 1:
            space.refuse(call, ends, "has another direction that cannot grow with it")
        elif ends and len(ends[0]) != len(ends[1]):
            space.refuse(call, ends, "has two directions of different widths")
        elif ends:
            out = self._merge(call, ends[0], ends[1], space)
            last = call.outputs[0].rank - 1
            shift = int(layer.return_sequences)
            out = [None if c is None else c.at(min(c.axis + shift, last)) for c in out]
        return [*out, *states][: len(call.outputs)]

    def _merge(
        self, call: Call, there: Channels, back: Channels, space: Space
    ) -> list[Channels | None]:
        mode = call.op.merge_mode
        joined = space.join(call, [there, back])
        if mode is None:
            return [there, back]
        zeros = (there.values == 0).astype(int) + (back.values == 0)
        if mode == "mul":
            if ((joined.labels < 0) & (zeros == 2)).any():
                space.activation(call, joined)  # the slope by each factor is the other, which is 0
            values = np.where(zeros > 0, 0.0, UNKNOWN)
        else:
            values = np.where(zeros == 2, 0.0, UNKNOWN)
        values = np.where(joined.labels < 0, values, 0.0)
        merged = Channels(joined.axis, joined.labels, values)
        if mode == "concat" and joined.axis == call.inputs[0].rank - 2:
            return [space.tile(merged, 2)]
        return [merged]


_LAYERS = {
    layers.SimpleRNN,
    layers.GRU,
    layers.LSTM,
    layers.RNN,
    layers.ConvLSTM1D,
    layers.ConvLSTM2D,
    layers.ConvLSTM3D,
}
