"""Whatever the graph and the method: growth keeps what is computed, or says why it cannot."""

from typing import Any

import hypothesis
import keras
import numpy as np
from helpers.graphs import draw_model
from helpers.growing import assert_close, inputs_of, predict, randomize
from helpers.surgeries import TOLERANCE, attempt, draw_widths, examples
from hypothesis import strategies as st

import keras_grow as kg

METHODS = {
    "random": kg.methods.Random,
    "split": kg.methods.Split,
    "zeros": kg.methods.Zeros,
    "gradmax": kg.methods.GradMax,
    "tiny": kg.methods.Tiny,
    "gradmaxopt": lambda: kg.methods.GradMaxOpt(steps=2),
    "firefly": lambda: kg.methods.Firefly(steps=2),
    "pursuit": lambda: kg.methods.Pursuit(candidates=4, steps=2),
    "split steepest": lambda: kg.methods.Split(choice="steepest"),
}


@examples(0.5)
@hypothesis.given(st.data())
def test_any_graph_and_any_method(data: Any) -> None:
    model, text = draw_model(data.draw)
    hypothesis.note(text)
    randomize(model)
    x = inputs_of(model)
    before = predict(model, x)
    hypothesis.assume(all(1e-3 < abs(y).max() < 1e3 for y in before))
    widths = draw_widths(data, model)
    hypothesis.assume(widths)
    name = data.draw(st.sampled_from(list(METHODS)))
    method = METHODS[name]()
    form = data.draw(st.sampled_from(["auto", *(f for f in method.forms if f != "joint")]))
    hypothesis.note(f"{name}, {form} form: {widths}")
    targets = [np.random.default_rng(0).standard_normal(y.shape).astype("float32") for y in before]
    model.compile("sgd", "mse" if len(targets) == 1 else ["mse"] * len(targets))
    y = targets if len(targets) > 1 else targets[0]
    batch = keras.tree.map_structure(keras.ops.convert_to_numpy, x), y
    weights = model.get_weights()

    def grow() -> keras.Model:
        kg.grow_(model, widths, method=method, data=batch, seed=0, form=form)
        return model

    grown, refusal = attempt(grow)
    assert "Please report" not in refusal, "the plan was wrong"
    assert_close(predict(model, x), before, TOLERANCE, f"{name}, {form} form: {refusal}")
    if grown is None:
        hypothesis.event("refused")
        assert [w.shape for w in model.get_weights()] == [w.shape for w in weights]
