"""Programs of tests, run in processes of their own."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

# Packages of these names are not found by `import`, as if they were not installed.
HIDE = """
import sys
class Hiding:
    def __init__(self, finder):
        self.finder = finder
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in HIDDEN:
            return self.finder.find_spec(name, path, target)
    def __getattr__(self, name):
        return getattr(self.finder, name)
sys.meta_path[:] = [Hiding(finder) for finder in sys.meta_path]
"""


def python(code, *arguments, hidden=(), wait=True, **options):
    """Runs a program in a process of its own."""
    code = f"HIDDEN = {set(hidden)!r}\n{HIDE}\n" + textwrap.dedent(code)
    process = subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}, **options,
    )  # fmt: skip
    if not wait:
        return process
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return out
