"""The public functions: where a model can grow, what it would take, and doing it."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Literal, overload

from keras_grow import _keras
from keras_grow.apply import Slopes
from keras_grow.apply.copying import borrow_model
from keras_grow.errors import GrowthError, check_flag
from keras_grow.graph.outputs import Outputs
from keras_grow.growth import history
from keras_grow.growth.guarded import Growth, Guard
from keras_grow.growth.step import Request, grow
from keras_grow.planning import Plan, Refusal, Site, make_plan, survey
from keras_grow.planning.cost import graph_flops
from keras_grow.planning.plan import INVERSE, OUTGOING
from keras_grow.surgery.arguments import amounts_of, initialization


@overload
def sites(model: Any, refused: Literal[False] = False) -> list[Site]: ...
@overload
def sites(model: Any, refused: Literal[True]) -> list[Refusal]: ...


def sites(model: Any, refused: bool = False) -> list[Site] | list[Refusal]:
    """Where a model can grow.

    Args:
        model: a built functional or Sequential model.
        refused: list the layers that cannot grow instead, each with the reason.

    Returns:
        `Site`s in the order of the graph, or `Refusal`s.

    Raises:
        GrowthError: the model has no graph: subclassed, not built, or no Keras model.
    """
    atlas = survey(model)
    return atlas.refusals() if refused else atlas.sites


def plan(
    model: Any, widths: Mapping[str, int], form: str = "outgoing", alone: bool = False
) -> Plan:
    """What widening would change, without changing it.

    Args:
        widths: new widths by layer or site name.
        form: "outgoing" (new fan-in zero) or "inverse" (new fan-out zero). Sites where only the
            inverse form is exact take it anyway.
        alone: grow only the named layers, as for `widen`.

    Raises:
        GrowthError: an unknown or refused layer, or a width that is not larger.
    """
    if form not in (OUTGOING, INVERSE):
        raise GrowthError(f"form must be 'outgoing' or 'inverse'. Received: form={form!r}")
    atlas = survey(model, _alone(widths, alone))
    amounts = amounts_of(atlas, widths)
    return make_plan(atlas, amounts, dict.fromkeys(amounts, form))


def widen(
    model: Any,
    widths: Mapping[str, int],
    method: Any = "random",
    data: Any = None,
    seed: int | None = None,
    form: str = "auto",
    alone: bool = False,
    batches: int | None = 1,
) -> Any:
    """A wider model that computes the same.

    New neurons can be trained with plain Keras: they have a fan-in and a zero fan-out (the inverse
    form) wherever that is exact. Elsewhere, and with form="outgoing", those behind an activation
    without a slope at zero, such as relu, get a fan-in of 1e-7 of the others', on the side where
    the slope is 1 if gradients are known.

    Args:
        model: a built functional or Sequential model; it is not changed.
        widths: NEW widths by layer or site name; tied layers grow together.
        method: a name such as "random" or "gradmax", or an object from `keras_grow.methods`.
        data: growth data, as `GrowthCallback` takes it; needed by methods that look at gradients.
        seed: of the new weights; None draws a fresh one.
        form: "auto" (what helps: see docs/methods.md), "outgoing" (new fan-in zero), "inverse"
            (new fan-out zero), or another form that the method knows.
        alone: grow only the named layers, not those that an Add ties to them: what their output
            is added to is padded with zeros instead (He et al. 2016, option A).
        batches: how many batches of 512 samples (or of the data's own size) gradients are taken
            on; None for all the data.

    Returns:
        A new model that shares no variable with `model`, compiled as it is, with its optimizer
        state.

    Raises:
        GrowthError: what was asked cannot be done exactly; the message says where and why.
    """
    amounts_of(survey(model, _alone(widths, alone)), widths)  # fail before copying anything
    clone, own = borrow_model(model)
    history.inherit(clone, model)
    request = _request(clone, widths, method, data, seed, form, alone, None, batches)
    living = _keras.Living.within(clone)
    done = grow(
        replace(request, disposable=True), Guard(Outputs(request.atlas.graph), None, living)
    )
    history.note(clone, done)
    own()
    return clone


def grow_(
    model: Any,
    widths: Mapping[str, int],
    method: Any = "random",
    data: Any = None,
    seed: int | None = None,
    form: str = "auto",
    slopes: Slopes | None = None,
    alone: bool = False,
    batches: int | None = 1,
) -> Growth:
    """Widens a model in place, compiled or not; what `GrowthCallback` does at every growth.

    All that refers to the model (layers, tensors, optimizer, sub-models) stays valid. Other models
    over the same layers grow along, optimizers that a loop of the user's own holds and functions
    that TensorFlow has traced are brought up to date; they are found in memory. A `torch.optim`
    optimizer over `model.parameters()` holds the old parameters: make a new one. It either succeeds
    or leaves the model as it was.

    Args:
        model, widths, method, data, seed, form, alone, batches: as for `widen`.
        slopes: for custom training loops: a `keras_grow.Slopes` in which activations with an
            explicit slope at zero are noted; call its `remove()` when training ends. Without it
            new neurons are made trainable with the plain activations, as by `widen`.

    Returns:
        What was done: `.sites`, `.report`, `.loss`, `.seconds`; it can be printed.

    Raises:
        GrowthError: what was asked cannot be done exactly, or would leave another living model
            behind; the message says where and why. Nothing has changed.
    """
    request = _request(model, widths, method, data, seed, form, alone, slopes, batches)
    done = grow(request, Guard(Outputs(request.atlas.graph)))
    history.note(model, done)
    return done


def _request(
    model: Any,
    widths: Mapping[str, int],
    method: Any,
    data: Any,
    seed: int | None,
    form: str,
    alone: bool,
    slopes: Slopes | None,
    batches: int | None,
) -> Request:
    atlas = survey(model, _alone(widths, alone))
    amounts = amounts_of(atlas, widths)
    init = initialization(atlas.graph, method, data, seed, form, slopes, batches)
    return Request(atlas, amounts, init)


def _alone(widths: Mapping[str, int], alone: bool) -> Iterable[str]:
    check_flag("alone", alone)
    return tuple(widths) if alone and isinstance(widths, Mapping) else ()


def flops(model: Any) -> float:
    """Forward FLOPs for one sample: two per multiply-add of dense and convolution kernels.

    A training step costs about three times that per sample: forward, gradient by the inputs,
    gradient by the weights. Unknown sizes count as 1.
    """
    return graph_flops(survey(model).graph)
