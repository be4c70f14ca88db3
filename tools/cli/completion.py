"""Layer names for the shell's completion, from a model's file and without Keras."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from keras_grow.tools.cli.errors import InputError
from keras_grow.tools.modelfile import read_config
from keras_grow.tools.modelfile.kinds import H5_SUFFIXES, KERAS_SUFFIX

#: Settings that say how wide a layer is, by which layers with a width are known.
_WIDTHS = ("filters", "units", "output_dim")


def widths_in(config: dict[str, Any]) -> dict[str, int | None]:
    """Layers in a model's configuration by path, each with its width, or None if it has none."""
    return dict(_layers(config, ""))


def _layers(model: dict[str, Any], prefix: str) -> Iterator[tuple[str, int | None]]:
    inner = model.get("config")
    layers = inner.get("layers") if isinstance(inner, dict) else inner
    for layer in layers if isinstance(layers, list) else ():
        config = layer.get("config") if isinstance(layer, dict) else None
        if not isinstance(config, dict):
            continue
        name = layer.get("name") or config.get("name")
        if not isinstance(name, str):
            continue
        if isinstance(config.get("layers"), list):
            yield from _layers(layer, f"{prefix}{name}/")
        else:
            found = [config[key] for key in _WIDTHS if isinstance(config.get(key), int)]
            yield prefix + name, found[0] if found else None


def complete_layers(ctx: click.Context, incomplete: str, wide: bool) -> list[CompletionItem]:
    """Names of the layers of the command's MODEL that begin with ``incomplete``.

    Args:
        wide: only those with a width, followed by ``=``, with the present width as the help.
    """
    path = ctx.params.get("model")
    if path is None:
        # Where an option's value is completed, click has not sorted out the arguments yet.
        endings = (KERAS_SUFFIX, *H5_SUFFIXES)
        path = next((one for one in ctx.args if str(one).endswith(endings)), None)
    if path is None:
        return []
    try:
        layers = widths_in(read_config(Path(path)))
    except InputError:
        return []  # the command itself will say what is wrong with the file
    return [
        CompletionItem(f"{name}=" if wide else name, help=f"now {width}" if wide else None)
        for name, width in layers.items()
        if name.startswith(incomplete) and (width is not None or not wide)
    ]


class LayerName(click.ParamType):
    """A layer's name, ``outer/inner`` inside a nested model."""

    name = "LAYER"

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """All layers of MODEL."""
        return complete_layers(ctx, incomplete, wide=False)
