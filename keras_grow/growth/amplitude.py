"""How large new neurons are made that change the function: a line search on the loss."""

from typing import Any

import numpy as np
from scipy import optimize

from keras_grow import _backend
from keras_grow.apply import Surgery
from keras_grow.growth.data import Batches
from keras_grow.growth.statistics.recording import LossOf
from keras_grow.planning import SitePlan
from keras_grow.planning.arrays import new_entries

# Factors on fan-in and fan-out that are tried, as logarithms: from a thousandth to tenfold.
RANGE = (np.log(1e-3), np.log(10.0))
EVALUATIONS = 16


class LineSearch:
    """Scales the new weights of sites that have been grown so that the loss is lowest.

    One factor for the fan-ins and fan-outs of all sites, by Brent's method (bounded) on the first
    growth batch, in training mode. Where no factor lowers the loss the new weights become zero,
    and the function is the old one.

    Args:
        surgery: not carried out yet.
        sites: those whose new weights are to be scaled.
    """

    def __init__(self, surgery: Surgery, sites: list[SitePlan]) -> None:
        self.model = surgery.plan.atlas.graph.model
        edits = [s.edit for site in sites for s in site.reads]
        edits += [s.edit for site in sites for s in site.writes]
        kernels = [edit.variable for edit in edits]
        self.kernels = list({id(v): v for v in kernels}.values())
        self.new = [
            new_entries([e for e in surgery.plan.edits if e.variable is v], tuple(v.shape))
            for v in self.kernels
        ]

    def __call__(self, batches: Batches) -> tuple[float, float]:
        """Runs after the surgery.

        Returns:
            The factor, 0 if none lowers the loss, and the loss with it.
        """
        loss_of = LossOf(self.model)
        full = [_backend.to_numpy(v).copy() for v in self.kernels]

        def loss(factor: float) -> float:
            for kernel, value, new in zip(self.kernels, full, self.new, strict=True):
                kernel.assign(np.where(new, factor * value, value))
            found = loss_of(*batches.first)
            return found if np.isfinite(found) else np.inf

        before = loss(0.0)
        options = {"maxiter": EVALUATIONS, "xatol": 0.02}
        best: Any = optimize.minimize_scalar(
            lambda x: loss(float(np.exp(x))), bounds=RANGE, method="bounded", options=options
        )
        factor = float(np.exp(best.x)) if best.fun < before else 0.0
        return factor, loss(factor)
