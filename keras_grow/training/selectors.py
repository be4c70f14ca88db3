"""Where to grow, and by how much."""

import fnmatch
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras

from keras_grow.errors import GrowthError, is_real, is_whole, nearest
from keras_grow.planning import Atlas, Site, survey

Amount = int | float | Mapping[str, int] | Any


@dataclass(frozen=True)
class Occasion:
    """What a selector may look at.

    Attributes:
        atlas: the sites of the model as it is now.
        initial: widths at the start of training, by site name.
        count: growths so far.
        remaining: growths still to come, this one included; None if there is no end.
    """

    atlas: Atlas
    initial: Mapping[str, int]
    count: int
    remaining: int | None


class Selector:
    """Base of the selectors: which sites are meant, and the amount for each.

    Args:
        amount: channels (int), a fraction of the initial width (float), or target widths: a dict
            by layer or site name, or a Keras model with the same layer names. Targets are
            approached in equal parts over the schedule's remaining growths.
        names: only these layers or sites.
        pattern: only sites with a producer whose path matches this shell pattern, such as
            "block2_*".

    Raises:
        GrowthError: an amount that is not one of these.
    """

    def __init__(
        self, amount: Amount = 2, names: Sequence[str] | None = None, pattern: str | None = None
    ) -> None:
        if isinstance(amount, keras.Model):
            amount = {p.path: p.width for p in survey(amount).producers.values()}
            self._partial = True
        else:
            self._partial = False
        if isinstance(amount, Mapping):
            ok = len(amount) > 0
        else:
            ok = is_real(amount) and 0 < amount < math.inf
        if not ok:
            raise GrowthError(
                "amount must be a positive number of channels (int), a positive fraction of the "
                "initial width (float), a dict of target widths, or a model that has them. "
                f"Received: amount={amount!r}"
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
        """Raises GrowthError, before training begins, if the model does not fit what is asked."""
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
        """New channels for one site, a multiple of its granularity."""
        if isinstance(self.amount, Mapping):
            need = self._targets(occasion.atlas).get(site.name, site.width) - site.width
            if need <= 0:
                return 0
            wanted = -(-need // (occasion.remaining or 1))
            return min(_whole(wanted, site), need // site.granularity * site.granularity)
        if not is_whole(self.amount):
            wanted = max(1, math.floor(self.amount * occasion.initial[site.name] + 0.5))
            return _whole(wanted, site)
        return _whole(int(self.amount), site)

    def select(self, occasion: Occasion) -> dict[Site, int]:
        """New channels by site; empty if all have their target width."""
        raise NotImplementedError


def _whole(wanted: int, site: Site) -> int:
    return -(-wanted // site.granularity) * site.granularity


class All(Selector):
    """Every site grows at every growth step."""

    def select(self, occasion: Occasion) -> dict[Site, int]:
        amounts = {s: self.amount_for(s, occasion) for s in self.candidates(occasion.atlas)}
        return {s: n for s, n in amounts.items() if n}


class RoundRobin(Selector):
    """One site a growth step, in turn."""

    def select(self, occasion: Occasion) -> dict[Site, int]:
        sites = self.candidates(occasion.atlas)
        turns = occasion.remaining and -(-occasion.remaining // len(sites))
        own = Occasion(occasion.atlas, occasion.initial, occasion.count, turns)
        for shift in range(len(sites)):
            site = sites[(occasion.count + shift) % len(sites)]
            added = self.amount_for(site, own)
            if added:
                return {site: added}
        return {}
