"""The change that makes sites wider, and the records of it."""

from keras_grow import _keras
from keras_grow.errors import GrowthError, all_or_nothing
from keras_grow.growth.amplitude import LineSearch
from keras_grow.growth.choice import Choice
from keras_grow.growth.draft import Draft, Request
from keras_grow.growth.guarded import Change, Clock
from keras_grow.growth.methods import Method, Solution
from keras_grow.growth.methods.base import JOINT
from keras_grow.growth.methods.checking import sides_set
from keras_grow.growth.penalties import check_penalties
from keras_grow.growth.statistics import Measured
from keras_grow.logs.events import SiteGrowth
from keras_grow.planning import SitePlan
from keras_grow.planning.plan import INVERSE, OUTGOING
from keras_grow.rules import is_custom


class Wider(Change):
    """A plan with the weights chosen for it."""

    def __init__(
        self, request: Request, draft: Draft, data: Measured | None, choice: Choice
    ) -> None:
        self.request, self.draft, self.data, self.choice = request, draft, data, choice
        self.graph = request.atlas.graph
        self.plan = draft.plan
        self.doing = f"Growing {', '.join(site.name for site in request.amounts)}"
        self.rewires = draft.plan.rewires
        self.loss = loss_of(request.init.method, data)
        self.may_differ = bool(request.init.method.epsilon) or JOINT in draft.forms.values()

    def apply(self, living: _keras.Living, clock: Clock) -> None:
        surgery, batches = self.choice.surgery, self.request.init.batches
        sized = [s for s, solution in self.choice.solutions.items() if solution.amplitude]
        search = LineSearch(surgery, sized) if sized else None
        with clock("surgery"):
            surgery.apply(living)
            try:
                check_penalties(self.draft.plan)
            except GrowthError:
                surgery.undo()
                raise
        if search is None or batches is None:
            return
        what = f"Searching the size of new neurons in model '{self.graph.model.name}'"
        with clock("line search"), all_or_nothing(surgery.undo, what):
            factor, loss = search(batches)
        for site in sized:
            self._forget_fan_out(site)
            self.choice.solutions[site].notes += (
                f"new weights were scaled by {factor:.3g}, which takes the loss to {loss:.6g}",
            )

    def undo(self) -> None:
        self.choice.surgery.undo()

    def settle(self) -> None:
        """Gives the activations that new channels pass at zero their explicit slope."""
        if self.request.init.slopes is not None:
            for call in self.draft.plan.activations.values():
                self.request.init.slopes.install(call)

    def records(self) -> list[SiteGrowth]:
        return records_of(self.request, self.draft, self.data, self.choice)

    def culprit(self) -> str:
        method = self.request.init.method
        for site, solution in self.choice.solutions.items():
            if sides := sides_set(self.draft.form_of(site), solution):
                return (
                    f"The method '{method.name}' set {sides} of new neurons at site "
                    f"'{site.site.name}'. Leave the fan-in zero in the outgoing form and the "
                    "fan-out in the inverse form, or give the method an epsilon of more than 0 if "
                    "the function may change."
                )
        ops = [call.op for call in self.graph.calls]
        own = {type(op).__name__ for op in ops if is_custom(op)}
        if own:
            return f"Your own rule for {', '.join(sorted(own))} is probably wrong."
        return super().culprit()

    def _forget_fan_out(self, site: SitePlan) -> None:
        """Weights of another time that are grown alike keep their function."""
        for slot in site.reads:
            rows = self.choice.surgery.fan_out.get(slot.edit, [])
            self.choice.surgery.fan_out[slot.edit] = [r for r in rows if r[0] is not slot.rows]


def loss_of(method: Method, data: Measured | None) -> float | None:
    """The loss of the growth data, if the method had it computed."""
    return data.loss if data is not None and method.needs_gradients else None


def records_of(
    request: Request, draft: Draft, data: Measured | None, choice: Choice
) -> list[SiteGrowth]:
    """A record of each site, carried out or not."""
    init = request.init
    looked = data if init.method.needs_gradients else None
    records = []
    for site, solution in choice.solutions.items():
        record = _record(site, draft.form_of(site), init.method, solution)
        if looked is not None and init.norms:
            record.existing_norm = looked.weight_norm(site.site.kernels)
        step = choice.first_steps.get(site)
        if step is not None:
            record.first_step, record.first_reach = step.ratio, step.reach
        if init.form == OUTGOING and record.form == INVERSE:
            what = "no gradient" if site.site in draft.flat else "a value that is not zero"
            record.notes.append(f"the inverse form was taken: zero fan-ins have {what} here")
        records.append(record)
    return records


def _record(site: SitePlan, form: str, method: Method, solution: Solution) -> SiteGrowth:
    return SiteGrowth(
        name=site.site.name,
        producers=list(site.site.producers),
        consumers=list(site.site.consumers),
        width_before=site.site.width,
        width_after=site.width,
        method=method.name,
        form=form,
        singular_values=[float(s) for s in solution.singular_values],
        gradient_norm=solution.gradient_norm,
        rank=solution.rank,
        notes=list(solution.notes),
    )
