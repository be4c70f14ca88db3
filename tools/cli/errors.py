"""What the command line says when something goes wrong, and with which exit code.

Every failure is one readable paragraph on stderr. The traceback is shown only with ``--debug``.
"""

from __future__ import annotations

from typing import IO, Any

import click

#: All is well.
OK = 0
#: The command worked, and the answer is no: ``verify`` or ``diff`` found a difference.
ANSWER_IS_NO = 1
#: Bad usage or bad input: nothing was done.
BAD_INPUT = 2
#: Something failed that the input does not explain.
UNEXPECTED = 3
#: Stopped with Ctrl-C (the shell's usual 128 + SIGINT).
INTERRUPTED = 130

EXIT_CODES_HELP = """\
\b
Exit codes:
  0  all is well
  1  the answer is no: the two models differ
  2  bad usage or bad input; nothing was written
  3  something failed that the input does not explain (--debug shows where)"""


class InputError(click.ClickException):
    """The command was given something it cannot use. Ends the program with exit code 2."""

    exit_code = BAD_INPUT

    def show(self, file: IO[Any] | None = None) -> None:
        """Print the paragraph on ``file``, or on stderr."""
        click.echo(f"Error: {self.format_message()}", file=file, err=file is None)


class UnexpectedError(InputError):
    """A failure which no check foresaw. Ends the program with exit code 3."""

    exit_code = UNEXPECTED


def one_paragraph(text: object, limit: int = 600) -> str:
    """``text`` on one line, cut after ``limit`` characters (Keras' messages can fill pages)."""
    line = " ".join(str(text).split())
    return line if len(line) <= limit else line[:limit].rstrip() + " ..."
