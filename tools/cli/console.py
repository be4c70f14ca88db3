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
