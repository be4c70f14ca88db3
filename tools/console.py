"""How the commands print: rich tables on a terminal, untruncated plain text elsewhere."""

from __future__ import annotations

import os

from rich.console import Console

#: Columns used where nobody is watching (a file, a pipe), so that names are not cut.
_WIDTH_WITHOUT_TERMINAL = 160


def make_console() -> Console:
    """A console on the standard output of this moment."""
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
