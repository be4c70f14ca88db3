"""``keras-grow verify``: do two saved models compute the same function?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from keras_grow.tools.cli.errors import ANSWER_IS_NO, EXIT_CODES_HELP
from keras_grow.tools.cli.options import (
    MODEL_FILE,
    common_options,
    model_options,
    start_backend,
    trust,
)
from keras_grow.tools.modelfile import load_model


@click.command(
    epilog=f"""\
\b
Examples:
  keras-grow verify model.keras wider.keras
  keras-grow verify model.keras wider.keras --samples 256 --tolerance 1e-6

{EXIT_CODES_HELP}"""
)
@click.argument("before", metavar="A", type=MODEL_FILE)
@click.argument("after", metavar="B", type=MODEL_FILE)
@click.option(
    "--samples", type=click.IntRange(min=1), default=32, show_default=True,
    help="How many random inputs to compare on.",
)  # fmt: skip
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True,
    help="Seed of the random inputs.",
)  # fmt: skip
@click.option(
    "--tolerance", type=click.FloatRange(min=0), default=None,
    help="Largest difference allowed, as a fraction of the outputs' scale. Default: 1e-5, and as "
    "much as they need for models that compute in float16 or bfloat16.",
)  # fmt: skip
@model_options
@common_options
def command(before: Path, after: Path, samples: int, seed: int, tolerance: float | None) -> None:
    """Compare what the models in the files A and B compute, on random inputs.

    The exit code is 0 if the outputs agree within the tolerance, and 1 if they do not. Inputs are
    standard normal numbers (0 and 1 for inputs of whole numbers); sizes that a model leaves open
    are 16.
    """
    start_backend()
    first, second = load_model(before, trust=trust()), load_model(after, trust=trust())
    import keras_grow as kg

    inputs = _random_inputs(first, samples, seed)
    report = kg.verify(first, second, inputs=inputs, tolerance=tolerance)
    click.echo(
        f"{before} and {after} compute {'the same' if report else 'NOT the same'}: on {samples} "
        f"random input{'s' if samples > 1 else ''} the outputs differ by up to "
        f"{report.max_deviation:.2e}, which is {report.relative:.2e} of their scale "
        f"(tolerance {report.tolerance:.0e})"
    )
    if not report:
        raise click.exceptions.Exit(ANSWER_IS_NO)


def _random_inputs(model: Any, samples: int, seed: int) -> Any:
    """A batch of inputs in the model's own structure (a list, a dict, one array)."""
    import keras
    import numpy as np

    random = np.random.default_rng(seed)

    def one(tensor: Any) -> Any:
        shape = (samples, *(16 if size is None else size for size in tensor.shape[1:]))
        if "int" in str(tensor.dtype):
            return random.integers(0, 2, shape).astype(tensor.dtype)
        return random.standard_normal(shape).astype("float32")

    # A Sequential model has its inputs in a list, even though it takes one array.
    structure = model.inputs[0] if isinstance(model, keras.Sequential) else model.input
    return keras.tree.map_structure(one, structure)
