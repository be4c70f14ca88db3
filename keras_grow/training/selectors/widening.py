"""Sites become wider: all, in turn, or where it gains most."""

import fnmatch
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import keras

from keras_grow.errors import GrowthError, check_whole, is_real, is_whole, nearest
from keras_grow.planning import Atlas, Site, make_plan, survey
from keras_grow.training.budgets import Budget, spread
from keras_grow.training.selectors.base import Amount, Occasion, Selector

# Gains closer than this are equal: they come from sums in float32.
ROUNDING = 1e-5


class Widening(Selector):
    """Base of the selectors that widen: which sites are meant, and the amount for each.

    Args:
        amount: channels (int), a fraction of the initial width (float), target widths, or a
            `Budget`. Target widths are a dict by layer or site name, or a Keras model with the
            same layer names; they are approached in equal parts over the schedule's remaining
            growths.
        names: only these layers or sites.
        pattern: only sites with a producer whose path matches this shell pattern, such as
            "block2_*".

    Raises:
        GrowthError: an amount that is not one of these.
    """

    def __init__(
        self, amount: Amount = 2, names: Sequence[str] | None = None, pattern: str | None = None
    ) -> None:
        if type(self) is Widening:
            raise GrowthError(
                "Widening is what selectors that widen have in common and selects nothing. "
                f"Use All({amount!r}), RoundRobin or LargestGain."
            )
        if isinstance(amount, keras.Model):
            amount = {p.path: p.width for p in survey(amount).producers.values()}
            self._partial = True
        else:
            self._partial = False
        if isinstance(amount, Mapping):
            ok = len(amount) > 0
        else:
            ok = isinstance(amount, Budget) or (is_real(amount) and 0 < amount < math.inf)
        if not ok:
            raise GrowthError(
                "amount must be a positive number of channels (int), a positive fraction of the "
                "initial width (float), a dict of target widths, a model that has them, or a "
                f"Budget. Received: amount={amount!r}"
            )
        self.amount = amount
        if isinstance(names, str):
            names = [names]
        if names is not None and not isinstance(names, Sequence):
            raise GrowthError(f"names must be a list of layer names. Received: names={names!r}")
        if pattern is not None and not isinstance(pattern, str):
            raise GrowthError(
                f"pattern must be a shell pattern such as 'block2_*'. Received: pattern={pattern!r}"
            )
        self.names = None if names is None else list(names)
        self.pattern = pattern

    def check(self, atlas: Atlas) -> None:
        self.candidates(atlas)
        if isinstance(self.amount, Mapping) and not self._partial:
            widths = {site.name: site.width for site in atlas.sites}
            for name, width in self._targets(atlas).items():
                if width < widths[name]:
                    raise GrowthError(
                        f"The target width of '{name}' is less than its present width "
                        f"{widths[name]}, and it can only become wider. "
                        f"Received: amount={dict(self.amount)}"
                    )

    def reached(self, atlas: Atlas) -> bool:
        """Whether the amount is target widths, and all sites have them."""
        if not isinstance(self.amount, Mapping):
            return False
        targets = self._targets(atlas)
        return all(site.width >= targets[site.name] for site in self.candidates(atlas))

    def candidates(self, atlas: Atlas) -> list[Site]:
        """The sites this selector is limited to.

        Raises:
            GrowthError: a name that is no site, or nothing left.
        """
        sites = atlas.sites
        if self.names is not None:
            sites = list(dict.fromkeys(atlas.find(name) for name in self.names))
        if self.pattern is not None:
            sites = [s for s in sites if any(fnmatch.fnmatch(p, self.pattern) for p in s.producers)]
        if isinstance(self.amount, Mapping):
            wanted = self._targets(atlas)
            sites = [s for s in sites if s.name in wanted]
        if not sites:
            known = [p for s in atlas.sites for p in s.producers]
            if not known:
                raise GrowthError(
                    f"Model '{atlas.graph.model.name}' has no layer that can grow. "
                    "keras_grow.sites(model, refused=True) says why, layer by layer."
                )
            limits = f"names={self.names!r}, pattern={self.pattern!r}"
            if isinstance(self.amount, Mapping):
                limits += f", amount={dict(self.amount)}"
            raise GrowthError(
                f"No site of model '{atlas.graph.model.name}' is left to grow. Received: {limits}. "
                + nearest(self.pattern or "", known)
            )
        return sites

    def _targets(self, atlas: Atlas) -> dict[str, int]:
        """Target widths by site name."""
        assert isinstance(self.amount, Mapping)
        targets: dict[str, int] = {}
        growable = {p for s in atlas.sites for p in s.producers} | {s.name for s in atlas.sites}
        for name, width in self.amount.items():
            if self._partial and name not in growable:
                continue  # a whole model as target: layers that cannot grow keep their width
            site = atlas.find(name)
            if not is_whole(width):
                raise GrowthError(
                    f"Target widths must be whole numbers. Received: {name}={width!r}."
                )
            targets[site.name] = max(int(width), targets.get(site.name, 0))
        return targets

    def amount_for(self, site: Site, occasion: Occasion) -> int:
        """New channels if this site grows alone, a multiple of its granularity."""
        if isinstance(self.amount, Budget):
            return self.share_out([site], occasion).get(site, 0)
        if isinstance(self.amount, Mapping):
            need = self._targets(occasion.atlas).get(site.name, site.width) - site.width
            if need <= 0:
                return 0
            wanted = -(-need // (occasion.remaining or 1))
            return min(_whole(wanted, site), need // site.granularity * site.granularity)
        if not is_whole(self.amount):
            initial = occasion.initial.get(site.name, site.width)
            wanted = max(1, math.floor(self.amount * initial + 0.5))
            return _whole(wanted, site)
        return _whole(int(self.amount), site)

    def share_out(self, sites: Sequence[Site], occasion: Occasion) -> dict[Site, int]:
        """New channels of sites that grow together; those that do not grow are left out."""
        if isinstance(self.amount, Budget):
            return spread(occasion.atlas, {s: float(s.width) for s in sites}, self.amount.room)
        amounts = {site: self.amount_for(site, occasion) for site in sites}
        return {site: n for site, n in amounts.items() if n}

    def considered(self, occasion: Occasion) -> dict[Site, int]:
        own = self.alone(occasion)
        sites = self.candidates(occasion.atlas)
        return {site: n for site in sites if (n := self.amount_for(site, own))}

    def alone(self, occasion: Occasion) -> Occasion:
        """The occasion as a site sees it that gets one growth in turn with the others."""
        sites = self.candidates(occasion.atlas)
        turns = occasion.remaining and -(-occasion.remaining // len(sites))
        return replace(occasion, remaining=turns)

    def spent(self, sites: list[Site], occasion: Occasion) -> None:
        """Notes that the budget is too small for each of the sites."""
        if isinstance(self.amount, Budget):
            occasion.notes.append(self.amount.too_small(sites))


def _whole(wanted: int, site: Site) -> int:
    return -(-wanted // site.granularity) * site.granularity


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
