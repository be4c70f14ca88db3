"""Log directories for the tab: runs as training leaves them, and what should never have been."""

import os
from pathlib import Path
from typing import Any

from helpers.synthetic import synthetic_events

from keras_grow.logs.writing import RunWriter

#: Runs with what can be met: two methods, a failure, changed outputs, a new layer, deep networks.
RUNS: dict[str, dict[str, Any]] = {
    "mlp/gradmax": {"events": 8, "seed": 1},
    "mlp/random": {"events": 8, "seed": 2, "method": "random"},
    "mlp/failed-once": {"events": 8, "seed": 3, "trouble": ("error",)},
    "mlp/outputs-changed": {"events": 8, "seed": 4, "trouble": ("broken",)},
    "mlp/deeper": {"events": 8, "seed": 5, "trouble": ("insert",)},
    "wrn-28": {"events": 10, "sites": None, "network": "wide_resnet", "seed": 6},
    "mobilenet-v2": {"events": 10, "sites": None, "network": "mobilenet", "seed": 7},
}


def write_run(folder: str | os.PathLike, records: bool = True, **options: Any) -> None:
    """One run as `GrowthCallback(log_dir=folder)` would have left it, or only its scalars.

    Options are of `synthetic_events`.
    """
    events, networks, scalars = synthetic_events(**options)
    times = {
        int(s): float(t) for s, t in zip(scalars["loss"].steps, scalars["loss"].times, strict=True)
    }
    first = float(scalars["loss"].times[0])
    with RunWriter(folder, opened=first - 1.0) as writer:
        for network in networks if records else ():
            writer.network(network, when=times.get(network.step, first))
        for tag, series in scalars.items():
            rows = zip(series.steps, series.values, series.times, strict=True)
            for step, value, when in rows:
                writer.scalar(tag, float(value), int(step), when=float(when))
        for event in events if records else ():
            writer.growth(event)


def write_all(logdir: str | os.PathLike) -> list[str]:
    """All of RUNS below `logdir`; returns their names."""
    for name, options in RUNS.items():
        write_run(Path(logdir) / name, **options)
    return list(RUNS)
