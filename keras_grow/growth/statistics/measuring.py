"""Statistics of all sites of a plan over one batch, several, or a whole data set."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from keras import ops

from keras_grow import _backend
from keras_grow.errors import GrowthError
from keras_grow.growth.data import Batch
from keras_grow.growth.statistics.gradients import SiteGradients
from keras_grow.growth.statistics.recording import Record, Recording
from keras_grow.growth.statistics.shadows import SiteShadows
from keras_grow.planning import Plan, SitePlan
from keras_grow.rules import NoSlope

# What is kept of more than one batch, for methods that look at batches again and again.
KEPT_BYTES = 1 << 30
# The largest M that is summed up over several batches: 64 million entries.
MOST_ENTRIES = 1 << 26


@dataclass(eq=False)
class Measured:
    """What growth data says about the sites of a plan.

    Attributes:
        loss: mean over the samples.
        batches, samples: how much data there was.
        sites: gradients by site; those that have none are left out.
        skipped: why, by site.
        records: of the batches that were kept.
        weights: mean gradients by the variables that were asked for, by id.
    """

    loss: float
    batches: int
    samples: int
    sites: dict[SitePlan, SiteGradients]
    skipped: dict[SitePlan, str]
    records: list[Record]
    weights: dict[int, Any]

    def weight_norm(self, variables: Iterable[Any]) -> float:
        """Norm of the mean gradient by some of those variables."""
        found = (self.weights[key] for key in {id(v) for v in variables} if key in self.weights)
        squares = (_backend.to_numpy(ops.sum(ops.square(gradient))) for gradient in found)
        return math.sqrt(sum(float(square) for square in squares))


def measure(plan: Plan, recording: Recording, batches: Iterable[Batch]) -> Measured:
    """Runs the batches through the model and prepares the gradients of every site.

    Nothing is computed of a site until a method asks for it, unless there are several batches:
    then M is summed up as they go by, in memory that does not grow with their number.

    Raises:
        GrowthError: there is no batch, or M is too large to be summed up.
        DataError: a batch cannot be used.
    """
    shadows, skipped = {}, {}
    for site in plan.sites:
        found = SiteShadows(plan, site)
        try:
            found.check()
        except NoSlope as reason:
            skipped[site] = str(reason)
        else:
            shadows[site] = found
    records: list[Record] = []
    sums: dict[SitePlan, np.ndarray] = {}
    weights: dict[int, Any] = {}
    loss, samples, count, kept = 0.0, 0, 0, 0
    waiting: Record | None = None  # a lone batch needs no sum
    for batch in batches:
        record = recording(*batch)
        count += 1
        samples += record.samples
        loss += record.samples * record.loss
        kept += record.size
        for key, gradient in record.weights.items():
            part = gradient * record.samples
            weights[key] = weights[key] + part if key in weights else part
        record.weights = {}
        if count == 1 or kept <= KEPT_BYTES:
            records.append(record)
        if count == 1:
            waiting = record
            continue
        if waiting is not None:
            _add(sums, shadows, skipped, waiting)
            waiting = None
        _add(sums, shadows, skipped, record)
    if not count:
        raise GrowthError("The growth data has no batch to take gradients on. Received: none.")
    exact = len(records) == count
    sites = {}
    for site, own in shadows.items():
        if site in skipped:
            continue
        total = sums[site] / samples if site in sums else None
        sites[site] = SiteGradients(own, records, total, exact)
    weights = {key: total / samples for key, total in weights.items()}
    return Measured(loss / samples, count, samples, sites, skipped, records, weights)


def _add(
    sums: dict[SitePlan, np.ndarray],
    shadows: dict[SitePlan, SiteShadows],
    skipped: dict[SitePlan, str],
    record: Record,
) -> None:
    for site, own in shadows.items():
        if site in skipped:
            continue
        if np.prod(own.shape) > MOST_ENTRIES:
            raise GrowthError(
                f"The gradient matrix of site '{site.site.name}' is {own.shape[0]} x "
                f"{own.shape[1]}, too large to be summed up over several batches. "
                "Use batches=1 with a larger batch_size, or leave the site out with names=."
            )
        try:
            part = record.samples * _backend.to_numpy(own.matrix(record)).astype("float64")
        except NoSlope as reason:
            skipped[site] = str(reason)
            continue
        sums[site] = sums[site] + part if site in sums else part
