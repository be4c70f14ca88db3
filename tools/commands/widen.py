"""``keras-grow widen``: make layers of a saved model wider without changing what it computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from keras_grow.tools.completion import complete_layers
from keras_grow.tools.errors import ANSWER_IS_NO, EXIT_CODES_HELP
from keras_grow.tools.modelfile import check_output, load_model, save_model
from keras_grow.tools.options import MODEL_FILE, common_options, model_options, start_backend, trust


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


@click.command(
    epilog=f"""\
\b
Examples:
  keras-grow widen model.keras conv_1=96 -o wider.keras
  keras-grow widen model.keras conv_1=96 block/dense=256 -o wider.keras --seed 1
  keras-grow widen model.keras conv_1=96 -o model.keras --force

{EXIT_CODES_HELP}"""
)
@click.argument("model", type=MODEL_FILE)
@click.argument(
    "widths", metavar="LAYER=WIDTH...", type=LayerWidth(), nargs=-1, required=True,
    callback=no_repeats,
)  # fmt: skip
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), required=True, metavar="OUT",
    help="Where to save the wider model; must end in .keras.",
)  # fmt: skip
@click.option(
    "--method", default="random", show_default=True,
    help="How the new channels' weights are chosen.",
)  # fmt: skip
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True,
    help="Seed of the new weights.",
)  # fmt: skip
@click.option("--force", is_flag=True, help="Replace OUT if it exists.")
@model_options
@common_options
def command(
    model: Path, widths: dict[str, int], output: Path, method: str, seed: int, force: bool
) -> None:
    """Widen layers of the model in the file MODEL and save the result as OUT.

    WIDTH is the layer's new width (units of a Dense, filters of a convolution). Layers that are
    tied to it widen too, and the layers that read it get weights for the new channels. The wider
    model computes what the old one did; this is checked on random inputs before it is saved, and
    if it does not hold nothing is written and the exit code is 1. "keras-grow inspect MODEL"
    lists the layers and their widths.
    """
    check_output(output, force)
    start_backend()
    before = load_model(model, compile=True, trust=trust())
    import keras_grow as kg

    after = kg.widen(before, widths, method=method, seed=seed)
    report = kg.verify(before, after, seed=seed)
    if not report.preserved:
        click.echo(
            f"The wider model does not compute what {model} does: the outputs differ by up to "
            f"{report.max_deviation:.2e}, on outputs of scale {report.scale:.2e}. "
            "Nothing was written.",
            err=True,
        )
        raise click.exceptions.Exit(ANSWER_IS_NO)
    save_model(after, output, force)
    _print_changes(before, after, report, output)


def _print_changes(before: Any, after: Any, report: Any, output: Path) -> None:
    from rich.table import Table
    from rich.text import Text

    import keras_grow as kg
    from keras_grow.tools.console import count, make_console

    console = make_console()
    widths_before = {site.name: site.width for site in kg.sites(before)}
    table = Table(title="Widened", title_justify="left", pad_edge=False)
    table.add_column("layers", overflow="fold")
    table.add_column("width", justify="right", no_wrap=True)
    table.add_column("read by", overflow="fold")
    for site in kg.sites(after):
        old = widths_before.get(site.name)
        if old is not None and old != site.width:
            table.add_row(
                Text("\n".join(site.producers)),
                f"{old} -> {site.width}",
                Text("\n".join(site.consumers)),
            )
    console.print(table)
    console.print(
        f"parameters {count(before.count_params())} -> {count(after.count_params())}, "
        f"FLOPs for one sample {count(kg.flops(before))} -> {count(kg.flops(after))}"
    )
    console.print(
        f"outputs on random inputs differ by at most {report.max_deviation:.2e}, on outputs of "
        f"scale {report.scale:.2e}: the same function"
    )
    console.print(Text(f"saved as {output}"), soft_wrap=True)
