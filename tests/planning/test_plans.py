"""What a plan says: which sites, widths, edits, costs, and what it prints."""

from collections.abc import Callable

import keras
import numpy as np
import pytest
from keras import layers

import keras_grow as kg


def mlp() -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((5,)),
            layers.Dense(4, activation="relu", name="a"),
            layers.Dense(3, name="b"),
        ]
    )


def residual() -> keras.Model:
    x = keras.Input((6, 5, 3))
    h = layers.Conv2D(4, 3, padding="same", name="stem")(x)
    y = layers.BatchNormalization(name="bn")(h)
    y = layers.Conv2D(6, 3, padding="same", name="inner", activation="relu")(y)
    y = layers.Conv2D(4, 1, name="outer")(y)
    h = layers.Add()([h, y])
    return keras.Model(x, layers.Dense(2, name="out")(layers.Flatten()(h)))


def depthwise() -> keras.Model:
    x = keras.Input((8, 8, 3))
    h = layers.Conv2D(4, 3, strides=2, padding="same", name="a", use_bias=False)(x)
    h = layers.DepthwiseConv2D(3, padding="same", depth_multiplier=2, name="dw")(h)
    h = layers.PReLU(shared_axes=[1, 2])(h)
    h = layers.SeparableConv2D(5, 3, depth_multiplier=2, name="b")(h)
    h = layers.GlobalAveragePooling2D()(h)
    return keras.Model(x, layers.Dense(2, name="out")(h))


def grouped() -> keras.Model:
    x = keras.Input((6, 4))
    h = layers.Conv1D(6, 3, groups=2, name="a")(x)
    h = layers.Conv1D(6, 2, groups=3, name="b")(h)
    return keras.Model(x, layers.Dense(2, name="out")(layers.GlobalMaxPooling1D()(h)))


MODELS: dict[str, Callable[[], keras.Model]] = {
    "mlp": mlp, "residual": residual, "depthwise": depthwise, "grouped": grouped,
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_parameters_and_flops_per_channel_are_the_real_difference(name: str) -> None:
    model = MODELS[name]()
    for site in kg.sites(model):
        wider = kg.widen(model, {site.name: site.width + site.granularity}, form="inverse")
        parameters = wider.count_params() - model.count_params()
        assert site.params_per_channel * site.granularity == parameters
        added = kg.flops(wider) - kg.flops(model)
        assert site.flops_per_channel * site.granularity == pytest.approx(added)
        plan = kg.plan(model, {site.name: site.width + site.granularity})
        assert plan.added_parameters == parameters
        assert plan.added_flops == pytest.approx(added)


def test_flops_by_hand() -> None:
    """Two for each multiply-add of a kernel, for one sample."""
    assert kg.flops(mlp()) == 2 * (5 * 4 + 4 * 3)
    stem, inner, outer = 30 * 9 * 3 * 4, 30 * 9 * 4 * 6, 30 * 6 * 4
    assert kg.flops(residual()) == 2 * (stem + inner + outer + 30 * 4 * 2)
    first = 4 * 4 * 9 * 3 * 4
    dw = 4 * 4 * 9 * 8
    separable = 2 * 2 * 16 * (9 + 5)
    assert kg.flops(depthwise()) == 2 * (first + dw + separable + 5 * 2)
    a, b = 4 * 3 * 2 * 6, 3 * 2 * 2 * 6
    assert kg.flops(grouped()) == 2 * (a + b + 6 * 2)


def test_sites_by_hand() -> None:
    stage, inner = kg.sites(residual())
    assert (stage.name, set(stage.producers), stage.width) == ("stem", {"stem", "outer"}, 4)
    assert set(stage.consumers) == {"inner", "out"}
    # stem 9*3+1, outer 6+1, bn 4, inner 9*6, out 30*2
    assert stage.params_per_channel == 28 + 7 + 4 + 54 + 60
    assert (inner.name, inner.producers, inner.consumers) == ("inner", ("inner",), ("outer",))
    assert inner.params_per_channel == 9 * 4 + 1 + 4


@pytest.mark.parametrize("asked", ["stem", "outer"])
def test_naming_one_of_several_tied_layers_names_them_all(asked: str) -> None:
    plan = kg.plan(residual(), {asked: 7})
    (site,) = plan.sites
    assert site.width == 7
    edited = {(e.path, e.variable.name, e.role) for e in plan.edits}
    assert {("stem", "kernel", "fan-in"), ("outer", "kernel", "fan-in")} <= edited
    assert {("inner", "kernel", "fan-out"), ("out", "kernel", "fan-out")} <= edited
    assert kg.plan(residual(), {"stem": 7, "outer": 7}).added_parameters == plan.added_parameters
    with pytest.raises(kg.GrowthError, match="tied and grow by the same number"):
        kg.plan(residual(), {"stem": 7, "outer": 8})


def test_every_edit_says_where_new_entries_come_from() -> None:
    plan = kg.plan(residual(), {"stem": 6})
    edits = {(e.path, e.variable.name): e for e in plan.edits}
    np.testing.assert_array_equal(edits["stem", "kernel"].labels, [0, 1, 2, 3, -1, -2])
    np.testing.assert_array_equal(edits["bn", "gamma"].labels, [0, 1, 2, 3, -1, -2])
    assert edits["bn", "gamma"].fill == 1.0
    assert edits["bn", "moving_mean"].fill == 0.0
    flattened = edits["out", "kernel"].labels.reshape(30, 6)
    np.testing.assert_array_equal(flattened[:, 4:], np.tile([-1, -2], (30, 1)))
    np.testing.assert_array_equal(flattened[:, :4].ravel(), np.arange(120))


def test_forms_say_what_has_to_be_zero() -> None:
    outgoing, inverse = (kg.plan(mlp(), {"a": 6}, form=f) for f in ("outgoing", "inverse"))
    zeroed = [
        {(e.path, e.role) for e in plan.edits if e.zeroed} for plan in (outgoing, inverse)
    ]  # fmt: skip
    assert zeroed == [{("a", "fan-in")}, {("b", "fan-out")}]


def test_printing_names_widths_edits_and_proofs() -> None:
    model = residual()
    text = str(kg.plan(model, {"outer": 6, "inner": 8}))
    assert "site stem (stem, outer): 4 -> 6 channels, outgoing form (fan-in zero)" in text
    assert "site inner: 6 -> 8 channels" in text
    assert "stem/kernel axis 3: 4 -> 6, fan-in, new entries: zero (proof: the new channels" in text
    assert "out/kernel axis 0: 120 -> 180, fan-out, new entries: chosen by method" in text
    assert "bn/gamma axis 0: 4 -> 6, per-channel, new entries: 1" in text
    # tied stage: 28 + 7 + 4 + 54 + 60 a channel; inner 36 + 1 + 4; and the two meet twice
    crossing = 2 * 2 * 9 + 2 * 2
    assert f"adds {2 * 153 + 2 * 41 + crossing:,} parameters" in text
    assert "proof: nothing reads them" in str(kg.plan(model, {"inner": 8}, form="inverse"))
    assert "identity kernel" in str(kg.plan(depthwise(), {"a": 5}))


def test_making_a_plan_changes_nothing() -> None:
    model = residual()
    before, config = model.get_weights(), model.get_config()
    str(kg.plan(model, {"stem": 6}))
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert model.get_config() == config


def test_groups_grow_in_whole_steps() -> None:
    model = grouped()
    site = kg.sites(model)[0]
    assert site.granularity == 6
    with pytest.raises(kg.GrowthError, match=r"steps of 6 .* width 9 .* next width .* is 12"):
        kg.plan(model, {"a": 9})
    plan = kg.plan(model, {"a": 12})
    edits = {(e.path, e.role): e for e in plan.edits}
    # Every sixth of the axis gets its share, so that the groups of both layers keep theirs.
    np.testing.assert_array_equal(
        edits["a", "fan-in"].labels, [0, -1, 1, -2, 2, -3, 3, -4, 4, -5, 5, -6]
    )


@pytest.mark.parametrize("widths", [{"a": 3}, {"a": 4}, {"a": 4.5}, {"c": 7}, {}])
def test_bad_widths(widths: dict) -> None:
    with pytest.raises(kg.GrowthError):
        kg.plan(mlp(), widths)


def test_unknown_layers_are_answered_with_the_nearest_name() -> None:
    with pytest.raises(kg.GrowthError, match=r"no layer 'innr'\. Did you mean 'inner'"):
        kg.plan(residual(), {"innr": 8})


@pytest.mark.parametrize("model", [None, 3, mlp])
def test_what_is_no_model(model) -> None:
    with pytest.raises(kg.GrowthError, match="Keras models"):
        kg.sites(model)


def test_models_without_a_graph() -> None:
    class Subclassed(keras.Model):
        def call(self, x):
            return x

    with pytest.raises(kg.GrowthError, match="subclassed"):
        kg.sites(Subclassed())


def test_a_width_that_no_memory_holds_is_refused_at_once():
    inputs = keras.Input((4,))
    hidden = keras.layers.Dense(3, name="a")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(2)(hidden))
    for attempt in (kg.plan, kg.widen, kg.grow_):
        with pytest.raises(
            kg.GrowthError, match=r"at most 10,000,000 .*Received: width 1000000000"
        ):
            attempt(model, {"a": 10**9})
