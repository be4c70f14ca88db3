"""The first step of new weights: what is foreseen is what the optimizer then does."""

import keras
import numpy as np
import pytest
from keras import layers as L

import keras_grow as kg
from keras_grow.graph.outputs import Outputs
from keras_grow.growth import first_step
from keras_grow.growth.data import Batches
from keras_grow.growth.guarded import Clock, Guard, guarded
from keras_grow.growth.step import Initialization, Request, prepared
from keras_grow.planning import survey

opt = keras.optimizers
OPTIMIZERS = {
    "SGD": lambda: opt.SGD(0.05),
    "SGD, momentum": lambda: opt.SGD(0.05, momentum=0.9),
    "SGD, Nesterov": lambda: opt.SGD(0.05, momentum=0.5, nesterov=True),
    "SGD, clipped": lambda: opt.SGD(0.05, clipnorm=0.02),
    "Adam": lambda: opt.Adam(0.01),
    "Adam, amsgrad": lambda: opt.Adam(0.01, amsgrad=True),
    "AdamW": lambda: opt.AdamW(0.01, weight_decay=0.0),
    "Nadam": lambda: opt.Nadam(0.01),
    "Adamax": lambda: opt.Adamax(0.01),
    "RMSprop": lambda: opt.RMSprop(0.01, momentum=0.5, centered=True),
    "Adagrad": lambda: opt.Adagrad(0.05),
    "Adadelta": lambda: opt.Adadelta(5.0),
    "Lion": lambda: opt.Lion(0.003),
    "a schedule": lambda: opt.SGD(opt.schedules.ExponentialDecay(0.1, 2, 0.5), momentum=0.9),
    "loss scaling": lambda: opt.LossScaleOptimizer(opt.Adam(0.01), initial_scale=4.0),
}
ADDED = 3


def numpy_of(x):
    return np.array(keras.ops.convert_to_numpy(x))


def batch():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((64, 6)).astype("float32")
    y = np.tanh(x @ rng.standard_normal((6, 4))).astype("float32")
    return x, y


def net(optimizer, normalize=False):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6,))
    x = L.Dense(5, name="p")(inputs)
    x = L.BatchNormalization()(x) if normalize else x
    model = keras.Model(inputs, L.Dense(4, name="c")(L.ReLU()(x)))
    model.compile(optimizer, "mse", jit_compile=keras.config.backend() == "jax")
    for _ in range(3):
        model.train_on_batch(*batch())
    return model


def grow(model, form, method=None):
    atlas = survey(model)
    init = Initialization(
        method or kg.methods.GradMax(), np.random.default_rng(0), form,
        Batches((*batch(), None)), kg.Slopes(),
    )  # fmt: skip
    ready = prepared(Request(atlas, {atlas.find("p"): ADDED}, init), Clock())
    return ready, guarded(ready.wider(), Guard(Outputs(atlas.graph)))


def side(model, form):
    """The kernel whose new part is zero, a row per neuron."""
    name, axis = ("p", 1) if form == "outgoing" else ("c", 0)
    return np.moveaxis(numpy_of(model.get_layer(name).kernel), axis, 0)


@pytest.mark.parametrize(
    ("name", "form"),
    [*((n, "inverse") for n in OPTIMIZERS), ("SGD, momentum", "outgoing"), ("Adam", "outgoing")],
)
def test_the_first_step_is_as_long_as_foreseen(name, form):
    model = net(OPTIMIZERS[name]())
    norm = np.linalg.norm(side(model, form), axis=1).mean()
    ready, done = grow(model, form)
    (foreseen,) = ready.choice.first_steps.values()
    before = side(model, form)
    model.train_on_batch(*batch())
    moved = np.linalg.norm(side(model, form) - before, axis=1)
    np.testing.assert_allclose(foreseen.length, moved[5:].mean(), rtol=2e-3)
    np.testing.assert_allclose(foreseen.present, moved[:5].mean(), rtol=2e-3)
    np.testing.assert_allclose(foreseen.norm, norm, rtol=1e-5)
    (record,) = done.sites
    np.testing.assert_allclose(record.first_step, moved[5:].mean() / moved[:5].mean(), rtol=4e-3)
    memory = {"SGD, momentum": 10, "SGD, Nesterov": 2, "RMSprop": 2, "a schedule": 10}.get(name, 1)
    reach = memory * moved[5:].mean() / norm
    np.testing.assert_allclose(record.first_reach, reach, rtol=2e-3)


def test_all_known_optimizers_are_tested():
    assert {n.split(",")[0] for n in OPTIMIZERS} >= set(first_step.KNOWN)


def test_what_is_not_known_is_left_out():
    _, done = grow(net(opt.Adafactor(0.01)), "inverse")
    assert done.sites[0].first_step is None
    assert done.sites[0].first_reach is None


def test_an_outgoing_growth_behind_batch_normalization_is_held_back():
    """Unbounded, the first steps would carry new fan-ins many times as far as present ones."""
    model = net(opt.SGD(0.5, momentum=0.9), normalize=True)
    outputs = numpy_of(model(batch()[0]))
    _, done = grow(model, "outgoing")
    (record,) = done.sites
    np.testing.assert_allclose(record.first_reach, first_step.FURTHEST, rtol=1e-2)
    assert any("were scaled by" in note for note in record.notes)
    assert first_step.LIFTED in record.notes
    np.testing.assert_allclose(numpy_of(model(batch()[0])), outputs, rtol=1e-4, atol=1e-5)
    fan_out = numpy_of(model.get_layer("c").kernel)
    sizes = np.linalg.norm(fan_out, axis=1)
    assert sizes[5:].max() < 0.5 * sizes[:5].mean()


def test_a_first_step_that_cannot_be_held_back_is_warned_of():
    """Adam's updates are of the size of the rate, whatever the gradient."""
    model = net(opt.Adam(0.01))
    model.optimizer.learning_rate = 1.0
    with pytest.warns(UserWarning, match=r"site 'p' will carry .* warmup="):
        _, done = grow(model, "inverse")
    assert done.sites[0].first_reach > 1


def test_small_steps_are_left_alone():
    _, done = grow(net(opt.SGD(0.01)), "outgoing")
    assert not done.sites[0].notes
    assert 0 < done.sites[0].first_reach < 1


# --- the form that is taken -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("optimizer", "normalize", "method", "form"),
    [
        (lambda: opt.SGD(0.01), False, kg.methods.GradMax(), "outgoing"),
        (lambda: opt.SGD(0.01), False, kg.methods.Random(), "outgoing"),
        (lambda: opt.SGD(0.01), True, kg.methods.GradMax(), "inverse"),
        (lambda: opt.SGD(0.01), True, kg.methods.Random(), "inverse"),
        (lambda: opt.SGD(0.01, momentum=0.9), False, kg.methods.GradMax(), "inverse"),
        (lambda: opt.SGD(0.01, momentum=0.9), False, kg.methods.Random(), "inverse"),
        (lambda: opt.Adam(0.01), False, kg.methods.Tiny(), "inverse"),
        (lambda: opt.Adam(0.01), True, kg.methods.Firefly(), "inverse"),
        (lambda: opt.Adam(0.01), False, kg.methods.Split(), "split"),
        (lambda: opt.SGD(0.01), False, kg.methods.Pursuit(), "inverse"),
    ],
)
def test_auto_takes_the_form_that_helps(optimizer, normalize, method, form):
    _, done = grow(net(optimizer(), normalize), "auto", method)
    assert done.sites[0].form == form


def test_auto_takes_the_outgoing_form_where_the_inverse_one_is_not_exact():
    inputs = keras.Input((6,))
    x = L.RMSNormalization()(L.Dense(5, name="p")(inputs))
    model = keras.Model(inputs, L.Dense(4, name="c")(x))
    model.compile("adam", "mse")
    done = kg.grow_(model, {"p": 8}, "random", batch(), seed=0, slopes=kg.Slopes())
    assert done.sites[0].form == "outgoing"


@pytest.mark.parametrize(("frozen", "form"), [("c", "outgoing"), ("p", "inverse")])
def test_half_frozen_sites_grow_in_the_form_in_which_new_neurons_learn(frozen, form):
    model = net(opt.SGD(0.05, momentum=0.9))
    model.get_layer(frozen).trainable = False
    model.compile(opt.SGD(0.05, momentum=0.9), "mse")
    done = kg.grow_(model, {"p": 8}, "gradmax", batch(), seed=0, slopes=kg.Slopes())
    assert done.sites[0].form == form
    before = side(model, form)[5:]
    assert not before.any()
    for _ in range(3):
        model.train_on_batch(*batch())
    assert np.abs(side(model, form)[5:]).max() > 1e-4


# --- statistics and old weights -------------------------------------------------------------------


def test_random_neurons_start_with_the_statistics_of_the_growth_batch():
    model = net(opt.SGD(0.01, momentum=0.9), normalize=True)
    _, done = grow(model, "auto", kg.methods.Random())
    assert done.loss is None  # nobody has computed it
    fan_in = numpy_of(model.get_layer("p").kernel)[:, 5:]
    answers = batch()[0] @ fan_in
    (norm,) = [la for la in model.layers if isinstance(la, L.BatchNormalization)]
    np.testing.assert_allclose(
        numpy_of(norm.moving_mean)[5:], answers.mean(axis=0), rtol=1e-3, atol=1e-5
    )
    np.testing.assert_allclose(
        numpy_of(norm.moving_variance)[5:], answers.var(axis=0), rtol=1e-3, atol=1e-5
    )


@pytest.mark.parametrize("normalize", [False, True])
def test_the_first_step_of_old_weights_is_not_disturbed(normalize):
    """In the inverse form: gradients by present weights are those of a model that did not grow."""
    plain, grown = (net(opt.SGD(0.05, momentum=0.9), normalize) for _ in range(2))
    grow(grown, "auto")
    for model in (plain, grown):
        model.train_on_batch(*batch())
    for before, after in zip(plain.get_weights(), grown.get_weights(), strict=True):
        kept = after[tuple(slice(n) for n in before.shape)]
        np.testing.assert_allclose(kept, before, rtol=1e-4, atol=1e-6)


def test_auto_keeps_a_stream_that_can_be_centred_as_it_is():
    """Pre-norm: the inverse form would take layer normalisations of its own for new channels."""
    inputs = keras.Input((4, 3))
    x = L.Dense(6, name="embed")(inputs)
    h = L.Dense(8, activation="gelu", name="up")(L.LayerNormalization()(x))
    x = L.Add()([x, L.Dense(6, name="down")(h)])
    x = L.GlobalAveragePooling1D()(L.LayerNormalization()(x))
    model = keras.Model(inputs, L.Dense(3)(x))
    model.compile("adam", "mse")
    layers = len(model.layers)
    done = kg.grow_(model, {"embed": 9, "up": 12}, "random", seed=0, slopes=kg.Slopes())
    assert {s.name: s.form for s in done.sites} == {"embed": "outgoing", "up": "inverse"}
    assert len(model.layers) == layers
