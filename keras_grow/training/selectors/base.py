"""What every selector is: the base classes, and the amounts by which sites grow."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from keras_grow.errors import GrowthError
from keras_grow.planning import Atlas, Site
from keras_grow.training.budgets import Budget
from keras_grow.training.look import Look, SiteScore

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
