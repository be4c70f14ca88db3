"""How the tab does with many runs: `PYTHONPATH=tests python -m helpers.scale`.

Writes synthetic runs twice, with and without records of growth (scalars are in both), and for each
of TensorBoard's loaders prints what the tab adds: seconds until it answers once TensorBoard has
read everything, megabytes sent, and megabytes of memory of all its processes.
"""

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

from helpers.browser import Browser, TensorBoard, blocking, missing, serving, wait
from helpers.written import write_run

from keras_grow.logs.events import FILE_NAME


def memory(pid: int) -> float:
    """Megabytes that a process and its children hold, shared pages counted once."""
    total = 0
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            group = int(status.read_text().rpartition(")")[2].split()[2])
            rollup = (status.parent / "smaps_rollup").read_text()
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue  # it has ended
        if group == pid:  # the group that TensorBoard was started in
            total += int(rollup.partition("\nPss:")[2].split()[0])
    return total / 1024


def worked(pid: int) -> float:
    """Seconds of processor time that a process and its children have taken."""
    ticks = 0
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended
        if int(fields[2]) == pid:
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def settled(board: TensorBoard) -> float:
    """Megabytes of memory once that no longer grows: everything has been read."""
    last, since = 0.0, time.monotonic()
    while time.monotonic() - since < 6:
        time.sleep(1)
        now = memory(board.pid)
        if abs(now - last) > 2:
            last, since = now, time.monotonic()
    return last


def timed(board: TensorBoard, path: str) -> tuple[float, bytes]:
    start = time.perf_counter()
    status, body = board.get(path)
    assert status == 200, body
    return time.perf_counter() - start, body


def measure(logdir: Path, loader: str, env: dict[str, str], growths: int) -> dict[str, float]:
    """Figures of the directory with records."""
    found: dict[str, float] = {}
    with serving(logdir, f"--load_fast={loader}", "--reload_interval=5", env=env) as board:
        found["memory read"] = settled(board)
        before = worked(board.pid)
        found["seconds overview, cold"], body = timed(board, "overview")
        found["... of processor time"] = worked(board.pid) - before
        runs = json.loads(body)["runs"]
        assert sum(run["growths"] for run in runs) == growths, "TensorBoard has not read all"
        found["seconds overview, again"], _ = timed(board, "overview")
        with tempfile.TemporaryDirectory() as folder:
            browser = Browser(Path(folder))
            try:
                before = worked(board.pid)
                browser.open(board)
                wait("the table", lambda: browser.run("return document.querySelector('td')"))
                browser.drawn()
                # Since the tab's module began to load; TensorBoard's own page is not ours.
                found["seconds page drawn"] = browser.run(
                    """
                    const all = performance.getEntriesByType('resource');
                    const start = all.find(e => e.name.includes('/index.js')).startTime;
                    return (Math.max(...all.map(e => e.responseEnd)) - start) / 1000;
                    """
                )
                found["... of TensorBoard's processor time"] = worked(board.pid) - before
                sent = """
                return performance.getEntriesByType('resource')
                  .reduce((sum, e) => sum + e.transferSize, 0) / 1e6;
                """
                found["MB sent, first view"] = browser.run(sent)
                for view in ("costs", "widths", "why", "runs", "network"):
                    start = time.perf_counter()
                    browser.tab(view)
                    found[f"seconds view {view}"] = time.perf_counter() - start
                found["MB sent, all views"] = browser.run(sent)
            finally:
                browser.close()
        found["memory after"] = settled(board)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--events", type=int, default=500)
    parser.add_argument("--sites", type=int, default=100)
    parser.add_argument("--loaders", nargs="*", default=["true", "false"])
    parser.add_argument("--folder", type=Path, help="kept, and used again if it is there")
    options = parser.parse_args()
    if missing() is not None:
        parser.error(str(missing()))
    folder = options.folder or Path(tempfile.mkdtemp())
    size = {"events": options.events, "sites": options.sites, "every": 20}
    for kind in ("with", "without"):
        for number in range(options.runs):
            run = folder / kind / f"run-{number:02d}"
            if not run.exists():
                write_run(run, records=kind == "with", seed=number, **size)
                (run / FILE_NAME).unlink(missing_ok=True)  # TensorBoard does not read it
    env = blocking(folder / "env", "tensorflow")
    growths = options.runs * options.events
    for loader in options.loaders:
        with serving(folder / "without", f"--load_fast={loader}", env=env) as board:
            before = settled(board)
        found = measure(folder / "with", loader, env, growths)
        print(f"--load_fast={loader}, load of the machine {os.getloadavg()[0]:.1f}")
        print(f"  {'memory without records':36} {before:8.1f} MB")
        for name, value in found.items():
            print(f"  {name:36} {value:8.2f}")
        print(f"  {'memory added':36} {found['memory after'] - before:8.1f} MB", flush=True)


if __name__ == "__main__":
    main()
