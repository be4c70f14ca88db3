"""The ``keras-grow`` command.

This module must stay quick to import (no Keras, no rich): ``keras-grow --help`` waits for it.
"""

from __future__ import annotations

import importlib
import traceback
from typing import Any

import click

from keras_grow.tools.cli.errors import (
    EXIT_CODES_HELP,
    INTERRUPTED,
    InputError,
    UnexpectedError,
    one_paragraph,
)
from keras_grow.tools.cli.options import chosen_backend, common_options, wants_debug

#: Command name -> the module which holds it (its attribute ``command``), and the line in --help.
_COMMANDS = {
    "demo": ("keras_grow.tools.commands.demo", "Grow a network on real data and compare."),
    "inspect": ("keras_grow.tools.commands.inspect", "Show where a saved model can grow."),
    "plan": ("keras_grow.tools.commands.plan", "Show what widening would change."),
    "widen": ("keras_grow.tools.commands.widen", "Make layers of a saved model wider."),
    "insert": ("keras_grow.tools.commands.insert", "Insert a layer as the identity."),
    "bridge": ("keras_grow.tools.commands.bridge", "Grow a new hidden layer between two layers."),
    "history": ("keras_grow.tools.commands.history", "Show how a saved model has grown."),
    "verify": ("keras_grow.tools.commands.verify", "Do two saved models compute the same?"),
    "diff": ("keras_grow.tools.commands.diff", "Show what is different between two saved models."),
    "report": ("keras_grow.tools.commands.report", "Write a page that shows how models grew."),
    "watch": ("keras_grow.tools.commands.watch", "Follow models that grow, in the terminal."),
}


class GrowGroup(click.Group):
    """A group whose commands are imported when called, and whose failures are paragraphs."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in the order in which a newcomer meets them."""
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command called ``cmd_name``; None if there is none."""
        if cmd_name not in _COMMANDS:
            return None
        command = importlib.import_module(_COMMANDS[cmd_name][0]).command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in _COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; turn whatever it raises into a paragraph and an exit code."""
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, BrokenPipeError) as error:
            if isinstance(error, InputError) and wants_debug(ctx):
                traceback.print_exc()
            raise
        except (KeyboardInterrupt, click.Abort):
            click.echo("Stopped before the end.", err=True)
            raise click.exceptions.Exit(INTERRUPTED) from None
        except Exception as error:
            if wants_debug(ctx):
                traceback.print_exc()
            raise _as_paragraph(error, ctx) from error


def _as_paragraph(error: Exception, context: click.Context) -> click.ClickException:
    choice = chosen_backend(context)
    if choice is not None:
        # Only now is the library certain to be importable: Keras has its backend.
        from keras_grow import GrowthError

        if isinstance(error, GrowthError):
            return InputError(one_paragraph(error, limit=2000))
    where = "" if choice is None else f" The Keras backend is {choice.name}: {choice.reason}."
    again = "" if wants_debug(context) else " Run the command again with --debug to see where."
    return UnexpectedError(
        f"{type(error).__name__}: {one_paragraph(error) or 'no further explanation'}.{where}{again}"
    )


@click.group(
    cls=GrowGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=f"""\
\b
Examples:
  keras-grow demo
  keras-grow inspect model.keras
  keras-grow widen model.keras conv_1=96 dense=256 -o wider.keras
  keras-grow verify model.keras wider.keras

{EXIT_CODES_HELP}""",
)
@click.version_option(package_name="keras-grow", prog_name="keras-grow")
@common_options
def cli() -> None:
    """Make Keras models grow and keep what they have learned.

    MODEL is a file saved by Keras (.keras, or the older .h5 and .hdf5). Files are checked first
    and read in Keras' safe mode: a model that carries Python code of its own is refused, never
    run, unless you vouch for it with --trust or --custom.
    """


def main() -> None:
    """Entry point of ``keras-grow``."""
    cli(prog_name="keras-grow")
