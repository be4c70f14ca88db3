"""``keras-grow inspect``: where a saved model can grow, where it cannot, and what growth costs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from keras_grow.tools.cli.console import make_console
from keras_grow.tools.cli.errors import EXIT_CODES_HELP
from keras_grow.tools.cli.options import (
    MODEL_FILE,
    common_options,
    model_options,
    start_backend,
    trust,
)
from keras_grow.tools.model.picture import ENDINGS, check_drawing, graph_text, save_picture
from keras_grow.tools.modelfile import check_output, load_model
from keras_grow.tools.words import count

#: Named in the output of --json; it changes when a field changes its meaning or goes away.
SCHEMA = "keras-grow/inspect/1"


def describe(model: Any, path: Path, sites: list[Any], refusals: list[Any]) -> dict[str, Any]:
    """What ``inspect`` knows about the model from the file ``path``, as plain JSON values.

    The fields, which scripts may rely on::

        schema      "keras-grow/inspect/1"
        backend     the Keras backend it was read with
        model       file, name, class, parameters (count), flops (one sample, forward),
                    inputs and outputs: lists of {name, shape, dtype}; null in a shape: any size
        sites       list of {name, producers, consumers, width, granularity,
                    parameters_per_channel, flops_per_channel}; several producers are tied and
                    widen together; a new width is the old one plus a multiple of granularity
        refused     list of {producer, reason}: layers that cannot be widened
    """
    import keras

    import keras_grow as kg

    def tensors(values: list[Any]) -> list[dict[str, Any]]:
        return [
            {"name": value.name, "shape": list(value.shape), "dtype": str(value.dtype)}
            for value in values
        ]

    return {
        "schema": SCHEMA,
        "backend": keras.backend.backend(),
        "model": {
            "file": str(path),
            "name": model.name,
            "class": type(model).__name__,
            "parameters": model.count_params(),
            "flops": float(kg.flops(model)),
            "inputs": tensors(model.inputs),
            "outputs": tensors(model.outputs),
        },
        "sites": [
            {
                "name": site.name,
                "producers": list(site.producers),
                "consumers": list(site.consumers),
                "width": site.width,
                "granularity": site.granularity,
                "parameters_per_channel": float(site.params_per_channel),
                "flops_per_channel": float(site.flops_per_channel),
            }
            for site in sites
        ],
        "refused": [{"producer": one.producer, "reason": one.reason} for one in refusals],
    }


def _print(found: dict[str, Any]) -> None:
    from rich.table import Table
    from rich.text import Text

    console = make_console()
    model = found["model"]
    console.print(
        Text.assemble(
            (model["name"], "bold"),
            f" ({model['class']}) in {model['file']}: {count(model['parameters'])} parameters, "
            f"{count(model['flops'])} FLOPs for one sample",
        )
    )
    if found["sites"]:
        table = Table(title="Can be widened", title_justify="left", pad_edge=False)
        table.add_column("layers (tied ones widen together)", overflow="fold")
        table.add_column("width", justify="right", no_wrap=True)
        table.add_column("in steps of", justify="right")
        table.add_column("read by", overflow="fold")
        table.add_column("parameters\nper channel", justify="right", no_wrap=True)
        table.add_column("FLOPs\nper channel", justify="right", no_wrap=True)
        for site in found["sites"]:
            table.add_row(
                Text("\n".join(site["producers"])),
                str(site["width"]),
                str(site["granularity"]),
                Text("\n".join(site["consumers"])),
                count(site["parameters_per_channel"]),
                count(site["flops_per_channel"]),
            )
        console.print(table)
    else:
        console.print("No layer of this model can be widened.")
    if found["refused"]:
        table = Table(title="Cannot be widened", title_justify="left", pad_edge=False)
        table.add_column("layer", overflow="fold")
        table.add_column("why", overflow="fold")
        for refusal in found["refused"]:
            table.add_row(Text(refusal["producer"]), Text(refusal["reason"]))
        console.print(table)


@click.command(
    epilog=f"""\
\b
Examples:
  keras-grow inspect model.keras
  keras-grow inspect model.keras --json | jq '.sites[].name'
  keras-grow inspect model.keras --image model.svg

\b
Fields of --json (schema {SCHEMA}):
  schema, backend
  model    file, name, class, parameters, flops (one sample, forward),
           inputs and outputs: [name, shape, dtype]
  sites    [name, producers, consumers, width, granularity,
           parameters_per_channel, flops_per_channel]
  refused  [producer, reason]

{EXIT_CODES_HELP}"""
)
@click.argument("model", type=MODEL_FILE)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")
@click.option(
    "--image", type=click.Path(path_type=Path), metavar="OUT",
    help="Draw the model into OUT, which ends in .svg, .png or .pdf (drawn by Graphviz), or in "
    ".dot (for Graphviz).",
)  # fmt: skip
@click.option("--force", is_flag=True, help="Replace OUT if it exists.")
@model_options
@common_options
def command(model: Path, as_json: bool, image: Path | None, force: bool) -> None:
    """Show where the model in the file MODEL can grow, and what one more channel costs.

    For every place: the layers that widen (several where an Add or a shared layer ties them),
    their width, the layers that read it, and the parameters and FLOPs of one more channel. Then
    the layers which cannot be widened, with the reason.

    With --image also as a picture of the model: green layers can be widened, red and dashed ones
    cannot, grey ones have no width of their own.
    """
    if image is not None:
        check_output(image, force, ENDINGS)
        check_drawing(image)
    start_backend()
    loaded = load_model(model, trust=trust())
    import keras_grow as kg

    sites, refusals = kg.sites(loaded), kg.sites(loaded, refused=True)
    found = describe(loaded, model, sites, refusals)
    if image is not None:
        save_picture(image, graph_text(loaded, sites, refusals), force)
        click.echo(f"drawn into {image}", err=True)
    if as_json:
        click.echo(json.dumps(found, indent=2))
    else:
        _print(found)
