"""What every selector is: the base classes, and the amounts by which sites grow."""

import fnmatch
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import keras

from keras_grow.errors import GrowthError, is_real, is_whole, nearest
from keras_grow.planning import Atlas, Site, survey
from keras_grow.training.budgets import Budget, spread
from keras_grow.training.looking import Look, SiteScore

Amount = int | float | Mapping[str, int] | Budget | Any


@dataclass(frozen=True)
class Occasion:
    """What a selector may look at.

    Attributes:
        atlas: the sites of the model as it is now.
        initial: widths at the start of training, by site name.
        count: growths so far.
        remaining: growths still to come, this one included; None if there is no end.
        look: asked for scores; None outside training.
        notes: remarks for the growth event.
    """

    atlas: Atlas
    initial: Mapping[str, int]
    count: int
    remaining: int | None
    look: Look | None = None
    notes: list[str] = field(default_factory=list)

    def score(self, amounts: Mapping[Site, int]) -> dict[Site, SiteScore]:
        """What growth data says of growing each site by its amount, before anything grows."""
        if self.look is None:
            raise GrowthError("Sites have scores in training only, in a selector's `select`.")
        return self.look.score(amounts)


class Selector:
    """Base of the selectors."""

    def check(self, atlas: Atlas) -> None:
        """Raises GrowthError, before training begins, if the model does not fit what is asked."""

    def select(self, occasion: Occasion) -> Any:
        """What grows now.

        Returns:
            New channels by site, or a `NewLayer` or `NewBridge`; something empty if nothing is
            left to grow.
        """
        raise NotImplementedError

    def considered(self, occasion: Occasion) -> dict[Site, int]:
        """The sites that may be meant, with the amounts they would grow by: what schedules that
        look at gradients look at.
        """
        return {site: site.granularity for site in occasion.atlas.sites}

    def foreseen(self, occasion: Occasion) -> list[Any]:
        """What `select` is sure to return, at this occasion or a later one.

        It is checked against the method before training begins. Nothing by default: what a
        selector of your own picks is found out when it grows.
        """
        return []

    def get_state(self) -> dict[str, Any]:
        """What the selector remembers, as plain values that `json` can hold."""
        return {}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Goes on from a value of `get_state`."""


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
