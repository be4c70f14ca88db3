"""Where things stand on the x axis, and how long series are smoothed and thinned out."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import accumulate

import numpy as np

from keras_grow.logs.runs import GrowthSummary, Run, Series

#: Of TensorBoard's slider: with 1 every value would be the first.
_MOST_SMOOTHING = 0.999

_UNITS = ((180.0, 1.0, "seconds"), (3 * 3600.0, 60.0, "minutes"), (3 * 86400.0, 3600.0, "hours"))


def smoothed(values: np.ndarray, weight: float) -> np.ndarray:
    """Exponential moving average without the bias of its start, as TensorBoard's scalars tab.

    Args:
        values: (n,); what is not finite stays as it is and counts for nothing.
        weight: 0 to 1, of what came before.
    """
    weight = min(weight, _MOST_SMOOTHING)
    finite = np.isfinite(values)
    if weight <= 0 or not finite.any():
        return values
    known = values[finite]
    debias = 1 - weight ** np.arange(1, len(known) + 1)
    result = values.astype(float)
    # Not scipy.signal, whose import takes seconds and 70 MB of TensorBoard's memory.
    sums = accumulate(
        known.tolist(), lambda sum, value: weight * sum + (1 - weight) * value, initial=0.0
    )
    result[finite] = np.array(list(sums)[1:]) / debias
    return result


def thinned(values: np.ndarray, most: int) -> np.ndarray:
    """Indices of at most `most` values: the least and the greatest of each stretch, and the ends.

    So that spikes stay.
    """
    n = len(values)
    if n <= most:
        return np.arange(n)
    stretches = max((most - 2) // 2, 1)
    starts = np.linspace(0, n, stretches + 1).astype(int)[:-1]
    sizes = np.diff(np.append(starts, n))
    place = np.arange(int(sizes.max()))
    rows = np.minimum(starts[:, None] + place, (starts + sizes - 1)[:, None])
    finite = np.isfinite(values)
    low = np.where(finite, values, np.inf)[rows].argmin(axis=1)
    high = np.where(finite, values, -np.inf)[rows].argmax(axis=1)
    kept = np.concatenate([[0, n - 1], starts + low, starts + high])
    return np.unique(np.minimum(kept, n - 1))


def evenly(total: int, most: int) -> np.ndarray:
    """Indices of at most `most` of `total` things, evenly, with the first and the last."""
    if total <= most:
        return np.arange(total)
    return np.unique(np.linspace(0, total - 1, most).round().astype(int))


@dataclass(frozen=True)
class XAxis:
    """The x axis of figures over several runs.

    Attributes:
        kind: "step", "time", "parameters" or "flops".
        unit: of time: seconds in one unit, and its name.
    """

    kind: str
    unit: tuple[float, str] = (1.0, "seconds")
    _clocks: dict[int, "_StepTimes"] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, kind: str, runs: Iterable[Run]) -> "XAxis":
        """The axis on which all of `runs` fit, its unit of time chosen by the longest."""
        clocks = {id(run): _StepTimes.of(run) for run in runs} if kind == "time" else {}
        longest = max((clock.last - clock.first for clock in clocks.values()), default=0.0)
        for limit, size, name in _UNITS:
            if longest < limit:
                return cls(kind, (size, name), clocks)
        return cls(kind, (86400.0, "days"), clocks)

    @property
    def title(self) -> str:
        return {
            "step": "Training step",
            "time": f"Time since the start of the run ({self.unit[1]})",
            "parameters": "Parameters",
            "flops": "Forward FLOPs of one sample, summed over training steps",
        }[self.kind]

    @property
    def layout(self) -> dict:
        """Settings of the axis itself."""
        formats = {"step": ",d", "time": "~g", "parameters": "~s", "flops": "~s"}
        hover = {"step": ",d", "time": ".4~g", "parameters": ",d", "flops": ".4~s"}
        return {
            "title": {"text": self.title},
            "tickformat": formats[self.kind],
            "hoverformat": hover[self.kind],
        }

    def _time(self, run: Run) -> "_StepTimes":
        if id(run) not in self._clocks:
            self._clocks[id(run)] = _StepTimes.of(run)
        return self._clocks[id(run)]

    def label(self, value: float) -> str:
        """A place on the axis, in words for a tick."""
        if not np.isfinite(value):
            return "?"
        if self.kind == "step":
            return f"{value:,.0f}"
        if self.kind == "time":
            return f"{value:.3g}"
        return _si(value)

    def series(self, run: Run, series: Series) -> np.ndarray:
        """Where the values of one of the run's series stand; NaN where nothing tells."""
        if self.kind == "time":
            return (series.times - self._time(run).first) / self.unit[0]
        return self.steps(run, series.steps)

    def growths(self, run: Run, growths: list[GrowthSummary]) -> np.ndarray:
        """Where growths stand: just before them, on an axis of parameters."""
        if self.kind == "time":
            times = np.array([g.time for g in growths], float)
            return (times - self._time(run).first) / self.unit[0]
        return self.steps(run, np.array([g.step for g in growths], np.int64))

    def steps(self, run: Run, steps: np.ndarray) -> np.ndarray:
        """Where training steps stand."""
        steps = np.asarray(steps, float)
        if self.kind == "step":
            return steps
        if self.kind == "parameters":
            return parameters_at(run, steps)
        if self.kind == "flops":
            return flops_until(run, steps)
        clock = self._time(run)
        if not len(clock.steps):
            return np.full(len(steps), np.nan)
        return (np.interp(steps, clock.steps, clock.times) - clock.first) / self.unit[0]


def log_axis(values: Iterable[np.ndarray]) -> dict:
    """Settings of a logarithmic axis for these values, with whole numbers at its ticks.

    plotly writes 0.2 as a small 2 below 1.
    """
    known = np.concatenate([np.asarray(one, float) for one in values] or [np.ones(1)])
    known = known[np.isfinite(known) & (known > 0)]
    if not len(known):
        return {"type": "log"}
    low, high = np.log10(known.min()), np.log10(known.max())
    if high - low > 5:
        return {"type": "log", "exponentformat": "power", "dtick": 1}
    digits = (1, 2, 5) if high - low <= 2.5 else (1, 3) if high - low <= 4 else (1,)
    exponents = range(int(np.floor(low)) - 1, int(np.ceil(high)) + 2)
    ticks = [digit * 10.0**exponent for exponent in exponents for digit in digits]
    return {"type": "log", "tickvals": ticks, "ticktext": [f"{tick:.12g}" for tick in ticks]}


def _si(value: float) -> str:
    for size, unit in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"


@dataclass(frozen=True)
class _StepTimes:
    """When a run did what.

    Attributes:
        steps, times: steps of which the time is known, in order, and the times.
        first, last: of all that it has logged, in seconds since 1970.
    """

    steps: np.ndarray
    times: np.ndarray
    first: float
    last: float

    @classmethod
    def of(cls, run: Run) -> "_StepTimes":
        longest = max(run.scalars.values(), key=len, default=None)
        steps = np.array([g.step for g in run.growths], float)
        times = np.array([g.time for g in run.growths], float)
        ends = [series.times[[0, -1]] for series in run.scalars.values() if len(series)]
        if longest is not None and len(longest):
            steps, times = np.append(longest.steps, steps), np.append(longest.times, times)
        good = np.isfinite(times) & (times > 0)
        order = np.argsort(steps[good], kind="stable")
        known = np.concatenate([times, *ends]) if ends else times
        known = known[np.isfinite(known) & (known > 0)]
        first, last = (known.min(), known.max()) if len(known) else (0.0, 0.0)
        return cls(steps[good][order], times[good][order], float(first), float(last))


def changes(run: Run) -> list[GrowthSummary]:
    """The growths after which the model was another."""
    return [g for g in run.growths if not g.dry_run and not g.error]


def _sizes(run: Run, what: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps after which the model had another size, and the n + 1 sizes; none if unknown."""
    grown = changes(run)
    if run.growths:
        first = grown[0] if grown else run.growths[0]
        sizes = [getattr(first, f"{what}_before")] + [getattr(g, f"{what}_after") for g in grown]
        return np.array([g.step for g in grown], float), np.array(sizes, float)
    series = run.scalars.get(what)
    if series is None or not len(series):
        return np.zeros(0), np.zeros(0)
    return series.steps[1:].astype(float), series.values.astype(float)


def parameters_at(run: Run, steps: np.ndarray) -> np.ndarray:
    """Parameters of the model that took each of these steps; NaN where nothing tells.

    What grew after step s was done has not grown in step s.
    """
    changed, sizes = _sizes(run, "parameters")
    if not len(sizes):
        return np.full(len(steps), np.nan)
    return sizes[np.searchsorted(changed, steps, side="left")]


def flops_until(run: Run, steps: np.ndarray) -> np.ndarray:
    """FLOPs of one sample's forward pass, summed over the steps up to each; NaN where unknown."""
    changed, sizes = _sizes(run, "flops")
    if not len(sizes):
        return np.full(len(steps), np.nan)
    last = max(float(np.max(steps, initial=0)), float(changed[-1]) if len(changed) else 0.0) + 1
    knots = np.concatenate([[0.0], changed, [last]])
    total = np.concatenate([[0.0], np.cumsum(np.diff(knots) * sizes)])
    return np.interp(steps, knots, total)


def at_steps(series: Series, values: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """`values` of a series at other steps, between known ones linearly; NaN where none is."""
    finite = np.isfinite(values)
    if not finite.any():
        return np.full(len(steps), np.nan)
    return np.interp(steps, series.steps[finite], values[finite])
