"""MobileNet, as in the paper's ImageNet experiment: pointwise convolutions grow through depthwise
convolutions, whose new kernels are the identity, BatchNormalization and relu6.
"""

import keras
import numpy as np
import pytest
from keras.applications import MobileNet, MobileNetV2

import keras_grow as kg

# Untrained weights, but statistics of real data: fresh ones hide mistakes.
RNG = np.random.default_rng(0)
X = RNG.standard_normal((16, 32, 32, 3)).astype("float32")
Y = RNG.integers(0, 10, 16)


def _model(make, **options) -> keras.Model:
    keras.utils.set_random_seed(0)
    model = make(
        input_shape=(32, 32, 3), weights=None, classes=10, classifier_activation=None, **options
    )
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.5
            layer.gamma.assign(RNG.uniform(0.5, 1.5, layer.gamma.shape))
            layer.beta.assign(0.2 * RNG.standard_normal(layer.beta.shape))
    model(X, training=True)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(1e-3), loss)
    return model


def _outputs(model: keras.Model) -> np.ndarray:
    return keras.ops.convert_to_numpy(model(X[:4], training=False))


@pytest.mark.parametrize("method", ["gradmax", "random"])
def test_pointwise_convolution(method: str) -> None:
    model = _model(MobileNet, alpha=0.25)
    layer = model.get_layer("conv_pw_3")
    width = layer.filters
    before = _outputs(model)
    wider = kg.widen(model, {"conv_pw_3": width + 5}, method, (X, Y), seed=0, form="outgoing")
    assert np.abs(_outputs(wider) - before).max() <= 1e-5 * np.abs(before).max()
    (site,) = [s for s in kg.sites(wider) if s.name == "conv_pw_3"]
    assert (site.consumers, site.width) == (("conv_pw_4",), width + 5)
    depthwise = keras.ops.convert_to_numpy(wider.get_layer("conv_dw_4").kernel)
    identity = np.zeros((3, 3, 5, 1))
    identity[1, 1] = 1.0
    np.testing.assert_array_equal(depthwise[:, :, width:], identity)
    norm = wider.get_layer("conv_dw_4_bn")
    assert np.abs(keras.ops.convert_to_numpy(norm.moving_mean)[width:]).max() == 0
    fan_out = keras.ops.convert_to_numpy(wider.get_layer("conv_pw_4").kernel)[:, :, width:]
    assert np.abs(fan_out).min() > 0


# Every kind of layer in it is grown, and trained after growth, on every backend elsewhere.
@pytest.mark.one_backend
@pytest.mark.slow
@pytest.mark.parametrize("method", ["gradmax", "random"])
def test_growth_in_fit_and_training_on(method: str) -> None:
    model = _model(MobileNetV2, alpha=0.35)
    name = "block_2_expand"
    width = model.get_layer(name).filters
    growth = kg.GrowthCallback(
        (X, Y),
        method=method,
        schedule=kg.schedules.Every(1, times=1),
        selector=kg.selectors.All(amount=4, names=[name]),
    )
    model.fit(X, Y, batch_size=16, epochs=3, verbose=0, callbacks=[growth], shuffle=False)
    (event,) = growth.events
    assert event.deviation <= 1e-5
    for layer, axis in ((name, 3), ("block_2_depthwise", 2), ("block_2_project", 2)):
        kernel = keras.ops.convert_to_numpy(model.get_layer(layer).kernel)
        assert kernel.shape[axis] == width + 4
        new = np.moveaxis(kernel, axis, 0)[width:]
        assert np.isfinite(new).all()
        assert (np.abs(new).reshape(4, -1).max(axis=1) > 0).all(), f"{layer} has dead channels"
    depthwise = keras.ops.convert_to_numpy(model.get_layer("block_2_depthwise").kernel)
    identity = np.zeros((3, 3, 1))
    identity[1, 1] = 1.0
    moved = np.abs(np.moveaxis(depthwise, 2, 0)[width:] - identity).reshape(4, -1).max(axis=1)
    assert (moved > 0).all(), "the new depthwise kernels were not trained"
