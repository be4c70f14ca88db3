"""One look at a model in the middle of training: its sites, and what growth data says of them."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from keras_grow import _backend
from keras_grow.graph import Graph
from keras_grow.growth.data import Batch, Batches
from keras_grow.growth.scores import Scores, Spectrum
from keras_grow.planning import Atlas, Site, survey


@dataclass(eq=False)
class SiteScore:
    """What growth of one site would bring, before anything grows.

    Attributes:
        site: the site.
        added: new channels.
        spectrum: singular values of the site's M, and the norm that new fan-outs would have.
    """

    site: Site
    added: int
    spectrum: Spectrum
    scores: Scores

    @cached_property
    def gradient_norm(self) -> float:
        """Largest possible norm of the loss gradient by the `added` new fan-ins (equation 11)."""
        return float(self.spectrum.gradient_norm(self.added))

    @cached_property
    def existing_norm(self) -> float:
        """Norm of the loss gradient by the kernels of the site's producers and consumers."""
        return float(self.scores.gradient_norm(self.site))

    def to_dict(self) -> dict[str, float]:
        """What is known so far, as plain values."""
        values: dict[str, float] = {"added": self.added, "gradient_norm": self.gradient_norm}
        if "existing_norm" in vars(self):
            values["existing_norm"] = self.existing_norm
        return values

    def __repr__(self) -> str:
        return f"SiteScore('{self.site.name}', added={self.added}, {self.gradient_norm:.3g})"


class Look:
    """The model at one step. Sites are found at once, everything else when first asked for.

    Args:
        model: the model, its variables up to date.
        draw: draws the growth data to look at.
        keep: keep the batches, so that what decides and what grows see the same ones. Otherwise
            they are drawn anew each time, in memory that does not grow with their number.

    Attributes:
        atlas: the sites of the model as it is now.
        scored: the latest scores, by site name.
        skipped: sites of which the growth data can say nothing, by name, with the reason.
        seconds: what drawing the batches took, if they are kept.
    """

    def __init__(self, model: Any, draw: Callable[[Graph], Batches], keep: bool = True) -> None:
        self.model = model
        self.atlas: Atlas = survey(model)
        self.scored: dict[str, SiteScore] = {}
        self.skipped: dict[str, str] = {}
        self.seconds = 0.0
        self._draw = draw
        self._keep = keep
        self._kept: list[Batch] = []
        self._scores: Scores | None = None

    def batches(self) -> Batches:
        """The growth data."""
        if not self._keep:
            return self._draw(self.atlas.graph)
        if not self._kept:
            start = time.perf_counter()
            self._kept = list(self._draw(self.atlas.graph))
            self.seconds = time.perf_counter() - start
        return Batches(self._kept[0], self._kept[1:])

    @property
    def measured(self) -> bool:
        """Whether the gradients are known already."""
        return self._scores is not None and self._scores.measured

    def existing_norm(self, site: Site) -> float:
        """Norm of the loss gradient by the kernels of the site's producers and consumers."""
        assert self._scores is not None
        return self._scores.gradient_norm(site)

    def score(self, amounts: Mapping[Site, int]) -> dict[Site, SiteScore]:
        """Scores of sites by new channels; sites without gradients are noted in `skipped`."""
        if not amounts:
            return {}
        _backend.attach_state(self.model)
        if self._scores is None:
            self._scores = Scores(self.atlas, self.batches())
        spectra = self._scores.spectra(amounts)
        for site, reason in self._scores.skipped.items():
            if site in amounts:
                self.skipped[site.name] = reason
        found = {}
        for site, added in amounts.items():
            if site in spectra:
                known = self.scored.get(site.name)
                if known is None or known.added != added:
                    known = SiteScore(site, added, spectra[site], self._scores)
                found[site] = self.scored[site.name] = known
        return found
