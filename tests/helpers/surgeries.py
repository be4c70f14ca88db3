"""Random surgeries on a model: wider, deeper, bridged, in a copy or in place, through a file."""

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import hypothesis
import keras
from helpers.growing import BACKEND
from hypothesis import strategies as st
from keras import layers

import keras_grow as kg

# A part of the profile's examples, by what one of them costs.
SHARE = {"torch": 0.3, "tensorflow": 0.12, "jax": 0.08}[BACKEND]
# Up to five surgeries on top of each other, some next to a normalisation.
TOLERANCE = 1e-4


def examples(part: float = 1.0) -> Any:
    count = hypothesis.settings.default.max_examples
    return hypothesis.settings(
        max_examples=max(1, round(count * SHARE * part)),
        suppress_health_check=list(hypothesis.HealthCheck),
    )


def attempt(do: Callable[[], keras.Model]) -> tuple[keras.Model | None, str]:
    try:
        return do(), ""
    except kg.GrowthError as refusal:
        return None, str(refusal)


def draw_widths(data: Any, model: keras.Model) -> dict[str, int]:
    """New widths for some of the model's sites; empty if it has none."""
    sites = kg.sites(model)
    if not sites:
        return {}
    chosen = data.draw(st.lists(st.sampled_from(sites), min_size=1, max_size=3, unique=True))
    return {
        s.name: s.width + s.granularity * data.draw(st.integers(1, 2), label="more")
        for s in chosen
    }  # fmt: skip


def _named(model: keras.Model) -> list[str]:
    return [layer.name for layer in model.layers if not isinstance(layer, keras.Model)]


def _widen(data: Any, model: keras.Model, seed: int) -> tuple[str, Any]:
    widths = draw_widths(data, model)
    form = data.draw(st.sampled_from(["auto", "outgoing", "inverse"]))

    def do() -> keras.Model:
        if not widths:
            raise kg.GrowthError("no site")
        return kg.widen(model, widths, seed=seed, form=form)

    return f"widen {widths}, {form} form", do


def _in_place(data: Any, model: keras.Model, seed: int) -> tuple[str, Any]:
    widths = draw_widths(data, model)

    def do() -> keras.Model:
        if not widths:
            raise kg.GrowthError("no site")
        kg.grow_(model, widths, seed=seed)
        return model

    return f"grow_ {widths}", do


def _alone(data: Any, model: keras.Model, seed: int) -> tuple[str, Any]:
    producers = sorted({p for s in kg.sites(model) for p in s.producers})
    name = data.draw(st.sampled_from([*producers, "none"]))
    layer = name.rpartition("/")[2]
    wide = [getattr(op, "units", getattr(op, "filters", 0)) for op in model.layers]
    width = dict(zip([op.name for op in model.layers], wide, strict=True)).get(layer, 0) + 2

    def do() -> keras.Model:
        return kg.widen(model, {name: width}, seed=seed, alone=True)

    return f"widen {name} alone to {width}", do


def _insert(data: Any, model: keras.Model, seed: int) -> tuple[str, Any]:
    after = data.draw(st.sampled_from(_named(model)))
    shape = getattr(model.get_layer(after), "output", keras.KerasTensor((None, 1))).shape
    rank, last = len(shape) - 2, shape[-1]
    choices = [
        lambda: layers.Dense(last),
        lambda: layers.Dense(last, activation="relu"),
        lambda: layers.BatchNormalization(),
        lambda: layers.PReLU(),
    ]
    if rank in (1, 2):
        conv = getattr(layers, f"Conv{rank}D")
        choices.append(lambda: conv(last, 3, padding="same"))
        choices.append(lambda: conv(last, 2, padding="same", activation="relu"))
        choices.append(lambda: getattr(layers, f"DepthwiseConv{rank}D")(3, padding="same"))
    layer = data.draw(st.sampled_from(choices))()
    branch = data.draw(st.booleans())

    def do() -> keras.Model:
        if data.draw(st.booleans(), label="in place"):
            kg.insert_(model, layer, after=after, branch=branch)
            return model
        return kg.insert(model, layer, after=after, branch=branch)

    return f"insert {type(layer).__name__} after {after}, branch={branch}", do


def _bridge(data: Any, model: keras.Model, seed: int) -> tuple[str, Any]:
    after, before = (data.draw(st.sampled_from(_named(model))) for _ in range(2))

    def do() -> keras.Model:
        return kg.bridge(model, after=after, before=before, width=2, method="random", seed=seed)

    return f"bridge from {after} to {before}", do


def draw_surgery(data: Any, model: keras.Model, seed: int) -> tuple[str, Any]:
    """What is done, in words, and the function that does it and returns the model."""
    kinds = [_widen, _widen, _in_place, _in_place, _alone, _insert, _bridge]
    return data.draw(st.sampled_from(kinds))(data, model, seed)


def saved_and_loaded(model: keras.Model) -> keras.Model:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "model.keras"
        model.save(path)
        return keras.models.load_model(path)
