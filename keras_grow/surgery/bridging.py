"""`bridge` and `bridge_`: a new hidden layer from one layer's output into another's pre-activation.

GradMax, Evci et al. 2022, Appendix A, "Growing Layers": any two layers k and l can be connected by
growing a new layer between them, since M of equation 9 needs only the output of the one and the
gradient by the pre-activation of the other. If there is a layer between them already, new neurons
are appended to it.
"""

from typing import Any

from keras_grow import _keras
from keras_grow.apply import Slopes
from keras_grow.apply.copying import copy_as_functional
from keras_grow.errors import GrowthError, check_whole
from keras_grow.graph import graph_of
from keras_grow.graph.outputs import Outputs
from keras_grow.growth import history, methods
from keras_grow.growth.guarded import Growth, Guard, guarded
from keras_grow.growth.methods.base import JOINT, SPLIT
from keras_grow.growth.step import Initialization, Request, grow
from keras_grow.planning import survey
from keras_grow.surgery.arguments import amounts_of, initialization
from keras_grow.surgery.building import Bridging, NewBridge
from keras_grow.surgery.ends import check_activation, check_owner, ends, existing


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
    new = NewBridge(after, before, width, activation)
    _check(model, new, method, data, form)
    init = initialization(graph_of(model), method, data, seed, form, None, batches)
    clone, done = bridged(model, new, init)
    history.note(clone, done)
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
) -> Growth:
    """Builds a bridge in place, as `bridge` does in a copy; inside `fit` too, from a callback.

    What `model.get_layer(before).output` names is the pre-activation afterwards; sub-models built
    on it before compute what they computed. It either succeeds or leaves the model as it was.

    Args:
        model, after, before, width, activation, method, data, seed, form, batches: as for
            `bridge`. A chain cannot hold a bridge, so no Sequential model.
        slopes: as for `grow_`.

    Returns:
        What was done; `.name` is the address of the layer that is new or has grown.

    Raises:
        GrowthError: as `bridge`.
    """
    new = NewBridge(after, before, width, activation)
    _check(model, new, method, data, form)
    init = initialization(graph_of(model), method, data, seed, form, slopes, batches)
    living = _keras.Living()
    done = built_or_widened(model, new, init, Guard(Outputs(graph_of(model)), living=living))
    history.note(model, done)
    return done


def bridged(model: Any, new: NewBridge, init: Initialization) -> tuple[Any, Growth]:
    """A copy with a bridge, and what was done."""
    clone = copy_as_functional(model)
    history.inherit(clone, model)
    guard = Guard(Outputs(graph_of(clone)), living=_keras.Living.within(clone))
    return clone, built_or_widened(clone, new, init, guard)


def built_or_widened(model: Any, new: NewBridge, init: Initialization, guard: Guard) -> Growth:
    """Builds a bridge in a live model, or widens the one that is there.

    Raises:
        GrowthError: it cannot be done; the model is as it was.
    """
    path = known_bridge(model, new, guard.living)
    if path is None:
        batch = None if init.batches is None else init.batches.first
        return guarded(Bridging(model, new, init), Guard(guard.outputs, batch, guard.living))
    atlas = survey(model)
    amounts = amounts_of(atlas, {path: atlas.find(path).width + new.width})
    done = grow(Request(atlas, amounts, init), guard)
    for site in done.sites:
        site.kind = "bridge"
    return done


def known_bridge(model: Any, new: NewBridge, living: _keras.Living) -> str | None:
    """The path of the hidden layer that would become wider; None where one would be built.

    Raises:
        GrowthError: no bridge is possible there, as far as that can be told beforehand.
    """
    graph_of(model)
    check_activation(new.activation)
    start, end = ends(model, new.after, new.before)
    known = existing(start, end, new.activation, living)
    if known is None:
        check_owner(end)
        return None
    return end.path[: len(end.path) - len(end.op.name)] + known.name


def _check(model: Any, new: NewBridge, method: Any, data: Any, form: str) -> None:
    graph_of(model)
    check_whole("width", new.width, 1)
    check_activation(new.activation)
    chosen = methods.get(method)
    check_bridge_method(chosen)
    if form == JOINT:
        raise GrowthError(
            "A bridge keeps what the model computes, which the joint form changes. "
            f"Use form='auto'. Received: form={form!r}."
        )
    ends(model, new.after, new.before)
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
