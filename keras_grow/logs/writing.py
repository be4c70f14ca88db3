"""`RunWriter`: writes a run down where TensorBoard finds it, without TensorFlow.

An event file is a list of protocol buffers, which come with tensorboard as does what frames them
(`RecordWriter`). Its `EventFileWriter` is not used: that would import TensorFlow wherever it is
installed, and a full disk would end its thread instead of telling us.
"""

import atexit
import importlib
import os
import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn
from weakref import WeakValueDictionary

from keras_grow.errors import GrowthError
from keras_grow.logs import events as event_log
from keras_grow.logs import records
from keras_grow.logs.events import GrowthEvent
from keras_grow.logs.networks import Network

if sys.platform != "win32":  # there only writers of one process know of each other
    import fcntl

INSTALL = "pip install keras-grow[tensorboard]"
# Seconds after which scalars are on disk at the latest, for those who watch.
FLUSH_SECONDS = 2.0
BUFFER = 1 << 16
# Scalars that are kept until then at the most.
MOST_WAITING = 1000

_DATA_CLASS_TENSOR = 2  # of `tensorboard.compat.proto.summary_pb2.DataClass`
_DT_STRING = 7
_START = 1  # of `SessionLog.SessionStatus`

_OPEN = "open"

_open_writers: WeakValueDictionary[str, "RunWriter"] = WeakValueDictionary()


@atexit.register
def _close_all() -> None:
    """When the program ends, maybe by an error in `fit`."""
    for writer in list(_open_writers.values()):
        writer.close()


def event_protos() -> Any | None:
    """The module of TensorBoard's protocol buffers, or None where tensorboard is not installed."""
    try:
        return importlib.import_module("tensorboard.compat.proto.event_pb2")
    except ImportError:
        return None


class RunWriter:
    """Writes one run into a folder: an event file, and `growth-events.jsonl`.

    A growth is in the hands of the operating system when `growth` returns, so nothing is lost if
    the process dies after it; scalars follow within two seconds. Where tensorboard is not
    installed only `growth-events.jsonl` is written, and a warning says so.

    A folder has one writer at a time. If another of this process has it open, that one is closed,
    and refuses what it is given from then on.

    Args:
        log_dir: made if there is none.
        step: training steps done. What a run that was resumed has written of later ones is taken
            back; with 0 it begins anew.
        opened: when the writer was opened, in seconds since 1970; now if left out.

    Raises:
        GrowthError: the folder cannot be made or written to, or another process writes there.
            So do all methods, when the disk is full for example.
    """

    def __init__(
        self, log_dir: str | os.PathLike, step: int = 0, opened: float | None = None
    ) -> None:
        self.folder = Path(log_dir)
        self._file: Any = None
        self._lock: int | None = None
        self._state = "not open"
        # Scalars that are to be written. Many at a time take half the time: between two training
        # steps nothing of this is in the processor's caches.
        self._waiting: list[tuple[int, float, dict[str, float]]] = []
        self._flushed = time.time()
        self._protos = event_protos()
        with self._telling():
            self.folder.mkdir(parents=True, exist_ok=True)
            key = os.path.realpath(self.folder)
            before = _open_writers.pop(key, None)
            if before is not None and before._state == _OPEN:
                before.close()
                before._state = "closed, because another one was opened there"
            self._lock = _locked(self.folder)
            if self._protos is None:
                open(self.folder / event_log.FILE_NAME, "ab").close()  # whether it can be written
            else:
                self._open(step, time.time() if opened is None else opened)
        self._state = _OPEN
        _open_writers[key] = self
        if self._protos is None:
            warnings.warn(
                f"tensorboard is not installed, so only {event_log.FILE_NAME} is written to "
                f"{self.folder}, without loss and metrics. Install with: {INSTALL}",
                stacklevel=3,
            )

    def _open(self, step: int, opened: float) -> None:
        from tensorboard.summary.writer.record_writer import RecordWriter

        # TensorBoard reads the files of a folder in the order of their names.
        seconds, nanoseconds = divmod(time.time_ns(), 10**9)
        name = f"events.out.tfevents.{seconds:010d}.{nanoseconds:09d}.{os.getpid()}.keras_grow"
        self._file = RecordWriter(open(self.folder / name, "xb", buffering=BUFFER))  # noqa: SIM115
        self._write(self._event(0, opened, file_version="brain.Event:2"))
        start = self._event(step + 1 if step else 0, opened)
        start.session_log.status = _START  # readers drop what they have of this step and later
        self._write(start)
        self._tensor(self._event(step, opened), {records.SESSION: b"{}"})
        self._flush()

    # --- what is written -----------------------------------------------------------------------

    def growth(self, event: GrowthEvent) -> None:
        """Writes a growth step: its record, that of its sites, and a line of JSON."""
        with self._telling():
            if self._file is not None:
                data = {
                    records.GROWTH: records.encode_growth(event),
                    records.SITES: records.encode_sites(event.sites),
                }
                self._tensor(self._event(event.step, event.time or None), data)
                self._flush()
            event_log.append(self.folder, event)

    def network(self, network: Network, when: float | None = None) -> None:
        """Writes what the model looks like. `when` is in seconds since 1970, by default now."""
        with self._telling():
            if self._file is not None:
                record = {records.NETWORK: records.encode_network(network)}
                self._tensor(self._event(network.step, when), record)

    def scalar(self, tag: str, value: float, step: int, when: float | None = None) -> None:
        """Writes one number, as TensorBoard's own tabs show them."""
        self.scalars({tag: value}, step, when)

    def scalars(self, values: Mapping[str, float], step: int, when: float | None = None) -> None:
        """Writes numbers of one step, by tag."""
        if self._state != _OPEN:
            self._refuse()
        if self._file is None:
            return
        when = time.time() if when is None else when
        self._waiting.append((step, when, dict(values)))
        if len(self._waiting) >= MOST_WAITING or when - self._flushed > FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Hands everything over to the operating system."""
        with self._telling():
            if self._file is not None:
                self._flush()

    def close(self) -> None:
        """Closes the files; a second time nothing happens. Nothing can be written afterwards."""
        if self._state == _OPEN:
            with self._telling():
                if self._file is not None:
                    self._flush()
                    self._file.close()
            self._let_go("closed")

    def __enter__(self) -> "RunWriter":
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_state", None) == _OPEN:
            self.close()

    # --- how -----------------------------------------------------------------------------------

    def _event(self, step: int, when: float | None = None, **rest: Any) -> Any:
        assert self._protos is not None
        when = time.time() if when is None else when
        return self._protos.Event(wall_time=when, step=step, **rest)

    def _tensor(self, event: Any, data: Mapping[str, bytes]) -> None:
        for tag, content in data.items():
            value = event.summary.value.add(tag=tag)
            value.metadata.plugin_data.plugin_name = records.PLUGIN
            value.metadata.data_class = _DATA_CLASS_TENSOR  # without it TensorBoard hides them
            value.tensor.dtype = _DT_STRING
            value.tensor.tensor_shape.SetInParent()
            value.tensor.string_val.append(content)
        self._write(event)

    def _write(self, event: Any) -> None:
        self._write_scalars()  # in order
        self._file.write(event.SerializeToString())

    def _write_scalars(self) -> None:
        waiting, self._waiting = self._waiting, []
        for step, when, values in waiting:
            event = self._event(step, when)
            for tag, value in values.items():
                event.summary.value.add(tag=tag, simple_value=value)
            self._file.write(event.SerializeToString())

    def _flush(self) -> None:
        self._write_scalars()
        self._file.flush()
        self._flushed = time.time()

    def _let_go(self, state: str) -> None:
        self._file = None
        self._state = state
        if self._lock is not None:
            _unlock(self._lock)
            self._lock = None

    def _refuse(self) -> NoReturn:
        raise GrowthError(f"The writer of the log folder {self.folder} is {self._state}.")

    @contextmanager
    def _telling(self) -> Iterator[None]:
        """Says what a fault of the disk means. After it the writer is closed."""
        if self._state not in ("not open", _OPEN):
            self._refuse()
        try:
            yield
        except OSError as error:
            self._let_go("closed, because the folder could not be written to")
            raise GrowthError(
                f"The log folder {self.folder} cannot be written to: "
                f"{error.strerror or error}. Choose another log_dir, or mend that."
            ) from error


def _locked(folder: Path) -> int | None:
    """Locks a folder until it is unlocked or the process ends; where locks are to be had."""
    if sys.platform == "win32":
        return None
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise GrowthError(
            f"Another process is writing to the log folder {folder}. Give every run a folder of "
            "its own, such as log_dir='logs/run-2'."
        ) from None
    except OSError:  # a file system without locks
        os.close(handle)
        return None
    return handle


def _unlock(handle: int) -> None:
    if sys.platform != "win32":  # a forked process may hold the same lock
        fcntl.flock(handle, fcntl.LOCK_UN)
    os.close(handle)
