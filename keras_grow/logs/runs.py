"""All that is known of one run: what event files, JSON lines or TensorBoard have told of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from keras_grow.logs.events import SiteGrowth
from keras_grow.logs.networks import Network


@dataclass(frozen=True, eq=False)
class Series:
    """A number over time, in the order of its steps.

    Attributes:
        steps: training steps done, (n,) int64.
        times: when it was written, in seconds since 1970, (n,) float64.
        values: (n,) float64; not finite where training had gone wrong.
    """

    steps: np.ndarray
    times: np.ndarray
    values: np.ndarray

    def __len__(self) -> int:
        return len(self.steps)


@dataclass(frozen=True)
class GrowthSummary:
    """One growth step in short: a `GrowthEvent` without its sites.

    The order of the fields is that of the columns in the table of TensorBoard's tab.

    Attributes:
        step, epoch, parameters_before, parameters_after, flops_before, flops_after, loss,
        deviation, tolerance, seconds, error, notes, dry_run: as of `GrowthEvent`.
        time: when it happened, in seconds since 1970.
        sites: how many sites grew, and got new layers.
        added: new channels over all of them.
        methods, forms, kinds: those of its sites, each once.
        gradient_norm: root of the sum of squares of its sites'; None if no site has one.
        existing_norm: likewise.
        skipped: sites of which growth data could say nothing, with the reason.
    """

    step: int
    time: float
    epoch: int
    sites: int = field(default=0, kw_only=True)
    added: int = field(default=0, kw_only=True)
    parameters_before: int
    parameters_after: int
    flops_before: float
    flops_after: float
    loss: float | None = None
    deviation: float | None = None
    tolerance: float | None = None
    gradient_norm: float | None = None
    existing_norm: float | None = None
    methods: tuple[str, ...] = ()
    forms: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    error: str | None = None
    notes: tuple[str, ...] = ()
    dry_run: bool = False
    seconds: Mapping[str, float] = field(default_factory=dict)
    skipped: Mapping[str, str] = field(default_factory=dict)

    @property
    def kept(self) -> bool | None:
        """Whether the outputs stayed within the tolerance; None if they were not compared."""
        if self.deviation is None or self.tolerance is None:
            return None
        return self.deviation <= self.tolerance


@dataclass(eq=False)
class Run:
    """One training run.

    Attributes:
        name: its folder below the log directory; "." for that itself.
        growths: in the order of their steps.
        scalars: loss, metrics, parameters, learning rate, widths, by tag.
        sites: what grew at each step; only of the steps that were asked for.
        networks: the model at the start and after every change of its layers, in order.
        resumed: steps at which a writer opened, other than the first.
        left_out: what could not be read, in words.
    """

    name: str
    growths: list[GrowthSummary] = field(default_factory=list)
    scalars: dict[str, Series] = field(default_factory=dict)
    sites: Mapping[int, list[SiteGrowth]] = field(default_factory=dict)
    networks: list[Network] = field(default_factory=list)
    resumed: list[int] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    @property
    def warnings(self) -> list[str]:
        """What somebody who looks at the run should know first."""
        found = []
        for growth in self.growths:
            if growth.error:
                found.append(f"Step {growth.step}: growth failed. {growth.error}")
            if growth.kept is False:
                found.append(
                    f"Step {growth.step}: the outputs changed by {growth.deviation:.1e} of their "
                    f"scale, more than the tolerance {growth.tolerance:.1e}."
                )
        found += [f"The run was resumed at step {step}." for step in self.resumed]
        return found + self.left_out
