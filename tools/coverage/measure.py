"""What one model shows: where it can grow, what is refused, whether growth keeps its function."""

import gc
import re
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

import keras_grow as kg
from keras_grow.testing import sublayers
from keras_grow.tools.coverage.weights import randomize

# What users get: the fan-out starts at zero where a plain activation would never train a zero
# fan-in, else the fan-in. The outgoing form everywhere would nudge such fan-ins off zero.
FORMS = ("auto",)


def measure(
    build: Callable[[], Any],
    singles: int = 3,
    samples: int = 4,
    inputs_like: tuple[float, float] = (0.0, 1.0),
    forms: tuple[str, ...] = FORMS,
    progress: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Builds a model and widens it.

    Args:
        build: makes the model.
        singles: how many sites are also widened alone, spread over the model.
        samples: size of the batch on which outputs are compared.
        inputs_like: mean and standard deviation of the random inputs.
        forms: forms in which all sites are widened at once.
        progress: is told what happens.

    Returns:
        A record that `json` can write; deviations are parts of the scale of the outputs.
    """
    clock = _Stopwatch()
    model = build()
    seconds = {"build": clock()}
    sites = kg.sites(model)
    seconds["sites"] = clock()
    refusals = kg.sites(model, refused=True)
    growing = {path for site in sites for path in site.producers}
    record: dict[str, Any] = {
        "class": type(model).__name__,
        "layers": len(sublayers(model)),
        "parameters": int(model.count_params()),
        "producers": len(growing) + len(refusals),
        "growable": len(growing),
        "sites": len(sites),
        "refused": dict(Counter(_kind(r.reason) for r in refusals)),
        "examples": {_kind(r.reason): str(r) for r in reversed(refusals)},
        "all": {},
        "alone": {},
        "errors": {},
        "seconds": seconds,
    }
    progress(f"{len(growing)} of {record['producers']} producers at {len(sites)} sites")
    if not sites:
        return record
    x = _inputs(model, samples, *inputs_like)
    randomize(model, x)
    before = _outputs(model, x)
    # keras_grow checks outputs on the same batch: on other inputs random statistics let some
    # models amplify rounding errors by many orders of magnitude.
    sample = keras.tree.map_structure(keras.ops.convert_to_numpy, x)
    record["scale"] = max(float(np.abs(y).max()) for y in before)
    record["spread"] = max(float(y.std()) for y in before)
    seconds["weights"] = clock()
    widths = {s.name: s.width + s.granularity * (1 + i % 3) for i, s in enumerate(sites)}

    def widen(what: str, group: str, asked: dict[str, int], form: str) -> None:
        try:
            wider = kg.widen(model, asked, seed=1, form=form, data=(sample,))
            record[group][what] = _deviation(before, _outputs(wider, x))
            progress(f"{what}: {record[group][what]:.1e}")
        except Exception as error:  # the report says which models fail, and goes on
            record["errors"][what] = f"{type(error).__name__}: {error}"
            progress(f"{what}: {record['errors'][what]}")
        gc.collect()

    for form in forms:
        start = time.perf_counter()
        widen(form, "all", widths, form)
        seconds[form] = time.perf_counter() - start
    start = time.perf_counter()
    for i in np.unique(np.linspace(0, len(sites) - 1, min(singles, len(sites))).astype(int)):
        site = sites[int(i)]
        widen(site.name, "alone", {site.name: widths[site.name]}, "auto")
    seconds["alone"] = time.perf_counter() - start
    return record


class _Stopwatch:
    def __init__(self) -> None:
        self.last = time.perf_counter()

    def __call__(self) -> float:
        """Seconds since the last call."""
        before, self.last = self.last, time.perf_counter()
        return self.last - before


def _kind(reason: str) -> str:
    """A reason without the names and paths that are the model's own."""
    reason = re.sub(r" Path: .*$", "", reason, flags=re.DOTALL)
    return re.sub(r"(\w) '[^']*'", r"\1", reason)


def _inputs(model: Any, samples: int, mean: float, deviation: float) -> Any:
    rng = np.random.default_rng(0)

    def one(tensor: Any) -> Any:
        shape = (samples, *(16 if d is None else d for d in tensor.shape[1:]))
        dtype = keras.backend.standardize_dtype(tensor.dtype)
        if "int" in dtype:
            return keras.ops.convert_to_tensor(rng.integers(0, 2, shape).astype(dtype))
        values = mean + deviation * rng.standard_normal(shape)
        return keras.ops.convert_to_tensor(values.astype(dtype))

    structure = model.inputs[0] if isinstance(model, keras.Sequential) else model.input
    return keras.tree.map_structure(one, structure)


def _outputs(model: Any, x: Any) -> list[np.ndarray]:
    """Keras's own inference, not keras_grow's. On JAX compiled: one op at a time takes longer."""
    jax = keras.config.backend() == "jax"
    outputs = model.predict_on_batch(x) if jax else model(x, training=False)
    arrays = [keras.ops.convert_to_numpy(y) for y in keras.tree.flatten(outputs)]
    return [a.astype("float64") for a in arrays]


def _deviation(before: list[np.ndarray], after: list[np.ndarray]) -> float:
    """The largest deviation over the outputs, each as a part of its own scale."""
    worst = 0.0
    for a, b in zip(before, after, strict=True):
        if a.shape != b.shape or not (np.isfinite(a).all() and np.isfinite(b).all()):
            return float("inf")
        worst = max(worst, float(np.abs(a - b).max() / max(np.abs(a).max(), 1e-30)))
    return worst
