"""From what a user has written to what is to grow, and how."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from keras_grow.apply import Slopes
from keras_grow.errors import GrowthError, check_whole
from keras_grow.graph import Graph
from keras_grow.growth import methods
from keras_grow.growth.data import GrowthData
from keras_grow.growth.step import Initialization
from keras_grow.planning import Atlas, Site
from keras_grow.planning.drafting import check_amount

# Samples of one batch that is drawn from arrays.
BATCH_SIZE = 512


def initialization(
    graph: Graph,
    method: Any,
    data: Any,
    seed: int | None,
    form: str,
    slopes: Slopes | None,
    batches: int | None,
) -> Initialization:
    """How new weights are chosen, checked; growth data is drawn.

    Raises:
        GrowthError: an unknown method, or another argument that cannot be.
        DataError: data that does not fit the model.
    """
    chosen = methods.get(method)
    if seed is not None:
        check_whole("seed", seed, 0)
    if batches is not None:
        check_whole("batches", batches, 1)
    if slopes is not None and not isinstance(slopes, Slopes):
        raise GrowthError(f"slopes must be a keras_grow.Slopes. Received: slopes={slopes!r}.")
    drawn = None
    if data is not None:
        drawn = GrowthData(data, batch_size=BATCH_SIZE, seed=seed or 0).batches(0, graph, batches)
    return Initialization(chosen, np.random.default_rng(seed), form, drawn, slopes)


def amounts_of(atlas: Atlas, widths: Mapping[str, int]) -> dict[Site, int]:
    """New channels by site from new widths by name.

    Raises:
        GrowthError: nothing asked, an unknown layer, no whole number, not wider, or two names of
            one site with different growth.
    """
    if not isinstance(widths, Mapping) or not widths:
        raise GrowthError(
            "widths must be a dict of new widths by layer name, such as {'conv_1': 96}. "
            f"Received: {widths!r}"
        )
    amounts: dict[Site, int] = {}
    for name, width in widths.items():
        site = atlas.find(name)
        if not isinstance(width, (int, np.integer)) or isinstance(width, bool):
            raise GrowthError(f"Widths must be whole numbers. Received: {name}={width!r}.")
        whole = [(p.width, at.shape[1]) for p, at in site.members if p.path == name]
        now, times = whole[0] if whole else (site.width, 1)
        if width <= now:
            raise GrowthError(
                f"Layer '{name}' is {now} wide and can only become wider. Received: {name}={width}."
            )
        added, rest = divmod(int(width) - now, times)
        if rest:
            raise GrowthError(
                f"Layer '{name}' is {now} wide and grows in steps of {times}, because {times} of "
                f"its channels at a time are tied to each other. Received: {name}={width}."
            )
        others = [p for p in site.producers if p not in widths]
        if atlas.alone and others:
            raise GrowthError(
                f"Layer '{name}' cannot grow alone: '{others[0]}' is tied to it by more than an "
                "addition, so zeros in its place would change the function or never learn. Name "
                "both, or leave out alone=True."
            )
        check_amount(site, added)
        if amounts.setdefault(site, added) != added:
            tied = ", ".join(f"'{p}'" for p in site.producers)
            raise GrowthError(
                f"The layers {tied} are tied and grow by the same number of channels. "
                f"Received: {dict(widths)}."
            )
    return amounts
