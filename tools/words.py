"""Numbers and names in words, for figures, pages and terminals."""

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
