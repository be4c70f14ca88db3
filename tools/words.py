"""Numbers and names in words, for all that people read: figures, pages, tables, messages.

Below every room of `tools`: it imports none of them.
"""

import math
import unicodedata


def shortened(value: object, limit: int) -> str:
    """`value` on one line of at most `limit` characters, its middle left out if need be."""
    line = str(value)[:100_000].encode("utf-8", "replace").decode("utf-8")
    line = "".join(" " if unicodedata.category(c)[0] == "C" else c for c in line)
    line = " ".join(line.split())
    if len(line) <= limit:
        return line
    head = (limit - 1) // 2
    return f"{line[:head]}…{line[len(line) - (limit - 1 - head) :]}"


def plural(number: int, word: str) -> str:
    """`1 site`, `2 sites`."""
    return f"{number:,} {word}{'' if number == 1 else 's'}"


def seconds(value: float) -> str:
    """A duration: `0.42 s`, `12 s`, `3 min 20 s`, `2 h 5 min`, `4 days`."""
    if not math.isfinite(value):
        return "?"
    if value < 60:
        return f"{value:.2g} s" if value < 10 else f"{value:.0f} s"
    if value < 3600:
        return f"{int(value // 60)} min {int(value % 60)} s"
    if value >= 3 * 86400:
        return f"{value / 86400:,.0f} days"
    return f"{int(value // 3600):,} h {int(value % 3600 // 60)} min"


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
