"""What single layers know about themselves, brought in line with their weights."""

import copy
from typing import Any

import keras
import numpy as np
from keras import tree
from keras.src.layers.rnn.conv_lstm import ConvLSTMCell

from keras_grow._keras.graph import sublayers
from keras_grow._keras.state import build_shapes, set_build_shapes


def kernel_of(layer: Any) -> Any:
    """The kernel variable itself; `layer.kernel` is a computed property of Dense and Conv."""
    return layer._kernel if hasattr(layer, "_kernel") else layer.kernel


def derived_kernel(layer: Any) -> str | None:
    """Why the kernel in use is not simply a float variable, or None if it is."""
    if getattr(layer, "lora_enabled", False):
        return "has LoRA enabled, so its kernel is a sum; merge the LoRA weights first"
    if getattr(layer, "quantization_mode", None) is not None:
        return f"is quantized ({layer.quantization_mode}); grow the model before quantizing it"
    return None


def normalized_axes(layer: Any, rank: int) -> list[int]:
    """Axes along which the layer keeps one mean and variance per entry."""
    return [a % rank for a in layer._keep_axis]


def scalar_statistics(layer: Any) -> tuple[float, float]:
    mean = float(np.asarray(keras.ops.convert_to_numpy(layer.mean)).reshape(()))
    variance = float(np.asarray(keras.ops.convert_to_numpy(layer.variance)).reshape(()))
    return mean, max(float(np.sqrt(variance)), keras.backend.epsilon())


def refresh_normalization(layer: Any, axis: int, size: int) -> None:
    """Brings what `Normalization` derives from its statistics up to date with their new size."""
    for name in ("_broadcast_shape", "_build_input_shape"):
        shape = list(getattr(layer, name))
        shape[axis] = size
        setattr(layer, name, tuple(shape))
    layer._mean_and_var_shape = tuple(layer._build_input_shape[d] for d in layer._keep_axis)
    layer.finalize_state()


def table_of(layer: Any) -> Any:
    """The table of an embedding; `layer.embeddings` is a computed property."""
    return layer._embeddings


def projections(layer: Any) -> dict[str, Any]:
    """The EinsumDense layers inside an attention layer, by what they make."""
    found = {"query": layer._query_dense, "key": layer._key_dense, "value": layer._value_dense}
    if hasattr(layer, "_gate_dense"):
        found["gate"] = layer._gate_dense
    return {**found, "output": layer._output_dense}


def attention_axes(layer: Any) -> tuple[int, ...] | None:
    """The axes that a MultiHeadAttention attends over, the batch counted as axis 0."""
    return getattr(layer, "_attention_axes", None)


def refresh_projection(projection: Any) -> None:
    """Brings what an EinsumDense with all inputs first in its kernel says in line with it."""
    shape = tuple(int(d) for d in kernel_of(projection).shape)
    kernel, output = projection.equation.split(",")[1].split("->")
    rows = sum(c not in output for c in kernel)
    target = tuple(projection.partial_output_shape)
    projection.partial_output_shape = (*target[: rows - len(shape)], *shape[rows:])
    shapes = build_shapes(projection)
    if shapes:
        own = {k: (*tuple(v)[:-rows], *shape[:rows]) for k, v in shapes.items()}
        set_build_shapes(projection, own)


def refresh_multi_head_attention(layer: Any) -> None:
    """Brings what a MultiHeadAttention says about itself in line with its kernels."""
    inside = projections(layer)
    for projection in inside.values():
        refresh_projection(projection)
    rows, layer._num_heads, layer._key_dim = (int(d) for d in kernel_of(inside["query"]).shape)
    layer._value_dim = int(kernel_of(inside["value"]).shape[-1])
    layer._inverse_sqrt_key_dim = 1.0 / float(layer._key_dim) ** 0.5
    columns = int(kernel_of(inside["output"]).shape[-1])
    if layer._output_shape is not None:
        layer._output_shape = (*layer._output_shape[:-1], columns)
    elif columns != rows:  # None means as wide as the query
        layer._output_shape = (columns,)


def refresh_group_query_attention(layer: Any) -> None:
    """Brings what a GroupQueryAttention says about itself in line with its kernels."""
    inside = projections(layer)
    for projection in inside.values():
        refresh_projection(projection)
    shape = tuple(int(d) for d in kernel_of(inside["query"]).shape)
    layer.feature_dim, layer.num_query_heads, layer.head_dim = shape
    layer.num_key_value_heads = int(kernel_of(inside["key"]).shape[1])
    layer._inverse_sqrt_head_dim = 1.0 / float(layer.head_dim) ** 0.5


def has_own_activation(op: Any) -> bool:
    """Whether `op.activation` can be replaced; recurrent layers only show that of their cell."""
    return "activation" in vars(op)


def cells_of(layer: Any) -> list:
    """The cells that a recurrent layer runs, first to last."""
    cell = layer.cell
    return list(cell.cells) if isinstance(cell, keras.layers.StackedRNNCells) else [cell]


def is_conv_cell(cell: Any) -> bool:
    return type(cell) is ConvLSTMCell


def state_variables(layer: Any) -> list:
    """Variables that hold the states of a stateful recurrent layer, which Keras tracks nowhere."""
    return tree.flatten(layer.states) if layer.stateful and layer.states is not None else []


def all_states(model: Any) -> list:
    """The state variables of all recurrent layers of a model."""
    found = [below for below in sublayers(model) if isinstance(below, keras.layers.RNN)]
    return [variable for layer in found for variable in state_variables(layer)]


def refresh_recurrent(layer: Any) -> None:
    """Brings what a recurrent layer and its cells say about themselves in line with their kernels.

    For a layer inside of another that includes the shapes which it was built with.
    """
    cells = cells_of(layer)
    for cell in cells:
        rows, units = int(cell.kernel.shape[-2]), int(cell.recurrent_kernel.shape[-2])
        axis = 1 if getattr(cell, "data_format", "") == "channels_first" else -1
        if is_conv_cell(cell):
            cell.filters, cell.input_dim = units, rows
            cell.kernel_shape = tuple(int(d) for d in cell.kernel.shape)
            spec = copy.copy(cell.input_spec)
            spec.shape = _with_size(spec.shape, axis, rows)
            cell.input_spec = spec
        else:
            cell.units = cell.output_size = units
            single = isinstance(cell.state_size, int)
            cell.state_size = units if single else [units] * len(cell.state_size)
        _refresh_build_shape(cell, axis, rows)
    if layer.cell is not cells[0]:
        _refresh_build_shape(layer.cell, -1, int(cells[0].kernel.shape[-2]))
    size = layer.cell.state_size
    layer.state_size = [size] if isinstance(size, int) else list(size)
    axis = 2 if getattr(cells[0], "data_format", "") == "channels_first" else -1
    _refresh_build_shape(layer, axis, int(cells[0].kernel.shape[-2]))


def refresh_spectral(layer: Any) -> None:
    """Brings what SpectralNormalization keeps of its kernel's shape in line with it."""
    layer.kernel_shape = layer.kernel.shape


def set_input_size(layer: Any, rank: int, axis: int, size: int) -> None:
    """Tells a layer inside of another about the new size of its input along one axis."""
    _refresh_build_shape(layer, axis, size)
    spec = layer.input_spec
    if isinstance(spec, keras.layers.InputSpec) and spec.axes:
        spec = copy.copy(spec)
        spec.axes = {a: size if a % rank == axis else d for a, d in spec.axes.items()}
        layer.input_spec = spec


def _refresh_build_shape(layer: Any, axis: int, size: int) -> None:
    """A layer's first build shape with another size along one axis."""
    shapes = build_shapes(layer)
    if shapes:
        first = next(iter(shapes))
        set_build_shapes(layer, {**shapes, first: _with_size(shapes[first], axis, size)})


def _with_size(shape: Any, axis: int, size: int) -> Any:
    changed = list(shape)
    changed[axis] = size
    return type(shape)(changed)
