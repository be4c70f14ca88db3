"""Runs as TensorBoard's data provider has them.

The provider cannot say what is new, only what the last step and time of a tag are, and reading a
tag means reading all its records. So a run is read again when those have changed, and of what is
read only what was not there before is parsed. An overview reads short records only; what grew at
a step is read of the run that is looked at.
"""

import threading
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from tensorboard import errors
from tensorboard.data import provider as tb

from keras_grow.logs import records
from keras_grow.logs.checking import RecordError
from keras_grow.logs.events import SiteGrowth
from keras_grow.logs.runs import Run, Series
from keras_grow.tools.plugin.loader import NAME

SCALARS = "scalars"
POINTS = 1000  # of one series, as TensorBoard's own tabs ask for
WIDTH_POINTS = 300  # ... of the width of one site
ALL = 10_000_000  # the provider wants a number
KEPT_STEPS = 300  # growth steps whose sites are kept parsed, over all runs
SPECTRA = 60  # growth steps of one run that are read for what happened to a site
LEFT_OUT = 20  # sentences about what could not be read, of one run and tag
NO_METRICS = {"parameters", "flops", "learning_rate"}

_SHORT = (records.GROWTH, records.NETWORK, records.SESSION)

Stamp = tuple[int, float]


class UnknownRun(errors.NotFoundError):
    """There is no run of this name, or no longer."""


@dataclass
class _Tag:
    """What has been parsed of one tag of one run.

    Attributes:
        parsed: by step, time and check sum of the record.
        left_out: what could not be, and why.
    """

    parsed: dict[tuple, Any] = field(default_factory=dict)
    left_out: dict[tuple, str] = field(default_factory=dict)

    def update(self, data: list[tb.TensorDatum], decode: Callable[..., Any], what: str) -> None:
        """Parses what is new, and forgets what is no longer there."""
        parsed, left_out = {}, {}
        for datum in sorted(data, key=_when):
            key: tuple = _when(datum)
            try:
                payload = _payload(datum)
                key = (*key, zlib.crc32(payload))
                if key in self.parsed:
                    parsed[key] = self.parsed[key]
                elif key in self.left_out:
                    left_out[key] = self.left_out[key]
                else:
                    parsed[key] = decode(payload, datum)
            except RecordError as error:
                left_out[key] = f"Step {datum.step}: {what} was left out: {error}."
        self.parsed, self.left_out = parsed, left_out

    def sentences(self) -> list[str]:
        """What was left out, in the order of steps, and not too much of it."""
        told = list(self.left_out.values())
        more = len(told) - LEFT_OUT
        return told[:LEFT_OUT] + ([f"... and {more} more records like these."] if more > 0 else [])


@dataclass
class _Known:
    """What is kept of one run.

    Attributes:
        stamps: last step and time of its short records when they were read.
        growths, networks, sessions: what they said.
    """

    stamps: dict[str, Stamp | None] = field(default_factory=dict)
    growths: _Tag = field(default_factory=_Tag)
    networks: _Tag = field(default_factory=_Tag)
    sessions: records.Sessions = field(default_factory=lambda: records.Sessions(()))

    def old(self, stamps: dict[str, Stamp]) -> bool:
        """Whether there is anything that has not been read."""
        return self.stamps != {tag: stamps.get(tag) for tag in _SHORT}

    def update(self, data: Mapping[str, list[tb.TensorDatum]], stamps: dict[str, Stamp]) -> None:
        """Parses what is new."""
        self.growths.update(data.get(records.GROWTH, []), _growth, "the growth")
        self.networks.update(data.get(records.NETWORK, []), _network, "the network")
        opened = data.get(records.SESSION, [])
        self.sessions = records.Sessions((int(d.step), float(d.wall_time)) for d in opened)
        self.stamps = {tag: stamps.get(tag) for tag in _SHORT}


class Source:
    """Reads runs through `provider`, for several requests at once.

    Args:
        provider: TensorBoard's.
        kept: how many of our records TensorBoard was told to keep of a tag; 0 for all.
    """

    def __init__(self, provider: tb.DataProvider, kept: int = 0) -> None:
        self._provider = provider
        self._kept = kept
        self._lock = threading.Lock()
        self._known: dict[str, dict[str, _Known]] = {}
        self._sites: OrderedDict[tuple, list[SiteGrowth]] = OrderedDict()

    # --- what there is -------------------------------------------------------------------------

    def version(self, ctx: Any, experiment: str) -> str:
        """A text that changes when there is anything new to show."""
        return _digest(sorted(self._stamps(ctx, experiment).items()))

    def names(self, ctx: Any, experiment: str) -> list[str]:
        """Of every run that has records of ours."""
        return sorted(self._stamps(ctx, experiment))

    def overview(self, ctx: Any, experiment: str) -> tuple[list[Run], dict[str, str]]:
        """Every run that has records of ours, with growths and warnings but no scalars, and for
        each a text that changes when there is anything new of it.
        """
        stamps = self._stamps(ctx, experiment)
        found = self._runs(ctx, experiment, sorted(stamps), stamps)
        return found, {name: _digest(stamp) for name, stamp in stamps.items()}

    def runs(
        self,
        ctx: Any,
        experiment: str,
        names: Iterable[str],
        tags: Iterable[str] = (),
        networks: bool = False,
    ) -> list[Run]:
        """Runs by name, with the scalars `tags`.

        Raises:
            UnknownRun: there is none of one of the names.
        """
        stamps = self._stamps(ctx, experiment)
        names = list(names)
        for name in names:
            if name not in stamps:
                raise UnknownRun(f"There is no run {name!r}, or no longer.")
        found = self._runs(ctx, experiment, names, stamps, networks)
        self._add_scalars(ctx, experiment, found, list(tags), POINTS)
        return found

    def add_widths(self, ctx: Any, experiment: str, run: Run) -> None:
        """Adds the widths of all sites over time to `run.scalars`."""
        listed = self._scalar_tags(ctx, experiment, [run.name]).get(run.name, {})
        tags = [tag for tag in listed if tag.startswith("width/")]
        self._add_scalars(ctx, experiment, [run], tags, WIDTH_POINTS)

    def last(
        self, ctx: Any, experiment: str, runs: Iterable[str], tags: Iterable[str]
    ) -> dict[str, dict[str, float]]:
        """The last value of scalars, by run and tag."""
        read = self._provider.read_last_scalars(
            ctx,
            experiment_id=experiment,
            plugin_name=SCALARS,
            run_tag_filter=tb.RunTagFilter(runs=list(runs), tags=list(tags)),
        )
        return {
            run: {tag: float(datum.value) for tag, datum in tags.items()}
            for run, tags in read.items()
        }

    def metrics(self, ctx: Any, experiment: str, runs: Iterable[str]) -> list[str]:
        """Scalars that a run's progress can be shown by, the loss first."""
        listed = self._scalar_tags(ctx, experiment, runs)
        found = {tag for tags in listed.values() for tag in tags}
        found = {tag for tag in found if not tag.startswith("width/")} - NO_METRICS
        return sorted(found, key=lambda tag: (tag != "loss", tag != "val_loss", tag))

    # --- what grew -----------------------------------------------------------------------------

    def add_sites(self, ctx: Any, experiment: str, run: Run, step: int | None = None) -> None:
        """Adds to `run.sites` what grew at `step`; by default, at up to `SPECTRA` of all steps."""
        stale = self._known[experiment][run.name].sessions.stale
        read = self._read(ctx, experiment, [run.name], [records.SITES])
        by_step = {  # the last of a step counts
            int(datum.step): datum
            for datum in sorted(read.get(run.name, {}).get(records.SITES, []), key=_when)
            if not stale(int(datum.step), float(datum.wall_time))
        }
        steps = [step] if step is not None else sorted(by_step)
        if len(steps) > SPECTRA:
            chosen = np.unique(np.linspace(0, len(steps) - 1, SPECTRA).round().astype(int))
            run.left_out.append(f"Of {len(steps)} growths, {len(chosen)} evenly spread are shown.")
            steps = [steps[index] for index in chosen]
        sites = dict(run.sites)
        for one in steps:
            if one not in by_step:
                continue
            try:
                sites[one] = self._parsed_sites(experiment, run.name, by_step[one])
            except RecordError as error:
                run.left_out.append(f"Step {one}: what grew was left out: {error}.")
        run.sites = sites

    def _parsed_sites(self, experiment: str, run: str, datum: tb.TensorDatum) -> list[SiteGrowth]:
        payload = _payload(datum)
        key = (experiment, run, int(datum.step), zlib.crc32(payload))
        with self._lock:
            if key in self._sites:
                self._sites.move_to_end(key)
                return self._sites[key]
        found = [_cut(site) for site in records.decode_sites(payload)]
        with self._lock:
            self._sites[key] = found
            while len(self._sites) > KEPT_STEPS:
                self._sites.popitem(last=False)
        return found

    # --- reading -------------------------------------------------------------------------------

    def _stamps(self, ctx: Any, experiment: str) -> dict[str, dict[str, Stamp]]:
        """Last step and time of our tags and of the loss, by run."""
        listed = self._provider.list_tensors(ctx, experiment_id=experiment, plugin_name=NAME)
        ours = {*_SHORT, records.SITES}
        found = {
            run: {tag: (s.max_step, s.max_wall_time) for tag, s in tags.items() if tag in ours}
            for run, tags in listed.items()
        }
        found = {run: tags for run, tags in found.items() if tags}
        if found:
            scalars = self._provider.list_scalars(
                ctx,
                experiment_id=experiment,
                plugin_name=SCALARS,
                run_tag_filter=tb.RunTagFilter(runs=list(found), tags=["loss", "parameters"]),
            )
            for run, tags in scalars.items():
                found[run] |= {tag: (s.max_step, s.max_wall_time) for tag, s in tags.items()}
        return found

    def _scalar_tags(self, ctx: Any, experiment: str, runs: Iterable[str]) -> Mapping[str, Any]:
        return self._provider.list_scalars(
            ctx,
            experiment_id=experiment,
            plugin_name=SCALARS,
            run_tag_filter=tb.RunTagFilter(runs=list(runs)),
        )

    def _read(
        self, ctx: Any, experiment: str, runs: Iterable[str], tags: Iterable[str]
    ) -> Mapping[str, Mapping[str, list[tb.TensorDatum]]]:
        """All our records of these tags, by run and tag."""
        return self._provider.read_tensors(
            ctx,
            experiment_id=experiment,
            plugin_name=NAME,
            downsample=ALL,
            run_tag_filter=tb.RunTagFilter(runs=list(runs), tags=list(tags)),
        )

    def _runs(
        self,
        ctx: Any,
        experiment: str,
        names: Iterable[str],
        stamps: dict[str, dict[str, Stamp]],
        networks: bool = False,
    ) -> list[Run]:
        """Runs by name; what is new of their short records is parsed."""
        names = list(names)
        known = self._known.setdefault(experiment, {})
        with self._lock:
            new = [name for name in names if known.setdefault(name, _Known()).old(stamps[name])]
            if new:
                read = self._read(ctx, experiment, new, _SHORT)
                for name in new:
                    known[name].update(read.get(name, {}), stamps[name])
            return [self._run(name, known[name], networks) for name in names]

    def _run(self, name: str, known: _Known, networks: bool) -> Run:
        run = Run(name=name, growths=_valid(known.growths, known.sessions))
        run.resumed = known.sessions.resumed
        if networks:
            run.networks = _valid(known.networks, known.sessions)
        run.left_out = known.growths.sentences() + known.networks.sentences()
        if self._kept and len(run.growths) >= self._kept:
            run.left_out.append(
                f"TensorBoard was told to keep {self._kept} growths of a run. Start it without "
                f"--samples_per_plugin={NAME}={self._kept} to see all."
            )
        return run

    def _add_scalars(
        self, ctx: Any, experiment: str, runs: list[Run], tags: list[str], points: int
    ) -> None:
        if not runs or not tags:
            return
        read = self._provider.read_scalars(
            ctx,
            experiment_id=experiment,
            plugin_name=SCALARS,
            downsample=points,
            run_tag_filter=tb.RunTagFilter(runs=[run.name for run in runs], tags=tags),
        )
        for run in runs:
            stale = self._known[experiment][run.name].sessions.stale
            for tag, data in read.get(run.name, {}).items():
                data = sorted(data, key=lambda datum: (datum.step, datum.wall_time))
                data = [d for d in data if not stale(d.step, d.wall_time)]
                run.scalars[tag] = Series(
                    np.array([datum.step for datum in data], np.int64),
                    np.array([datum.wall_time for datum in data], np.float64),
                    np.array([datum.value for datum in data], np.float64),
                )


def _when(datum: tb.TensorDatum) -> tuple[int, float]:
    return int(datum.step), float(datum.wall_time)


def _growth(payload: bytes, datum: tb.TensorDatum) -> Any:
    return records.decode_growth(payload, int(datum.step), float(datum.wall_time))


def _network(payload: bytes, datum: tb.TensorDatum) -> Any:
    return replace(records.decode_network(payload), step=int(datum.step))


def _cut(site: SiteGrowth) -> SiteGrowth:
    """A site whose spectrum is no longer than our writer makes them: a page has to draw it."""
    size = len(site.singular_values)
    if size <= records.SPECTRUM_LIMIT:
        return site
    return replace(
        site,
        singular_values=site.singular_values[: records.SPECTRUM_LIMIT],
        spectrum_size=max(size, site.spectrum_size or 0),
    )


def _valid(tag: _Tag, sessions: records.Sessions) -> list[Any]:
    """What was parsed, in the order of steps, less what a resumed run took back.

    Of two records of one step the later one counts.
    """
    ordered = sorted(tag.parsed.items(), key=lambda item: item[0][:2])
    by_step = {key[0]: value for key, value in ordered if not sessions.stale(key[0], key[1])}
    return list(by_step.values())


def _payload(datum: tb.TensorDatum) -> bytes:
    """The bytes of one string tensor, as it should be.

    Raises:
        RecordError: it is another kind of tensor.
    """
    value = np.asarray(datum.numpy)
    item = value.item() if value.size == 1 else None
    if isinstance(item, str):
        item = item.encode("utf-8", "surrogateescape")
    if not isinstance(item, bytes):
        raise RecordError(
            "it should have been one string. "
            f"Received: a tensor of {value.dtype}, shape {value.shape}"
        )
    return item


def _digest(value: Any) -> str:
    return f"{zlib.crc32(repr(value).encode('utf-8', 'replace')):08x}"
