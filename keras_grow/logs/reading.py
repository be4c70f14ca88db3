"""Runs from log folders: `read_runs` once, `Follower` while they are being written.

Event files are parsed with tensorboard's protocol buffers. Its `EventFileLoader` is not used: it
imports TensorFlow wherever that is installed, and elsewhere takes 200 ns for the check sum of every
byte, which is many seconds for long runs. Here only the check sum of each record's length is
compared; what the records hold is checked by whoever decodes it.

Every folder with event files or with `growth-events.jsonl` is a run of its own, as in TensorBoard
itself. So `keras.callbacks.TensorBoard` in the same log_dir adds runs `train` and `validation`
without growths, whose steps are epochs.
"""

import os
import struct
from array import array
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from keras_grow.errors import GrowthError
from keras_grow.logs import checking, records
from keras_grow.logs.checking import RecordError
from keras_grow.logs.events import FILE_NAME, SiteGrowth
from keras_grow.logs.networks import Network
from keras_grow.logs.runs import GrowthSummary, Run, Series
from keras_grow.logs.writing import INSTALL, event_protos

MAX_RECORD = 256 * 2**20  # bytes; an image or a graph of another plugin may be large
MAX_TOLD = 20  # sentences about what was left out of one run
CACHED_STEPS = 200  # growths whose sites are kept decoded

_HEADER = struct.Struct("<QI")
_START = 1  # of `SessionLog.SessionStatus`
_SCALARS = "scalars"


def read_runs(logdir: str | os.PathLike) -> list[Run]:
    """All runs below a folder, by name.

    Sites of growths are decoded when they are looked up in `Run.sites`.

    Raises:
        GrowthError: there is no such folder, or event files are there but tensorboard is not.
    """
    follower = Follower(logdir)
    follower.update()
    return follower._runs(live=False)


class Follower:
    """Reads runs below a folder while they are written, each byte once.

    Args:
        logdir: may still be empty.

    Raises:
        GrowthError: there is no such folder.
    """

    def __init__(self, logdir: str | os.PathLike) -> None:
        self.logdir = Path(logdir)
        self._check()
        self._folders: dict[str, _Folder] = {}

    def update(self) -> bool:
        """Reads what is new; says whether there was anything.

        Raises:
            GrowthError: the folder is gone, or event files are there but tensorboard is not.
        """
        self._check()
        news = False
        for folder, files in _run_folders(self.logdir):
            name = checking.clean(folder.relative_to(self.logdir).as_posix())
            if name not in self._folders:
                self._folders[name] = _Folder(name, folder)
            news = self._folders[name].update(files) or news
        return news

    def runs(self) -> list[Run]:
        """All runs as far as they have been read, by name; later updates leave these alone."""
        return self._runs(live=True)

    def _runs(self, live: bool) -> list[Run]:
        found = [self._folders[name].run(live) for name in sorted(self._folders)]
        unread = any(folder.unread for folder in self._folders.values())
        if unread and not any(run.growths for run in found):
            raise GrowthError(
                f"There are event files below {self.logdir}, and tensorboard is needed to read "
                f"them. Install with: {INSTALL}"
            )
        return found

    def _check(self) -> None:
        if not self.logdir.is_dir():
            what = "is a file" if self.logdir.exists() else "does not exist"
            raise GrowthError(
                f"The log folder {self.logdir} {what}. Name the folder that was given as log_dir, "
                "or one above it."
            )


class Sites(Mapping[int, list[SiteGrowth]]):
    """What grew, by step. Decoded when looked up; a record that cannot be read has no sites.

    Args:
        encoded: by step; bytes of `records.encode_sites`, or the sites themselves.
        left_out: where sentences go about what could not be read.
    """

    def __init__(self, encoded: Mapping[int, Any], left_out: list[str]) -> None:
        self._encoded = dict(sorted(encoded.items()))
        self._left_out = left_out
        self._decoded: OrderedDict[int, list[SiteGrowth]] = OrderedDict()
        self._bad: set[int] = set()

    def __getitem__(self, step: int) -> list[SiteGrowth]:
        value = self._encoded[step]
        if isinstance(value, list):
            return value
        if step in self._decoded:
            self._decoded.move_to_end(step)
            return self._decoded[step]
        try:
            sites = records.decode_sites(value)
        except RecordError as error:
            sites = []
            if step not in self._bad:
                self._bad.add(step)
                _tell(self._left_out, f"Step {step}: what grew was left out: {error}.")
        self._decoded[step] = sites
        if len(self._decoded) > CACHED_STEPS:
            self._decoded.popitem(last=False)
        return sites

    def __iter__(self) -> Iterator[int]:
        return iter(self._encoded)

    def __len__(self) -> int:
        return len(self._encoded)


class _Folder:
    """One run, as far as it has been read.

    Attributes:
        unread: whether there are event files that nothing here can read.
    """

    def __init__(self, name: str, path: Path) -> None:
        self.name = name
        self.path = path
        self.unread = False
        self._files: dict[str, _EventFile] = {}
        self._lines = _Lines(path / FILE_NAME)
        self._scalars: dict[str, _Points] = {}
        self._plugins: dict[str, str] = {}  # of tags, from the first record of each
        self._growths: dict[int, GrowthSummary] = {}
        self._sites: dict[int, bytes] = {}
        self._networks: dict[int, Network] = {}
        self._opened: list[tuple[int, float]] = []
        self._left_out: list[str] = []
        self._run: Run | None = None

    def update(self, names: list[str]) -> bool:
        """Reads what is new in files of these names."""
        news = False
        for name in names:
            if event_protos() is None:
                self.unread = True
                break
            if name not in self._files:
                self._files[name] = _EventFile(self.path / name)
            file = self._files[name]
            for event in file.events(self._left_out):
                news = True
                self._take(event)
        if not self._growths:  # the lines tell the same, at length
            news = self._lines.update() or news
        if news:
            self._run = None
        return news

    def run(self, live: bool) -> Run:
        """A run of its own, which later updates leave alone."""
        if self._run is None:
            left_out = list(self._left_out)
            growths: Mapping[int, GrowthSummary] = self._growths
            sites: Mapping[int, Any] = self._sites
            if not growths and self._lines.growths:
                growths, sites = self._lines.growths, self._lines.sites
            left_out += self._lines.left_out
            if self.unread:
                left_out.append(
                    "Loss and metrics were left out: tensorboard is needed to read them. "
                    f"Install with: {INSTALL}"
                )
            for file in self._files.values():
                if file.fault:
                    left_out.append(f"{file.path.name}: {file.fault}")
                elif file.cut and not live:
                    left_out.append(f"{file.path.name}: the last record is not whole.")
            self._run = Run(
                name=self.name,
                growths=[growths[step] for step in sorted(growths)],
                scalars={tag: p.series() for tag, p in sorted(self._scalars.items())},
                sites=Sites(sites, left_out),
                networks=[self._networks[step] for step in sorted(self._networks)],
                resumed=records.Sessions(self._opened).resumed,
                left_out=left_out,
            )
        return self._run

    # --- events --------------------------------------------------------------------------------

    def _take(self, event: Any) -> None:
        if event.WhichOneof("what") == "session_log":
            if event.session_log.status == _START:
                self._purge(event.step)
            return
        for value in event.summary.value:
            plugin = value.metadata.plugin_data.plugin_name
            plugin = self._plugins.setdefault(value.tag, plugin)
            if plugin == records.PLUGIN:
                self._take_ours(value, event.step, event.wall_time)
            elif value.HasField("simple_value"):
                self._point(value.tag, event, value.simple_value)
            elif plugin == _SCALARS and value.HasField("tensor"):
                self._take_tensor(value, event)

    def _take_ours(self, value: Any, step: int, when: float) -> None:
        data = value.tensor.string_val[0] if value.tensor.string_val else b""
        try:
            if value.tag == records.GROWTH:
                self._growths[step] = records.decode_growth(data, step, when)
            elif value.tag == records.SITES:
                self._sites[step] = data
            elif value.tag == records.NETWORK:
                self._networks[step] = records.decode_network(data)
            elif value.tag == records.SESSION:
                self._opened.append((step, when))
        except RecordError as error:
            tag = checking.clean(value.tag)
            _tell(self._left_out, f"Step {step}: a record of {tag} was left out: {error}.")

    def _take_tensor(self, value: Any, event: Any) -> None:
        from tensorboard.util import tensor_util

        try:
            number = np.asarray(tensor_util.make_ndarray(value.tensor), dtype=np.float64).item()
        except (TypeError, ValueError) as error:
            tag = checking.clean(value.tag)
            _tell(self._left_out, f"Step {event.step}: '{tag}' was left out: {error}.")
            return
        self._point(value.tag, event, number)

    def _point(self, tag: str, event: Any, number: float) -> None:
        points = self._scalars.get(tag)
        if points is None:
            points = self._scalars.setdefault(checking.clean(tag), _Points())
        points.add(event.step, event.wall_time, number)

    def _purge(self, step: int) -> None:
        """A run went on from before this step: what came after it was undone."""
        for points in self._scalars.values():
            points.purge(step)
        self._scalars = {tag: points for tag, points in self._scalars.items() if len(points)}
        for known in (self._growths, self._sites, self._networks):
            for later in [s for s in known if s >= step]:
                del known[later]
        self._opened = [pair for pair in self._opened if pair[0] < step]


class _Points:
    """A growing `Series`."""

    def __init__(self) -> None:
        self._steps, self._times, self._values = array("q"), array("d"), array("d")

    def __len__(self) -> int:
        return len(self._steps)

    def add(self, step: int, when: float, value: float) -> None:
        self._steps.append(step)
        self._times.append(when)
        self._values.append(value)

    def purge(self, step: int) -> None:
        kept = [i for i, s in enumerate(self._steps) if s < step]
        for name in ("_steps", "_times", "_values"):
            old = getattr(self, name)
            setattr(self, name, array(old.typecode, [old[i] for i in kept]))

    def series(self) -> Series:
        """In the order of steps; of two values at one step the later one."""
        steps = np.array(self._steps, dtype=np.int64)
        order = np.argsort(steps, kind="stable")
        steps = steps[order]
        order = order[np.append(steps[1:] != steps[:-1], True)] if len(steps) else order
        times, values = np.array(self._times), np.array(self._values)
        return Series(np.array(self._steps, dtype=np.int64)[order], times[order], values[order])


class _EventFile:
    """Reads an event file on from where it was.

    Attributes:
        fault: why it cannot be read on, or None.
        cut: whether the last record is not whole, or not yet.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.fault: str | None = None
        self.cut = False
        self._at = 0

    def events(self, left_out: list[str]) -> Iterator[Any]:
        """What is new in it, and can be read."""
        from google.protobuf.message import DecodeError

        protos = event_protos()
        assert protos is not None
        for data in self._records():
            try:
                event = protos.Event.FromString(data)
            except DecodeError:
                _tell(left_out, f"{self.path.name}: a record was left out: it is no event.")
                continue
            yield event

    def _records(self) -> Iterator[bytes]:
        from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c

        if self.fault is not None or not self.path.is_file():
            return
        try:
            size = self.path.stat().st_size
            if size <= self._at:
                return
            with open(self.path, "rb") as file:
                file.seek(self._at)
                while self._at + _HEADER.size <= size:
                    header = file.read(_HEADER.size)
                    length, check = _HEADER.unpack(header)
                    if masked_crc32c(header[:8]) != check or length > MAX_RECORD:
                        self.fault = f"it is damaged at byte {self._at:,}; the rest was left out."
                        return
                    end = self._at + _HEADER.size + length + 4
                    if end > size:
                        break
                    data = file.read(length)
                    file.seek(end)
                    self._at = end
                    yield data
            self.cut = self._at < size
        except (OSError, struct.error) as error:  # struct's: it became shorter
            self.fault = f"it cannot be read: {getattr(error, 'strerror', None) or error}."


class _Lines:
    """Reads `growth-events.jsonl` on from where it was."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.growths: dict[int, GrowthSummary] = {}
        self.sites: dict[int, list[SiteGrowth]] = {}
        self.left_out: list[str] = []
        self._at = 0
        self._number = 0
        self._ended = False

    def update(self) -> bool:
        if self._ended or not self.path.is_file():
            return False
        before = self._at
        try:
            with open(self.path, "rb") as file:
                file.seek(self._at)
                while data := file.read(2 * checking.MAX_BYTES):
                    whole = data[: data.rfind(b"\n") + 1]
                    if not whole:
                        self._ended = len(data) > checking.MAX_BYTES  # a line without end
                        break
                    self._at += len(whole)
                    file.seek(self._at)
                    for line in whole.splitlines():
                        self._number += 1
                        self._take(line)
        except OSError as error:
            self._ended = True
            _tell(self.left_out, f"{FILE_NAME} cannot be read: {error.strerror or error}.")
        return self._at > before

    def _take(self, line: bytes) -> None:
        try:
            event = records.decode_event(line)
        except RecordError as error:
            _tell(self.left_out, f"{FILE_NAME}, line {self._number}: left out: {error}.")
            return
        for later in [s for s in self.growths if s > event.step]:  # the run went on from before
            del self.growths[later], self.sites[later]
        self.growths[event.step] = records.in_short(event)
        self.sites[event.step] = event.sites


def _run_folders(logdir: Path) -> Iterator[tuple[Path, list[str]]]:
    """Folders of runs, and the names of their event files in order."""
    seen = set()
    for folder, inner, names in os.walk(logdir, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:  # a link to a folder above it
            inner.clear()
            continue
        seen.add(real)
        inner.sort()
        files = sorted(name for name in names if _is_event_file(name))
        if files or FILE_NAME in names:
            yield Path(folder), files


def _is_event_file(name: str) -> bool:
    return "tfevents" in name and not name.endswith(".profile-empty")


def _tell(left_out: list[str], sentence: str) -> None:
    if len(left_out) < MAX_TOLD:
        left_out.append(sentence)
    elif len(left_out) == MAX_TOLD:
        left_out.append("... and more of this kind.")
