import keras
import numpy as np
import pytest

from keras_grow import zoo
from keras_grow.zoo import registry


def test_every_model_builds_and_every_data_set_feeds_one():
    assert zoo.models() == sorted(zoo.models())
    assert {"convnet", "wide_resnet", "teacher_student_small"} <= set(zoo.models())
    assert {"digits", "teacher_student_large", "teacher_student_conv"} <= set(zoo.datasets())
    models = {name: zoo.build(name) for name in zoo.models()}
    for name, data in [(n, n) for n in zoo.datasets() if n in models] + [("convnet", "digits")]:
        (x, _), (x_test, _) = zoo.load_data(data)
        assert x.shape[1:] == x_test.shape[1:] == models[name].input_shape[1:]


@pytest.mark.parametrize("name", zoo.models())
def test_models_are_functional_and_of_stock_keras_layers(name):
    model = zoo.build(name)
    assert isinstance(model, keras.Model)
    assert not model.compiled
    for layer in model.layers:
        assert type(layer).__module__.startswith("keras.")


# The config is the same everywhere; JAX would compile every initializer, seconds each.
@pytest.mark.backend("torch")
@pytest.mark.parametrize("name", zoo.models())
def test_models_can_be_rebuilt_from_their_config(name):
    model = zoo.build(name)
    copy = model.__class__.from_config(model.get_config())
    assert [w.path for w in copy.weights] == [w.path for w in model.weights]
    assert [w.shape for w in copy.weights] == [w.shape for w in model.weights]


@pytest.mark.parametrize("name", zoo.models())
def test_the_seed_decides_the_initial_weights(name):
    first, again, other = (zoo.build(name, seed=seed).get_weights() for seed in (3, 3, 4))
    assert all((a == b).all() for a, b in zip(first, again, strict=True))
    kernels = [(a, c) for a, c in zip(first, other, strict=True) if a.ndim > 1]
    assert all((a != c).any() for a, c in kernels)
    # Layers of one shape do not start from the same numbers either.
    of_shape = {a.shape: a for a, _ in kernels}
    assert all(a is of_shape[a.shape] or (a != of_shape[a.shape]).any() for a, _ in kernels)


@pytest.mark.parametrize("name", zoo.models())
def test_initial_kernels_are_what_their_initializer_draws(name):
    """Ranges and variances of `keras.initializers`, and a config that names the initializer."""
    checked = 0
    for layer in zoo.build(name, seed=0).layers:
        if not hasattr(layer, "kernel"):
            continue
        kernel = keras.ops.convert_to_numpy(layer.kernel)
        fan_in, fan_out = kernel[..., 0].size, kernel[..., 0, :].size
        if type(layer.kernel_initializer) is keras.initializers.HeNormal:
            variance, limit = 2 / fan_in, 2 * np.sqrt(2 / fan_in) / 0.8796
        else:
            assert type(layer.kernel_initializer) is keras.initializers.GlorotUniform
            variance, limit = 2 / (fan_in + fan_out), np.sqrt(6 / (fan_in + fan_out))
        assert layer.get_config()["kernel_initializer"]["class_name"] in (
            "HeNormal",
            "GlorotUniform",
        )
        assert 0.8 * limit < np.abs(kernel).max() < 1.001 * limit
        # Of n draws the variance is known to about sqrt(2 / n).
        assert kernel.var() == pytest.approx(variance, rel=5 * np.sqrt(2 / kernel.size))
        checked += 1
    assert checked >= 2


@pytest.mark.every_backend
def test_initial_weights_are_the_same_on_every_backend():
    first = zoo.build("teacher_student_small", seed=0).get_weights()[0][0, :3]
    np.testing.assert_allclose(first, [0.13419449, -0.22556204, -0.44975227], rtol=1e-5)
    first = zoo.build("convnet", seed=0).get_weights()[0].ravel()[:3]
    np.testing.assert_allclose(first, [0.0673807, -0.07079697, 0.34321207], rtol=1e-5)


@pytest.mark.every_backend
def test_without_a_seed_keras_seed_decides():
    def weights():
        return zoo.build("convnet", width=2).get_weights()[0]

    keras.utils.set_random_seed(1)
    first, second = weights(), weights()
    assert (first != second).any()
    keras.utils.set_random_seed(1)
    np.testing.assert_array_equal(weights(), first)


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(zoo.ZooError, match=r"no model named 'convnett'. Did you mean 'convnet'\?"):
        zoo.build("convnett")
    with pytest.raises(ValueError, match=r"no data set named 'digit'. Did you mean 'digits'\?"):
        zoo.load_data("digit")
    with pytest.raises(zoo.ZooError, match=r"It has convnet, .*Received: name='zzz'"):
        zoo.build("zzz")


def test_an_unknown_option_is_answered_with_the_nearest():
    with pytest.raises(zoo.ZooError, match=r"no option 'dept'. Did you mean 'depth'\?.*dept=28"):
        zoo.build("wide_resnet", dept=28)
    with pytest.raises(zoo.ZooError, match="Its options are seed, test_fraction"):
        zoo.load_data("digits", shuffle=True)


def test_users_register_their_own(monkeypatch):
    monkeypatch.setattr(registry, "_MODELS", dict(registry._MODELS))
    monkeypatch.setattr(registry, "_DATASETS", dict(registry._DATASETS))

    @zoo.register_model("mine")
    def mine(width=2, **options):
        return keras.Sequential([keras.Input((3,)), keras.layers.Dense(width, **options)])

    zoo.register_data("mine")(lambda: "data")
    assert zoo.build("mine", width=4, use_bias=False).count_params() == 12
    assert zoo.load_data("mine") == "data"
    assert "mine" in zoo.models()
    assert "mine" in zoo.datasets()
    with pytest.raises(zoo.ZooError, match="already has a model named 'mine'"):
        zoo.register_model("mine")(mine)
