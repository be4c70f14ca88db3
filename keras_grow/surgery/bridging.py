"""`bridge` and `bridge_`: a new hidden layer from one layer's output into another's pre-activation.

GradMax, Evci et al. 2022, Appendix A, "Growing Layers": any two layers k and l can be connected by
growing a new layer between them, since M of equation 9 needs only the output of the one and the
gradient by the pre-activation of the other. If there is a layer between them already, new neurons
are appended to it.
"""

from dataclasses import replace
from typing import Any

import keras
import numpy as np
from keras import tree

from keras_grow import _backend, _keras
from keras_grow.apply import Slopes
from keras_grow.apply.copying import copy_as_functional, copy_layer
from keras_grow.apply.rewiring import Rewiring
from keras_grow.errors import GrowthError, all_or_nothing, check_whole
from keras_grow.graph import graph_of
from keras_grow.graph.outputs import Outputs, compare, random_inputs, tolerance_of
from keras_grow.graph.places import Place, find
from keras_grow.growth import history, methods
from keras_grow.growth.data import Batches, GrowthData
from keras_grow.growth.methods import Problem
from keras_grow.growth.methods.base import JOINT, SPLIT
from keras_grow.growth.statistics import SiteGradients
from keras_grow.growth.step import GrowthStep
from keras_grow.logs.events import SiteGrowth
from keras_grow.planning import SitePlan, survey
from keras_grow.rules import activations
from keras_grow.surgery.inserting import CHECKED_SAMPLES
from keras_grow.surgery.paths import connect
from keras_grow.surgery.widening import grow_

layers = keras.layers

_CONSUMERS = tuple(
    getattr(layers, name)
    for name in (
        "Dense", "EinsumDense", "Conv1D", "Conv2D", "Conv3D", "DepthwiseConv1D",
        "DepthwiseConv2D", "SeparableConv1D", "SeparableConv2D", "Conv1DTranspose",
        "Conv2DTranspose", "Conv3DTranspose",
    )
)  # fmt: skip
_WITHOUT_WEIGHTS = (
    layers.Flatten,
    layers.Dropout,
    *(
        getattr(layers, f"{name}{rank}D")
        for rank in (1, 2, 3)
        for name in ("GlobalAveragePooling", "GlobalMaxPooling", "MaxPooling", "AveragePooling")
    ),
)


def bridge(
    model: Any,
    *,
    after: str,
    before: str,
    width: int = 8,
    activation: Any = "relu",
    method: Any = "gradmax",
    data: Any = None,
    seed: int | None = None,
    form: str = "auto",
    batches: int | None = 1,
) -> Any:
    """A model with a new hidden layer from one layer's output into another's pre-activation.

    The outputs stay the same. Between vectors (and sequences of them) the new layers are
    Dense(width) -> Dense; between maps Conv(width) -> Conv, with the kernel size of `before` and
    with strides and padding such that the sizes fit; from maps to vectors Conv(width) ->
    GlobalAveragePooling -> Dense. The result is added to what `before` makes; an activation of
    `before` moves into a layer behind the sum. All layers are stock Keras: the model saves and
    loads without keras_grow.

    If there is such a layer already (a bridge, or a layer with that activation from `after` to
    `before`), it becomes wider by `width` instead.

    ```python
    bridged = kg.bridge(model, after="dense_1", before="dense_3", width=16, data=(x, y))
    ```

    Args:
        model: a built functional or Sequential model; it is not changed. Of a Sequential model a
            functional one is made.
        after: the layer from which the new one reads; an input layer will do.
        before: a Dense or convolutional layer that does not lead to `after`.
        width: units or filters of the new layer.
        activation: of the new layer.
        method: as for `widen`; "gradmax" gives the new layer the largest gradient that is
            possible.
        data: growth data; needed by gradient methods, which need a compiled model too.
        seed: of the new weights; None draws a fresh one.
        form: "auto", "outgoing" (what makes the new layer zero) or "inverse" (what reads it zero).
        batches: as for `widen`.

    Returns:
        A new model that shares no variable with `model`, compiled as it is, with its optimizer
        state.

    Raises:
        GrowthError: no such layers, or no path between their shapes; the message says why.
    """
    clone, _ = bridged(
        model, after=after, before=before, width=width, activation=activation, method=method,
        data=data, seed=seed, form=form, batches=batches,
    )  # fmt: skip
    return clone


def bridge_(
    model: Any,
    *,
    after: str,
    before: str,
    width: int = 8,
    activation: Any = "relu",
    method: Any = "gradmax",
    data: Any = None,
    seed: int | None = None,
    slopes: Slopes | None = None,
    form: str = "auto",
    batches: int | None = 1,
) -> str:
    """Builds a bridge in place, as `bridge` does in a copy; inside `fit` too, from a callback.

    What `model.get_layer(before).output` names is the pre-activation afterwards; sub-models built
    on it before compute what they computed. It either succeeds or leaves the model as it was.

    Args:
        model, after, before, width, activation, method, data, seed, form, batches: as for
            `bridge`. A chain cannot hold a bridge, so no Sequential model.
        slopes: as for `grow_`.

    Returns:
        The name of the layer that is new or has grown.

    Raises:
        GrowthError: as `bridge`.
    """
    return bridged_(
        model, after=after, before=before, width=width, activation=activation, method=method,
        data=data, seed=seed, slopes=slopes, form=form, batches=batches,
    ).name  # fmt: skip


def bridged(model: Any, **arguments: Any) -> tuple[Any, SiteGrowth]:
    """What `bridge` returns, and a record of the new layer."""
    _check(model, **arguments)
    clone = copy_as_functional(model)
    history.inherit(clone, model)
    return clone, _bridge(clone, **arguments)


def bridged_(model: Any, **arguments: Any) -> SiteGrowth:
    """What `bridge_` does, and a record of the new layer."""
    _check(model, **arguments)
    _backend.attach_state(model)
    return _bridge(model, **arguments)


def _check(
    model: Any, *, after: str, before: str, width: Any, activation: Any, method: Any,
    data: Any = None, seed: Any = None, form: str = "auto", **rest: Any,
) -> None:  # fmt: skip
    graph_of(model)
    check_whole("width", width, 1)
    _check_activation(activation)
    if seed is not None:
        check_whole("seed", seed, 0)
    chosen = methods.get(method)
    check_bridge_method(chosen)
    if form == JOINT:
        raise GrowthError(
            "A bridge keeps what the model computes, which the joint form changes. "
            f"Use form='auto'. Received: form={form!r}."
        )
    _ends(model, after, before)
    if chosen.needs_gradients and (data is None or not getattr(model, "compiled", False)):
        lacks = "data=(x, y)" if data is None else "a compiled model"
        raise GrowthError(
            f"The method '{chosen.name}' looks at gradients and needs {lacks}. "
            "Or use method='random'."
        )


def check_bridge_method(method: Any) -> None:
    """Raises GrowthError if a method cannot make a new layer."""
    if SPLIT in method.forms:
        raise GrowthError(
            "A new layer has no neurons yet that could be split (paper, section 2). Use "
            f"method='gradmax' or 'random'. Received: method={method.name!r}."
        )


def _check_activation(activation: Any) -> None:
    try:
        keras.activations.get(activation)
    except (TypeError, ValueError) as error:
        raise GrowthError(
            "activation must be one that Keras knows, such as 'relu', a function, or None. "
            f"Received: activation={activation!r}"
        ) from error


def check_bridge(model: Any, *, after: str, before: str, activation: Any = "relu") -> str | None:
    """What `bridge_` would do in a live model, without doing it.

    Returns:
        The path of the hidden layer that would become wider; None where one would be built.

    Raises:
        GrowthError: as `bridge_`, as far as that can be told beforehand.
    """
    graph_of(model)
    _check_activation(activation)
    start, end = _ends(model, after, before)
    known = _existing(start, end, activation)
    if known is None:
        _check_owner(end)
        return None
    return end.path[: len(end.path) - len(end.op.name)] + known.name


def _check_owner(end: Place) -> None:
    if isinstance(end.owner, keras.Sequential):
        raise GrowthError(
            f"'{end.owner.name}' is a Sequential model, a chain, which cannot hold a bridge. "
            "Build the model from keras.Model(model.inputs, model.outputs), or use kg.bridge, "
            "which turns the outermost model into a functional one."
        )


def _ends(model: Any, after: str, before: str) -> tuple[Place, Place]:
    """The two layers, checked."""
    start, end = find(model, after), find(model, before)
    asked = f"Received: after={after!r}, before={before!r}."
    if start.functional is not end.functional:
        raise GrowthError(
            f"Layers '{after}' and '{before}' lie in different models, of which one is nested, "
            f"and a bridge cannot cross that border. Build it within one of them. {asked}"
        )
    if not isinstance(end.op, _CONSUMERS):
        raise GrowthError(
            f"A bridge leads into the pre-activation of a Dense or convolutional layer. "
            f"'{before}' is a {type(end.op).__name__}. {asked}"
        )
    for place in (start, end):
        if len(place.outputs) != 1:
            raise GrowthError(
                f"Layer '{place.path}' is called {len(place.nodes)} times or has several outputs, "
                f"so where the bridge is to be is not settled. {asked}"
            )
    if _depends(start.outputs[0], end.outputs[0]):
        raise GrowthError(
            f"'{before}' comes before '{after}' (or is it), so a bridge would make a cycle. "
            f"Exchange them. {asked}"
        )
    return start, end


def _depends(tensor: Any, on: Any) -> bool:
    """Whether a symbolic tensor is computed from another, or is it."""
    seen: set[int] = set()
    open_ends = [tensor]
    while open_ends:
        at = open_ends.pop()
        if at is on:
            return True
        if id(at) not in seen:
            seen.add(id(at))
            open_ends += _keras.input_tensors(_keras.maker_node(at))
    return False


def _bridge(
    model: Any, *, after: str, before: str, width: int, activation: Any, method: Any,
    data: Any = None, seed: int | None = None, slopes: Slopes | None = None, form: str = "auto",
    batches: int | None = 1,
) -> SiteGrowth:  # fmt: skip
    start, end = _ends(model, after, before)
    known = _existing(start, end, activation)
    if known is not None:
        prefix = end.path[: len(end.path) - len(end.op.name)]
        path = prefix + known.name
        now = survey(model).find(path).width
        size = history.Size.of(model)
        widths = {path: now + width}
        with history.held():
            done = grow_(model, widths, method, data, seed, form, slopes, batches=batches)
        for site in done.sites:
            site.kind = "bridge"
        history.note(model, size, done.sites, done.report, done.loss, done.seconds)
        return replace(done.sites[0], name=path)
    _check_owner(end)
    graph = graph_of(model)
    drawn = None
    if data is not None:
        drawn = GrowthData(data, batch_size=512, seed=seed or 0).batches(0, graph, batches)
    sample = random_inputs(model, seed=0, samples=4)
    if drawn is not None:
        sample = tree.map_structure(lambda a: a[:CHECKED_SAMPLES], drawn.first[0])
    sample = _backend.as_tensors(sample)
    outputs = Outputs(graph)(sample)
    size = history.Size.of(model)
    rewiring = Rewiring(model)
    what = f"A bridge from '{after}' to '{before}' in model '{model.name}'"
    with all_or_nothing(rewiring.undo, what):
        hidden = _Building(rewiring, model, start, end).build(width, activation)
        rewiring.map()
        chosen = methods.get(method)
        rng = np.random.default_rng(seed)
        taken = _fill(rewiring, model, hidden, chosen, rng, drawn, slopes, form)
        rewiring.finish()
        report = compare(outputs, Outputs(graph_of(model))(sample), tolerance_of(model))
        if not report and not chosen.epsilon:
            raise GrowthError(
                f"A bridge from '{after}' to '{before}' would have changed what the model "
                f"computes, so it was undone: {report}. Please report this model."
            )
        name = end.path[: len(end.path) - len(end.op.name)] + hidden.hidden.name
        new = SiteGrowth(name, [after], [before], 0, width, chosen.name, taken, kind="bridge")
        history.note(model, size, [new], report)
    return new


class _Building:
    """Puts the layers of a bridge into the graph, computing zero."""

    def __init__(self, rewiring: Rewiring, model: Any, start: Place, end: Place) -> None:
        self.rewiring = rewiring
        self.model = model
        self.start, self.end = start, end

    def build(self, width: int, activation: Any) -> "_Built":
        rewiring, consumer = self.rewiring, self.end.op
        (source,), (target,) = self.start.outputs, self.end.outputs
        self._check_not_shared(target)
        name = rewiring.name(f"{self.start.op.name}_{consumer.name}_bridge")
        found = connect(
            tuple(source.shape), tuple(target.shape), consumer, self.start.op, width, activation,
            name,
        )  # fmt: skip
        tensor = source
        for layer in (found.hidden, *found.between, found.out):
            tensor = rewiring.call(layer, tensor)
        readers = _keras.readers_of(target)
        total = rewiring.call(
            layers.Add(name=rewiring.name(f"{name}_add"), dtype=consumer.dtype_policy),
            [target, tensor],
        )
        result = self._behind(total)
        rewiring.swap(readers, target, result)
        for functional in _keras.living_graphs():
            if any(target is t for t in _keras.flat_outputs(functional)):
                rewiring.swap_output(functional, target, result)
        kernels = [_keras.kernel_of(layer) for layer in (found.hidden, found.out)]
        initial = {id(v): _backend.to_numpy(v).copy() for v in kernels}
        for kernel in kernels:
            rewiring.assign(kernel, np.zeros(tuple(kernel.shape)))
        return _Built(found.hidden, initial)

    def _behind(self, total: Any) -> Any:
        """The consumer's activation, taken off it and applied to the sum."""
        consumer = self.end.op
        function = getattr(consumer, "activation", None)
        if function is None or function is keras.activations.linear:
            return total
        if activations.plain(function) is not function:
            raise GrowthError(
                f"'{consumer.name}' is being grown by a GrowthCallback at present, which puts its "
                "activation back at the end of fit. Build the bridge before or after that fit."
            )
        if isinstance(function, keras.layers.Layer):
            if function.weights:
                raise GrowthError(
                    f"The activation of '{consumer.name}' is a layer with weights, which cannot be "
                    "moved behind a sum. Use it as a layer of its own behind a linear "
                    f"'{consumer.name}'. Received: {type(function).__name__}."
                )
            layer = copy_layer(function)
            self.rewiring.attribute(layer, "name", self.rewiring.name(layer.name))
        else:
            name = self.rewiring.name(f"{consumer.name}_activation")
            layer = layers.Activation(function, name=name, dtype=consumer.dtype_policy)
        linear = keras.activations.linear
        self.rewiring.note(_keras.replace_activation(consumer, linear))
        return self.rewiring.call(layer, total)

    def _check_not_shared(self, target: Any) -> None:
        """Taking its activation off a layer changes every call of it that is in use."""
        consumer = self.end.op
        own = _keras.maker_node(target)
        for functional in _keras.living_graphs():
            for node in _keras.all_nodes(functional):
                if node.operation is consumer and node is not own:
                    raise GrowthError(
                        f"Layer '{self.end.path}' is also called in model '{functional.name}', "
                        "which the bridge would change. Use kg.bridge, which works on a copy, or "
                        "delete that model."
                    )


class _Built:
    """A bridge that computes zero, and the initial kernels its layers had."""

    def __init__(self, hidden: Any, initial: dict[int, np.ndarray]) -> None:
        self.hidden = hidden
        self.initial = initial


class _Filling(GrowthStep):
    """Chooses weights as for new neurons, and gives them to the neurons that are there.

    The site's M is the same for new neurons and for those of a layer that computes zero. Norms are
    those of the layers' own initial kernels.
    """

    initial: dict[int, np.ndarray]
    rewiring: Rewiring

    def problem(self, site: SitePlan, gradients: SiteGradients | None) -> Problem:
        posed = super().problem(site, gradients)

        def rows(edit: Any, positions: np.ndarray) -> np.ndarray:
            kernel = np.moveaxis(self.initial[id(edit.variable)], edit.axis, 0)
            return kernel[positions].reshape(site.site.width, -1)

        (read,), (write,) = site.reads, site.writes
        return replace(
            posed,
            fan_out=rows(read.edit, read.old_rows),
            fan_in=rows(write.edit, write.old_columns),
        )

    def operate(self) -> None:
        (site,) = self.plan.sites
        (read,), (write,) = site.reads, site.writes
        for edit, positions, chosen in (
            (read.edit, read.old_rows, self.surgery.fan_out),
            (write.edit, write.old_columns, self.surgery.fan_in),
        ):
            value = _backend.to_numpy(edit.variable).copy()
            moved = np.moveaxis(value, edit.axis, 0)  # a view: writing to it writes to value
            for _, part in chosen.get(edit, []):
                moved[positions] = part.reshape(*positions.shape, *moved.shape[1:])
            self.rewiring.assign(edit.variable, value)
        bias = self.solutions[site].bias
        if bias is not None:
            self.rewiring.assign(write.producer.call.op.bias, bias)


def _fill(
    rewiring: Rewiring, model: Any, built: _Built, method: Any, rng: np.random.Generator,
    batches: Batches | None, slopes: Slopes | None, form: str,
) -> str:  # fmt: skip
    """Gives a bridge its weights; the form they have."""
    atlas = survey(model)
    path = next(p for p, op in atlas.graph.paths.items() if op is built.hidden)
    site = atlas.find(path)
    step = _Filling(atlas, {site: site.width}, method, rng, batches, slopes, form=form)
    step.initial, step.rewiring = built.initial, rewiring
    (done,) = step.run().sites
    return done.form


def _existing(start: Place, end: Place, activation: Any) -> Any | None:
    """A hidden layer that reads `start`, has the activation, and leads only into `end`."""
    (source,), (target,) = start.outputs, end.outputs
    wanted = keras.activations.get(activation)
    graphs = _keras.living_graphs()  # looked for once: that takes longer than all the rest
    ends = [target]
    for node in _keras.readers_of(target, graphs):
        if isinstance(node.operation, layers.Add):
            ends += [t for t in _keras.input_tensors(node) if t is not target]
    for tensor in ends:
        out = _keras.maker(tensor)
        if not isinstance(out, _CONSUMERS):
            continue
        (at, *more) = _keras.input_tensors(_keras.maker_node(tensor))
        while not more and isinstance(_keras.maker(at), _WITHOUT_WEIGHTS):
            at, *more = _keras.input_tensors(_keras.maker_node(at))
        hidden = _keras.maker(at)
        if (
            isinstance(hidden, (layers.Dense, layers.Conv1D, layers.Conv2D, layers.Conv3D))
            and activations.plain(hidden.activation) is wanted
            and _keras.input_tensors(_keras.maker_node(at))[0] is source
            and len(_keras.readers_of(at, graphs)) == 1
        ):
            return hidden
    return None
