"""Proves a rule: what every growth through a layer has to show. And times a method.

```python
from keras_grow.testing import run_growth_test

def test_my_layer(tmp_path):
    model = keras.Sequential(
        [keras.Input((5,)), keras.layers.Dense(4, name="a"), MyLayer(), keras.layers.Dense(2)]
    )
    run_growth_test(model, {"a": 7}, tmp_path)
```

keras_grow's own rules are tested with it, on every backend (`KERAS_BACKEND`).
"""

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers, tree

from keras_grow import _keras
from keras_grow.apply import Slopes
from keras_grow.errors import check_whole
from keras_grow.graph.outputs import Outputs
from keras_grow.growth.choice import chosen, measured, recording_of
from keras_grow.growth.draft import drafted
from keras_grow.growth.guarded import Clock, Guard, guarded
from keras_grow.growth.step import Request
from keras_grow.growth.wider import Wider
from keras_grow.planning import Plan, survey
from keras_grow.planning.arrays import split_groups
from keras_grow.surgery.arguments import amounts_of, initialization
from keras_grow.surgery.widening import grow_, plan, widen

__all__ = ["run_growth_test", "sublayers", "time_growth"]


def run_growth_test(
    model: keras.Model,
    widths: Mapping[str, int],
    tmp_path: Path | None = None,
    *,
    forms: Sequence[str] = ("outgoing", "inverse"),
    same_in_training: bool = True,
    trains: bool = True,
    tolerance: float = 1e-5,
) -> keras.Model:
    """Widens `model` in every form and checks all that growth promises.

    All weights first get random values, so that a wrong index is seen. Then: outputs are kept in
    inference and in training, with new free weights that are not zero; the original is untouched;
    growth in place gives a model that saves, loads, says the same about itself as one freshly built
    from its config, and whose new neurons learn.

    Args:
        model: any growable model; it is grown in place in the end.
        widths: new widths by layer.
        tmp_path: a folder to save models in; one of its own by default.
        forms: which forms to try; sites where only the inverse form is exact take it anyway. All
            but the last make copies, the last one grows in place; with a training step, all make
            copies.
        same_in_training: whether outputs are kept with training=True as well. Not so for noise.
        trains: take one training step after growing in the "auto" form, which makes neurons that
            learn.
        tolerance: largest deviation as a part of the scale of the outputs.

    Returns:
        The model, grown in place and trained for a step.

    Raises:
        AssertionError: something that growth promises does not hold; the message says what.
        GrowthError: the growth is refused.
    """
    if tmp_path is None:
        with tempfile.TemporaryDirectory() as folder:
            return run_growth_test(
                model, widths, Path(folder), forms=forms, same_in_training=same_in_training,
                trains=trains, tolerance=tolerance,
            )  # fmt: skip
    randomize(model)
    x = inputs_of(model)
    before = predict(model, x)
    before_training = predict_training(model, x) if same_in_training else None
    weights, description = model.get_weights(), describe(model)

    for form in forms if trains or len(forms) == 1 else forms[:-1]:
        planned = plan(model, widths, form=form)
        wider = widen(model, widths, seed=1, form=form)
        assert_close(predict(wider, x), before, tolerance, f"{form} form")
        if before_training is not None and form == forms[0]:
            after = predict_training(wider, x)
            assert_close(after, before_training, tolerance, f"{form} form, training=True")
        assert_free_weights_used(planned, model, wider)
        assert not {id(v) for v in model.variables} & {id(v) for v in wider.variables}

    assert describe(model) == description, "widen changed the model it was given"
    for old, new in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)

    last = "auto" if trains else forms[-1]
    count, added = model.count_params(), plan(model, widths).added_parameters
    growth = grow_(model, widths, seed=2, form=last)
    assert model.count_params() - count == added
    assert_close(predict(model, x), before, tolerance, f"grown in place, {last} form")
    assert growth.plan is not None
    assert_free_weights_used(growth.plan, model, model)
    for name, width in widths.items():
        assert_width(model, name, width)
    assert_saves(model, x, tmp_path / "grown.keras")
    if trains:
        assert_new_neurons_learn(model, growth, x)
    return model


# --- values ------------------------------------------------------------------------------------


def time_growth(
    model: keras.Model,
    widths: Mapping[str, int],
    method: Any = "random",
    data: Any = None,
    seed: int | None = 0,
    form: str = "auto",
    repeats: int = 5,
) -> list[dict[str, float]]:
    """What a growth costs: done again and again as in `fit`, the model put back each time.

    The first takes longer by all that is compiled for it. In `fit` every growth is such a first
    one, because shapes change; the others tell what is left when compilation is not counted. What
    is done once, to survey and to plan, counts the same in all of them.

    Args:
        model: a built functional or Sequential model, as it is afterwards too.
        widths: new widths by layer or site name.
        method, data, seed, form: as of `keras_grow.widen`; one batch of the data is looked at.
        repeats: growths after the first.

    Returns:
        Seconds by phase of each growth, the first one first: "survey", "plan", "statistics" (of
        methods that look at data), "choice", "verification", "surgery".

    Raises:
        GrowthError: it cannot be done; the message says why.
    """
    check_whole("repeats", repeats, 0)
    survey(model)  # what is done once in a process
    once = Clock()
    with once("survey"):
        atlas = survey(model)
    slopes = Slopes()
    init = initialization(atlas.graph, method, data, seed, form, slopes, batches=1)
    request = Request(atlas, amounts_of(atlas, widths), init)
    with once("plan"):
        draft = drafted(request)
        recording = recording_of(request, draft)
    outputs = Outputs(atlas.graph)
    first = None if init.batches is None else init.batches.first
    # As in `fit`, whose callback knows the `EarlyStopping` callbacks beside it (here none), and
    # looks for others who hold the layers once.
    living = _keras.Living(stoppings=())
    found = []
    for _ in range(repeats + 1):
        clock = Clock()
        clock.seconds.update(once.seconds)
        known = None
        if recording is not None:
            with clock("statistics"):
                known = measured(request, draft, recording)
        with clock("choice"):
            choice = chosen(request, draft, known)
        change = Wider(request, draft, known, choice)
        try:
            guarded(change, Guard(outputs, first, living), clock)
        finally:
            slopes.remove()
            change.undo()
        found.append(clock.seconds)
    return found


def sublayers(layer: keras.Layer) -> list[keras.Layer]:
    """All layers below a layer or model, itself first: those inside composite layers too, which
    `Model.layers` does not list.
    """
    return _keras.sublayers(layer)


def randomize(model: keras.Model, seed: int = 0) -> None:
    """Random values for all weights, statistics included; what is a variance stays positive."""
    rng = np.random.default_rng(seed)
    for variable in model.weights:
        shape = tuple(variable.shape)
        if not keras.backend.is_float_dtype(variable.dtype):
            continue  # seeds and counters
        if "variance" in variable.name or "stddev" in variable.name:
            value = rng.uniform(0.5, 2.0, shape)
        else:
            fan_in = np.prod(shape[:-1]) if len(shape) > 1 else 1.0
            value = rng.standard_normal(shape) / np.sqrt(fan_in)
        variable.assign(value.astype("float32"))
    for layer in all_layers(model):
        if isinstance(layer, layers.Normalization):
            layer.finalize_state()


def inputs_of(model: keras.Model, samples: int = 4, seed: int = 1) -> Any:
    """Standard normal inputs (integers below 5 for integer ones) in the model's own structure."""
    rng = np.random.default_rng(seed)

    def one(tensor: Any) -> Any:
        shape = (samples, *(6 if d is None else d for d in tensor.shape[1:]))
        if "int" in keras.backend.standardize_dtype(tensor.dtype):
            return keras.ops.convert_to_tensor(rng.integers(0, 5, shape).astype("int32"))
        return keras.ops.convert_to_tensor(rng.standard_normal(shape).astype("float32"))

    return tree.map_structure(one, model.inputs[0] if len(model.inputs) == 1 else model.input)


def predict(model: keras.Model, x: Any, training: bool = False) -> list[np.ndarray]:
    """Outputs as a flat list of float32 arrays."""
    outputs = tree.flatten(model(x, training=training))
    return [as_array(y) for y in outputs]


def predict_training(model: keras.Model, x: Any) -> list[np.ndarray]:
    """Outputs of training mode; statistics and seeds are put back afterwards."""
    kept = [(v, as_array(v)) for v in model.variables]
    outputs = predict(model, x, training=True)
    for variable, value in kept:
        variable.assign(value)
    return outputs


def as_array(value: Any) -> np.ndarray:
    array = np.asarray(keras.ops.convert_to_numpy(value))
    return array.astype("float32") if array.dtype.name in ("float16", "bfloat16") else array


# --- checks ------------------------------------------------------------------------------------


def deviation(found: Sequence[np.ndarray], wanted: Sequence[np.ndarray]) -> float:
    """The largest difference as a part of the largest value."""
    assert [a.shape for a in found] == [b.shape for b in wanted]
    scale = max(float(np.abs(b).max()) for b in wanted)
    assert 0 < scale < 1e4, f"outputs of scale {scale} show nothing"
    return max(float(np.abs(a - b).max()) for a, b in zip(found, wanted, strict=True)) / scale


def assert_close(
    found: Sequence[np.ndarray], wanted: Sequence[np.ndarray], tolerance: float, what: str
) -> None:
    gap = deviation(found, wanted)
    assert gap <= tolerance, f"{what}: outputs differ by {gap:.3g} of their scale"


def assert_free_weights_used(plan: Plan, model: keras.Model, wider: keras.Model) -> None:
    """New weights that may hold anything hold something: zeros would hide a wrong index."""
    place = {id(v): i for i, v in enumerate(model.weights)}
    checked = 0
    for site in plan.sites:
        inverse = site.form == "inverse"
        slots = site.writes if inverse else [s for s in site.reads if s.free]
        for slot in slots:
            value = as_array(wider.weights[place[id(slot.edit.variable)]])
            if slot.edit.groups > 1:
                value = split_groups(value, slot.edit.groups)
            assert value.shape[slot.edit.axis] == len(slot.edit.labels)
            new = np.moveaxis(value, slot.edit.axis, 0)[slot.edit.labels < 0]
            used = np.abs(new.reshape(len(new), -1)).max(axis=1)
            assert (used > 1e-3).all(), f"new weights of {slot.edit.path} are zero: {used}"
            checked += 1
    assert checked, "the growth has no free weight at all"


def assert_width(model: keras.Model, name: str, width: int) -> None:
    path, _, part = name.partition(".")
    layer = at(model, path)
    sizes = [getattr(layer, part or a, None) for a in ("units", "filters", "output_dim")]
    found = next((s for s in sizes if isinstance(s, int)), width)
    assert found == width, f"{name} says {found}, not {width}"
    made = {producer.path: producer.width for producer in survey(model).producers.values()}
    assert made[name] == width


def assert_saves(model: keras.Model, x: Any, path: Path) -> None:
    """It loads, and all a layer says about itself is what the layer built anew says."""
    model.save(path)
    loaded = keras.models.load_model(path)
    assert describe(loaded) == describe(model)
    assert _summary(loaded) == _summary(model)
    assert_close(predict(loaded, x), predict(model, x), 1e-6, "saved and loaded")


def assert_new_neurons_learn(model: keras.Model, growth: Any, x: Any) -> None:
    """One step changes, for every new neuron, the weights that growth had to leave at zero."""
    if all(t.shape[0] is None for t in model.inputs):
        more = inputs_of(model, samples=32)  # on few samples a good relu neuron may be silent
        if all(len(y) == 32 for y in predict(model, more)):
            x = more
    rng = np.random.default_rng(3)
    targets = [rng.standard_normal(y.shape).astype("float32") for y in predict(model, x)]
    y = targets if len(targets) > 1 else targets[0]
    model.compile(keras.optimizers.SGD(0.1), "mse", jit_compile=keras.config.backend() == "jax")
    slots = [
        slot for s in growth.plan.sites for slot in (s.reads if s.form == "inverse" else s.writes)
    ]
    before = [as_array(slot.edit.variable) for slot in slots]
    model.fit(x, y, verbose=0, shuffle=False)
    moved: dict[int, float] = {}
    for slot, old in zip(slots, before, strict=True):
        change = as_array(slot.edit.variable) - old
        if slot.edit.groups > 1:
            change = split_groups(change, slot.edit.groups)
        change = np.abs(np.moveaxis(change, slot.edit.axis, 0))
        largest = change.reshape(len(change), -1).max(axis=1)
        for label, amount in zip(slot.edit.labels, largest, strict=True):
            if label < 0:
                moved[label] = max(moved.get(label, 0.0), float(amount))
    assert len(moved) == sum(s.added for s in growth.plan.sites)
    dead = [-1 - label for label, amount in moved.items() if not amount > 0]
    assert not dead, f"new neurons {dead} got no gradient"


# --- looking at a model ------------------------------------------------------------------------


def at(model: keras.Model, path: str) -> Any:
    """The layer at `outer/inner`."""
    for part in path.split("/"):
        model = model.get_layer(part)
    return model


def all_layers(model: keras.Model) -> list:
    """The layers of a model, those of nested models included."""
    found = []
    for layer in model.layers:
        found.append(layer)
        if isinstance(layer, keras.Model):
            found += all_layers(layer)
    return found


def describe(model: keras.Model) -> list[str]:
    """Configs, build shapes, input specs, weights and output shapes, as text."""
    lines = [f"{model.input_shape} -> {model.output_shape}"]
    for layer in all_layers(model):
        facts = {
            "name": layer.name,
            "config": layer.get_config(),
            "build": layer.get_build_config(),
            "spec": _specs(layer),
            "weights": [tuple(v.shape) for v in layer.weights],
        }
        if _calls(layer) == 1:
            facts["shapes"] = tree.map_structure(
                lambda t: str(t.shape), [layer.input, layer.output]
            )
        lines.append(json.dumps(facts, default=str, sort_keys=True))
    return lines


def _summary(model: keras.Model) -> list[str]:
    lines: list[str] = []
    model.summary(expand_nested=True, print_fn=lines.append, line_length=120)
    return lines


def _calls(layer: Any) -> int:
    try:
        _ = layer.output
    except (AttributeError, ValueError):  # called several times, or in no graph
        return 0
    return 1


def _specs(layer: Any) -> list:
    specs = tree.flatten(layer.input_spec) if layer.input_spec is not None else []
    return [(s.ndim, s.min_ndim, s.max_ndim, s.axes, s.shape) for s in specs if s is not None]
