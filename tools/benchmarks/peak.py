"""How much memory a piece of code takes at its peak."""

import resource
import threading
from pathlib import Path


def resident() -> int:
    """Bytes of memory this process holds now; its peak where the system does not say."""
    status = Path("/proc/self/statm")
    if status.exists():
        return int(status.read_text().split()[1]) * resource.getpagesize()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class Peak:
    """Watches the process while its body runs.

    Attributes:
        before: bytes held at its begin.
        extra: how many more there were at the peak.
    """

    def __enter__(self) -> "Peak":
        self.before = self._highest = resident()
        self._done = threading.Event()
        self._watcher = threading.Thread(target=self._watch)
        self._watcher.start()
        return self

    def __exit__(self, *failure: object) -> None:
        self._done.set()
        self._watcher.join()
        self.extra = max(self._highest, resident()) - self.before

    def _watch(self) -> None:
        while not self._done.wait(0.002):
            self._highest = max(self._highest, resident())
