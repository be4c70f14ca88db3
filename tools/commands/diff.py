"""``keras-grow diff``: what is different between two saved models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from keras_grow.tools.cli.console import make_console
from keras_grow.tools.cli.errors import ANSWER_IS_NO, EXIT_CODES_HELP
from keras_grow.tools.cli.options import (
    MODEL_FILE,
    common_options,
    model_options,
    start_backend,
    trust,
)
from keras_grow.tools.model.parts import Part, parts_of
from keras_grow.tools.modelfile import load_model
from keras_grow.tools.words import count

#: Named in the output of --json; it changes when a field changes its meaning or goes away.
SCHEMA = "keras-grow/diff/1"


def compare(first: Any, second: Any) -> dict[str, Any]:
    """The differences between two models, as plain JSON values.

    The fields, which scripts may rely on::

        schema      "keras-grow/diff/1"
        same        whether there is no difference at all
        parameters  [of A, of B]
        flops       [of A, of B], one sample, forward; null for a model without a graph
        added       layers only B has: list of {layer, class, parameters}
        removed     layers only A has, in the same form
        changed     list of {layer, class, settings, weights, inputs, values}:
                    class [A, B] only where it differs; settings {name: [A, B]};
                    weights {name: [shape in A, shape in B]}, null where there is none;
                    inputs [A, B] where the layer reads other layers;
                    values: largest absolute difference of weights that have the same shape

    Layers are told apart by their paths: a renamed one is removed and added.
    """
    before, after = parts_of(first), parts_of(second)

    def listed(parts: dict[str, Part], others: dict[str, Part]) -> list[dict[str, Any]]:
        return [
            {"layer": path, "class": part.kind, "parameters": part.parameters}
            for path, part in parts.items()
            if path not in others
        ]

    added, removed = listed(after, before), listed(before, after)
    changed = [
        change
        for path, part in before.items()
        if path in after and (change := _change(part, after[path])) is not None
    ]
    return {
        "schema": SCHEMA,
        "same": not (added or removed or changed),
        "parameters": [first.count_params(), second.count_params()],
        "flops": [_flops(first), _flops(second)],
        "added": added,
        "removed": removed,
        "changed": changed,
    }


def _flops(model: Any) -> float | None:
    import keras_grow as kg

    try:
        return float(kg.flops(model))
    except kg.GrowthError:  # subclassed: it has no graph
        return None


def _change(before: Part, after: Part) -> dict[str, Any] | None:
    import numpy as np

    change: dict[str, Any] = {}
    if before.kind != after.kind:
        change["class"] = [before.kind, after.kind]
    settings = {
        key: [before.config.get(key), after.config.get(key)]
        for key in {**before.config, **after.config}
        if before.config.get(key) != after.config.get(key)
    }
    if settings:
        change["settings"] = settings
    names = {**before.weights, **after.weights}
    weights = {
        name: [_shape(before.weights.get(name)), _shape(after.weights.get(name))]
        for name in names
        if before.weights.get(name) != after.weights.get(name)
    }
    if weights:
        change["weights"] = weights
    if before.inputs != after.inputs:
        change["inputs"] = [before.inputs, after.inputs]
    if not weights and before.weights:
        pairs = zip(before.layer.get_weights(), after.layer.get_weights(), strict=True)
        largest = 0.0
        for a, b in pairs:
            if a.size and not np.array_equal(a, b, equal_nan=a.dtype.kind == "f"):
                wide = np.float64 if a.dtype.kind != "c" else np.complex128
                largest = max(largest, float(np.abs(a.astype(wide) - b.astype(wide)).max()))
        if largest:
            change["values"] = largest
    if not change:
        return None
    kind = before.kind if before.kind == after.kind else change.pop("class")
    return {"layer": before.path, "class": kind, **change}


def _shape(shape: tuple[int, ...] | None) -> list[int] | None:
    return None if shape is None else [int(size) for size in shape]


def _say(value: Any) -> str:
    if isinstance(value, dict) and isinstance(value.get("class_name"), str):
        return value["class_name"]  # an initializer, a dtype policy
    text = json.dumps(value)
    return text if len(text) <= 40 else text[:37] + "..."


def _words(change: dict[str, Any]) -> list[str]:
    lines = []
    if isinstance(change["class"], list):
        lines.append(f"class {change['class'][0]} -> {change['class'][1]}")
    for name, (a, b) in change.get("settings", {}).items():
        lines.append(f"{name} {_say(a)} -> {_say(b)}")
    for name, (a, b) in change.get("weights", {}).items():
        shapes = ["none" if s is None else "x".join(map(str, s)) or "scalar" for s in (a, b)]
        lines.append(f"{name} {shapes[0]} -> {shapes[1]}")
    if "inputs" in change:
        a, b = (", ".join(names) or "nothing" for names in change["inputs"])
        lines.append(f"reads {a} -> {b}")
    if "values" in change:
        lines.append(f"weights differ by up to {change['values']:.2e}")
    return lines


def _print(found: dict[str, Any], first: Path, second: Path) -> None:
    from rich.table import Table
    from rich.text import Text

    console = make_console()
    if found["same"]:
        console.print(Text(f"{first} and {second} hold the same model"), soft_wrap=True)
        return
    table = Table(title="Differences", title_justify="left", pad_edge=False)
    table.add_column("layer", overflow="fold")
    table.add_column("class", overflow="fold")
    table.add_column("what", overflow="fold")
    for key, sign in (("removed", "-"), ("added", "+")):
        for one in found[key]:
            table.add_row(
                Text(f"{sign} {one['layer']}"),
                one["class"],
                f"{key}, {count(one['parameters'])} parameters",
            )
    for one in found["changed"]:
        kind = one["class"] if isinstance(one["class"], str) else one["class"][1]
        table.add_row(Text(f"  {one['layer']}"), kind, Text("\n".join(_words(one))))
    console.print(table)
    flops = ["unknown" if n is None else count(n) for n in found["flops"]]
    console.print(
        f"parameters {count(found['parameters'][0])} -> {count(found['parameters'][1])}, "
        f"FLOPs for one sample {flops[0]} -> {flops[1]}"
    )


@click.command(
    epilog=f"""\
\b
Examples:
  keras-grow diff model.keras wider.keras
  keras-grow diff model.keras wider.keras --json | jq '.changed[].layer'

\b
Fields of --json (schema {SCHEMA}):
  schema, same, parameters [A, B], flops [A, B]
  added, removed   [layer, class, parameters]
  changed          [layer, class, settings, weights, inputs, values]

{EXIT_CODES_HELP}"""
)
@click.argument("before", metavar="A", type=MODEL_FILE)
@click.argument("after", metavar="B", type=MODEL_FILE)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")
@model_options
@common_options
def command(before: Path, after: Path, as_json: bool) -> None:
    """Show what is different between the models in the files A and B.

    Layers added, removed and changed (widths and other settings, shapes and values of weights,
    what they read), parameters and FLOPs. Layers are told apart by name. The exit code is 0 if
    the models are the same and 1 if not. What they compute is compared by "keras-grow verify".
    """
    start_backend()
    first, second = load_model(before, trust=trust()), load_model(after, trust=trust())
    found = compare(first, second)
    if as_json:
        click.echo(json.dumps(found, indent=2))
    else:
        _print(found, before, after)
    if not found["same"]:
        raise click.exceptions.Exit(ANSWER_IS_NO)
