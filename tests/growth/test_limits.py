"""What growth by gradients says where it comes to a limit, and how it sees several batches."""

import keras
import numpy as np
import pytest
from helpers.growing import assert_close, predict, randomize
from keras import layers as L

import keras_grow as kg
from keras_grow.growth.data import Batches
from keras_grow.growth.statistics import Recording, measure
from keras_grow.planning import make_plan, survey


def rng():
    return np.random.default_rng(0)


def model_of(body, shape=(7,), outputs=3, **options):
    inputs = keras.Input(shape, **options)
    model = keras.Model(inputs, L.Dense(outputs, name="c")(body(inputs)))
    randomize(model)
    model.compile(keras.optimizers.SGD(0.1), "mse")
    return model


def dense(activation="relu", **options):
    return L.Dense(4, activation=activation, name="p", **options)


def data(samples=24, shape=(7,), outputs=3):
    own = rng()
    return tuple(own.standard_normal((samples, *s)).astype("float32") for s in (shape, (outputs,)))


def moved(model, names, step):
    """By how much the kernels of layers change in a training step."""
    before = [np.array(keras.ops.convert_to_numpy(model.get_layer(n).kernel)) for n in names]
    step()
    after = [np.array(keras.ops.convert_to_numpy(model.get_layer(n).kernel)) for n in names]
    return [a - b for a, b in zip(after, before, strict=True)]


# --- several batches ------------------------------------------------------------------------------


def measured(model, batches):
    atlas = survey(model)
    plan = make_plan(atlas, {atlas.find("p"): 2})
    found = measure(plan, Recording(plan), batches)
    return found, found.sites[plan.sites[0]]


def image(x):
    return L.Flatten()(L.Conv2D(4, 3, activation="relu", name="p")(x))


@pytest.mark.parametrize(("body", "shape"), [(dense(), (7,)), (image, (6, 6, 2))])
def test_several_batches_are_one_large_one(body, shape):
    """Even where the last one is smaller: a mean over samples, not over batches."""
    model = model_of(body if body is image else dense(), shape)
    x, y = data(23, shape)
    whole, one = measured(model, Batches((x, y, None)))
    cuts = [slice(0, 8), slice(8, 16), slice(16, 23)]
    parts = [(x[c], y[c], None) for c in cuts]
    found, several = measured(model, Batches(parts[0], parts[1:]))
    assert (found.batches, found.samples, whole.batches) == (3, 23, 1)
    np.testing.assert_allclose(found.loss, whole.loss, rtol=1e-5)
    scale = np.abs(one.matrix).max()
    np.testing.assert_allclose(several.matrix, one.matrix, atol=1e-5 * scale)
    np.testing.assert_allclose(several.top(2)[0], one.top(2)[0], rtol=1e-4, atol=1e-5 * scale)
    fan_in = rng().standard_normal((2, one.shape[0]))
    exact, summed = (g.finite(fan_in).value for g in (one, several))
    np.testing.assert_allclose(summed, exact, atol=1e-5 * np.abs(exact).max())
    moment = one.second_moment()
    np.testing.assert_allclose(several.second_moment(), moment, atol=1e-5 * np.abs(moment).max())


class Ones:
    """Batches in an order of their own, again and again."""

    def __init__(self, batches):
        self.batches = batches

    def __iter__(self):
        return iter(self.batches)


@pytest.mark.parametrize("batches", [3, None])
def test_several_batches_choose_what_one_large_one_does(batches):
    x, y = data(24)
    ones = [(x[a : a + 8], y[a : a + 8]) for a in (0, 8, 16)]
    done = []
    for source, count in ((Ones(ones), batches), ((x, y), 1)):
        model = model_of(dense())
        growth = kg.grow_(
            model, {"p": 6}, method="gradmax", data=source, seed=0, slopes=kg.Slopes(),
            batches=count,
        )  # fmt: skip
        done.append((growth, np.array(keras.ops.convert_to_numpy(model.get_layer("c").kernel))))
    (several, kernel), (one, expected) = done
    np.testing.assert_allclose(several.loss, one.loss, rtol=1e-5)
    np.testing.assert_allclose(
        several.sites[0].gradient_norm, one.sites[0].gradient_norm, rtol=1e-4
    )
    np.testing.assert_allclose(kernel, expected, atol=1e-4)


def test_all_the_data_of_a_function_has_no_end():
    x, y = data()
    with pytest.raises(kg.DataError, match=r"batches=None.*no end.*batches=N.*Received: function"):
        kg.grow_(model_of(dense()), {"p": 6}, method="gradmax", data=lambda: (x, y), batches=None)


# --- limits ---------------------------------------------------------------------------------------


def test_more_neurons_than_rank():
    """Targets with one column: M is of rank one for a consumer of one unit."""
    model = model_of(dense(), outputs=1)
    before = predict(model, data()[0])
    done = kg.grow_(
        model, {"p": 9}, method="gradmax", data=data(outputs=1), seed=0, slopes=kg.Slopes()
    )
    (site,) = done.sites
    assert site.rank == 1
    assert site.width_after == 9
    assert_close(predict(model, data()[0]), before, 1e-5, "beyond the rank")
    fan_out = np.array(keras.ops.convert_to_numpy(model.get_layer("c").kernel))[4:]
    np.testing.assert_allclose(np.abs(fan_out), np.abs(fan_out[0, 0]), rtol=1e-5)


@pytest.mark.parametrize("method", ["gradmax", "gradmaxopt", "tiny", "firefly", "pursuit"])
@pytest.mark.parametrize(
    ("activation", "form"),
    [("tanh_shrink", "auto"), ("tanh_shrink", "outgoing"), ("soft_shrink", "outgoing")],
)
def test_no_slope_at_zero(activation, form, method):
    """tanh_shrink(x) = x - tanh(x): the outgoing form has no gradient, the inverse form has."""
    x, y = data()
    model = model_of(dense(activation))
    options = {"method": method, "data": (x, y), "seed": 0, "form": form, "slopes": kg.Slopes()}
    if method == "tiny":  # which needs M in every form
        with pytest.raises(kg.GrowthError, match=r"site 'p' cannot.*slope 0 at 0.*random"):
            kg.grow_(model, {"p": 6}, **options)
        assert model.get_layer("p").units == 4
        return
    # The form is taken in which it learns.
    done = kg.grow_(model, {"p": 6}, **options)
    assert done.sites[0].form == "inverse"
    noted = "the inverse form was taken: zero fan-ins have no gradient here"
    assert (noted in done.sites[0].notes) == (form == "outgoing")
    assert done.sites[0].gradient_norm > 0
    (fan_out,) = moved(model, ["c"], lambda: model.train_on_batch(x, y))
    assert (np.abs(fan_out[4:]).max(axis=1) > 0).all()


@pytest.mark.parametrize("activation", ["sigmoid", "softplus"])
@pytest.mark.parametrize("method", ["gradmax", "gradmaxopt", "tiny", "firefly", "random"])
def test_neurons_that_are_not_zero_at_zero(activation, method):
    """f(0) of a new neuron goes into the consumer's bias, or its fan-out is zero."""
    model = model_of(dense(activation))
    x, y = data()
    before = predict(model, x)
    done = kg.grow_(model, {"p": 6}, method=method, data=(x, y), seed=0, slopes=kg.Slopes())
    assert_close(predict(model, x), before, 1e-5, activation)
    form = done.sites[0].form
    kernels = moved(model, ["p", "c"], lambda: model.train_on_batch(x, y))
    zero = kernels[0].T if form == "outgoing" else kernels[1]
    assert (np.abs(zero[4:]).max(axis=1) > 0).all()
    if done.sites[0].gradient_norm is not None:
        np.testing.assert_allclose(
            np.linalg.norm(zero[4:]) / 0.1, done.sites[0].gradient_norm, rtol=1e-2
        )


@pytest.mark.parametrize("method", ["gradmax", "random"])
def test_the_outgoing_form_that_cannot_be_had_is_noted(method):
    x, y = data()
    noted = "the inverse form was taken: zero fan-ins have a value that is not zero here"
    for form, notes in (("auto", []), ("outgoing", [noted])):
        model = model_of(dense("sigmoid"))
        done = kg.grow_(model, {"p": 6}, method, (x, y), seed=0, form=form, slopes=kg.Slopes())
        assert done.sites[0].form == "inverse"
        assert done.sites[0].notes == notes


@pytest.mark.parametrize("method", ["gradmax", "random", "tiny", "split"])
@pytest.mark.parametrize("frozen", ["p", "c"])
def test_frozen_layers_grow_and_stay_frozen(frozen, method):
    model = model_of(dense())
    model.get_layer(frozen).trainable = False
    model.compile(keras.optimizers.SGD(0.1), "mse")
    x, y = data()
    before = predict(model, x)
    done = kg.grow_(model, {"p": 6}, method=method, data=(x, y), seed=0, slopes=kg.Slopes())
    assert done.report.preserved
    assert_close(predict(model, x), before, 1e-5, frozen)
    own = dict(zip("pc", moved(model, "pc", lambda: model.train_on_batch(x, y)), strict=True))
    assert not own[frozen].any()
    assert own["p" if frozen == "c" else "c"].any()


@pytest.mark.parametrize("method", ["gradmax", "gradmaxopt", "tiny", "firefly", "split"])
def test_dropout_between(method):
    """The pass runs as training does, dropout included, and leaves its seeds as they were."""
    model = model_of(lambda x: L.Dropout(0.5, seed=3)(dense()(x)))
    x, y = data()
    seeds = [np.array(keras.ops.convert_to_numpy(v)) for v in model.non_trainable_variables]
    before = predict(model, x)
    done = kg.grow_(model, {"p": 6}, method=method, data=(x, y), seed=0, slopes=kg.Slopes())
    assert_close(predict(model, x), before, 1e-5, method)
    after = [np.array(keras.ops.convert_to_numpy(v)) for v in model.non_trainable_variables]
    for a, b in zip(seeds, after, strict=True):
        np.testing.assert_array_equal(a, b)
    if method != "split":
        assert done.sites[0].gradient_norm > 0


def sequences(samples=12, length=6):
    """Words and targets that are zero wherever a sequence has ended."""
    own = rng()
    x = own.integers(1, 9, (samples, length)).astype("int32")
    for row, end in zip(x, own.integers(2, length + 1, samples), strict=True):
        row[end:] = 0
    return x, own.standard_normal((samples, 3)).astype("float32")


def reading(x):
    return L.Dense(4, activation="tanh", name="p")(x)


MASKED = {
    "LSTM that reads": lambda x: L.LSTM(4)(reading(x)),
    "GRU": lambda x: L.GRU(4, name="p")(x),
    "mean over time": lambda x: L.GlobalAveragePooling1D()(reading(x)),
}


def masked(case, after_the_end):
    """A model with a mask; words after the end of a sequence have this embedding."""
    inputs = keras.Input((6,), dtype="int32")
    x = L.Embedding(9, 5, mask_zero=True, name="words")(inputs)
    model = keras.Model(inputs, L.Dense(3, name="c")(MASKED[case](x)))
    randomize(model)
    table = np.array(keras.ops.convert_to_numpy(model.get_layer("words").embeddings))
    table[0] = after_the_end
    model.get_layer("words").embeddings.assign(table)
    model.compile("sgd", "mse")
    return model


@pytest.mark.parametrize(
    ("case", "method"),
    [
        *[(case, method) for case in MASKED for method in ("split", "random")],
        *[("mean over time", method) for method in ("gradmax", "gradmaxopt", "firefly")],
    ],
)
def test_masks(case, method):
    """Steps that a mask leaves out say nothing: other words there change no new weight."""
    x, y = sequences()
    grown = []
    for after_the_end in (0.0, 3.0):
        model = masked(case, after_the_end)
        before = predict(model, x)
        kg.grow_(model, {"p": 6}, method=method, data=(x, y), seed=0, slopes=kg.Slopes())
        assert_close(predict(model, x), before, 1e-5, case)
        weights = [(w.path, keras.ops.convert_to_numpy(w)) for w in model.weights]
        grown.append([np.array(w) for path, w in weights if "words" not in path])
    for a, b in zip(*grown, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-3 * np.abs(b).max())


@pytest.mark.parametrize("method", ["gradmax", "tiny"])
@pytest.mark.parametrize("case", ["LSTM that reads", "GRU"])
def test_gradients_of_recurrent_kernels_are_refused(case, method):
    model = masked(case, 0.0)
    with pytest.raises(kg.GrowthError, match=r"site 'p' cannot be computed.*(LSTM|GRU).*random"):
        kg.grow_(model, {"p": 6}, method=method, data=sequences(), seed=0)
    assert model.get_layer("p").units == 4


@pytest.mark.parametrize("method", ["gradmax", "gradmaxopt", "tiny", "firefly", "pursuit"])
def test_a_consumer_that_sees_new_neurons_as_something_else_than_zero(method):
    """Behind the sigmoid they are 0.5: that consumer cannot read them yet, the other one can."""

    def two_readers(x):
        x = dense("linear")(x)
        return L.Add()(
            [L.Dense(3, name="a")(L.ReLU()(x)), L.Dense(3, name="b")(L.Activation("sigmoid")(x))]
        )

    model = model_of(two_readers)
    x, y = data()
    before = predict(model, x)
    done = kg.grow_(
        model, {"p": 6}, method=method, data=(x, y), form="outgoing", slopes=kg.Slopes()
    )
    assert done.sites[0].gradient_norm > 0
    assert_close(predict(model, x), before, 1e-5, method)
    assert keras.ops.convert_to_numpy(model.get_layer("a").kernel)[4:].any()
    assert not keras.ops.convert_to_numpy(model.get_layer("b").kernel)[4:].any()


def test_pursuit_counts_chosen_neurons_as_present_in_a_separable_consumer():
    """What they explain is gone for the next ones, so the fan-ins are not the same."""

    def body(x):
        x = L.Conv2D(3, 1, activation="relu", name="p")(x)
        return L.Flatten()(L.SeparableConv2D(2, 3, depth_multiplier=2, padding="same")(x))

    model = model_of(body, (4, 4, 2))
    x, y = data(24, (4, 4, 2))
    before = predict(model, x)
    kg.grow_(model, {"p": 6}, method="pursuit", data=(x, y), seed=0, slopes=kg.Slopes())
    assert_close(predict(model, x), before, 1e-5, "pursuit")
    fan_in = np.array(keras.ops.convert_to_numpy(model.get_layer("p").kernel))[0, 0, :, 3:]
    fan_in /= np.linalg.norm(fan_in, axis=0)
    assert (fan_in.T @ fan_in - np.eye(3)).max() < 0.95


@pytest.mark.parametrize("form", ["outgoing", "inverse"])
@pytest.mark.parametrize("method", ["gradmax", "gradmaxopt", "tiny", "firefly", "pursuit"])
def test_gradients_of_grouped_kernels_are_refused(method, form):
    def grouped(x):
        x = L.Conv2D(6, 2, groups=2, activation="relu", name="p")(x)
        return L.GlobalAveragePooling2D()(x)

    model = model_of(grouped, (5, 5, 4))
    with pytest.raises(kg.GrowthError, match=r"site 'p' cannot be computed.*groups=2.*random"):
        kg.grow_(model, {"p": 8}, method=method, data=data(8, (5, 5, 4)), form=form)
    assert model.get_layer("p").filters == 6


@pytest.mark.backend("tensorflow", "jax")
def test_sparse_inputs():
    """Kernels of layers that read them have no gradients here; random growth works."""
    model = model_of(dense(), sparse=True)
    x, y = data()
    before = predict(model, x)
    done = kg.grow_(model, {"p": 6}, method="random", seed=0)
    assert done.sites[0].width_after == 6
    assert_close(predict(model, x), before, 1e-5, "sparse")
    kg.grow_(model, {"p": 8}, method="gradmax", data=(x, y), seed=0)
    assert_close(predict(model, x), before, 1e-5, "dense data for a sparse input")


def test_samples_of_different_lengths_are_refused():
    model = model_of(lambda x: L.GRU(4, name="p")(x), shape=(None, 2))
    ragged = np.empty(2, dtype=object)
    ragged[0], ragged[1] = np.zeros((3, 2)), np.zeros((4, 2))
    with pytest.raises(kg.DataError, match=r"does not fit input.*Received"):
        kg.grow_(model, {"p": 6}, method="gradmax", data=(ragged, np.zeros((2, 3))), seed=0)


# TensorFlow's l2_normalize has a finite gradient at zero.
@pytest.mark.backend("torch", "jax")
@pytest.mark.parametrize(("mode", "form"), [("columns", "outgoing"), ("rows", "inverse")])
def test_a_penalty_without_a_gradient_at_zero_is_refused(mode, form):
    """Else the next step would make all weights NaN."""
    keras.utils.set_random_seed(0)
    penalty = keras.regularizers.OrthogonalRegularizer(0.01, mode=mode)
    own, theirs = (penalty, None) if mode == "columns" else (None, penalty)
    inputs = keras.Input((8,))
    hidden = keras.layers.Dense(5, activation="relu", kernel_regularizer=own, name="a")(inputs)
    after = keras.layers.Dense(4, kernel_regularizer=theirs, name="b")(hidden)
    model = keras.Model(inputs, after)
    model.compile("sgd", "mse")
    before = model.get_weights()
    layer, slopes = ("a" if own else "b"), kg.Slopes()
    with pytest.raises(kg.GrowthError, match=f"OrthogonalRegularizer.*layer '{layer}'"):
        kg.grow_(model, {"a": 7}, "random", seed=0, form=form, slopes=slopes)  # as in fit
    for old, now in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, now)
    kg.grow_(model, {"a": 7}, "split", seed=0)  # no zeros there
    assert np.isfinite(model.evaluate(np.ones((4, 8)), np.ones((4, 4)), verbose=0))
