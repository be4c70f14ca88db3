"""A run whose every text is markup, and whose numbers are none."""

import math

import numpy as np

from keras_grow.logs.events import SiteGrowth
from keras_grow.logs.networks import Network, Node
from keras_grow.logs.runs import GrowthSummary, Run, Series

EVIL = "<b>x</b><a href='javascript:alert(1)'>%{x}$y$</a><img src=x onerror=alert(1)>\u202e\n"


def hostile_run():
    sites = [
        SiteGrowth(
            name=f"{EVIL}{i}", producers=[EVIL], consumers=[EVIL], width_before=3, width_after=5,
            method=EVIL, form=EVIL, singular_values=[2.0, math.nan, -1.0], gradient_norm=1.0,
            existing_norm=math.inf, notes=[EVIL],
        )
        for i in range(3)
    ]  # fmt: skip
    growth = GrowthSummary(
        5, 100.0, 0, 10, 12, math.nan, math.inf, loss=math.nan, deviation=1.0, tolerance=1e-5,
        seconds={EVIL: 1.0, "plan": math.nan}, notes=(EVIL,), sites=3, added=6, methods=(EVIL,),
        skipped={EVIL: EVIL},
    )  # fmt: skip
    failed = GrowthSummary(7, math.nan, 0, 12, 12, 0.0, 0.0, error=EVIL)
    steps = np.arange(1, 11)
    series = Series(steps, np.full(10, math.nan), np.full(10, 2.0))
    nodes = tuple(Node(f"{EVIL}{i}", EVIL, 3, f"{EVIL}{i}", 5) for i in range(3))
    network = Network(EVIL, 0, nodes, ((0, 1), (1, 2), (2, 0), (7, 1), (1, -9)))
    return Run(
        EVIL, [growth, failed], {"loss": series, f"width/{EVIL}0": series}, {5: sites},
        [network, Network(EVIL, 5, nodes[:1], ())], [3], [EVIL],
    )  # fmt: skip
