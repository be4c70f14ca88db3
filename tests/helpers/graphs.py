"""Random functional models: branches, joins, shared layers, nested models, images to vectors."""

from collections.abc import Callable
from typing import Any

import hypothesis
import keras
from helpers.growing import FORMATS
from hypothesis import strategies as st
from keras import layers

ACTIVATIONS = [None, "relu", "tanh", "gelu", "sigmoid", "leaky_relu", "softplus", "selu"]
# What the channels of an image may grow to; small, as all sizes here.
WIDTHS = st.integers(1, 5)


class Drawing:
    """A model while it is drawn. Every layer made is kept, so that it can be called again.

    Attributes:
        tensors: all there are so far, in the order of `lines`.
        read: ids of those that something reads.
        made: layers with the shape they were called on.
        lines: how to write the model down, for the report of a failure.
    """

    def __init__(self, draw: Callable, data_format: str, prefix: str = "", depth: int = 0) -> None:
        self.draw = draw
        self.format = data_format
        self.axis = -1 if data_format == "channels_last" else 1
        self.prefix = prefix
        self.depth = depth
        self.tensors: list[Any] = []
        self.read: set[int] = set()
        self.made: list[tuple[tuple, Any, str]] = []
        self.lines: list[str] = []
        self.count = 0

    # --- drawing -------------------------------------------------------------------------------

    def one_of(self, *options: Any) -> Any:
        return self.draw(st.sampled_from(options))

    def chance(self) -> bool:
        return self.draw(st.booleans())

    def name(self, kind: str) -> str:
        self.count += 1
        return f"{self.prefix}{kind}{self.count}"

    # --- calling -------------------------------------------------------------------------------

    def start(self, *tensors: Any) -> None:
        for tensor in tensors:
            self.lines.append(f"t{len(self.tensors)} = keras.Input({tuple(tensor.shape[1:])})")
            self.tensors.append(tensor)

    def call(self, layer: Any, *inputs: Any, text: str = "") -> Any:
        """Calls a layer (or function) on tensors and keeps the result."""
        argument = list(inputs) if len(inputs) > 1 else inputs[0]
        output = layer(argument)
        places = [next(i for i, t in enumerate(self.tensors) if t is x) for x in inputs]
        names = ", ".join(f"t{i}" for i in places)
        names = f"[{names}]" if len(inputs) > 1 else names
        if not text:
            text = _written(layer)
        self.lines.append(
            f"t{len(self.tensors)} = {text}({names})  # {tuple(output.shape[1:])}"
        )  # fmt: skip
        self.tensors.append(output)
        self.read.update(id(x) for x in inputs)
        if len(inputs) == 1 and isinstance(layer, layers.Layer):
            self.made.append((tuple(inputs[0].shape), layer, text))
        return output

    # --- steps ---------------------------------------------------------------------------------

    def step(self) -> None:
        """One more layer, on any tensor so far."""
        usual = [t for t in self.tensors if len(t.shape) <= 4]
        x = self.draw(st.sampled_from(usual[-4:]))
        steps = {4: IMAGE, 3: SEQUENCE, 2: VECTOR}[len(x.shape)]
        self.draw(st.sampled_from([*steps, *ANY]))(self, x)

    def grow_to(self, steps: int) -> None:
        for _ in range(steps):
            self.step()

    def vector(self, x: Any) -> Any:
        """Brings any tensor to rank 2."""
        if len(x.shape) == 2:
            return x
        if len(x.shape) == 3:
            kinds = [layers.Flatten, layers.GlobalAveragePooling1D, layers.GlobalMaxPooling1D]
            return self.call(self.draw(st.sampled_from(kinds))(), x)
        if len(x.shape) > 4:
            return self.call(layers.Flatten(), x)
        kind = self.one_of(layers.Flatten, layers.GlobalAveragePooling2D, layers.GlobalMaxPooling2D)
        return self.call(kind(data_format=self.format), x)


def _written(layer: Any) -> str:
    """The layer as a call of its constructor, with what is not the default."""
    config = layer.get_config()
    given = ("name", "units", "filters", "kernel_size", "strides", "dilation_rate", "padding",
             "groups", "activation", "use_bias", "data_format", "depth_multiplier", "axis",
             "target_shape", "dims", "pool_size", "keepdims", "shared_axes", "scale", "offset",
             "negative_slope", "size", "rate")  # fmt: skip
    text = ", ".join(f"{k}={config[k]!r}" for k in given if k in config)
    return f"{type(layer).__name__}({text})"


# --- on images ---------------------------------------------------------------------------------


def _conv(d: Drawing, x: Any, filters: int | None = None, same: bool = False) -> Any:
    rank = len(x.shape) - 2
    data_format = d.format if rank == 2 else "channels_last"
    axis = d.axis if rank == 2 else -1
    sizes = [n for i, n in enumerate(x.shape[1:], 1) if i != axis % len(x.shape)]
    size = d.draw(st.integers(1, min(3, *sizes)))
    options: dict[str, Any] = {"padding": "same" if same else d.one_of("same", "valid")}
    if not same:
        options.update(d.one_of({}, {}, {"strides": 2}))
        if options["padding"] == "same" and "strides" not in options:
            options.update(d.one_of({}, {"dilation_rate": 2}))
    if filters is None:
        filters = d.draw(WIDTHS)
        channels = x.shape[axis]
        groups = d.one_of(1, 1, 1, 2, channels)
        if channels % groups == 0:
            options["groups"] = groups
            filters = groups * d.draw(st.integers(1, 2)) if groups > 1 else filters
    layer = getattr(layers, f"Conv{rank}D")(
        filters,
        size,
        name=d.name("conv"),
        activation=d.one_of(*ACTIVATIONS),
        use_bias=d.chance(),
        data_format=data_format,
        **options,
    )
    return d.call(layer, x)


def _depthwise(d: Drawing, x: Any) -> None:
    layer = layers.DepthwiseConv2D(
        d.one_of(1, 2, 3),
        padding="same",
        depth_multiplier=d.one_of(1, 1, 2),
        activation=d.one_of(*ACTIVATIONS),
        use_bias=d.chance(),
        data_format=d.format,
        name=d.name("depthwise"),
    )
    d.call(layer, x)


def _separable(d: Drawing, x: Any) -> None:
    layer = layers.SeparableConv2D(
        d.draw(WIDTHS),
        d.one_of(1, 3),
        padding="same",
        depth_multiplier=d.one_of(1, 2),
        data_format=d.format,
        name=d.name("separable"),
    )
    d.call(layer, x)


def _pool(d: Drawing, x: Any) -> None:
    rank = len(x.shape) - 2
    kind = d.one_of("MaxPooling", "AveragePooling", "UpSampling", "ZeroPadding")
    options: dict[str, Any] = {} if rank == 1 else {"data_format": d.format}
    if "Pooling" in kind:
        options.update(pool_size=2, padding="same", strides=d.one_of(1, 2))
    elif max(n or 0 for n in x.shape) > 8:
        return
    d.call(getattr(layers, f"{kind}{rank}D")(**options), x)


def _squeeze_and_excite(d: Drawing, x: Any) -> None:
    pooled = d.call(layers.GlobalAveragePooling2D(data_format=d.format, keepdims=True), x)
    gate = layers.Conv2D(
        x.shape[d.axis],
        1,
        activation=d.one_of("sigmoid", "hard_sigmoid", None),
        data_format=d.format,
        name=d.name("gate"),
    )
    d.call(layers.Multiply(), x, d.call(gate, pooled))


def _residual(d: Drawing, x: Any) -> None:
    """A convolution of the same shape, joined with what it reads."""
    if len(x.shape) == 2:
        y = d.call(_dense_layer(d, x.shape[-1]), x)
    else:
        axis = d.axis if len(x.shape) == 4 else -1
        y = _conv(d, x, x.shape[axis], same=True)
    if d.chance():
        y = _one_normalization(d, y)
    d.call(_join(d, 2), *((x, y) if d.chance() else (y, x)))


def _spatial_reshape(d: Drawing, x: Any) -> None:
    """Both spatial axes become one."""
    shape = list(x.shape[1:])
    if d.format == "channels_last":
        target: tuple = (shape[0] * shape[1], d.one_of(shape[2], -1))
    else:
        target = (shape[0], -1)
    y = d.call(layers.Reshape(target), x)
    if d.format == "channels_first":
        d.call(layers.Permute((2, 1)), y)


def _transposed(d: Drawing, x: Any) -> None:
    if max(n or 0 for n in x.shape) > 8:
        return
    layer = layers.Conv2DTranspose(
        d.draw(WIDTHS),
        d.one_of(1, 2),
        strides=d.one_of(1, 2),
        padding="same",
        activation=d.one_of(*ACTIVATIONS),
        data_format=d.format,
        name=d.name("transposed"),
    )
    d.call(layer, x)


def _group_normalization(d: Drawing, x: Any) -> None:
    channels = x.shape[d.axis]
    groups = d.draw(st.sampled_from([g for g in range(1, channels + 1) if channels % g == 0]))
    d.call(layers.GroupNormalization(groups, axis=d.axis), x)


def _shuffle(d: Drawing, x: Any) -> None:
    """ShuffleNet's: the channels of two groups, one from each in turn."""
    if d.format != "channels_last" or x.shape[-1] % 2:
        return
    h, w, c = x.shape[1:]
    y = d.call(layers.Reshape((h, w, 2, c // 2)), x)
    d.call(layers.Reshape((h, w, c)), d.call(layers.Permute((1, 2, 4, 3)), y))


# --- on sequences ------------------------------------------------------------------------------


def _recurrent(d: Drawing, x: Any) -> None:
    kind = d.one_of(layers.SimpleRNN, layers.GRU, layers.LSTM)
    layer = kind(d.draw(WIDTHS), return_sequences=d.chance(), name=d.name("recurrent"))
    if d.one_of(False, False, True):
        merge = d.one_of("concat", "sum", "ave", "mul")
        layer = layers.Bidirectional(layer, merge_mode=merge, name=d.name("both_ways"))
    d.call(layer, x)


def _attention(d: Drawing, x: Any) -> None:
    size = d.draw(st.integers(1, 3))
    layer = layers.MultiHeadAttention(d.one_of(1, 2), size, name=d.name("attention"))
    d.call(lambda t: layer(t, t), x, text=f"{layer.name}(2 times)")


def _einsum(d: Drawing, x: Any) -> None:
    letters = "abcdef"[: len(x.shape)]
    units = d.draw(WIDTHS)
    layer = layers.EinsumDense(
        f"{letters},{letters[-1]}z->{letters[:-1]}z",
        output_shape=(*x.shape[1:-1], units),
        bias_axes="z" if d.chance() else None,
        activation=d.one_of(*ACTIVATIONS),
        name=d.name("einsum"),
    )
    d.call(layer, x)


def _over_time(d: Drawing, x: Any) -> None:
    d.call(layers.TimeDistributed(_dense_layer(d, d.draw(WIDTHS)), name=d.name("over_time")), x)


def _permute(d: Drawing, x: Any) -> None:
    if x.shape[1] * x.shape[2] > 60:
        return
    y = d.call(layers.Permute((2, 1)), x)
    if d.chance():
        d.call(layers.Permute((2, 1)), d.call(layers.Activation("tanh"), y))


def _mean(d: Drawing, x: Any) -> None:
    d.call(lambda t: keras.ops.mean(t, axis=1), x, text="ops.mean[axis=1]")


def _dense(d: Drawing, x: Any) -> None:
    d.call(_dense_layer(d, d.draw(WIDTHS)), x)


# --- on vectors --------------------------------------------------------------------------------


def _dense_layer(d: Drawing, units: int) -> Any:
    return layers.Dense(
        units, name=d.name("dense"), activation=d.one_of(*ACTIVATIONS), use_bias=d.chance()
    )


def _unflatten(d: Drawing, x: Any) -> None:
    width = x.shape[-1]
    first = d.draw(st.sampled_from([n for n in range(1, width + 1) if width % n == 0]))
    d.call(layers.Reshape((first, d.one_of(width // first, -1))), x)


# --- on anything -------------------------------------------------------------------------------


def _one_normalization(d: Drawing, x: Any) -> Any:
    axis = d.axis if len(x.shape) == 4 else -1
    return d.call(layers.BatchNormalization(axis=axis, scale=d.chance(), center=d.chance()), x)


def _normalization(d: Drawing, x: Any) -> None:
    _one_normalization(d, x)


def _across_channels(d: Drawing, x: Any) -> None:
    axis = d.axis if len(x.shape) == 4 else -1
    if keras.config.backend() == "torch" and axis == 1:  # Keras fails there on torch
        return
    layer = d.one_of(
        lambda: layers.LayerNormalization(axis=axis, epsilon=0.1),
        lambda: layers.LayerNormalization(axis=axis, epsilon=0.1, center=False, scale=False),
        lambda: layers.RMSNormalization(axis=axis, epsilon=0.1),
        lambda: layers.UnitNormalization(axis=axis),
    )()
    d.call(layer, x)


def _split(d: Drawing, x: Any) -> None:
    """Halves of the channels: added, gated, swapped, or one of them alone."""
    axis = (d.axis if len(x.shape) == 4 else -1) % len(x.shape)
    if x.shape[axis] % 2:
        return
    text, join = d.one_of(
        ("added", lambda a, b: a + b),
        ("gated", lambda a, b: a * keras.ops.sigmoid(b)),
        ("swapped", lambda a, b: keras.ops.concatenate([b, a], axis=axis)),
        ("first", lambda a, b: a),
        ("both", lambda a, b: keras.ops.concatenate([a, b, keras.ops.relu(b)], axis=axis)),
    )
    d.call(lambda t: join(*keras.ops.split(t, 2, axis=axis)), x, text=f"ops.split[{text}]")


def _part(d: Drawing, x: Any) -> None:
    axis = (d.axis if len(x.shape) == 4 else -1) % len(x.shape)
    if x.shape[axis] < 2:
        return
    part = d.one_of(slice(1, None), slice(None, -1), slice(None, None, 2), slice(0, 2))
    key = (*[slice(None)] * axis, part)
    d.call(lambda t: t[key], x, text=f"{key}")


def _elementwise(d: Drawing, x: Any) -> None:
    layer = d.one_of(
        lambda: layers.ReLU(negative_slope=0.1),
        lambda: layers.Activation(d.one_of(*ACTIVATIONS[1:])),
        lambda: layers.PReLU(),
        lambda: layers.PReLU(shared_axes=list(range(1, len(x.shape) - 1))),
        lambda: layers.Dropout(0.2),
        lambda: layers.Rescaling(0.5, offset=d.one_of(0.0, 0.1)),
        lambda: layers.ELU(),
    )()
    d.call(layer, x)


def _op(d: Drawing, x: Any) -> None:
    text, function = d.one_of(
        ("ops.relu", keras.ops.relu),
        ("ops.square", keras.ops.square),
        ("0.5 *", lambda t: 0.5 * t),
        ("1 -", lambda t: 1.0 - t),
        ("ops.reshape to a row", lambda t: keras.ops.reshape(t, (-1, _size(t)))),
    )
    d.call(function, x, text=text)


def _size(x: Any) -> int:
    size = 1
    for n in x.shape[1:]:
        size *= n
    return size


def _join(d: Drawing, count: int) -> Any:
    kinds = [layers.Add, layers.Average, layers.Maximum, layers.Multiply, layers.Minimum]
    if count == 2:
        kinds.append(layers.Subtract)
    return d.draw(st.sampled_from(kinds))()


def _join_likes(d: Drawing, x: Any) -> None:
    """Joins tensors of one shape that happen to be there, itself included."""
    alike = [t for t in d.tensors if tuple(t.shape) == tuple(x.shape)]
    others = d.draw(st.lists(st.sampled_from(alike), min_size=1, max_size=2))
    d.call(_join(d, len(others) + 1), x, *others)


def _concatenate(d: Drawing, x: Any) -> None:
    axis = (d.axis if len(x.shape) == 4 else -1) % len(x.shape)
    if len(x.shape) > 2 and d.one_of(False, False, True):
        axis = d.draw(st.integers(1, len(x.shape) - 1))

    def fits(t: Any) -> bool:
        return len(t.shape) == len(x.shape) and all(
            a == b for i, (a, b) in enumerate(zip(t.shape, x.shape, strict=True)) if i != axis
        )

    others = d.draw(
        st.lists(st.sampled_from([t for t in d.tensors if fits(t)]), min_size=1, max_size=2)
    )
    d.call(layers.Concatenate(axis=axis), *([x, *others] if d.chance() else [*others, x]))


def _again(d: Drawing, x: Any) -> None:
    """Calls a layer once more that has been called on a tensor of this shape."""
    fitting = [(layer, text) for shape, layer, text in d.made if shape == tuple(x.shape)]
    if fitting:
        layer, text = d.draw(st.sampled_from(fitting))
        d.call(layer, x, text=text + "  # shared\n    ")


def _nested(d: Drawing, x: Any) -> None:
    """A model of its own, which `_again` may call a second time."""
    if d.depth:
        return
    name = d.name("model")
    inner = Drawing(d.draw, d.format, depth=1)
    inner.start(keras.Input(x.shape[1:]))
    inner.grow_to(d.draw(st.integers(1, 3)))
    model = keras.Model(inner.tensors[0], inner.tensors[-1], name=name)
    d.lines += [f"    {name}: {line}" for line in inner.lines]
    d.call(model, x, text=name)


IMAGE = [_conv, _conv, _conv, _depthwise, _separable, _pool, _squeeze_and_excite, _residual,
         _spatial_reshape, _transposed, _group_normalization, _shuffle]  # fmt: skip
SEQUENCE = [_conv, _dense, _dense, _permute, _mean, _residual, _recurrent, _attention, _einsum,
            _over_time]  # fmt: skip
VECTOR = [_dense, _dense, _dense, _unflatten, _residual, _einsum]
ANY = [_across_channels, _split, _part, _normalization, _elementwise, _op, _join_likes,
       _concatenate, _again, _nested, lambda d, x: d.vector(x)]  # fmt: skip


def draw_model(draw: Callable, max_steps: int = 8) -> tuple[keras.Model, str]:
    """A random functional model with weights still to be set, and how it is written.

    Args:
        draw: of `st.data()`. Not a strategy of its own, since making layers draws random seeds.
        max_steps: at most so many layers before the last ones.
    """
    d = Drawing(draw, draw(st.sampled_from(FORMATS)))
    image = (4, 3, 2) if d.format == "channels_last" else (2, 4, 3)
    inputs = [keras.Input(d.one_of(image, image, (4, 3), (5,)))]
    if d.one_of(False, False, True):
        inputs.append(keras.Input(d.one_of(image, (5,))))
    d.start(*inputs)
    for x in inputs:  # channels that can grow
        (_dense if len(x.shape) == 2 else _conv)(d, x)
    d.grow_to(draw(st.integers(2, max_steps)))
    outputs = []
    for tensor in [t for t in d.tensors if id(t) not in d.read][-3:]:
        hidden = d.vector(tensor)
        hypothesis.assume(hidden.shape[-1] < 400)
        outputs.append(d.call(layers.Dense(2, name=d.name("out")), hidden))
    used = [t for t in inputs if _reaches(t, outputs)]
    hypothesis.assume(used)
    model = keras.Model(used if len(used) > 1 else used[0], outputs)
    return model, "\n".join(d.lines)


def _reaches(start: Any, ends: list) -> bool:
    """Whether an input is used by any of the outputs."""
    seen: set[int] = set()
    todo = list(ends)
    while todo:
        tensor = todo.pop()
        if tensor is start:
            return True
        if id(tensor) in seen:
            continue
        seen.add(id(tensor))
        operation, node, _ = tensor._keras_history
        todo += operation._inbound_nodes[node].input_tensors
    return False
