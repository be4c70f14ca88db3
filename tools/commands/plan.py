"""``keras-grow plan``: what widening would change, without changing it."""

from __future__ import annotations

from pathlib import Path

import click

from keras_grow.tools.cli.errors import EXIT_CODES_HELP
from keras_grow.tools.cli.options import (
    MODEL_FILE,
    common_options,
    model_options,
    start_backend,
    trust,
)
from keras_grow.tools.commands.widen import LayerWidth, alone_option, no_repeats
from keras_grow.tools.modelfile import load_model
from keras_grow.tools.words import count


@click.command(
    epilog=f"""\
\b
Examples:
  keras-grow plan model.keras conv_1=96
  keras-grow plan model.keras conv_1=96 block/dense=256 --form inverse

{EXIT_CODES_HELP}"""
)
@click.argument("model", type=MODEL_FILE)
@click.argument(
    "widths", metavar="LAYER=WIDTH...", type=LayerWidth(), nargs=-1, required=True,
    callback=no_repeats,
)  # fmt: skip
@click.option(
    "--form", type=click.Choice(["outgoing", "inverse"]), default="outgoing", show_default=True,
    help="Which weights of the new channels are zero: those that make them (outgoing), or those "
    "that read them (inverse).",
)  # fmt: skip
@alone_option
@model_options
@common_options
def command(model: Path, widths: dict[str, int], form: str, alone: bool) -> None:
    """Show what widening layers of the model in the file MODEL would change.

    Every weight that would get a new shape is listed with what its new entries would hold, and
    then what it adds in parameters and FLOPs. Nothing is written.
    """
    start_backend()
    before = load_model(model, trust=trust())
    import keras_grow as kg

    plan = kg.plan(before, widths, form=form, alone=alone)
    click.echo(str(plan))
    parameters, flops = before.count_params(), kg.flops(before)
    click.echo(
        f"parameters {count(parameters)} -> {count(parameters + plan.added_parameters)}, "
        f"FLOPs for one sample {count(flops)} -> {count(flops + plan.added_flops)}"
    )
