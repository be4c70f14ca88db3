"""How well a batch stands for all the data: the alignment of its directions (paper, figure 6)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from keras_grow.errors import GrowthError, check_whole
from keras_grow.graph import graph_of
from keras_grow.growth.data import Batches, GrowthData
from keras_grow.growth.statistics import Recording, measure
from keras_grow.planning import SitePlan, make_plan, survey
from keras_grow.rules import NoSlope


@dataclass(frozen=True)
class Alignment:
    """The directions of one site, from batches of one size against those from all the data.

    Attributes:
        site: its name.
        batch_size: samples in a batch.
        k: how many directions.
        values: one for each batch: the mean over the k directions of the absolute cosine between
            the batch's singular vector and that of all the data, from 0 to 1.
    """

    site: str
    batch_size: int
    k: int
    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        return float(np.mean(self.values))

    @property
    def interval(self) -> tuple[float, float]:
        """95 % confidence interval of the mean (Student's t); NaN for a single batch."""
        if len(self.values) < 2:
            return float("nan"), float("nan")
        error = float(stats.sem(self.values))
        half = error * float(stats.t.ppf(0.975, len(self.values) - 1))
        return self.mean - half, self.mean + half


def alignment(
    model: Any,
    data: Any,
    batch_sizes: Sequence[int] = (32, 128, 512),
    k: int = 1,
    names: Sequence[str] | str | None = None,
    repeats: int = 10,
    seed: int = 0,
) -> list[Alignment]:
    """Whether batches of a size give the directions that all the data gives (paper, figure 6).

    GradMax takes the top singular vectors of the gradient matrix M of a batch instead of the whole
    data set (paper, section 3, "Full gradient estimation"). Choose the smallest batch whose
    alignment is as near to 1 as you need; random directions in n dimensions have about
    0.8 / sqrt(n).

    ```python
    for found in kg.alignment(model, (x, y), batch_sizes=(128, 512), k=4):
        print(found.site, found.batch_size, found.mean, found.interval)
    ```

    Args:
        model: a compiled functional or Sequential model; it is not changed.
        data: arrays (x, y) or (x, y, sample_weight).
        batch_sizes: to be compared, each at most the number of samples.
        k: how many singular vectors, at most as many as every site's M has.
        names: only this site or layer, or these.
        repeats: random batches of each size; with one there is no interval.
        seed: of the batches.

    Returns:
        One `Alignment` for every site that has gradients and every batch size.

    Raises:
        GrowthError: the model is not compiled, no site has gradients, or a batch size is larger
            than the data.
    """
    check_whole("k", k, 1)
    check_whole("repeats", repeats, 1)
    check_whole("seed", seed, 0)
    if not isinstance(batch_sizes, Sequence) or not len(batch_sizes):
        raise GrowthError(
            "batch_sizes must be one or more numbers of samples, such as (32, 128). "
            f"Received: batch_sizes={batch_sizes!r}."
        )
    for size in batch_sizes:
        check_whole("batch_sizes", size, 1)
    names = [names] if isinstance(names, str) else names
    graph_of(model)  # which says what is no model
    if not getattr(model, "compiled", False):
        raise GrowthError(
            f"The gradient needs a loss, but model '{getattr(model, 'name', model)}' is not "
            "compiled. Call model.compile(optimizer, loss) first."
        )
    atlas = survey(model)
    chosen = atlas.sites if names is None else [atlas.find(name) for name in names]
    plan = make_plan(atlas, {site: site.granularity for site in dict.fromkeys(chosen)})
    recording = Recording(plan)
    source = GrowthData(data, max(batch_sizes), seed)
    if source.size is None or source.size < max(batch_sizes):
        raise GrowthError(
            "Batches are drawn at random from arrays with at least as many samples. Received: "
            f"batch_sizes={tuple(batch_sizes)}, {source.size or 'no arrays'} samples."
        )
    whole, skipped = _directions(plan, recording, source.batches(0, atlas.graph, None), k)
    if not whole:
        reasons = "; ".join(f"'{s.site.name}': {why}" for s, why in skipped.items())
        raise GrowthError(f"No site of model '{model.name}' has gradients to compare. {reasons}")
    least = min(whole, key=lambda site: len(whole[site]))
    if len(whole[least]) < k:
        raise GrowthError(
            f"Site '{least.site.name}' has no more than {len(whole[least])} directions. "
            f"Received: k={k}."
        )
    values: dict[tuple[SitePlan, int], list[float]] = {}
    for size in batch_sizes:
        draws = GrowthData(data, size, seed)
        for number in range(repeats):
            batch = draws.batches(number, atlas.graph)
            found, _ = _directions(plan, recording, batch, k)
            for site, vectors in whole.items():
                cosines = np.abs((found[site] * vectors).sum(axis=1))
                values.setdefault((site, size), []).append(float(cosines.mean()))
    return [
        Alignment(site.site.name, size, k, tuple(values[site, size]))
        for site in whole
        for size in batch_sizes
    ]


def _directions(
    plan: Any, recording: Recording, batches: Batches, k: int
) -> tuple[dict[SitePlan, np.ndarray], dict[SitePlan, str]]:
    measured = measure(plan, recording, batches)
    found, skipped = {}, dict(measured.skipped)
    for site, gradients in measured.sites.items():
        try:
            found[site] = gradients.top(k)[1]
        except NoSlope as reason:
            skipped[site] = str(reason)
    return found, skipped
