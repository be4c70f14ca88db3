"""Who else holds a model's layers, variables and traces is right after a growth in place."""

import gc

import keras
import numpy as np
import pytest

import keras_grow as kg

X = np.random.default_rng(0).normal(size=(32, 6)).astype("float32")
BACKEND = keras.backend.backend()
layers = keras.layers


def predict(model):
    return keras.ops.convert_to_numpy(model(X))


def trained(*models):
    for model in models:
        model.compile("adam", "mse")
        model.fit(X, np.ones((len(X), model.output_shape[-1])), verbose=0)
    return models


def actor_and_critic(critic_reads="trunk"):
    inputs = keras.Input((6,))
    trunk = layers.Dense(8, activation="relu", name="trunk")(inputs)
    other = layers.Dense(4, activation="relu", name="other")(inputs)
    actor = keras.Model(inputs, layers.Dense(3, name="pi")(trunk), name="actor")
    read = trunk if critic_reads == "trunk" else layers.Add()([trunk, layers.Dense(8)(other)])
    critic = keras.Model(inputs, layers.Dense(1, name="v")(read), name="critic")
    return trained(actor, critic)


def learns(model):
    before = [keras.ops.convert_to_numpy(v).copy() for v in model.trainable_variables]
    y = predict(model) + 1.0
    loss = model.fit(X, y, epochs=3, verbose=0).history["loss"]
    assert loss[-1] < loss[0]
    after = [keras.ops.convert_to_numpy(v) for v in model.trainable_variables]
    assert not any(map(np.array_equal, before, after))
    np.testing.assert_allclose(model.predict(X, verbose=0), predict(model), atol=1e-5)


@pytest.mark.parametrize("form", ["outgoing", "inverse"])
def test_a_second_model_that_reads_the_layer_grows_along(form):
    actor, critic = actor_and_critic()
    before = [predict(m) for m in (actor, critic)]
    kg.grow_(actor, {"trunk": 12}, seed=0, form=form)
    assert tuple(critic.get_layer("v").kernel.shape) == (12, 1)
    for model, wanted in zip((actor, critic), before, strict=True):
        np.testing.assert_allclose(predict(model), wanted, atol=1e-5)
    for model in (actor, critic):
        learns(model)


def test_two_models_that_read_the_layer_by_one_kernel_grow_along_once():
    inputs = keras.Input((5, 5, 2))
    trunk = layers.Conv2D(4, 3, activation="relu", name="trunk")(inputs)
    # New channels lie at the end of each group, so a kernel that grew twice would be another one.
    reads = layers.Conv2D(2, 1, groups=2, name="v")(trunk)
    actor = keras.Model(inputs, layers.Conv2D(4, 1, groups=2, name="pi")(trunk), name="actor")
    critic = keras.Model(inputs, layers.Rescaling(2.0)(reads), name="critic")
    values = keras.Model(inputs, reads, name="values")
    critic.compile("adam", "mse")
    x = np.random.default_rng(1).normal(size=(4, 5, 5, 2)).astype("float32")
    critic.fit(x, np.ones((4, 3, 3, 2)), verbose=0)
    before = [keras.ops.convert_to_numpy(m(x)) for m in (actor, critic, values)]
    kg.grow_(actor, {"trunk": 8}, seed=0)
    for model, wanted in zip((actor, critic, values), before, strict=True):
        np.testing.assert_allclose(keras.ops.convert_to_numpy(model(x)), wanted, atol=1e-5)
    critic.fit(x, np.ones((4, 3, 3, 2)), verbose=0)


def test_the_best_weights_of_an_early_stopping_of_the_other_model_grow_along():
    actor, critic = actor_and_critic()
    stopping = keras.callbacks.EarlyStopping("loss", restore_best_weights=True)
    scaled = keras.Model(critic.input, layers.Rescaling(2.0)(critic.output), name="scaled")
    stopping.set_model(scaled)
    stopping.best_weights = scaled.get_weights()
    before = predict(scaled)
    kg.grow_(actor, {"trunk": 12}, seed=0)
    scaled.set_weights(stopping.best_weights)
    np.testing.assert_allclose(predict(scaled), before, atol=1e-5)


def test_in_fit_too():
    actor, critic = actor_and_critic()
    before = predict(critic)
    growth = kg.GrowthCallback(
        (X, np.zeros((32, 3), "float32")),
        "random",
        kg.schedules.Every(1, times=1),
        kg.selectors.All(4, names=["trunk"]),
    )
    actor.optimizer.learning_rate = 0.0
    actor.fit(X, np.zeros((32, 3)), verbose=0, callbacks=[growth])
    np.testing.assert_allclose(predict(critic), before, atol=1e-5)
    learns(critic)


def test_a_model_that_cannot_grow_along_is_named_and_nothing_changes():
    actor, critic = actor_and_critic(critic_reads="a sum")
    before = [predict(m) for m in (actor, critic)]
    shapes = [tuple(v.shape) for m in (actor, critic) for v in m.variables]
    with pytest.raises(kg.GrowthError, match=r"leave another model behind.*'critic'.*kg\.widen"):
        kg.grow_(actor, {"trunk": 12}, seed=0)
    assert shapes == [tuple(v.shape) for m in (actor, critic) for v in m.variables]
    for model, wanted in zip((actor, critic), before, strict=True):
        np.testing.assert_array_equal(predict(model), wanted)
    for model in (actor, critic):
        learns(model)


def test_a_subclassed_holder_is_named():
    (actor, _) = actor_and_critic()

    class Holder(keras.Model):
        def __init__(self, trunk):
            super().__init__()
            self.trunk = trunk

        def call(self, x):
            return self.trunk(x)

    holder = Holder(actor.get_layer("trunk"))
    holder(X)
    with pytest.raises(kg.GrowthError, match="Holder 'holder'"):
        kg.grow_(actor, {"trunk": 12}, seed=0)
    assert predict(holder).shape == (32, 8)


def test_models_that_nobody_holds_any_more_do_not_stand_in_the_way():
    actor, critic = actor_and_critic(critic_reads="a sum")
    del critic  # a cycle, which only the collector finds
    before = predict(actor)
    kg.grow_(actor, {"trunk": 12}, seed=0)
    np.testing.assert_allclose(predict(actor), before, atol=1e-5)


def test_what_gc_freeze_has_hidden_is_seen():
    actor, critic = actor_and_critic()
    before = predict(critic)
    gc.freeze()
    try:
        kg.grow_(actor, {"trunk": 12}, seed=0)
    finally:
        gc.unfreeze()
    np.testing.assert_allclose(predict(critic), before, atol=1e-5)


def test_a_stream_that_is_centred_for_one_model_is_refused_where_another_reads_it():
    inputs = keras.Input((6,))
    stream = layers.Dense(8, name="stream")(inputs)
    first = keras.Model(inputs, layers.Dense(3)(layers.LayerNormalization()(stream)), name="first")
    second = keras.Model(inputs, layers.Dense(2)(stream), name="second")
    before = predict(second)
    with pytest.raises(kg.GrowthError, match="'second'"):
        kg.grow_(first, {"stream": 10}, seed=0, form="outgoing")
    np.testing.assert_allclose(predict(second), before, atol=1e-5)


def apply(optimizer, model, gradient=1.0):
    """One step of a loop of the user's own, with gradients that are given."""
    variables = model.trainable_variables
    optimizer.apply([keras.ops.ones(v.shape) * gradient for v in variables], variables)


@pytest.mark.parametrize("verb", ["grow_", "insert_", "bridge_"])
def test_an_optimizer_of_the_users_own_goes_on(verb):
    model, _ = actor_and_critic()
    optimizer = keras.optimizers.Adam(0.01)
    for _ in range(3):
        apply(optimizer, model)
    moments = sum(float(np.abs(keras.ops.convert_to_numpy(v)).sum()) for v in optimizer.variables)
    if verb == "grow_":
        kg.grow_(model, {"trunk": 12}, seed=0)
    elif verb == "insert_":
        kg.insert_(model, layers.Dense(8, activation="relu"), after="trunk")
    else:
        kg.bridge_(model, after="trunk", before="pi", width=2, method="random", seed=0)
    kept = sum(float(np.abs(keras.ops.convert_to_numpy(v)).sum()) for v in optimizer.variables)
    np.testing.assert_allclose(kept, moments, rtol=1e-5)
    before = [keras.ops.convert_to_numpy(v).copy() for v in model.trainable_variables]
    apply(optimizer, model)
    after = [keras.ops.convert_to_numpy(v) for v in model.trainable_variables]
    assert not any(map(np.array_equal, before, after))
    assert int(optimizer.iterations) == 4


def test_an_optimizer_of_a_part_stays_one_of_that_part():
    model, _ = actor_and_critic()
    head = model.get_layer("pi").trainable_variables
    optimizer = keras.optimizers.Adam(0.01)
    optimizer.apply([keras.ops.ones(v.shape) for v in head], head)
    kg.insert_(model, layers.Dense(8, activation="relu"), after="trunk")
    optimizer.apply([keras.ops.ones(v.shape) for v in head], head)
    assert len(optimizer._trainable_variables) == len(head)


@pytest.mark.backend("tensorflow")
@pytest.mark.parametrize("verb", ["grow_", "insert_", "bridge_"])
def test_a_traced_step_and_a_traced_server_follow_the_model(verb):
    import tensorflow as tf

    model, _ = actor_and_critic()
    optimizer = model.optimizer
    x, y = tf.constant(X), tf.ones((32, 3))

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((model(x, training=True) - y) ** 2)
        optimizer.apply(tape.gradient(loss, model.trainable_variables), model.trainable_variables)
        return loss

    serve = tf.function(lambda: model(x))
    step(), serve()
    if verb == "grow_":
        kg.grow_(model, {"trunk": 12}, seed=0)
    elif verb == "insert_":
        kg.insert_(model, layers.Dense(8, activation="relu"), after="trunk")
    else:
        kg.bridge_(model, after="trunk", before="pi", width=2, method="random", seed=0)
    before = [keras.ops.convert_to_numpy(v).copy() for v in model.trainable_variables]
    losses = [float(step()) for _ in range(10)]
    assert losses[-1] < losses[0]
    after = [keras.ops.convert_to_numpy(v) for v in model.trainable_variables]
    assert not any(map(np.array_equal, before, after))
    np.testing.assert_allclose(serve(), predict(model), atol=1e-6)


@pytest.mark.backend("torch")
@pytest.mark.parametrize("verb", ["widen", "insert", "bridge"])
def test_a_copy_lists_all_its_weights_as_parameters(verb):
    model, _ = actor_and_critic()
    if verb == "widen":
        copy = kg.widen(model, {"trunk": 12}, seed=0)
    elif verb == "insert":
        copy = kg.insert(model, layers.Dense(8, activation="relu"), after="trunk")
    else:
        copy = kg.bridge(model, after="trunk", before="pi", width=2, method="random", seed=0)
    held = {id(p) for p in copy.parameters()}
    assert {id(v.value) for v in copy.variables} >= {id(v.value) for v in copy.weights}
    assert held == {id(v.value) for v in copy.variables}
