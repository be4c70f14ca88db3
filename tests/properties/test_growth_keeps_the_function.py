"""Whatever the graph: growth keeps what it computes, or says clearly why it cannot be done.

`HYPOTHESIS_PROFILE=explore` looks at many more graphs, other ones in every run.
"""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import hypothesis
import keras
import pytest
from hypothesis import strategies as st
from properties.graphs import draw_model
from rules.harness import BACKEND, assert_close, inputs_of, predict, randomize

import keras_grow as kg

# A part of the profile's examples, by what one of them costs.
SHARE = {"torch": 0.3, "tensorflow": 0.12, "jax": 0.08}[BACKEND]


def examples(part: float = 1.0) -> Any:
    count = hypothesis.settings.default.max_examples
    return hypothesis.settings(
        max_examples=max(1, round(count * SHARE * part)),
        suppress_health_check=list(hypothesis.HealthCheck),
    )


def draw_widths(data: Any, model: keras.Model) -> dict[str, int]:
    """New widths for some of the model's sites."""
    sites = kg.sites(model)
    hypothesis.assume(sites)
    chosen = data.draw(st.lists(st.sampled_from(sites), min_size=1, max_size=3, unique=True))
    return {
        s.name: s.width + s.granularity * data.draw(st.integers(1, 2), label="more")
        for s in chosen
    }  # fmt: skip


def saved_and_loaded(model: keras.Model) -> keras.Model:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "model.keras"
        model.save(path)
        return keras.models.load_model(path)


@examples()
@hypothesis.given(st.data())
def test_any_graph_and_any_surgery(data: Any) -> None:
    """One to three surgeries in a row, in place or not, some with a file in between."""
    model, text = draw_model(data.draw)
    hypothesis.note(text)
    randomize(model)
    x = inputs_of(model)
    before = predict(model, x)
    hypothesis.assume(all(abs(y).max() < 1e3 for y in before))
    for seed in range(data.draw(st.integers(1, 3), label="surgeries")):
        widths = draw_widths(data, model)
        how = data.draw(st.sampled_from(["copy", "in place", "copy, saved and loaded"]))
        form = data.draw(st.sampled_from(["auto", "outgoing", "inverse"]))
        hypothesis.note(f"{how}: {widths}, {form} form")
        if how == "in place":
            kg.grow_(model, widths, seed=seed, form=form)
        else:
            model = kg.widen(model, widths, seed=seed, form=form)
        if "saved" in how:
            model = saved_and_loaded(model)
        assert_close(predict(model, x), before, 1e-5, f"after {how} {widths} ({form})")


@examples(0.5)
@hypothesis.given(st.data())
def test_what_is_refused_cannot_be_widened(data: Any) -> None:
    """And what is not refused can: the two lists are what widening does."""
    model, text = draw_model(data.draw)
    hypothesis.note(text)
    growable = {p for s in kg.sites(model) for p in s.producers}
    for refusal in kg.sites(model, refused=True):
        assert refusal.producer not in growable
        assert refusal.reason
        with pytest.raises(kg.GrowthError, match=f"'{refusal.producer}'"):
            kg.widen(model, {refusal.producer: 99})
    for site in kg.sites(model):
        assert site.consumers
        plan = kg.plan(model, {site.name: site.width + site.granularity})
        assert plan.sites[0].width == site.width + site.granularity
        assert site.params_per_channel > 0
