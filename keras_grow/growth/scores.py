"""What growth data says about sites before anything grows: for when and where to grow."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from keras_grow.growth.data import Batches
from keras_grow.growth.problem import problem_of
from keras_grow.growth.statistics import Measured, Recording, measure
from keras_grow.planning import Atlas, Site, SitePlan, make_plan
from keras_grow.planning.plan import OUTGOING
from keras_grow.rules import NoSlope


@dataclass(frozen=True)
class Spectrum:
    """What new neurons at one site could gain.

    Attributes:
        values: singular values of M (paper, equations 11 and 20), largest first, all of them or
            at least as many as were asked for.
        norm: of a new fan-out: the mean norm of the present ones.
    """

    values: np.ndarray
    norm: float

    def gradient_norm(self, added: int) -> float:
        """The largest norm that the gradient by `added` new fan-ins can have (paper, eq. 11)."""
        return self.norm * float(np.sqrt((self.values[:added] ** 2).sum()))


class Scores:
    """Spectra of sites, and gradient norms, on growth data. Computed when first asked for.

    Args:
        atlas: of the model as it is, which is compiled.
        batches: growth data; gone through once.

    Attributes:
        skipped: sites without gradients, and why.
    """

    def __init__(self, atlas: Atlas, batches: Batches) -> None:
        self.atlas = atlas
        self.batches = batches
        self.skipped: dict[Site, str] = {}

    def spectra(self, amounts: Mapping[Site, int]) -> dict[Site, Spectrum]:
        """Spectra of the sites that have gradients, for these numbers of new channels."""
        found: dict[Site, Spectrum] = {}
        for site, added in amounts.items():
            if site not in self._sites:
                continue
            plan = self._sites[site]
            gradients = self._measured.sites[plan]
            try:
                values, _ = gradients.top(added)
            except NoSlope as reason:
                self.skipped[site] = str(reason)
                continue
            existing = problem_of(plan, OUTGOING, gradients).fan_out
            found[site] = Spectrum(values, float(np.linalg.norm(existing, axis=1).mean()))
        return found

    @property
    def measured(self) -> bool:
        """Whether the growth data has been gone through."""
        return "_measured" in vars(self)

    def gradient_norm(self, site: Site | None = None) -> float:
        """Norm of the mean loss gradient by the trainable weights.

        Args:
            site: only by the kernels of its producers and consumers.
        """
        trained = self.atlas.graph.model.trainable_variables
        return self._measured.weight_norm(trained if site is None else site.kernels)

    @cached_property
    def _plan(self) -> dict[Site, SitePlan]:
        amounts = {site: site.granularity for site in self.atlas.sites}
        plan = make_plan(self.atlas, amounts)
        found = {}
        for own in plan.sites:
            if own.form == OUTGOING:
                found[own.site] = own
            else:
                self.skipped[own.site] = "its activation does not map 0 to 0"
        self._whole = plan
        return found

    @cached_property
    def _measured(self) -> Measured:
        _ = self._plan
        trained = self.atlas.graph.model.trainable_variables
        recording = Recording(self._whole, weights=trained)
        return measure(self._whole, recording, self.batches)

    @cached_property
    def _sites(self) -> dict[Site, SitePlan]:
        for own, reason in self._measured.skipped.items():
            self.skipped[own.site] = reason
        return {site: own for site, own in self._plan.items() if own in self._measured.sites}
