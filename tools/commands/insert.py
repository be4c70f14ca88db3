"""``keras-grow insert``: a new layer on an edge of a saved model, as the identity."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import click

from keras_grow.tools.cli.completion import LayerName
from keras_grow.tools.cli.errors import EXIT_CODES_HELP, InputError, one_paragraph
from keras_grow.tools.cli.growing import (
    load_for_surgery,
    output_options,
    print_new_layers,
    print_outcome,
    read_data,
    save_if_same,
)
from keras_grow.tools.cli.options import (
    MODEL_FILE,
    common_options,
    model_options,
    start_backend,
    trust,
)
from keras_grow.tools.model.parts import parts_of
from keras_grow.tools.modelfile import check_output
from keras_grow.tools.modelfile.config import check_config, parse_config

_WHERE = Path("--layer")


def make_layer(
    model: Any, text: str, after: str, kernel_size: int | None, activation: str | None,
    name: str | None,
) -> Any:  # fmt: skip
    """The layer that ``--layer`` describes, as wide as the output of the layer ``after``.

    Args:
        text: the name of a class of keras.layers or of ``--custom``, or a layer's JSON.

    Raises:
        InputError: no such class, or options that it does not take.
    """
    import keras

    vouched = trust()
    objects = vouched.custom_objects()
    given = {"kernel_size": kernel_size, "activation": activation, "name": name}
    given = {key: value for key, value in given.items() if value is not None}
    if text.lstrip().startswith("{"):
        if given:
            raise InputError(
                "A layer given as JSON says everything itself. Put into it what was given with "
                + ", ".join(f"--{key.replace('_', '-')}" for key in given)
                + "."
            )
        config = parse_config(_WHERE, text, "JSON")
        check_config(_WHERE, config, vouched)
        try:
            return keras.saving.deserialize_keras_object(
                config, custom_objects=objects, safe_mode=not vouched.code
            )
        except Exception as error:  # as for a model's file
            reason = str(error).rpartition("Exception encountered: ")[2]
            raise InputError(
                f"Keras cannot make a layer of --layer: {one_paragraph(reason, 300)}"
            ) from error
    made = objects.get(text) or getattr(keras.layers, text, None)
    if not (inspect.isclass(made) and issubclass(made, keras.layers.Layer)):
        raise InputError(
            f"--layer {text}: keras.layers has no such layer. Give a class such as Dense, Conv2D "
            "or BatchNormalization, one named with --custom module:Class, or a layer's JSON."
        )
    taken = inspect.signature(made).parameters
    settings = dict(given)
    if "kernel_size" in taken:
        settings.setdefault("kernel_size", 3)
        if "padding" in taken:
            settings["padding"] = "same"
    for key in settings:
        if key not in taken and key != "name":
            raise InputError(f"A {text} takes no {key}; leave out --{key.replace('_', '-')}.")
    if "units" in taken or "filters" in taken:
        settings["units" if "units" in taken else "filters"] = _width(model, after)
    try:
        return made(**settings)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"Keras cannot make a {text} of this: {one_paragraph(error, 300)} Give the layer as "
            'JSON instead: --layer \'{"module": "keras.layers", "class_name": ..., "config": '
            "{...}}'."
        ) from error


def _width(model: Any, after: str) -> int:
    """How many channels the layer ``after`` puts out, by its own or Keras' data format."""
    import keras

    import keras_grow as kg

    parts = parts_of(model)
    if after not in parts:
        # The library's own words, with the names that are close.
        raise InputError(_no_such_layer(kg, model, after))
    layer = parts[after].layer
    try:
        shape = layer.output.shape
    except (AttributeError, ValueError) as error:
        raise InputError(
            f"'{after}' has several outputs or is called several times, so the width of the new "
            "layer cannot be read off. Give it as JSON, with its units or filters."
        ) from error
    spatial = len(shape) > 2
    layout = getattr(layer, "data_format", None) or keras.config.image_data_format()
    width = shape[1 if spatial and layout == "channels_first" else -1]
    if width is None:
        raise InputError(f"The output of '{after}' has no fixed width, {tuple(shape)}.")
    return int(width)


def _no_such_layer(kg: Any, model: Any, name: str) -> str:
    try:
        kg.plan(model, {name: 1})
    except kg.GrowthError as error:
        return one_paragraph(error)
    return f"The model has no layer '{name}'."


@click.command(
    epilog=f"""\
\b
Examples:
  keras-grow insert model.keras --layer Dense --after dense_1 -o deeper.keras
  keras-grow insert model.keras --layer Conv2D --kernel-size 3 --activation relu \\
      --after conv_1 --before conv_2 -o deeper.keras
  keras-grow insert model.keras --layer BatchNormalization --after conv_1 \\
      --data batch.npz -o deeper.keras

{EXIT_CODES_HELP}"""
)
@click.argument("model", type=MODEL_FILE)
@click.option(
    "--layer", required=True, metavar="CLASS|JSON",
    help="A class of keras.layers, as wide as the edge needs it; or a layer in Keras' JSON.",
)  # fmt: skip
@click.option("--after", required=True, type=LayerName(), help="The layer whose output it reads.")
@click.option(
    "--before", type=LayerName(),
    help="The layer that is to read it. Default: all that read AFTER.",
)  # fmt: skip
@click.option(
    "--branch", is_flag=True, help="Insert x + layer(x), with the layer at zero, instead."
)
@click.option("--kernel-size", type=click.IntRange(min=1), help="Of a convolution. Default: 3.")
@click.option("--activation", help="Of the new layer. Default: none.")
@click.option("--name", help="Of the new layer. Default: Keras' own choice.")
@click.option(
    "--data", type=click.Path(path_type=Path), metavar="FILE.npz",
    help="An array x of inputs, from which BatchNormalization takes its statistics.",
)  # fmt: skip
@output_options
@model_options
@common_options
def command(
    model: Path, layer: str, after: str, before: str | None, branch: bool,
    kernel_size: int | None, activation: str | None, name: str | None, data: Path | None,
    output: Path, force: bool,
) -> None:  # fmt: skip
    """Insert a layer into the model in the file MODEL and save the result as OUT.

    The new layer is the identity (or, with --branch, zero), so the deeper model computes what the
    old one did; this is checked on random inputs before it is saved, and if it does not hold
    nothing is written and the exit code is 1. A layer that cannot be the identity there is
    refused.
    """
    check_output(output, force)
    batch = read_data(data)
    start_backend()
    old = load_for_surgery(model)
    import keras_grow as kg

    new = make_layer(old, layer, after, kernel_size, activation, name)
    deeper = kg.insert(old, new, after=after, before=before, branch=branch, data=batch)
    report = save_if_same(old, deeper, model, output, force, seed=0)
    print_new_layers(old, deeper)
    print_outcome(old, deeper, report, output)
