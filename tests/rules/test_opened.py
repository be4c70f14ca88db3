"""Layers that make layers of their own from their config."""

from pathlib import Path

import keras
import numpy as np
import pytest
from helpers.growing import chain, dense, inputs_of, predict, randomize
from keras import layers

import keras_grow as kg
from keras_grow.rules.opened import Inside, Width, opens


@keras.saving.register_keras_serializable("test_opened")
class Block(layers.Layer):
    """x + down(norm(up(x))), `hidden` wide inside."""

    def __init__(self, hidden: int, width: int, ratio: int = 1, **options) -> None:
        super().__init__(**options)
        self.hidden, self.width, self.ratio = hidden, width, ratio
        self.up = layers.Dense(hidden, activation="relu")
        self.norm = layers.BatchNormalization()
        self._down = layers.Dense(width)

    def build(self, shape) -> None:
        self.up.build(shape)
        self.norm.build((*shape[:-1], self.hidden))
        self._down.build((*shape[:-1], self.hidden))

    def call(self, x, training=None):
        return x + self._down(self.norm(self.up(x), training=training))

    def get_config(self):
        return {**super().get_config(), "hidden": self.hidden, "width": self.width,
                "ratio": self.ratio}  # fmt: skip


@keras.saving.register_keras_serializable("test_opened")
class Stack(layers.Layer):
    """Blocks of one inner width."""

    def __init__(self, hidden: int, width: int, count: int = 2, **options) -> None:
        super().__init__(**options)
        self.hidden, self.width, self.count = hidden, width, count
        self.blocks = [Block(hidden, width) for _ in range(count)]

    def build(self, shape) -> None:
        for block in self.blocks:
            block.build(shape)

    def call(self, x):
        for block in self.blocks:
            x = block(x)
        return x

    def get_config(self):
        return {**super().get_config(), "hidden": self.hidden, "width": self.width,
                "count": self.count}  # fmt: skip


def _set(layer, name):
    return lambda width: setattr(layer, name, width)


@opens(f"{__name__}.Block")
def _block(layer) -> Inside:
    return Inside([Width([layer.up], _set(layer, "hidden"), step=layer.ratio)])


@opens(f"{__name__}.Stack")
def _stack(layer) -> Inside:
    return Inside([Width([b.up for b in layer.blocks], _set(layer, "hidden"))])


def _kept(model, widths, path: Path, form: str = "outgoing"):
    randomize(model)
    x = inputs_of(model)
    before = predict(model, x)
    wider = kg.widen(model, widths, seed=1, form=form)
    for a, b in zip(before, predict(wider, x), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * np.abs(a).max())
    wider.save(path)
    loaded = keras.models.load_model(path)
    np.testing.assert_allclose(predict(loaded, x)[0], predict(wider, x)[0], rtol=1e-6)
    wider.compile("sgd", "mse")
    wider.fit(x, before[0] + 1, verbose=0)
    return wider


@pytest.mark.parametrize("form", ["outgoing", "inverse"])
def test_the_config_follows(form: str, tmp_path: Path) -> None:
    model = chain((4,), dense(6, "a"), Block(5, 6, name="block"), dense(2, "out"))
    wider = _kept(model, {"block/up": 8}, tmp_path / "m.keras", form)
    block = wider.get_layer("block")
    assert (block.hidden, block.up.units, block.norm.gamma.shape) == (8, 8, (8,))
    assert model.get_layer("block").hidden == 5


def test_steps_of_the_config(tmp_path: Path) -> None:
    model = chain((4,), dense(6, "a"), Block(6, 6, ratio=3, name="block"), dense(2, "out"))
    with pytest.raises(kg.GrowthError, match="steps of 3"):
        kg.widen(model, {"block/up": 8})
    _kept(model, {"block/up": 9}, tmp_path / "m.keras")


def test_widths_of_one_number_are_tied(tmp_path: Path) -> None:
    model = chain((4,), dense(6, "a"), Stack(5, 6, name="stack"), dense(2, "out"))
    (site,) = [s for s in kg.sites(model) if "stack" in s.name]
    assert site.producers == ("stack/blocks.0/up", "stack/blocks.1/up")
    wider = _kept(model, {"stack/blocks.1/up": 7}, tmp_path / "m.keras")
    stack = wider.get_layer("stack")
    assert [stack.hidden, *(b.hidden for b in stack.blocks)] == [7, 7, 7]


def test_what_the_config_cannot_say_is_refused() -> None:
    model = chain((4,), dense(6, "a"), Block(5, 6, name="block"), dense(2, "out"))
    reasons = {r.producer: r.reason for r in kg.sites(model, refused=True)}
    assert "made by Block 'block' from its config" in reasons["block/down"]
    assert "part of Block 'block'" in reasons["a"]


def test_gradmax_inside(tmp_path: Path) -> None:
    model = chain((4,), dense(6, "a"), Block(5, 6, name="block"), dense(2, "out"))
    randomize(model)
    x = inputs_of(model, samples=16)
    y = predict(model, x)[0] + 1
    model.compile("sgd", "mse")
    growth = kg.grow_(model, {"block/up": 7}, method="gradmax", data=(np.asarray(x), y))
    assert growth.sites[0].gradient_norm > 0
    assert model.get_layer("block").hidden == 7


def test_failure_puts_the_config_back() -> None:
    model = chain((4,), dense(6, "a"), Block(5, 6, name="block"), dense(2, "out"))
    block = model.get_layer("block")

    def fail(width: int) -> None:
        block.hidden = width
        raise ValueError("no")

    def inside(layer) -> Inside:
        return Inside([Width([layer.up], fail)])

    opens(f"{__name__}.Block")(inside)
    try:
        with pytest.raises(kg.GrowthError, match="undone"):
            kg.grow_(model, {"block/up": 8})
    finally:
        opens(f"{__name__}.Block")(_block)
    assert (block.hidden, block.up.units, block.up.kernel.shape) == (5, 5, (6, 5))


def test_a_layer_that_needs_numbers_stays_closed() -> None:
    @opens(f"{__name__}.Odd")
    def _odd(layer) -> Inside:
        return Inside()

    model = chain((4,), dense(6, "a"), Odd(), dense(2, "out"))
    (reason,) = [r.reason for r in kg.sites(model, refused=True) if r.producer == "a"]
    assert "class Odd" in reason


class Odd(layers.Layer):
    def call(self, x):
        if not keras.ops.is_tensor(x):
            raise TypeError("only numbers")
        return x

    def compute_output_spec(self, x):
        return keras.KerasTensor(x.shape)


@pytest.mark.slow
def test_keras_hub(tmp_path: Path) -> None:
    hub = pytest.importorskip("keras_hub")
    backbone = hub.models.ViTBackbone(
        image_shape=(16, 16, 3), patch_size=8, num_layers=2, num_heads=2, hidden_dim=8, mlp_dim=12
    )
    model = hub.models.ViTImageClassifier(
        backbone=backbone, num_classes=4, preprocessor=None, activation=None
    )
    randomize(model)
    x = inputs_of(model)
    (site,) = kg.sites(model)
    assert len(site.producers) == 2
    wider = kg.widen(model, {site.name: 15}, seed=0)
    before, after = predict(model, x)[0], predict(wider, x)[0]
    np.testing.assert_allclose(after, before, atol=1e-5 * np.abs(before).max())
