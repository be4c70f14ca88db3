"""``keras-grow widen``: make layers of a saved model wider without changing what it computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from keras_grow.tools.cli.completion import complete_layers
from keras_grow.tools.cli.errors import EXIT_CODES_HELP
from keras_grow.tools.cli.growing import (
    batch_count,
    growth_options,
    load_for_surgery,
    method_option,
    output_options,
    print_outcome,
    print_wider_layers,
    read_data,
    save_if_same,
)
from keras_grow.tools.cli.options import MODEL_FILE, common_options, model_options, start_backend
from keras_grow.tools.modelfile import check_output


class LayerWidth(click.ParamType):
    """``LAYER=WIDTH``, for example ``conv_1=96`` or ``encoder/dense=256``."""

    name = "LAYER=WIDTH"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, int]:
        """Split at the last ``=`` (a layer's name may hold one) and read the width."""
        if isinstance(value, tuple):
            return value
        layer, equals, width = str(value).rpartition("=")
        if not equals or not layer or not width.isascii() or not width.isdigit():
            self.fail(
                f"{value!r} is not of the form LAYER=WIDTH, a layer's name and its new number of "
                "channels, such as conv_1=96.",
                param,
                ctx,
            )
        return layer, int(width)

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """The layers of MODEL that have a width."""
        return complete_layers(ctx, incomplete, wide=True)


def no_repeats(
    context: click.Context, parameter: click.Parameter, value: tuple[tuple[str, int], ...]
) -> dict[str, int]:
    """The widths as a dict; a layer may be given twice only with the same width."""
    widths: dict[str, int] = {}
    for layer, width in value:
        if widths.setdefault(layer, width) != width:
            raise click.BadParameter(
                f"{layer} is given two widths, {widths[layer]} and {width}.", context, parameter
            )
    return widths


alone_option = click.option(
    "--alone", is_flag=True,
    help="Widen only the named layers, not those that an addition ties to them: these are padded "
    "with zeros.",
)  # fmt: skip


@click.command(
    epilog=f"""\
\b
Examples:
  keras-grow widen model.keras conv_1=96 -o wider.keras
  keras-grow widen model.keras conv_1=96 block/dense=256 -o wider.keras --seed 1
  keras-grow widen model.keras conv_1=96 -o wider.keras --method gradmax \\
      --data batch.npz --batches all
  keras-grow widen model.keras conv_1=96 -o model.keras --force

{EXIT_CODES_HELP}"""
)
@click.argument("model", type=MODEL_FILE)
@click.argument(
    "widths", metavar="LAYER=WIDTH...", type=LayerWidth(), nargs=-1, required=True,
    callback=no_repeats,
)  # fmt: skip
@method_option("random", "All but random, split and zeros look at gradients and need --data.")
@growth_options
@alone_option
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True,
    help="Seed of the new weights.",
)  # fmt: skip
@output_options
@model_options
@common_options
def command(
    model: Path, widths: dict[str, int], method: str, form: str, batches: int | str,
    data: Path | None, loss: str | None, alone: bool, seed: int, output: Path, force: bool,
) -> None:  # fmt: skip
    """Widen layers of the model in the file MODEL and save the result as OUT.

    WIDTH is the layer's new width (units of a Dense, filters of a convolution). Layers that are
    tied to it widen too, and the layers that read it get weights for the new channels. The wider
    model computes what the old one did; this is checked on random inputs before it is saved, and
    if it does not hold nothing is written and the exit code is 1. "keras-grow inspect MODEL"
    lists the layers and their widths.
    """
    check_output(output, force)
    batch = read_data(data)
    start_backend()
    before = load_for_surgery(model, loss)
    import keras_grow as kg

    after = kg.widen(
        before,
        widths,
        method=method,
        data=batch,
        seed=seed,
        form=form,
        alone=alone,
        batches=batch_count(batches),
    )
    report = save_if_same(before, after, model, output, force, seed)
    print_wider_layers(before, after)
    print_outcome(before, after, report, output)
