"""The public functions: where a model can grow, what it would take, and doing it."""

from collections.abc import Iterable, Mapping
from typing import Any, Literal, overload

import numpy as np

from keras_grow.apply import Slopes
from keras_grow.apply.copying import borrow_model
from keras_grow.errors import GrowthError, check_flag, check_whole
from keras_grow.graph.outputs import Outputs
from keras_grow.growth import history, methods
from keras_grow.growth.data import GrowthData
from keras_grow.growth.step import Growth, GrowthStep
from keras_grow.planning import Atlas, Plan, Refusal, Site, make_plan, survey
from keras_grow.planning.cost import graph_flops
from keras_grow.planning.drafting import check_amount
from keras_grow.planning.plan import INVERSE, OUTGOING


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
    _grow_model(clone, widths, method, data, seed, form, alone, None, batches, disposable=True)
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

    All that refers to the model (layers, tensors, optimizer, sub-models) stays valid. It either
    succeeds or leaves the model as it was.

    Args:
        model, widths, method, data, seed, form, alone, batches: as for `widen`.
        slopes: for custom training loops: a `keras_grow.Slopes` in which activations with an
            explicit slope at zero are noted; call its `remove()` when training ends. Without it
            new neurons are made trainable with the plain activations, as by `widen`.

    Returns:
        What was done: `.sites`, `.report`, `.loss`, `.seconds`.
    """
    return _grow_model(model, widths, method, data, seed, form, alone, slopes, batches)


def _grow_model(
    model: Any,
    widths: Mapping[str, int],
    method: Any,
    data: Any,
    seed: int | None,
    form: str,
    alone: bool,
    slopes: Slopes | None,
    batches: int | None = 1,
    disposable: bool = False,
) -> Growth:
    chosen = methods.get(method)
    if seed is not None:
        check_whole("seed", seed, 0)
    if batches is not None:
        check_whole("batches", batches, 1)
    if slopes is not None and not isinstance(slopes, Slopes):
        raise GrowthError(f"slopes must be a keras_grow.Slopes. Received: slopes={slopes!r}.")
    atlas = survey(model, _alone(widths, alone))
    amounts = amounts_of(atlas, widths)
    drawn = None
    if data is not None:
        source = GrowthData(data, batch_size=512, seed=seed or 0)
        drawn = source.batches(0, atlas.graph, batches)
    rng = np.random.default_rng(seed)
    outputs = Outputs(atlas.graph)
    before = history.Size.of(model)
    done = GrowthStep(atlas, amounts, chosen, rng, drawn, slopes, outputs, form, disposable).run()
    history.note(model, before, done.sites, done.report, done.loss, done.seconds)
    return done


def _alone(widths: Mapping[str, int], alone: bool) -> Iterable[str]:
    check_flag("alone", alone)
    return tuple(widths) if alone and isinstance(widths, Mapping) else ()


def amounts_of(atlas: Atlas, widths: Mapping[str, int]) -> dict[Site, int]:
    """New channels by site from new widths by name.

    Raises:
        GrowthError: nothing asked, an unknown layer, no whole number, not wider, or two names of
            one site with different growth.
    """
    if not isinstance(widths, Mapping) or not widths:
        raise GrowthError(
            "widths must be a dict of new widths by layer name, such as {'conv_1': 96}. "
            f"Received: {widths!r}"
        )
    amounts: dict[Site, int] = {}
    for name, width in widths.items():
        site = atlas.find(name)
        if not isinstance(width, (int, np.integer)) or isinstance(width, bool):
            raise GrowthError(f"Widths must be whole numbers. Received: {name}={width!r}.")
        whole = [(p.width, at.shape[1]) for p, at in site.members if p.path == name]
        now, times = whole[0] if whole else (site.width, 1)
        if width <= now:
            raise GrowthError(
                f"Layer '{name}' is {now} wide and can only become wider. Received: {name}={width}."
            )
        added, rest = divmod(int(width) - now, times)
        if rest:
            raise GrowthError(
                f"Layer '{name}' is {now} wide and grows in steps of {times}, because {times} of "
                f"its channels at a time are tied to each other. Received: {name}={width}."
            )
        others = [p for p in site.producers if p not in widths]
        if atlas.alone and others:
            raise GrowthError(
                f"Layer '{name}' cannot grow alone: '{others[0]}' is tied to it by more than an "
                "addition, so zeros in its place would change the function or never learn. Name "
                "both, or leave out alone=True."
            )
        check_amount(site, added)
        if amounts.setdefault(site, added) != added:
            tied = ", ".join(f"'{p}'" for p in site.producers)
            raise GrowthError(
                f"The layers {tied} are tied and grow by the same number of channels. "
                f"Received: {dict(widths)}."
            )
    return amounts


def flops(model: Any) -> float:
    """Forward FLOPs for one sample: two per multiply-add of dense and convolution kernels.

    A training step costs about three times that per sample: forward, gradient by the inputs,
    gradient by the weights. Unknown sizes count as 1.
    """
    return graph_flops(survey(model).graph)
