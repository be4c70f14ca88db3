"""Statistics of sites: against NumPy alone, over several batches, and without writing M down."""

import keras
import numpy as np
import pytest
from keras import layers as L

import keras_grow as kg
from keras_grow.growth.data import Batches, GrowthData
from keras_grow.growth.methods.gradmax_opt import WORSE
from keras_grow.growth.methods.pursuit import climb
from keras_grow.growth.scores import Scores
from keras_grow.growth.statistics import Recording, gradients, measure
from keras_grow.planning import make_plan, survey


def given_weights(model, seed=0):
    rng = np.random.default_rng(seed)
    for variable in model.trainable_variables:
        variable.assign(rng.standard_normal(variable.shape) * 0.5)
    model.compile("sgd", "mse")
    x = rng.standard_normal((24, *model.input_shape[1:])).astype("float32")
    y = rng.standard_normal((24, *model.output_shape[1:])).astype("float32")
    return model, x, y


def mlp():
    inputs = keras.Input((7,))
    x = L.Dense(4, activation="relu", name="a")(inputs)
    return given_weights(keras.Model(inputs, L.Dense(3, name="b")(x)))


def convs():
    x = inputs = keras.Input((6, 6, 2))
    x = L.Conv2D(4, 3, padding="same", activation="relu", name="a")(x)
    x = L.Conv2D(5, 3, padding="same", activation="tanh", name="b")(x)
    return given_weights(keras.Model(inputs, L.Dense(3)(L.Flatten()(x))))


def site_of(model, x, y, batches=None, **options):
    atlas = survey(model)
    plan = make_plan(atlas, {atlas.find("a"): 2})
    found = measure(plan, Recording(plan, **options), batches or Batches((x, y, None)))
    return found.sites[plan.sites[0]], found


def test_m_is_what_numpy_says_on_every_backend():
    model, x, y = mlp()
    w1, b1, w2, b2 = model.get_weights()
    gradient = 2 * (np.maximum(x @ w1 + b1, 0) @ w2 + b2 - y) / y.size
    found, measured = site_of(model, x, y)
    np.testing.assert_allclose(found.matrix, x.T @ gradient, atol=1e-6)
    np.testing.assert_allclose(found.top(2)[0], np.linalg.svd(x.T @ gradient)[1], rtol=1e-5)
    assert measured.loss == pytest.approx(float((gradient**2).sum()) * y.size / 4, rel=1e-5)


def test_second_moment_and_what_present_kernels_cannot_do():
    model, x, y = mlp()
    w1, b1, w2, b2 = model.get_weights()
    hidden = np.maximum(x @ w1 + b1, 0)
    gradient = 2 * (hidden @ w2 + b2 - y) / y.size
    found, _ = site_of(model, x, y, inputs=True)
    np.testing.assert_allclose(found.second_moment(), x.T @ x / len(x), rtol=1e-4, atol=1e-5)
    rest = gradient - hidden @ np.linalg.lstsq(hidden, gradient, rcond=None)[0]
    np.testing.assert_allclose(found.unexplained().matrix, x.T @ rest, atol=1e-5)
    assert np.linalg.norm(x.T @ rest) < 0.95 * np.linalg.norm(x.T @ gradient)


@pytest.mark.parametrize("build", [mlp, convs])
def test_several_batches_are_the_mean_over_their_samples(build):
    model, x, y = build()
    whole, _ = site_of(model, x, y)
    parts = GrowthData((x, y), batch_size=10, seed=0)  # 10, 10 and 4 samples
    atlas = survey(model)
    summed, measured = site_of(model, x, y, parts.batches(0, atlas.graph, None))
    assert (measured.batches, measured.samples) == (3, 24)
    np.testing.assert_allclose(summed.matrix, whole.matrix, atol=1e-5)
    fan_in = np.random.default_rng(1).standard_normal((2, whole.shape[0]))
    np.testing.assert_allclose(
        summed.finite(fan_in).value, whole.finite(fan_in).value, rtol=1e-4, atol=1e-6
    )
    three = GrowthData((x, y), batch_size=8, seed=0).batches(0, atlas.graph, 3)
    assert site_of(model, x, y, three)[1].samples == 24


def test_batches_beyond_what_is_kept_are_summed_up_and_the_method_says_so(monkeypatch):
    from keras_grow.growth.statistics import measuring as streaming

    monkeypatch.setattr(streaming, "KEPT_BYTES", 1)
    model, x, y = mlp()
    whole, _ = site_of(model, x, y)
    parts = GrowthData((x, y), batch_size=8, seed=0)
    summed, measured = site_of(model, x, y, parts.batches(0, survey(model).graph, None))
    assert len(measured.records) == 1
    assert not summed.exact
    np.testing.assert_allclose(summed.matrix, whole.matrix, atol=1e-5)
    done = kg.grow_(model, {"a": 6}, "gradmaxopt", data=(x, y), seed=0, form="inverse")
    assert done.sites[0].notes == [WORSE]
    monkeypatch.setattr(GrowthData, "__init__", _of_eight(GrowthData.__init__))
    done = kg.grow_(model, {"a": 8}, "gradmaxopt", data=(x, y), form="inverse", batches=None)
    assert "some of the growth batches" in done.sites[0].notes[0]


def _of_eight(init):
    return lambda self, data, batch_size, seed: init(self, data, 8, seed)


@pytest.mark.parametrize("build", [mlp, convs])
def test_products_with_m_do_without_m(build, monkeypatch):
    model, x, y = build()
    dense, _ = site_of(model, x, y)
    values, _ = dense.top(2)
    rng = np.random.default_rng(1)
    fan_in, fan_out = (rng.standard_normal((2, n)) for n in dense.shape)
    monkeypatch.setattr(gradients, "DENSE", 0)
    free, _ = site_of(model, x, y)
    np.testing.assert_allclose(free.linear(fan_in), dense.linear(fan_in), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(
        free.by_fan_in(fan_out), dense.by_fan_in(fan_out), rtol=1e-4, atol=1e-6
    )
    found, directions = free.top(2)
    assert "matrix" not in free.__dict__
    np.testing.assert_allclose(found[:2], values[:2], rtol=1e-3)
    gain = np.linalg.norm(dense.by_fan_in(directions))
    assert gain >= 0.999 * np.linalg.norm(values[:2])


def test_scores_of_sites_and_of_present_weights():
    model, x, y = mlp()
    w1, b1, w2, b2 = model.get_weights()
    hidden = np.maximum(x @ w1 + b1, 0)
    gradient = 2 * (hidden @ w2 + b2 - y) / y.size
    atlas = survey(model)
    site = atlas.find("a")
    scores = Scores(atlas, Batches((x, y, None)))
    spectrum = scores.spectra({site: 2})[site]
    best = np.linalg.svd(x.T @ gradient)[1]
    norm = np.linalg.norm(w2, axis=1).mean()
    assert spectrum.gradient_norm(2) == pytest.approx(norm * np.linalg.norm(best[:2]), rel=1e-4)
    back = gradient @ w2.T * (hidden > 0)
    kernels = np.linalg.norm(x.T @ back) ** 2 + np.linalg.norm(hidden.T @ gradient) ** 2
    assert scores.gradient_norm(site) == pytest.approx(np.sqrt(kernels), rel=1e-4)
    biases = np.linalg.norm(back.sum(0)) ** 2 + np.linalg.norm(gradient.sum(0)) ** 2
    assert scores.gradient_norm() == pytest.approx(np.sqrt(kernels + biases), rel=1e-4)
    assert scores.skipped == {}


def test_what_is_new_of_a_channel_and_of_the_gradient_beside_chosen_ones():
    model, x, y = mlp()
    w1, b1, w2, b2 = model.get_weights()
    hidden = np.maximum(x @ w1 + b1, 0)
    gradient = 2 * (hidden @ w2 + b2 - y) / y.size
    found, _ = site_of(model, x, y, inputs=True)
    rng = np.random.default_rng(3)
    fan_in, chosen = rng.standard_normal((2, 7)), rng.standard_normal((1, 7))

    def rest_of(values, *present):
        present = np.concatenate(present, axis=1)
        return values - present @ np.linalg.lstsq(present, values, rcond=None)[0]

    new = np.maximum(x @ fan_in.T, 0)
    novelty = found.novelty(fan_in)
    np.testing.assert_allclose(novelty.value[:, 0], (rest_of(new, hidden) ** 2).sum(0), rtol=1e-3)
    left = found.unexplained().unexplained(chosen)
    beside = np.maximum(x @ chosen.T, 0)
    np.testing.assert_allclose(left.matrix, x.T @ rest_of(gradient, hidden, beside), atol=1e-4)
    np.testing.assert_allclose(
        left.novelty(fan_in).value[:, 0], (rest_of(new, hidden, beside) ** 2).sum(0), rtol=1e-3
    )
    step = 1e-2 * rng.standard_normal(fan_in.shape)
    ahead, behind = (found.novelty(fan_in + s * step).value.sum() for s in (1, -1))
    slope = (novelty.pull(np.ones((2, 1))) * step).sum()
    np.testing.assert_allclose((ahead - behind) / 2, slope, rtol=0.05)


def test_pursuit_climbs_and_takes_what_is_left():
    model, x, y = mlp()
    found, _ = site_of(model, x, y, inputs=True)
    left = found.unexplained()
    start = np.random.default_rng(0).standard_normal((6, 7))
    start /= np.linalg.norm(start, axis=1, keepdims=True)
    _, before = climb(left, start, 1.0, 0)
    at, after = climb(left, start, 1.0, 15)
    assert (after >= before).all()
    assert after.max() > 1.2 * before.max()
    np.testing.assert_allclose(np.linalg.norm(at, axis=1), 1)
    done = kg.grow_(model, {"a": 7}, "pursuit", data=(x, y), seed=0)
    assert done.sites[0].form == "inverse"
    new = model.get_layer("a").get_weights()[0][:, 4:].T
    new = new / np.linalg.norm(new, axis=1, keepdims=True)
    # Each explains something else; behind relu the opposite direction is another neuron.
    assert (new @ new.T - np.eye(3)).max() < 0.9


@pytest.mark.parametrize("form", ["outgoing", "inverse"])
@pytest.mark.parametrize("method", ["tiny", "pursuit", "firefly"])
def test_several_batches_are_one(method, form):
    """Where all that present neurons explain is fitted over all of them, not batch by batch."""
    chosen = []
    for size, batches in ((len(mlp()[1]), 1), (8, None)):
        model, x, y = mlp()
        data = ((x[i : i + size], y[i : i + size]) for i in range(0, len(x), size))
        done = kg.grow_(model, {"a": 6}, method, data=data, seed=0, form=form, batches=batches)
        weights = model.get_layer("a").get_weights()[0], model.get_layer("b").get_weights()[0]
        chosen.append([done.sites[0].singular_values, weights[0][:, 4:], weights[1][4:]])
    for one, many in zip(*chosen, strict=True):
        np.testing.assert_allclose(many, one, rtol=2e-2, atol=2e-3)
