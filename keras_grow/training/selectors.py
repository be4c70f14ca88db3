"""Where to grow, and by how much: widths, and new layers and bridges in turn with them."""

from collections.abc import Sequence

from keras_grow.errors import GrowthError, check_whole
from keras_grow.planning import Site, make_plan
from keras_grow.training.budgets import Budget
from keras_grow.training.selecting import Amount, Occasion, Selector, Widening
from keras_grow.training.structural import Bridge, Insert, InTurn

# Gains closer than this are equal: they come from sums in float32.
ROUNDING = 1e-5

__all__ = [
    "All",
    "Bridge",
    "Budget",
    "InTurn",
    "Insert",
    "LargestGain",
    "Occasion",
    "RoundRobin",
    "Selector",
    "Widening",
]


class All(Widening):
    """Every site grows at every growth step."""

    def select(self, occasion: Occasion) -> dict[Site, int]:
        sites = self.candidates(occasion.atlas)
        amounts = self.share_out(sites, occasion)
        if not amounts:
            self.spent(sites, occasion)
        return amounts

    def considered(self, occasion: Occasion) -> dict[Site, int]:
        return self.share_out(self.candidates(occasion.atlas), occasion)

    def foreseen(self, occasion: Occasion) -> list[dict[Site, int]]:
        return [self.considered(occasion)]


class RoundRobin(Widening):
    """One site a growth step, in turn."""

    def select(self, occasion: Occasion) -> dict[Site, int]:
        sites = self.candidates(occasion.atlas)
        own = self.alone(occasion)
        for shift in range(len(sites)):
            site = sites[(occasion.count + shift) % len(sites)]
            added = self.amount_for(site, own)
            if added:
                return {site: added}
        self.spent(sites, occasion)
        return {}

    def foreseen(self, occasion: Occasion) -> list[dict[Site, int]]:
        sites = self.candidates(occasion.atlas)
        amounts = self.considered(occasion)
        turns = len(sites) if occasion.remaining is None else min(occasion.remaining, len(sites))
        ahead = [sites[(occasion.count + turn) % len(sites)] for turn in range(turns)]
        return [{site: amounts[site]} for site in ahead if site in amounts]


class LargestGain(Widening):
    """The sites grow whose new weights would get the largest gradient.

    Sites are ranked by the squared norm that the gradient by their new weights would have with
    GradMax: the sum of the first squared singular values of M, as many as there are new neurons,
    times the squared norm of new fan-outs (Evci et al. 2022, equation 11). To first order the next
    step of gradient descent lowers the loss in proportion to it. Of sites that are equal, up to
    rounding, the first in the graph is taken. Sites
    whose new channels get no gradient are left out, and the event says why.

    Args:
        amount, names, pattern: as for the other selectors. Targets are approached in as many
            parts as there are growths for each site if all take turns.
        by: "gradient" ranks by that gain itself, "parameter" by the gain per added parameter,
            "flop" per added FLOP; both are exact.
        sites: how many sites grow at a time.

    Raises:
        GrowthError: arguments that do not fit.
    """

    def __init__(
        self,
        amount: Amount = 2,
        by: str = "gradient",
        sites: int = 1,
        names: Sequence[str] | None = None,
        pattern: str | None = None,
    ) -> None:
        super().__init__(amount, names, pattern)
        if by not in ("gradient", "parameter", "flop"):
            raise GrowthError(f"by must be 'gradient', 'parameter' or 'flop'. Received: by={by!r}")
        check_whole("sites", sites, 1)
        self.by = by
        self.sites = sites

    def select(self, occasion: Occasion) -> dict[Site, int]:
        amounts = self.considered(occasion)
        if not amounts:
            self.spent(self.candidates(occasion.atlas), occasion)
            return {}
        gains = {
            site: score.gradient_norm**2 / self._cost(site, score.added, occasion)
            for site, score in occasion.score(amounts).items()
        }
        if not gains:
            occasion.notes.append("Nothing grows: no site's new channels would get a gradient.")
            return {}
        best = _largest(gains, self.sites)
        if isinstance(self.amount, Budget):
            return self.share_out(best, occasion)
        return {site: amounts[site] for site in best}

    def _cost(self, site: Site, added: int, occasion: Occasion) -> float:
        if self.by == "gradient":
            return 1.0
        plan = make_plan(occasion.atlas, {site: added})
        return max(plan.added_parameters if self.by == "parameter" else plan.added_flops, 1.0)


def _largest(gains: dict[Site, float], count: int) -> list[Site]:
    left = list(gains)
    found: list[Site] = []
    while left and len(found) < count:
        least = max(gains[site] for site in left) * (1 - ROUNDING)
        found.append(next(site for site in left if gains[site] >= least))
        left.remove(found[-1])
    return found
