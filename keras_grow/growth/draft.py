"""From a request to a plan, in the forms that keep the function; refused where a method cannot."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NoReturn

import numpy as np

from keras_grow import _backend
from keras_grow.apply import Slopes
from keras_grow.errors import GrowthError
from keras_grow.growth.data import Batches
from keras_grow.growth.forms import flat_sites, forms_for, planned
from keras_grow.growth.methods import Method
from keras_grow.growth.methods.base import SPLIT, ZEROS
from keras_grow.growth.problem import bias_slots, way_out
from keras_grow.growth.statistics.shadows import SiteShadows
from keras_grow.planning import Atlas, Plan, Site, SitePlan, make_plan
from keras_grow.planning.plan import INVERSE, OUTGOING
from keras_grow.rules import NoSlope

# New channels of plans that are made only to see what a large one would cost.
SMALL_PLAN = 200


@dataclass(frozen=True)
class Initialization:
    """How new weights are chosen.

    Attributes:
        method: chooses them.
        rng: the only source of randomness.
        form: "auto", or one of `methods.base.FORMS` that the method knows.
        batches: growth data; needed by methods that look at gradients.
        slopes: where activations with an explicit slope at zero are put in place. Without it
            (offline) new neurons are made so that the plain activation trains them.
        norms: also find the gradient norm of the weights that sites have now, for which the
            backward pass differentiates by more: up to one or two training steps.
    """

    method: Method
    rng: np.random.Generator
    form: str = "auto"
    batches: Batches | None = None
    slopes: Slopes | None = None
    norms: bool = False


@dataclass(frozen=True)
class Request:
    """What is to grow, and how.

    Attributes:
        atlas: a survey of the model as it is.
        amounts: new channels by site.
        init: how new weights are chosen.
        disposable: the model is given up if growth fails, so its old weights need not be kept.
    """

    atlas: Atlas
    amounts: Mapping[Site, int]
    init: Initialization
    disposable: bool = False


@dataclass(frozen=True, eq=False)
class Draft:
    """The plan of a request.

    Attributes:
        plan: every edit.
        forms: as the method knows them, by site; a plan knows only two.
        flat: sites that take the inverse form because zero fan-ins have no gradient there.
        stuck: sites whose new channels pass, at zero, an activation without a slope there.
    """

    plan: Plan
    forms: Mapping[Site, str]
    flat: frozenset[Site]
    stuck: frozenset[Site]

    def form_of(self, site: SitePlan) -> str:
        """The form as the method knows it; a site may take the inverse form whatever is asked."""
        asked = self.forms[site.site]
        return site.form if asked in (OUTGOING, INVERSE) else asked


def drafted(request: Request) -> Draft:
    """The plan, and which form each site grows in.

    Raises:
        GrowthError: it cannot be had, or not by this method.
    """
    atlas, amounts, init = request.atlas, request.amounts, request.init
    _check_room(atlas, amounts)
    forms = forms_for(atlas, amounts, init.method, init.slopes, init.form)
    plan = make_plan(atlas, amounts, planned(forms))
    flat: set[Site] = set()
    if (
        init.form in ("auto", OUTGOING)
        and INVERSE in init.method.forms
        and init.method.needs_gradients
    ):
        flat = flat_sites(atlas, amounts, plan, forms, init.slopes)
    if flat:
        forms = {**forms, **dict.fromkeys(flat, INVERSE)}
        plan = make_plan(atlas, amounts, planned(forms))
    stuck = {s for c in plan.activations.values() for s in plan.passing(c)}
    draft = Draft(plan, forms, frozenset(flat), frozenset(stuck))
    for site in plan.sites:
        _check_form(draft, site, init.method)
        if init.method.sets_bias:
            bias_slots(site, init.method.name)
    return draft


def check_slopes(draft: Draft, method: Method) -> None:
    """Whether a method can grow the sites of a draft, as far as can be told without growth data.

    Raises:
        GrowthError: it cannot, at some of them; the message names them all.
    """
    if not method.needs_gradients:
        return
    reasons: dict[SitePlan, str] = {}
    for site in draft.plan.sites:
        try:
            SiteShadows(draft.plan, site).check()
        except NoSlope as reason:
            reasons[site] = str(reason)
    if reasons:
        no_slope(draft.plan, method, next(iter(reasons)), next(iter(reasons.values())), reasons)


def no_slope(
    plan: Plan,
    method: Method,
    site: SitePlan,
    reason: str,
    refused: "Mapping[SitePlan, str] | None" = None,
) -> NoReturn:
    """Refuses a site whose new channels have no gradient that could be computed.

    Args:
        refused: all such sites; only `site` if left out.
    """
    given_up = list(refused or {site: reason})
    others = ", ".join(f"'{s.site.name}'" for s in given_up if s is not site)
    left = [s.site.name for s in plan.sites if s not in given_up]
    raise GrowthError(
        f"The gradients of new channels at site '{site.site.name}' cannot be computed: "
        f"{reason}. {f'The same at {others}. ' if others else ''}{way_out(left)} "
        f"Received: method='{method.name}'."
    ) from None


def _check_form(draft: Draft, site: SitePlan, method: Method) -> None:
    form, known = draft.form_of(site), method.forms
    if form not in known:
        raise GrowthError(
            f"The method '{method.name}' cannot grow site '{site.site.name}' in the "
            f"{form} form, which is the one that keeps the function there; it knows "
            f"{', '.join(known)}. {way_out()}"
        )
    if form in (SPLIT, ZEROS) and site.form == OUTGOING:
        raise GrowthError(
            f"The method '{method.name}' makes neurons that are not zero, but site "
            f"'{site.site.name}' divides by the size of all channels, or otherwise needs new "
            f"ones that are zero. {way_out()}"
        )
    if form != SPLIT:
        return
    # A copy computes the same as its parent only where every channel is treated by itself.
    if site.site.granularity > 1 or draft.plan.rewires or draft.plan.rewrites:
        raise GrowthError(
            f"Site '{site.site.name}' cannot be grown by splitting: a layer on it works on "
            "several channels together (a normalisation across channels, groups, or the size "
            f"of an attention head), where a copy changes the others. {way_out()}"
        )


def _check_room(atlas: Atlas, amounts: Mapping[Site, int]) -> None:
    """Raises GrowthError at once, not after minutes, where new weights alone exceed the memory.

    Parameters are a polynomial of second degree in the new channels, since a kernel has at most
    two axes that grow: two small plans tell it.
    """
    has = _backend.machine_memory()
    shrink = max(amounts.values(), default=0) / SMALL_PLAN
    if has is None or shrink < 100:
        return
    small = {
        s: max(int(n / shrink) // s.granularity, 1) * s.granularity for s, n in amounts.items()
    }
    double = {site: 2 * n for site, n in small.items()}
    one, two = (make_plan(atlas, some).added_parameters for some in (small, double))
    linear, square = (4 * one - two) / 2, (two - 2 * one) / 2
    added = linear * shrink + square * shrink**2
    if 4 * added > 2 * has:  # twice, for what rounding does to an estimate
        sites = ", ".join(f"'{site.name}' by {n:,}" for site, n in amounts.items())
        raise GrowthError(
            f"Growing {sites} would add about {added:.1g} parameters, more than the "
            f"{has / 2**30:.0f} GiB of this machine's memory hold. Add fewer channels."
        )
