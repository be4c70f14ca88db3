"""``keras-grow bridge``: a new hidden layer from one layer of a saved model to another."""

from __future__ import annotations

from pathlib import Path

import click

from keras_grow.tools.cli.completion import LayerName
from keras_grow.tools.cli.errors import EXIT_CODES_HELP
from keras_grow.tools.cli.growing import (
    batch_count,
    growth_options,
    load_for_surgery,
    method_option,
    output_options,
    print_new_layers,
    print_outcome,
    read_data,
    save_if_same,
)
from keras_grow.tools.cli.options import MODEL_FILE, common_options, model_options, start_backend
from keras_grow.tools.modelfile import check_output


@click.command(
    epilog=f"""\
\b
Examples:
  keras-grow bridge model.keras --after conv_1 --before conv_4 --width 8 \\
      --data batch.npz -o bridged.keras
  keras-grow bridge model.keras --after dense_1 --before dense_3 --method random \\
      -o bridged.keras

{EXIT_CODES_HELP}"""
)
@click.argument("model", type=MODEL_FILE)
@click.option("--after", required=True, type=LayerName(), help="The layer that it reads.")
@click.option(
    "--before", required=True, type=LayerName(),
    help="The Dense or convolutional layer to whose pre-activation it adds.",
)  # fmt: skip
@click.option(
    "--width", type=click.IntRange(min=1), default=8, show_default=True,
    help="Units or filters of the new layer, or how much wider a bridge becomes that is there.",
)  # fmt: skip
@click.option("--activation", default="relu", show_default=True, help="Of the new layer.")
@method_option(
    None,
    "Default: gradmax with --data, random without. There are no neurons to split where the layer "
    "is new.",
)
@growth_options
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True,
    help="Seed of the new weights.",
)  # fmt: skip
@output_options
@model_options
@common_options
def command(
    model: Path, after: str, before: str, width: int, activation: str, method: str | None,
    form: str, batches: int | str, data: Path | None, loss: str | None, seed: int,
    output: Path, force: bool,
) -> None:  # fmt: skip
    """Grow a new hidden layer between two layers of the model in the file MODEL.

    The new layer reads what AFTER puts out and adds to what BEFORE makes, ahead of its activation
    (Evci et al. 2022, appendix A). The bridged model computes what the old one did; this is
    checked on random inputs before it is saved as OUT, and if it does not hold nothing is written
    and the exit code is 1.
    """
    check_output(output, force)
    batch = read_data(data)
    start_backend()
    old = load_for_surgery(model, loss)
    import keras_grow as kg

    bridged = kg.bridge(
        old,
        after=after,
        before=before,
        width=width,
        activation=activation,
        method=method or ("random" if batch is None else "gradmax"),
        data=batch,
        seed=seed,
        form=form,
        batches=batch_count(batches),
    )
    report = save_if_same(old, bridged, model, output, force, seed)
    print_new_layers(old, bridged)
    print_outcome(old, bridged, report, output)
