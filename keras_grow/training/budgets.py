"""Budgets: how far sites can grow before so many parameters or FLOPs are spent, by exact plans."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from keras_grow.errors import GrowthError, is_real
from keras_grow.planning import Atlas, Plan, Site, make_plan
from keras_grow.planning.drafting import MOST_ADDED


@dataclass(frozen=True)
class Room:
    """How many parameters and FLOPs (of one sample's forward pass) may be added."""

    parameters: float = math.inf
    flops: float = math.inf

    def used(self, plan: Plan) -> float:
        """The larger part of the room that a plan takes; more than 1 if it does not fit."""
        return max(
            _part(plan.added_parameters, self.parameters) if self.parameters < math.inf else 0.0,
            _part(plan.added_flops, self.flops) if self.flops < math.inf else 0.0,
        )

    def without(self, plan: Plan) -> "Room":
        """What a plan leaves of it."""
        flops = self.flops if self.flops == math.inf else self.flops - plan.added_flops
        return Room(self.parameters - plan.added_parameters, flops)

    def may_hold(self, site: Site) -> bool:
        """Whether a site could take its smallest step if it were alone; together it costs more."""
        step = site.granularity
        flops = 0.0 if self.flops == math.inf else step * site.flops_per_channel
        return self.holds(step * site.params_per_channel, flops)

    def holds(self, parameters: float, flops: float) -> bool:
        return parameters <= self.parameters and flops <= self.flops


def _part(cost: float, room: float) -> float:
    if cost <= 0:
        return 0.0
    return cost / room if room > 0 else math.inf


@dataclass(frozen=True)
class Budget:
    """An amount: at most so much more per growth, spread over the sites that grow.

    `All` widens every site by the same fraction of its width as far as the budget goes;
    `RoundRobin` and `LargestGain` spend it on the sites they choose. Costs are exact: those of
    the plan that is carried out, all sites together. Where the next step of one site is too large,
    the others share what is left.

    Args:
        parameters: of the whole model. Exactly one of the two.
        flops: of one sample's forward pass, as `keras_grow.flops` counts them.

    Raises:
        GrowthError: both or neither, or not a positive number.
    """

    parameters: float | None = None
    flops: float | None = None

    def __post_init__(self) -> None:
        given = [v for v in (self.parameters, self.flops) if v is not None]
        if len(given) != 1 or not is_real(given[0]) or not 0 < given[0] < math.inf:
            raise GrowthError(
                "A budget is a positive number of parameters or of flops, one of the two, such as "
                f"Budget(parameters=10_000). Received: parameters={self.parameters!r}, "
                f"flops={self.flops!r}"
            )

    @property
    def room(self) -> Room:
        if self.parameters is not None:
            return Room(parameters=self.parameters)
        assert self.flops is not None
        return Room(flops=self.flops)

    def __str__(self) -> str:
        kind = "parameters" if self.parameters is not None else "FLOPs"
        return f"{self.parameters or self.flops:,.12g} {kind}"

    def too_small(self, sites: list[Site]) -> str:
        """Says why none of the sites can grow."""

        def cost(site: Site) -> float:
            per = site.params_per_channel if self.parameters is not None else site.flops_per_channel
            return per * site.granularity

        cheapest = min(sites, key=cost)
        channels = "channel" if cheapest.granularity == 1 else "channels"
        return (
            f"Nothing grows: the budget of {self} is less than the {cost(cheapest):,.12g} that "
            f"{cheapest.granularity} {channels} of '{cheapest.name}' take, the cheapest step."
        )


def spread(
    atlas: Atlas,
    weights: Mapping[Site, float],
    room: Room,
    most: Mapping[Site, int] | None = None,
) -> dict[Site, int]:
    """The largest growth that fits a room: every site in proportion to its weight.

    A site whose next step is too large stays behind, and the others go on with what is left.

    Args:
        atlas: of the model as it is.
        weights: what the new channels of a site are proportional to, rounded down to what its
            granularity allows.
        room: what may be added.
        most: no site grows by more than this.

    Returns:
        New channels by site, sites that do not grow left out. There is no room for one more step
        of any of them.
    """
    costs = _Costs(atlas, room)
    share = _Share(weights, most)
    while share.moving:
        share.base = share.at(_largest_part(share, costs))
        left = costs.left(share.base)
        for site in share.moving:
            wider = share.base[site] + site.granularity
            stepped = {**share.base, site: wider}
            if share.allows(site, wider) and left.may_hold(site) and costs.used(stepped) <= 1:
                share.base = stepped  # it was to take this step together with another
                left = costs.left(share.base)
            else:
                share.stopped.add(site)
    return {s: n for s, n in share.base.items() if n}


def _largest_part(share: "_Share", costs: "_Costs") -> float:
    """The largest part that fits, by bisection with guesses, since costs are nearly linear."""
    low, used_low = 0.0, costs.used(share.base)  # the largest part known to fit
    high, used_high = math.inf, math.inf  # the smallest known not to
    turn = 0
    while (following := share.following(low)) < high:
        turn += 1
        if high == math.inf:
            guess = low / used_low if used_low else 2 * low
        elif turn % 2:
            guess = (low + high) / 2
        else:
            guess = low + (high - low) * (1 - used_low) / (used_high - used_low)
        guess = share.snapped(guess if following < guess < high else following)
        if guess >= high:  # two sites take their next step together
            break
        used = costs.used(share.at(guess))
        if used <= 1:
            low, used_low = guess, used
        else:
            high, used_high = guess, used
    return low


class _Costs:
    """Costs of plans, each made once."""

    def __init__(self, atlas: Atlas, room: Room) -> None:
        self.atlas = atlas
        self.room = room
        self._known: dict[tuple[int, ...], tuple[float, Room]] = {}

    def used(self, amounts: dict[Site, int]) -> float:
        """The part of the room that new channels by site take."""
        return self._cost(amounts)[0]

    def left(self, amounts: dict[Site, int]) -> Room:
        return self._cost(amounts)[1]

    def _cost(self, amounts: dict[Site, int]) -> tuple[float, Room]:
        key = tuple(amounts.values())
        if key not in self._known:
            growing = {s: n for s, n in amounts.items() if n}
            if growing:
                plan = make_plan(self.atlas, growing)
                self._known[key] = self.room.used(plan), self.room.without(plan)
            else:
                self._known[key] = 0.0, self.room
        return self._known[key]


class _Share:
    """Amounts as a function of one number, the part of its weight that every site grows by.

    Attributes:
        base: amounts that are settled; no site gets less.
        stopped: sites that get no more.
    """

    def __init__(self, weights: Mapping[Site, float], most: Mapping[Site, int] | None) -> None:
        self.weights = dict(weights)
        self.most = most
        self.base = dict.fromkeys(self.weights, 0)
        self.stopped: set[Site] = set()

    @property
    def moving(self) -> list[Site]:
        return [site for site in self.weights if site not in self.stopped]

    def at(self, part: float) -> dict[Site, int]:
        return {site: max(self.base[site], n) for site, n in self._wanted(part).items()}

    def allows(self, site: Site, amount: int) -> bool:
        return site not in self.stopped and amount <= self._most(site)

    def following(self, part: float) -> float:
        """The next part at which some site becomes wider; infinity if none can."""
        return min(
            (
                (n + site.granularity) / self.weights[site]
                for site, n in self.at(part).items()
                if self.allows(site, n + site.granularity)
            ),
            default=math.inf,
        )

    def snapped(self, part: float) -> float:
        """The smallest part with the same amounts."""
        wanted = self._wanted(part)
        ahead = [n / self.weights[s] for s, n in wanted.items() if n > self.base[s]]
        return max(ahead, default=part)

    def _wanted(self, part: float) -> dict[Site, int]:
        amounts = {}
        for site, weight in self.weights.items():
            # A part is often a whole number of steps divided by the weight.
            steps = math.floor(part * weight / site.granularity * (1 + 1e-12))
            amounts[site] = 0
            if site not in self.stopped:
                amounts[site] = min(steps * site.granularity, self._most(site))
        return amounts

    def _most(self, site: Site) -> int:
        bound = MOST_ADDED if self.most is None else self.most.get(site, 0)
        return bound // site.granularity * site.granularity
