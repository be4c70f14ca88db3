"""Weights that make a layer, or a whole block of layers, the identity or zero.

Nothing here is taken on trust: weights are proposed per class of layer, then the layer is run with
them on random inputs within the bounds that are known for its input, and they are accepted only if
it does give its input back (or zero). Layers of unknown classes are tried as they are, with all
weights one and with all weights zero.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import keras
import numpy as np

from keras_grow import _backend, _keras
from keras_grow.graph import Call, Graph, Ref, run
from keras_grow.graph.outputs import TOLERANCE
from keras_grow.graph.run import arguments, plain
from keras_grow.rules import activations, rule_for
from keras_grow.surgery.ranges import ANY, Interval

Assignments = list[tuple[Any, np.ndarray]]
Statistics = Callable[[int], tuple[np.ndarray, np.ndarray]]

layers = keras.layers


class NoIdentity(Exception):
    """A layer or block cannot be made what is wanted. The message says which, and why."""


@dataclass
class Block:
    """What is to be inserted, as a graph of one input and one output.

    Attributes:
        graph: nested models entered, so that only layers and ops are left.
        interval: bounds of the values at the place of insertion.
        statistics: mean and variance there along an axis, for BatchNormalization; None without
            data.
    """

    graph: Graph
    interval: Interval = ANY
    statistics: Statistics | None = None

    def identity(self) -> Assignments:
        """Weights with which the block gives its input back.

        Raises:
            NoIdentity: none were found.
        """
        return self._identity(self.graph.outputs[0])

    def zero(self) -> Assignments:
        """Weights with which the block gives zeros, whatever its input: its last layer's are zero.

        Raises:
            NoIdentity: none were found.
        """
        return self._zero(self.graph.outputs[0])

    # --- going through the graph, from the output back -------------------------------------------

    def _identity(self, ref: Ref) -> Assignments:
        if ref is self.graph.inputs[0]:
            return []
        call = ref.maker
        assert call is not None
        if _is_sum(call):
            return self._sum(call)
        if len(call.inputs) != 1:
            raise NoIdentity(
                f"{call!r} takes {len(call.inputs)} tensors, and only sums of them can be made the "
                "identity"
            )
        return self._identity(call.inputs[0]) + self._call(call, "identity")

    def _sum(self, call: Call) -> Assignments:
        reasons = []
        for i, ref in enumerate(call.inputs):
            try:
                found = self._identity(ref)
                for k, other in enumerate(call.inputs):
                    if k != i:
                        found = found + self._zero(other)
                return found
            except NoIdentity as reason:
                reasons.append(str(reason))
        raise NoIdentity("; ".join(dict.fromkeys(reasons)))

    def _zero(self, ref: Ref) -> Assignments:
        call = ref.maker
        if call is None:
            raise NoIdentity("what enters the block reaches its output as it is")
        flat = _flat_at_zero(call)
        if flat is not None:
            raise NoIdentity(
                f"{call!r} applies '{flat}', whose slope at zero is 0, so a layer of zeros before "
                "it would never learn. Leave the last activation out"
            )
        try:
            return self._call(call, "zero")
        except NoIdentity as reason:
            if not self._keeps_zero(call):
                raise
            why = reason
        if isinstance(call.op, layers.Multiply) or _keras.op_kind(call.op) == "ops.Multiply":
            for ref in call.inputs:
                try:
                    return self._zero(ref)
                except NoIdentity as reason:
                    why = reason
            raise why
        found: Assignments = []
        for ref in call.inputs:
            found = found + self._zero(ref)
        return found

    # --- one call --------------------------------------------------------------------------------

    def _call(self, call: Call, wanted: str) -> Assignments:
        """Weights of one layer that make it the identity, or zero for whatever input."""
        propose = identities if wanted == "identity" else zeros
        reason = None
        if wanted == "identity" and tuple(call.inputs[0].shape) != tuple(call.outputs[0].shape):
            raise NoIdentity(
                f"{call!r} makes shape {call.outputs[0].shape} of {call.inputs[0].shape}"
            )
        inputs = self._samples(call, self.interval if wanted == "identity" else ANY)
        for candidate in propose(call, self.statistics):
            if isinstance(candidate, str):
                reason = candidate
                continue
            target = inputs[0] if wanted == "identity" else None
            if self._gives(call, inputs, candidate, target):
                return candidate
        raise NoIdentity(reason or self._why(call, wanted))

    def _why(self, call: Call, wanted: str) -> str:
        what = "the identity" if wanted == "identity" else "zero"
        function: Any = getattr(call.op, "activation", None)
        name = activations.name_of(activations.plain(function))
        low, high = self.interval
        if function is not None and wanted == "identity" and name != "linear":
            return (
                f"{call!r} applies '{name}', and what stands there is only known to lie in "
                f"[{low:g}, {high:g}], where '{name}' is not the identity. Give the layer no "
                "activation, or insert a layer with relu behind one with relu"
            )
        if wanted == "identity" and isinstance(call.op, layers.ReLU):
            return (
                f"{call!r} changes negative values, and what stands there is only known to lie "
                f"in [{low:g}, {high:g}]. Insert it behind another relu"
            )
        return f"no weights were found that make {call!r} {what}"

    def _keeps_zero(self, call: Call) -> bool:
        samples = [np.zeros_like(x) for x in self._samples(call, ANY)]
        return bool(samples) and self._gives(call, samples, [], None)

    def _samples(self, call: Call, interval: Interval) -> list[np.ndarray]:
        rng = np.random.default_rng(0)
        return [_sample(tuple(ref.shape), interval, rng) for ref in call.inputs]

    def _gives(
        self, call: Call, inputs: list[np.ndarray], weights: Assignments, target: Any
    ) -> bool:
        """Whether the call, with these weights, makes `target` of `inputs`, or zeros."""
        if any(not keras.backend.is_float_dtype(r.tensors[0].dtype) for r in call.inputs):
            return False
        env = dict(zip(call.inputs, map(keras.ops.convert_to_tensor, inputs), strict=True))
        variables = getattr(call.op, "variables", [])
        given = {id(v): value for v, value in weights}
        mapping = [
            (v, keras.ops.convert_to_tensor(given.get(id(v), v.value), dtype=v.dtype))
            for v in variables
        ]
        # Subtracting a mean and adding it again rounds to its last digits.
        mean = given.get(id(getattr(call.op, "moving_mean", None)), 0.0)
        least = float(np.abs(mean).max())

        def body() -> Any:
            args, kwargs = arguments(call, env)
            if _keras.takes_training(call.op):
                kwargs["training"] = False
            return plain(call, args, kwargs)

        outputs = keras.tree.flatten(_keras.pure_call(body, mapping))
        dtype = getattr(call.op, "compute_dtype", "float32")
        for output in outputs:
            found = _backend.to_numpy(output).astype("float64")
            wanted = np.zeros_like(found) if target is None else np.asarray(target, "float64")
            if found.shape != wanted.shape or not np.isfinite(found).all():
                return False
            # Every sample has a scale of its own, so that a bend near zero is seen.
            axes = tuple(range(1, found.ndim))
            scale = 1.0 if target is None else np.maximum(np.abs(wanted).max(axis=axes), least)
            if (np.abs(found - wanted).max(axis=axes) > TOLERANCE.get(dtype, 1e-5) * scale).any():
                return False
        return True


def _sample(shape: tuple, interval: Interval, rng: np.random.Generator) -> np.ndarray:
    """Random inputs within bounds, at scales from 0.01 to 1000."""
    scales = np.array([0.01, 0.1, 1.0, 10.0, 1000.0])
    size = (len(scales), *(7 if d is None else d for d in shape[1:]))
    draw = rng.standard_normal(size) * scales.reshape(-1, *[1] * (len(size) - 1))
    low, high = interval
    if low >= 0:
        draw = np.abs(draw)
    return np.clip(draw, low, high).astype("float32")


def _is_sum(call: Call) -> bool:
    return len(call.inputs) > 1 and (
        isinstance(call.op, layers.Add) or _keras.op_kind(call.op) == "ops.Add"
    )


def _flat_at_zero(call: Call) -> str | None:
    """The activation of a call through which no gradient passes at zero, if it has one."""
    op = call.op
    if isinstance(op, layers.PReLU):
        return "prelu"  # made of relu(x) and relu(-x), whose slopes at 0 are both 0
    function: Any = getattr(op, "activation", None)
    rule = rule_for(op)
    if isinstance(rule, activations.Elementwise):
        facts: Any = rule.facts(call)
    else:
        facts = None if function is None else activations.at_zero(function)
    if not isinstance(facts, activations.AtZero) or (facts.slope != 0 and facts.left != 0):
        return None
    if function is not None:
        return activations.name_of(activations.plain(function))
    return type(op).__name__.lower()


# --- proposals ---------------------------------------------------------------------------------


def identities(call: Call, statistics: Statistics | None) -> Iterator[Assignments | str]:
    """Weights that may make a layer the identity, the likeliest first; or why there are none."""
    op = call.op
    if isinstance(op, layers.BatchNormalization):
        yield from _batch_normalization(call, statistics)
        return
    if isinstance(op, (layers.SeparableConv1D, layers.SeparableConv2D)):
        yield from _separable(call)
        return
    if isinstance(op, (layers.DepthwiseConv1D, layers.DepthwiseConv2D)):
        kernel = _depthwise_delta(op, tuple(op.kernel.shape))
        yield "" if kernel is None else [(op.kernel, kernel), *_no_bias(op)]
        return
    if _is_conv(op):
        kernel = _dirac(op, tuple(_keras.kernel_of(op).shape))
        if kernel is None:
            yield f"{call!r} has no tap right above its output (kernel size {op.kernel_size})"
        else:
            yield [(_keras.kernel_of(op), kernel), *_no_bias(op)]
        return
    if isinstance(op, (layers.Dense, layers.EinsumDense)):
        reason = _keras.derived_kernel(op)
        if reason is not None:
            yield f"{call!r} {reason}"
            return
        kernel_variable = _keras.kernel_of(op)
        shape = tuple(kernel_variable.shape)
        rows = _square(shape)
        if rows is not None:
            yield [(kernel_variable, np.eye(rows).reshape(shape)), *_no_bias(op)]
    variables = list(getattr(op, "trainable_variables", []))
    yield []
    if variables and isinstance(op, layers.Layer):
        yield [(v, np.ones(tuple(v.shape))) for v in variables]
        yield [(v, np.zeros(tuple(v.shape))) for v in variables]


def zeros(call: Call, statistics: Statistics | None) -> Iterator[Assignments | str]:
    """Weights that may make a layer zero for every input; its other weights stay as they are."""
    op = call.op
    if not isinstance(op, layers.Layer):
        return
    if isinstance(op, layers.BatchNormalization):
        if op.scale:
            yield [(op.gamma, np.zeros(tuple(op.gamma.shape))), *_no_beta(op)]
        return
    if isinstance(op, (layers.SeparableConv1D, layers.SeparableConv2D)):
        kernel = op.pointwise_kernel
        yield [(kernel, np.zeros(tuple(kernel.shape))), *_no_bias(op)]
        return
    if hasattr(op, "kernel") and _keras.derived_kernel(op) is None:
        kernel = _keras.kernel_of(op)
        yield [(kernel, np.zeros(tuple(kernel.shape))), *_no_bias(op)]
    variables = list(op.trainable_variables)
    if variables:
        yield [(v, np.zeros(tuple(v.shape))) for v in variables]


def _no_bias(op: Any) -> Assignments:
    bias = getattr(op, "bias", None)
    return [] if bias is None else [(bias, np.zeros(tuple(bias.shape)))]


def _no_beta(op: Any) -> Assignments:
    return [(op.beta, np.zeros(tuple(op.beta.shape)))] if op.center else []


def _square(shape: tuple) -> int | None:
    """The rows of a kernel that is a square matrix when its first axes are taken together."""
    total = math.prod(shape)
    rows = math.isqrt(total)
    if rows * rows != total:
        return None
    product = 1
    for d in shape:
        product *= d
        if product == rows:
            return rows
    return None


def _is_conv(op: Any) -> bool:
    return isinstance(op, (layers.Conv1D, layers.Conv2D, layers.Conv3D))


def _taps(op: Any) -> tuple[int, ...] | None:
    """The kernel position that meets the input right at the output's own position."""
    found = []
    for size, dilation in zip(op.kernel_size, op.dilation_rate, strict=True):
        reach = dilation * (size - 1)
        before = {"causal": reach, "same": reach // 2}.get(op.padding, 0)
        if before % dilation:
            return None
        found.append(before // dilation)
    return tuple(found)


def _dirac(op: Any, shape: tuple) -> np.ndarray | None:
    """A convolution kernel (*size, in / groups, filters) that copies every channel."""
    taps = _taps(op)
    if taps is None:
        return None
    kernel = np.zeros(shape)
    per_group = shape[-2]
    for channel in range(shape[-1]):
        kernel[(*taps, channel % per_group, channel)] = 1.0
    return kernel


def _depthwise_delta(op: Any, shape: tuple) -> np.ndarray | None:
    """A depthwise kernel (*size, channels, multiplier) whose first copy is the input."""
    taps = _taps(op)
    if taps is None:
        return None
    kernel = np.zeros(shape)
    kernel[..., 0][taps] = 1.0
    return kernel


def _separable(call: Call) -> Iterator[Assignments | str]:
    """The first depthwise copy of each channel is the channel, and only it is read.

    The other copies (depth_multiplier above 1) keep their initial kernels.
    """
    op = call.op
    shape = tuple(op.depthwise_kernel.shape)
    delta = _depthwise_delta(op, shape)
    if delta is None:
        yield f"{call!r} has no tap right above its output (kernel size {op.kernel_size})"
        return
    depthwise = _backend.to_numpy(op.depthwise_kernel).copy()
    depthwise[..., 0] = delta[..., 0]
    pointwise = np.zeros(tuple(op.pointwise_kernel.shape))
    for channel in range(min(shape[-2], pointwise.shape[-1])):
        pointwise[..., channel * shape[-1], channel] = 1.0
    yield [(op.depthwise_kernel, depthwise), (op.pointwise_kernel, pointwise), *_no_bias(op)]


def _batch_normalization(call: Call, statistics: Statistics | None) -> Iterator[Assignments | str]:
    op = call.op
    shape = tuple(op.moving_mean.shape)
    mean, variance = np.zeros(shape), np.ones(shape)
    if statistics is not None and op.scale and op.center:
        axis = op.axis if isinstance(op.axis, int) else op.axis[0]
        mean, variance = statistics(axis)
    if not op.scale:
        variance = np.ones(shape) - op.epsilon
    weights: Assignments = [(op.moving_mean, mean), (op.moving_variance, variance)]
    if op.scale:
        weights.append((op.gamma, np.sqrt(variance + op.epsilon)))
    if op.center:
        weights.append((op.beta, mean))
    yield weights


@dataclass
class Observed:
    """Mean and variance of a tensor of a model on data, taken when first asked for."""

    graph: Graph
    tensor: Any
    x: Any

    @cached_property
    def _values(self) -> np.ndarray:
        (ref, *_) = [r for r in _refs(self.graph) if any(t is self.tensor for t in r.tensors)]
        mapping = [(v, v.value) for v in _keras.state_of(self.graph.model)]

        def body() -> Any:
            return run(self.graph, self.x, training=False)[1][ref]

        return _backend.to_numpy(_keras.pure_call(body, mapping)).astype("float64")

    def __call__(self, axis: int) -> tuple[np.ndarray, np.ndarray]:
        values = np.moveaxis(self._values, axis, -1)
        flat = values.reshape(-1, values.shape[-1])
        return flat.mean(axis=0), flat.var(axis=0)


def _refs(graph: Graph) -> list[Ref]:
    return [*graph.inputs, *(r for call in graph.calls for r in call.outputs)]
