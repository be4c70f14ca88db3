"""EinsumDense: the channel rules follow from the letters of its equation."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_grow import _keras
from keras_grow.graph import Call
from keras_grow.rules import activations
from keras_grow.rules.base import Rule
from keras_grow.rules.registry import register
from keras_grow.rules.shadows import NoSlope, Shadow
from keras_grow.rules.space import LIKE_OLD, Channels, Production, Space, Weight
from keras_grow.rules.values import unknown
from keras_grow.rules.weighted import plain_kernel, size_of


@dataclass(frozen=True)
class KernelEquation:
    """An einsum equation with one letter for every axis; the batch is an axis of the input.

    Attributes:
        inputs, kernel, output: letters by axis.
        bias: letters by axis of the bias; "-" where its one entry serves all.
    """

    inputs: str
    kernel: str
    output: str
    bias: str

    @classmethod
    def of(cls, call: Call) -> "KernelEquation":
        """The equation of an EinsumDense call, the ellipsis replaced by letters."""
        layer = call.op
        left, output = layer.equation.replace(" ", "").split("->")
        inputs, kernel = left.split(",")
        used = set(layer.equation)
        spare = [c for c in map(chr, range(ord("A"), ord("z") + 1)) if c.isalpha()]
        free = [c for c in spare if c not in used]
        hidden = "".join(free[: call.inputs[0].rank - len(inputs.replace("...", ""))])
        output = output.replace("...", hidden)
        bias = ""
        if layer.bias is not None:
            # Keras gives the bias the letters from the first one in `bias_axes` to the end.
            first = min(output.index(letter) for letter in layer.bias_axes)
            kept = len(layer.bias.shape)
            own = output[first : first + kept]
            bias = "".join(c if c in layer.bias_axes else "-" for c in own)
        return cls(inputs.replace("...", hidden), kernel, output, bias)

    @property
    def made(self) -> str:
        """Letters of channels that the layer makes, in the order of the output."""
        return "".join(c for c in self.output if c in self.kernel and c not in self.inputs)

    @property
    def plain(self) -> bool:
        """One letter is made, and all others of the kernel are contracted."""
        others = [c for c in self.kernel if c not in self.made]
        return len(self.made) == 1 and not any(c in self.output for c in others)


@register(keras.layers.EinsumDense)
class EinsumRule(Rule):
    """y = einsum(equation, x, W) + b.

    A letter of input and kernel alone is contracted: its channels end. A letter of kernel and
    output alone is made: the last such letter is the layer's width. A letter of input and output
    passes, and where the kernel has it too, a new entry there may hold anything.
    """

    def flow(self, call: Call, inputs: list, space: Space) -> list:
        (x,) = inputs
        if not plain_kernel(call, inputs, space):
            return [None]
        equation = KernelEquation.of(call)
        passed = None
        if x is not None:
            passed = self._enter(call, x, equation, space)
        made = self._make(call, equation, space, passed)
        out = made if passed is None else passed
        return [activations.through(space, call, out, call.op.activation)]

    def _enter(
        self, call: Call, x: Channels, equation: KernelEquation, space: Space
    ) -> Channels | None:
        """The incoming channels end in the kernel (None) or go on."""
        layer, letter = call.op, equation.inputs[x.axis]
        kernel = _keras.kernel_of(layer)
        if equation.inputs.count(letter) > 1 or equation.kernel.count(letter) > 1:
            space.refuse(call, [x], f"takes a diagonal along '{letter}' in '{layer.equation}'")
            return None
        if letter not in equation.output:
            if letter in equation.kernel:
                space.read(call, kernel, equation.kernel.index(letter), x)
            else:
                space.refuse(
                    call, [x], f"sums over '{letter}' without weights in '{layer.equation}'"
                )
            return None
        if letter in equation.kernel:
            space.carry(call, kernel, equation.kernel.index(letter), x, LIKE_OLD)
        if letter in equation.bias:
            space.carry(call, layer.bias, equation.bias.index(letter), x, 0.0)
        space.attribute(call, x, partial(_set_size, layer, equation, letter, len(x)))
        return _biased(x.at(equation.output.index(letter)), letter, equation)

    def _make(
        self, call: Call, equation: KernelEquation, space: Space, passed: Channels | None
    ) -> Channels | None:
        layer, kernel = call.op, _keras.kernel_of(call.op)
        last = None
        for letter in equation.made:
            is_last = letter == equation.made[-1]
            weights = [Weight(kernel, equation.kernel.index(letter))]
            if letter in equation.bias:
                weights.append(Weight(layer.bias, equation.bias.index(letter)))
            made = space.produce(
                call,
                Production(
                    weights,
                    equation.output.index(letter),
                    part="" if is_last else letter,
                    width=int(kernel.shape[equation.kernel.index(letter)]),
                    resize=partial(_set_size, layer, equation, letter),
                ),
            )
            if made is None:
                continue
            if not is_last:
                space.refuse(
                    call,
                    [made],
                    f"makes channels along '{letter}' and along '{equation.made[-1]}' in "
                    f"'{layer.equation}', and only the latter are followed; merge the two axes "
                    "with a Reshape to grow them as one",
                )
            elif passed is not None:
                space.refuse(
                    call,
                    [made],
                    f"lets channels along axis {passed.axis} pass and makes others along axis "
                    f"{made.axis} of its output, where only one axis can grow",
                )
            else:
                last = _biased(made, letter, equation)
        return last

    def writes(self, call: Call) -> list[tuple[Any, int]] | None:
        layer, equation = call.op, KernelEquation.of(call)
        letter = equation.output[-1]
        linear = activations.plain(layer.activation) is keras.activations.linear
        if not linear or letter not in equation.made:
            return None
        weights = [(_keras.kernel_of(layer), equation.kernel.index(letter))]
        if equation.bias:
            if letter not in equation.bias:
                return None
            weights.append((layer.bias, equation.bias.index(letter)))
        return weights

    def patches(self, call: Call, x: Any) -> Shadow:
        equation = KernelEquation.of(call)
        if not equation.plain:
            raise NoSlope(
                f"{call!r} uses the equation '{call.op.equation}', in which the kernel has more "
                "than one letter of the output"
            )
        made = equation.made
        contracted = [c for c in equation.kernel if c != made]
        axis = equation.output.index(made)
        order = [*equation.output.replace(made, "".join(contracted))]
        columns = ops.transpose(x, [equation.inputs.index(c) for c in order])
        shape = [-1 if d is None else d for d in columns.shape]
        shape[0] = -1
        count = int(np.prod(shape[axis : axis + len(contracted)]))
        shape[axis : axis + len(contracted)] = [count]
        return Shadow(ops.reshape(columns, shape), axis, np.arange(count))

    def correlate(self, call: Call, shadow: Shadow, gradient: Any) -> tuple[Any, np.ndarray]:
        equation = KernelEquation.of(call)
        letter = equation.inputs[shadow.axis]
        rest = equation.kernel.replace(letter, "")
        product = ops.einsum(
            f"{equation.inputs},{equation.output}->{letter}{rest}", shadow.tensor, gradient
        )
        return product, shadow.ids

    def flops(self, call: Call, inputs: list, outputs: list) -> float:
        equation = KernelEquation.of(call)
        contracted = [
            inputs[0][a] or 1
            for a, c in enumerate(equation.inputs)
            if c in equation.kernel and c not in equation.output
        ]
        return 2.0 * size_of(outputs[0]) * float(np.prod(contracted))


def _biased(channels: Channels, letter: str, equation: KernelEquation) -> Channels:
    """A bias that all channels share reaches the new ones too."""
    if not equation.bias or letter in equation.bias:
        return channels
    return channels.mapped(unknown)


def _set_size(layer: Any, equation: KernelEquation, letter: str, size: int) -> None:
    """Writes a new size into `partial_output_shape`, which may leave sizes open."""
    shape = list(layer.partial_output_shape)
    # What an ellipsis stands for is left out of it, and so is the batch.
    hidden = [c for c in equation.output if c not in layer.equation]
    position = [c for c in equation.output[1:] if c not in hidden].index(letter)
    if shape[position] is not None:
        shape[position] = size
    layer.partial_output_shape = tuple(shape)
