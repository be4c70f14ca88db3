"""What the commands that change a model have in common: growth data, the check, the saving."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from keras_grow.tools.cli.console import make_console
from keras_grow.tools.cli.errors import ANSWER_IS_NO, InputError, one_paragraph
from keras_grow.tools.cli.options import trust
from keras_grow.tools.modelfile import load_model, save_model
from keras_grow.tools.words import count

Function = TypeVar("Function", bound=Callable[..., Any])

# Written down here because options are parsed before Keras, which the library needs, is imported.
#: As `keras_grow.methods.names()` lists them, in another order.
METHODS = (
    "random", "gradmax", "gradmaxopt", "firefly", "tiny", "pursuit", "split", "zeros",
)  # fmt: skip
#: The forms that keep the function; split and zeros take their own by themselves.
FORMS = ("auto", "outgoing", "inverse")


def output_options(function: Function) -> Function:
    """Add ``-o/--output`` and ``--force``."""
    output = click.option(
        "-o",
        "--output",
        type=click.Path(path_type=Path),
        required=True,
        metavar="OUT",
        help="Where to save the new model; must end in .keras.",
    )
    force = click.option("--force", is_flag=True, help="Replace OUT if it exists.")
    return output(force(function))


def data_options(function: Function) -> Function:
    """Add ``--data`` and ``--loss``."""
    data = click.option(
        "--data",
        type=click.Path(path_type=Path),
        metavar="FILE.npz",
        help="Growth data for methods that look at gradients: arrays x and y (and sample_weight), "
        "as numpy.savez(file, x=..., y=...) writes them. Inputs of a model that has several are "
        "named x.NAME.",
    )
    loss = click.option(
        "--loss",
        metavar="NAME",
        help="Loss for those methods where the model was saved without one, such as "
        "categorical_crossentropy. The new model is saved with it.",
    )
    return data(loss(function))


class MethodName(click.Choice):
    """A growth method's name, in the spellings that `keras_grow.methods.get` knows."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """One of `METHODS`; capitals, hyphens and underscores do not matter."""
        plain = str(value).lower().replace("_", "").replace("-", "")
        return super().convert(plain if plain in self.choices else value, param, ctx)


class Count(click.ParamType):
    """A number of batches, or ``all``."""

    name = "N|all"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | str:
        """A whole number from 1, or the word."""
        text = str(value)
        if text == "all":
            return text
        if not text.isascii() or not text.isdigit() or int(text) < 1:
            self.fail(f"{text!r} is neither a number of batches nor 'all'.", param, ctx)
        return int(text)


def method_option(default: str | None, help: str) -> Callable[[Function], Function]:
    """Add ``--method``."""
    return click.option(
        "--method",
        type=MethodName(METHODS),
        metavar="NAME",
        default=default,
        show_default=default is not None,
        help=f"How the new weights are chosen: {', '.join(METHODS)}. {help}",
    )


def growth_options(function: Function) -> Function:
    """Add ``--form`` and ``--batches``, and the options of `data_options`."""
    form = click.option(
        "--form",
        type=click.Choice(FORMS),
        default="auto",
        show_default=True,
        help="Which side of a new neuron is zero, so that nothing changes: its fan-in (outgoing) "
        "or its fan-out (inverse). auto: what suits the method and the activation.",
    )
    batches = click.option(
        "--batches",
        type=Count(),
        metavar="N|all",
        default=1,
        show_default=True,
        help="Of how many batches of 512 samples of --data the gradients are the mean.",
    )
    return data_options(form(batches(function)))


def load_for_surgery(path: Path, loss: str | None = None) -> Any:
    """The model at ``path`` with its training settings, compiled with ``loss`` if it has none.

    Raises:
        InputError: as `load_model`; or the loss is unknown, or the model has one already.
    """
    model = load_model(path, compile=True, trust=trust())
    give_back_history(path, model)
    if loss is None:
        return model
    import keras

    if model.compiled:
        raise InputError(
            f"{path} was saved with a loss of its own, and --loss is for models without. Leave it "
            "out, or call compile() in Python and save the model again."
        )
    try:
        keras.losses.get(loss)
    except ValueError as error:
        raise InputError(f"--loss {loss}: {one_paragraph(error, 200)}") from error
    model.compile(loss=loss)
    return model


def give_back_history(path: Path, model: Any) -> None:
    """Let ``model`` go on with the growth history inside ``path``, which Keras does not read.

    One that is damaged is left out, and a warning on stderr says so: the model is not at fault.
    """
    import keras_grow as kg
    from keras_grow.logs.history_file import read_history

    try:
        _, left_out = read_history(path)
        kg.history(path, into=model)
    except kg.GrowthError as error:
        left_out = [one_paragraph(error, 300)]
    for sentence in left_out:
        click.echo(f"Warning: growth history of {path}: {sentence}", err=True)


def batch_count(batches: int | str) -> int | None:
    """What the library calls it."""
    return None if isinstance(batches, str) else batches


def read_data(path: Path | None) -> tuple[Any, ...] | None:
    """Growth data from an .npz file: (x, y) or (x, y, sample_weight), or (x,).

    Raises:
        InputError: there is no such file, or it holds something else.
    """
    if path is None:
        return None
    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as archive:
            if not hasattr(archive, "files"):
                raise InputError(
                    f"{path} holds a single array. Growth data needs x and y: "
                    "numpy.savez(file, x=..., y=...)."
                )
            arrays = {name: archive[name] for name in archive.files}
    except FileNotFoundError:
        raise InputError(f"There is no file {path} (looked in {Path.cwd()}).") from None
    except InputError:
        raise
    except Exception as error:  # NumPy raises what its parsers happen to raise
        raise InputError(
            f"{path} cannot be read as growth data ({one_paragraph(error, 200)}). It should be "
            "what numpy.savez(file, x=..., y=...) writes, of numbers."
        ) from error
    named = {name[2:]: array for name, array in arrays.items() if name.startswith("x.")}
    rest = set(arrays) - {"x", "y", "sample_weight"} - {f"x.{name}" for name in named}
    if rest or ("x" in arrays) == bool(named):
        raise InputError(
            f"{path} should hold x (or x.NAME for every input), y and perhaps sample_weight. "
            f"Received: {', '.join(sorted(arrays)) or 'nothing'}"
        )
    parts = [named or arrays["x"], arrays.get("y"), arrays.get("sample_weight")]
    while parts[-1] is None:
        parts.pop()
    return tuple(parts)


def save_if_same(before: Any, after: Any, path: Path, output: Path, force: bool, seed: int) -> Any:
    """Save ``after`` as ``output`` if it computes what ``before``, from ``path``, does.

    Returns:
        The report of `keras_grow.verify`.

    Raises:
        Exit: with code 1, if it does not; nothing is written.
    """
    import keras_grow as kg

    report = kg.verify(before, after, seed=seed)
    if not report.preserved:
        click.echo(
            f"The new model does not compute what {path} does: the outputs differ by up to "
            f"{report.max_deviation:.2e}, on outputs of scale {report.scale:.2e}. "
            "Nothing was written.",
            err=True,
        )
        raise click.exceptions.Exit(ANSWER_IS_NO)
    save_model(after, output, force)
    return report


def print_outcome(before: Any, after: Any, report: Any, output: Path) -> None:
    """Parameters, FLOPs, deviation and file, in three lines."""
    from rich.text import Text

    import keras_grow as kg

    console = make_console()
    console.print(
        f"parameters {count(before.count_params())} -> {count(after.count_params())}, "
        f"FLOPs for one sample {count(kg.flops(before))} -> {count(kg.flops(after))}"
    )
    console.print(
        f"outputs on random inputs differ by at most {report.max_deviation:.2e}, on outputs of "
        f"scale {report.scale:.2e}: the same function"
    )
    console.print(Text(f"saved as {output}"), soft_wrap=True)


def print_wider_layers(before: Any, after: Any) -> None:
    """The sites that are wider in ``after``, in a table."""
    from rich.table import Table
    from rich.text import Text

    import keras_grow as kg

    sites_before = kg.sites(before)
    widths_before = {site.name: site.width for site in sites_before}
    layers_before = {p.path: p.width for site in sites_before for p, _ in site.members}
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
            continue
        for producer, _ in site.members:  # what grew alone is tied in its old channels only
            alone = layers_before.get(producer.path, producer.width)
            if alone != producer.width:
                table.add_row(
                    Text(producer.path),
                    f"{alone} -> {producer.width}",
                    Text("\n".join(site.consumers)),
                )
    make_console().print(table)


def print_new_layers(before: Any, after: Any) -> None:
    """The layers that only ``after`` has, in a table; those that are wider if there are none."""
    from rich.table import Table
    from rich.text import Text

    from keras_grow.tools.model.parts import parts_of

    known, parts = parts_of(before), parts_of(after)
    if parts.keys() <= known.keys():
        print_wider_layers(before, after)  # what a bridge does where there is one already
        return
    table = Table(title="New", title_justify="left", pad_edge=False)
    table.add_column("layer", overflow="fold")
    table.add_column("class")
    table.add_column("reads", overflow="fold")
    table.add_column("parameters", justify="right", no_wrap=True)
    for path, part in parts.items():
        if path not in known:
            reads = Text("\n".join(part.inputs))
            table.add_row(Text(path), part.kind, reads, count(part.parameters))
    make_console().print(table)
