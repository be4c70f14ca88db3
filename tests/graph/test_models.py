"""Kinds of models: Sequential, nested, shared, several inputs and outputs, low precision."""

from pathlib import Path

import keras
import numpy as np
import pytest
from helpers.growing import (
    as_array,
    at,
    chain,
    conv,
    dense,
    image,
    inputs_of,
    predict,
    randomize,
    run_growth_test,
)
from keras import layers

import keras_grow as kg


def test_sequential(tmp_path: Path) -> None:
    model = keras.Sequential(
        [
            keras.Input(image(2)),
            conv(2, 4, "a", activation="relu"),
            layers.BatchNormalization(),
            layers.Flatten(),
            dense(5, "b", activation="gelu"),
            layers.Dropout(0.3),
            dense(2, "out"),
        ]
    )
    grown = run_growth_test(model, {"a": 6, "b": 7}, tmp_path, same_in_training=False, trains=True)
    assert isinstance(grown, keras.Sequential)
    assert isinstance(kg.widen(grown, {"a": 8}), keras.Sequential)


def test_sequential_built_later(tmp_path: Path) -> None:
    model = keras.Sequential([dense(4, "a", activation="tanh"), dense(2, "out")])
    with pytest.raises(kg.GrowthError, match="not built"):
        kg.sites(model)
    model.build((None, 5))
    run_growth_test(model, {"a": 6}, tmp_path)


def test_subclass_of_functional_keeps_its_class() -> None:
    """Its own `train_step` goes with the copy; a constructor of its own cannot be called."""

    class Mine(keras.Model):
        pass

    class Built(keras.Model):
        def __init__(self, units: int) -> None:
            x = keras.Input((5,))
            super().__init__(x, dense(2, "out")(dense(units, "a")(x)))

    x = keras.Input((5,))
    model = Mine(x, dense(2, "out")(dense(4, "a")(x)))
    assert type(kg.widen(model, {"a": 6})) is Mine
    model = Built(4)
    assert kg.verify(model, kg.widen(model, {"a": 6}))


def test_nested_functional_and_sequential(tmp_path: Path) -> None:
    inner_input = keras.Input((4,))
    h = dense(4, "a", activation="gelu")(inner_input)
    inner = keras.Model(inner_input, dense(3, "b")(h), name="inner")
    head = keras.Sequential([keras.Input((3,)), dense(4, "a"), dense(2, "b")], name="head")
    x = keras.Input((5,))
    model = keras.Model(x, head(inner(dense(4, "entry", activation="relu")(x))))
    assert [s.name for s in kg.sites(model)] == ["entry", "inner/a", "inner/b", "head/a"]
    widths = {"entry": 6, "inner/a": 6, "inner/b": 5, "head/a": 7}
    grown = run_growth_test(model, widths, tmp_path, trains=True)
    assert at(grown, "inner").input_shape == (None, 6)
    assert at(grown, "inner").output_shape == (None, 5)


def test_nested_twice_deep_with_a_branch(tmp_path: Path) -> None:
    core = chain((4,), dense(4, "a", activation="tanh"), dense(4, "b"))
    core.name = "core"
    x = keras.Input((4,))
    middle = keras.Model(x, layers.Concatenate()([core(x), dense(3, "c")(x)]), name="middle")
    x = keras.Input((4,))
    model = keras.Model(x, dense(2, "out")(middle(x)))
    widths = {"middle/core/a": 6, "middle/core/b": 5, "middle/c": 4}
    run_growth_test(model, widths, tmp_path)


def test_nested_model_called_twice(tmp_path: Path) -> None:
    """What enters at one call must grow as what enters at the other."""
    shared = chain((4,), dense(4, "a", activation="elu"), dense(3, "b"))
    shared.name = "shared"
    x = keras.Input((5,))
    left, right = dense(4, "left")(x), dense(4, "right")(x)
    joined = layers.Concatenate()([shared(left), shared(right)])
    model = keras.Model(x, dense(2, "out")(joined))
    sites = {s.consumers: set(s.producers) for s in kg.sites(model)}
    assert sites["shared/a",] == {"left", "right"}
    assert sites["out",] == {"shared/b"}
    run_growth_test(model, {"right": 6, "shared/a": 5, "shared/b": 5}, tmp_path)


def test_nested_model_also_called_on_the_input_is_refused() -> None:
    shared = chain((4,), dense(4, "a"), dense(3, "b"))
    shared.name = "shared"
    x = keras.Input((4,))
    left = dense(4, "left")(x)
    model = keras.Model(x, layers.Add()([shared(left), shared(x)]))
    (refusal,) = [r for r in kg.sites(model, refused=True) if r.producer == "left"]
    assert "Dense 'shared/a' is shared and is also called on a tensor" in refusal.reason
    assert [s.name for s in kg.sites(model)] == ["shared/a"]


def test_shared_layers_grow_once(tmp_path: Path) -> None:
    """A shared producer, a shared layer in between, and a shared consumer."""
    x, y = keras.Input((5,), name="x"), keras.Input((5,), name="y")
    producer = dense(4, "a", activation="relu")
    normalize, consumer = layers.BatchNormalization(), dense(3, "b")
    outputs = [consumer(normalize(producer(t))) for t in (x, y)]
    model = keras.Model([x, y], dense(2, "out")(layers.Subtract()(outputs)))
    run_growth_test(model, {"a": 6, "b": 5}, tmp_path, trains=True)


def test_shared_consumer_ties_its_producers(tmp_path: Path) -> None:
    x = keras.Input((5,))
    a, b = dense(4, "a")(x), dense(4, "b", activation="elu")(x)
    shared = dense(3, "shared")
    model = keras.Model(x, [shared(a), shared(b)])
    assert set(kg.sites(model)[0].producers) == {"a", "b"}
    run_growth_test(model, {"a": 6}, tmp_path)


def test_shared_convolution_on_maps_of_different_sizes(tmp_path: Path) -> None:
    x, y = keras.Input((6, 5, 3)), keras.Input((4, 4, 3))
    first, second = conv(2, 4, "a", activation="relu"), conv(2, 2, "b")
    pool = layers.GlobalAveragePooling2D()
    model = keras.Model([x, y], [pool(second(first(t))) for t in (x, y)])
    run_growth_test(model, {"a": 6}, tmp_path)


def test_inputs_and_outputs_by_name(tmp_path: Path) -> None:
    inputs = {
        "picture": keras.Input(image(2), name="picture"),
        "number": keras.Input((3,), name="number"),
    }
    h = conv(2, 4, "a", activation="relu")(inputs["picture"])
    h = layers.Concatenate()([layers.Flatten()(h), dense(4, "b")(inputs["number"])])
    outputs = {"one": dense(2, "one")(h), "two": dense(3, "two")(dense(4, "c")(h))}
    model = keras.Model(inputs, outputs)
    run_growth_test(model, {"a": 6, "b": 5, "c": 6}, tmp_path, trains=False)
    assert set(model(inputs_of(model))) == {"one", "two"}


@pytest.mark.parametrize("trained", ["copy", "original"])
def test_training_one_leaves_the_other(trained: str) -> None:
    """Optimizer state goes with the copy, and nothing is shared: JAX gives arrays away."""
    model = chain(
        (5,), dense(4, "a"), layers.Dropout(0.5, seed=1), layers.BatchNormalization(), dense(2, "b")
    )
    model.compile(keras.optimizers.Adam(0.1), "mse")
    x, y = np.ones((4, 5), "float32"), np.zeros((4, 2), "float32")
    model.fit(x, y, epochs=2, verbose=0)
    wider = kg.widen(model, {"a": 6}, form="outgoing")
    assert int(as_array(wider.optimizer.iterations)) == 2
    kept, busy = (model, wider) if trained == "copy" else (wider, model)
    before = [as_array(v).copy() for v in (*kept.variables, *kept.optimizer.variables)]
    busy.fit(x, y, verbose=0)
    after = [as_array(v) for v in (*kept.variables, *kept.optimizer.variables)]
    for old, new in zip(before, after, strict=True):
        np.testing.assert_array_equal(old, new)
    kept.fit(x, y, verbose=0)


def test_weights_that_are_frozen_stay_so() -> None:
    model = chain((5,), dense(4, "a"), dense(3, "b"), dense(2, "c"))
    model.get_layer("a").trainable = False
    wider = kg.widen(model, {"a": 6, "b": 5}, form="outgoing")
    for candidate in (model, wider):
        assert [layer.trainable for layer in candidate.layers[1:]] == [False, True, True]


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision(policy: str, tmp_path: Path) -> None:
    """Weights stay float32, outputs move by no more than the computation's own precision."""
    model = chain(
        image(2),
        conv(2, 4, "a", activation="relu", dtype=policy),
        layers.BatchNormalization(dtype=policy),
        layers.Flatten(dtype=policy),
        dense(5, "b", dtype=policy),
        dense(2, "out", dtype="float32"),
    )
    tolerance = 5e-3 if policy == "mixed_float16" else 5e-2
    grown = run_growth_test(model, {"a": 6, "b": 7}, tmp_path, tolerance=tolerance, trains=False)
    assert {v.dtype for v in grown.weights} == {"float32"}
    assert grown.get_layer("a").compute_dtype == policy.removeprefix("mixed_")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_low_precision_weights(dtype: str) -> None:
    model = chain((5,), dense(4, "a", dtype=dtype), dense(2, "b", dtype=dtype))
    randomize(model)
    old = [as_array(v) for v in model.weights]
    before = predict(model, inputs_of(model))
    kg.grow_(model, {"a": 6}, form="outgoing", seed=0)
    assert {v.dtype for v in model.weights} == {dtype}
    kernel, bias, rows, _ = (as_array(v) for v in model.weights)
    np.testing.assert_array_equal(kernel[:, :4], old[0])
    np.testing.assert_array_equal(bias[:4], old[1])
    np.testing.assert_array_equal(rows[:4], old[2])
    assert (rows[4:] != 0).all()
    tolerance = 5e-3 if dtype == "float16" else 5e-2
    np.testing.assert_allclose(predict(model, inputs_of(model))[0], before[0], atol=tolerance)


def test_growing_again_and_again(tmp_path: Path) -> None:
    model = chain(
        image(2),
        conv(2, 4, "a", activation="relu"),
        layers.BatchNormalization(),
        layers.Flatten(),
        dense(2, "b"),
    )
    randomize(model)
    before = predict(model, inputs_of(model))
    for width in (5, 8, 9):
        model = kg.widen(model, {"a": width}, seed=width, form="outgoing")
        kg.grow_(model, {"a": width + 1} if width != 8 else {"a": 9}, seed=width)
        if width == 8:
            break
    gap = np.abs(predict(model, inputs_of(model))[0] - before[0]).max()
    assert gap <= 1e-5 * np.abs(before[0]).max()
    assert model.get_layer("a").filters == 9
