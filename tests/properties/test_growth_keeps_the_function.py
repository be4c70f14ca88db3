"""Whatever the graph: growth keeps what it computes, or says clearly why it cannot be done.

`HYPOTHESIS_PROFILE=explore` looks at many more graphs, other ones in every run.
"""

from typing import Any

import hypothesis
import pytest
from helpers.graphs import draw_model
from helpers.growing import assert_close, inputs_of, predict, randomize
from helpers.surgeries import TOLERANCE, attempt, draw_surgery, examples, saved_and_loaded
from hypothesis import strategies as st

import keras_grow as kg


@examples()
@hypothesis.given(st.data())
def test_any_graph_and_any_surgery(data: Any) -> None:
    """One to five surgeries in a row: each is exact or refused, some with a file in between."""
    model, text = draw_model(data.draw)
    hypothesis.note(text)
    randomize(model)
    x = inputs_of(model)
    before = predict(model, x)
    hypothesis.assume(all(1e-3 < abs(y).max() < 1e3 for y in before))
    for seed in range(data.draw(st.integers(1, 5), label="surgeries")):
        what, do = draw_surgery(data, model, seed)
        hypothesis.note(what)
        result, refusal = attempt(do)
        assert "Please report" not in refusal, "the plan was wrong"
        model = result or model
        what += f", which was refused: {refusal}" if refusal else ""
        if data.draw(st.booleans(), label="through a file"):
            model = saved_and_loaded(model)
        assert_close(predict(model, x), before, TOLERANCE, f"after: {what}")


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
