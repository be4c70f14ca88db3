"""How the commands print: rich tables on a terminal, untruncated plain text elsewhere."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

#: Columns used where nobody is watching (a file, a pipe), so that names are not cut.
_WIDTH_WITHOUT_TERMINAL = 160


def make_console() -> Console:
    """A console on the standard output of this moment."""
    from rich.console import Console

    console = Console(highlight=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console = Console(highlight=False, width=_WIDTH_WITHOUT_TERMINAL)
    return console


def count(number: float) -> str:
    """A count for people: ``1,234``, ``12.3 k``, ``4.6 M``, ``7.9 G``."""
    for threshold, unit, size in ((1e12, "T", 1e12), (1e9, "G", 1e9), (1e6, "M", 1e6)):
        if abs(number) >= threshold:
            return f"{number / size:,.1f} {unit}"
    if abs(number) >= 1e4:
        return f"{number / 1e3:,.1f} k"
    return f"{number:,.0f}" if float(number).is_integer() else f"{number:,.1f}"


def size(number: float) -> str:
    """A number of bytes for people: ``12 bytes``, ``3.4 MB``, ``16.0 TB``."""
    for unit in ("bytes", "kB", "MB", "GB", "TB", "PB"):
        if abs(number) < 1000 or unit == "PB":
            break
        number /= 1000
    return f"{number:,.0f} {unit}" if unit == "bytes" else f"{number:,.1f} {unit}"
