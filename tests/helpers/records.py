"""Events made by hand, and what a log folder holds; without Keras."""

from dataclasses import replace

from keras_grow.logs.events import GrowthEvent, SiteGrowth
from keras_grow.logs.reading import read_runs


def a_site(number=0, values=20, **changes):
    spectrum = [3.0 / (1 + i) ** 1.3 for i in range(values)]
    site = SiteGrowth(
        f"block_{number // 4}/conv_{number}", [f"conv_{number}"], [f"conv_{number + 1}"],
        16 + number, 20 + number, "gradmax", "outgoing", spectrum, 0.123456789, 12, [], "widen",
        7.5,
    )  # fmt: skip
    return replace(site, **changes)


def an_event(**changes):
    event = GrowthEvent(400, 2, [a_site(0), a_site(1)], 10_000, 10_500, 1e6, 1.1e6, 0.5, 1e-8)
    event.tolerance, event.time = 1e-5, 1.7e9
    event.seconds = {"survey": 0.01, "statistics": 0.2, "surgery": 0.003}
    return replace(event, **changes)


def only_run(folder):
    (run,) = read_runs(folder)
    return run


def event_file(folder):
    (path,) = sorted(folder.glob("*tfevents*"))
    return path
