"""Measures many models, each in a process of its own; what is done is kept on disk."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from keras_grow.tools.coverage.models import Entry

_CHILD = "keras_grow.tools.coverage.child"


def path_of(folder: Path, backend: str, floatx: str) -> Path:
    """The file of one backend and precision: a JSON line for each model."""
    return folder / f"{backend}-{floatx}.jsonl"


def read(path: Path) -> dict[str, dict[str, Any]]:
    """The records of a file by model; of several of one model the last."""
    if not path.exists():
        return {}
    records = {}
    for line in path.read_text().splitlines():
        try:
            record = json.loads(line)
        except ValueError:  # a line cut short when the run was killed
            continue
        records[record["key"]] = record
    return records


def run(
    entries: Iterable[Entry],
    folder: Path,
    backend: str,
    floatx: str = "float32",
    singles: int = 3,
    timeout: float = 3600.0,
    again: bool = False,
    say: Callable[[str], None] = print,
) -> None:
    """Measures the entries that have no record yet.

    Args:
        folder: of the records.
        singles: how many sites of each model are widened alone.
        timeout: seconds for one model.
        again: measure what has a record, too.
    """
    path = path_of(folder, backend, floatx)
    folder.mkdir(parents=True, exist_ok=True)
    done = {} if again else read(path)
    for entry in entries:
        if backend not in entry.backends:
            say(f"{entry.key}: cannot be built on {backend}")
            continue
        if entry.key in done:
            continue
        say(f"{entry.key} on {backend} in {floatx}")
        start = time.perf_counter()
        record = _measure(entry, backend, floatx, singles, timeout)
        record["seconds_in_all"] = time.perf_counter() - start
        with path.open("a") as file:
            # The line before may have been cut short.
            cut = file.tell() and not path.read_text().endswith("\n")
            file.write("\n" * bool(cut) + json.dumps(record) + "\n")
        say("    " + summary(record))


def summary(record: dict[str, Any]) -> str:
    """One line about a record."""
    if "failure" in record:
        return f"FAILED: {record['failure']}"
    worst = max([*record["all"].values(), *record["alone"].values()], default=0.0)
    errors = f", {len(record['errors'])} ERRORS" if record["errors"] else ""
    return (
        f"{record['growable']} of {record['producers']} producers, deviation {worst:.1e}{errors}, "
        f"{record['seconds_in_all']:.0f} s"
    )


def _measure(
    entry: Entry, backend: str, floatx: str, singles: int, timeout: float
) -> dict[str, Any]:
    environment = {**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
    if floatx == "float64":
        environment["JAX_ENABLE_X64"] = "1"
    command = [sys.executable, "-m", _CHILD, entry.key, floatx, str(singles)]
    base = {
        "key": entry.key, "library": entry.library, "family": entry.family, "name": entry.name,
        "backend": backend, "floatx": floatx,
    }  # fmt: skip
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=timeout
        )
    except subprocess.TimeoutExpired:
        return {**base, "failure": f"took more than {timeout:.0f} seconds"}
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not lines:
        why = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        return {**base, "failure": why[0][:500]}
    return {**base, **json.loads(lines[-1])}
