"""Which side of new neurons is zero: the form in which every site grows.

Both forms keep the function. What happens in the first steps afterwards differs.

* Outgoing (fan-in zero): all of a new neuron comes from its first steps, which point where one
  minibatch says. Behind a batch or group normalisation they are 1 / sqrt(epsilon) times too large,
  and the neuron is at full size after one of them; with momentum or Adam the direction of the first
  minibatch is kept up for tens of steps.
* Inverse (fan-out zero): the neuron is there from the start, with its activation and its
  statistics, and is read little by little.

"auto" takes the inverse form wherever it is exact, because it ended lower in every comparison but
one: under plain gradient descent, without momentum and with nothing normalising the new neurons,
which is what the paper derives the outgoing form for and measures in its teacher-student tasks.
docs/methods.md has the measurements.
"""

from collections.abc import Mapping

from keras_grow import _keras
from keras_grow.apply import Slopes
from keras_grow.errors import GrowthError, RefusedError
from keras_grow.graph import Call
from keras_grow.growth.methods import Method
from keras_grow.growth.methods.base import FORMS
from keras_grow.growth.statistics.shadows import SiteShadows
from keras_grow.planning import Atlas, Plan, Site, SitePlan, make_plan
from keras_grow.planning.plan import INVERSE, OUTGOING


def forms_for(
    atlas: Atlas, amounts: Mapping[Site, int], method: Method, slopes: Slopes | None, form: str
) -> dict[Site, str]:
    """The form in which every site grows.

    Args:
        slopes: activations with an explicit slope at zero; None where the plain ones stay.
        form: "auto", or a form that the method knows.

    Raises:
        GrowthError: a form that there is not, or that the method does not know.
    """
    known = method.forms
    if form not in ("auto", *FORMS):
        raise GrowthError(
            f"form must be 'auto' or one of {', '.join(repr(f) for f in FORMS)}. "
            f"Received: form={form!r}"
        )
    if form != "auto":
        if form not in known:
            raise GrowthError(
                f"The method '{method.name}' knows the forms {', '.join(known)} only. "
                f"Received: form={form!r}. Use form='auto'."
            )
        return dict.fromkeys(amounts, form)
    if known[0] != OUTGOING or INVERSE not in known:
        return dict.fromkeys(amounts, known[0])
    plan = make_plan(atlas, amounts)
    learning = {site.site for site in plan.sites if not _read_by_frozen(site)}
    dead: set[Site] = set()
    if not method.needs_gradients:
        # Nothing gives a zero fan-in a slope here (offline behind relu; always behind tanh_shrink,
        # or where channels are multiplied by themselves), nor does a gradient say where to push it.
        dead = {s for c in _without_slope(plan, slopes) for s in plan.passing(c)} & learning
    wanted = learning
    if _keras.is_plain_descent(atlas.graph.model):
        lifted = {site.site for site in plan.sites if SiteShadows(plan, site).normalised}
        wanted = (lifted & learning) | dead
    return _inverse_where_it_fits(atlas, amounts, wanted, dead, plan)


def flat_sites(
    atlas: Atlas,
    amounts: Mapping[Site, int],
    plan: Plan,
    forms: Mapping[Site, str],
    slopes: Slopes | None,
) -> set[Site]:
    """Sites in the outgoing form whose zero fan-ins get no gradient, which the inverse form helps.

    So it is behind tanh_shrink, or where channels are multiplied by themselves.
    """
    slopes = Slopes() if slopes is None else slopes
    sites = {
        site
        for call in _without_slope(plan, slopes)
        for site in plan.passing(call)
        if forms[site] == OUTGOING
    }
    return {s for s in sites if _tried(atlas, {s: amounts[s]}, {s: INVERSE}) is not None}


def planned(forms: Mapping[Site, str]) -> dict[Site, str]:
    """In a plan new channels are zero, or they are not and nothing reads them."""
    return {site: form if form == OUTGOING else INVERSE for site, form in forms.items()}


def _tried(atlas: Atlas, amounts: Mapping[Site, int], forms: Mapping[Site, str]) -> Plan | None:
    """The plan for these forms, if there is one."""
    try:
        return make_plan(atlas, amounts, forms)
    except RefusedError:  # new channels must be zero here, for example for RMSNormalization
        return None


def _read_by_frozen(site: SitePlan) -> bool:
    """Whether fan-outs stay what they are, and fan-ins do not: a zero fan-out would be no use."""
    learns = [
        any(slot.edit.variable.trainable for slot in side) for side in (site.writes, site.reads)
    ]
    return learns == [True, False]


def _without_slope(plan: Plan, slopes: Slopes | None) -> list[Call]:
    return [c for c in plan.activations.values() if slopes is None or not slopes.helps(c)]


def _inverse_where_it_fits(
    atlas: Atlas, amounts: Mapping[Site, int], wanted: set[Site], dead: set[Site], plan: Plan
) -> dict[Site, str]:
    """The inverse form at the wanted sites if it is exact there, the outgoing one elsewhere.

    Neither where it takes layers of its own for the new channels, as behind a LayerNormalization
    over a stream that can be centred instead; but for sites that are dead otherwise.

    Args:
        plan: of the outgoing form everywhere.
    """
    forms = {site: INVERSE if site in wanted else OUTGOING for site in amounts}
    whole = _tried(atlas, amounts, forms)
    if whole is not None and len(whole.apart) <= len(plan.apart):
        return forms
    for site in wanted:
        one = {site: amounts[site]}
        alone = _tried(atlas, one, {site: INVERSE})
        fits = alone is not None and (
            site in dead or len(alone.apart) <= len(make_plan(atlas, one).apart)
        )
        forms[site] = INVERSE if fits else OUTGOING
    return forms
