"""Rules for layers of the user's own: `register_rule`, and the harness that proves them."""

from collections.abc import Iterator
from pathlib import Path

import keras
import pytest
from helpers.growing import chain, dense
from keras import layers, ops

import keras_grow as kg
from keras_grow.rules import registry
from keras_grow.testing import run_growth_test


@keras.saving.register_keras_serializable("tests.custom")
class Gain(layers.Layer):
    def build(self, shape):
        self.gain = self.add_weight(shape=(shape[-1],), initializer="ones", name="gain")

    def call(self, x):
        return x * self.gain


@keras.saving.register_keras_serializable("tests.custom")
class Shifted(Gain):
    """Not what `Gain` is: a zero does not stay a zero."""

    def call(self, x):
        return x * self.gain + 1.0


@keras.saving.register_keras_serializable("tests.custom")
class Cosine(layers.Layer):
    """A projection with a made-up name for everything."""

    def __init__(self, width, **options):
        super().__init__(**options)
        self.width = width
        self.squash = keras.activations.tanh

    def build(self, shape):
        self.matrix = self.add_weight(shape=(shape[-1], self.width), name="matrix")
        self.offset = self.add_weight(shape=(self.width,), name="offset")

    def call(self, x):
        return self.squash(ops.matmul(x, self.matrix) + self.offset)

    def compute_output_shape(self, shape):
        return (*shape[:-1], self.width)

    def get_config(self):
        return {**super().get_config(), "width": self.width}


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    yield
    for cls in (Gain, Shifted, Cosine):
        registry._RULES.pop(cls, None)


def test_a_class_rule(tmp_path: Path) -> None:
    model = chain((5,), dense(4, "a"), Gain(), dense(2, "b"))
    assert "register_rule" in kg.sites(model, refused=True)[0].reason

    @kg.register_rule(Gain)
    class GainRule(kg.rules.PerChannel):
        weights = {"gain": 1.0}  # noqa: RUF012

    run_growth_test(model, {"a": 7}, tmp_path)


def test_a_projection(tmp_path: Path) -> None:
    @kg.register_rule(Cosine)
    class CosineRule(kg.rules.Projection):
        kernel, bias, units, activation = "matrix", "offset", "width", "squash"

    model = chain((5, 3), Cosine(4, name="a"), Cosine(6, name="b"), dense(2, "c"))
    grown = run_growth_test(model, {"a": 7, "b": 8}, tmp_path)
    assert [grown.get_layer(n).width for n in "ab"] == [7, 8]


def test_a_function(tmp_path: Path) -> None:
    @kg.register_rule(Gain)
    def flow(call, inputs, space):
        (x,) = inputs
        if x is not None:
            space.carry(call, call.op.gain, 0, x, 1.0)
        return [x]

    run_growth_test(chain((5,), dense(4, "a"), Gain(), dense(2, "b")), {"a": 7}, tmp_path)


def test_a_wrong_rule_is_found_out(tmp_path: Path) -> None:
    @kg.register_rule(Shifted)
    class Wrong(kg.rules.PerChannel):
        weights = {"gain": 1.0}  # noqa: RUF012

    model = chain((5,), dense(4, "a"), Shifted(), dense(2, "b"))
    with pytest.raises((AssertionError, kg.GrowthError), match=r"differ|Your own rule for Shifted"):
        run_growth_test(model, {"a": 7}, tmp_path)


def test_a_rule_that_knows_its_zeros(tmp_path: Path) -> None:
    @kg.register_rule(Shifted)
    class Right(kg.rules.PerChannel):
        weights = {"gain": 1.0}  # noqa: RUF012
        keeps_zero = False

    run_growth_test(chain((5,), dense(4, "a"), Shifted(), dense(2, "b")), {"a": 7}, tmp_path)


def test_what_is_no_layer_or_no_rule_is_said() -> None:
    with pytest.raises(kg.GrowthError, match="Received: 3"):
        kg.register_rule(3)
    with pytest.raises(kg.GrowthError, match="at least one"):
        kg.register_rule()
    with pytest.raises(kg.GrowthError, match=r"Dense has a rule already .*replace=True"):
        kg.register_rule(layers.Dense)
    with pytest.raises(kg.GrowthError, match="A rule is a subclass"):
        kg.register_rule(Gain)("gain")
    with pytest.raises(kg.GrowthError, match="A rule is a subclass"):
        kg.register_rule(Gain)(dict)
    assert registry.find(Gain) is None


def test_a_rule_can_be_replaced() -> None:
    kg.register_rule(Gain)(kg.rules.PerChannel)
    kg.register_rule(Gain, replace=True)(kg.rules.Projection())
    assert isinstance(registry.find(Gain), kg.rules.Projection)


def test_a_projection_without_the_activation_of_its_rule_is_refused() -> None:
    class Bare(kg.rules.Projection):
        kernel, bias, units = "matrix", None, "width"

    kg.register_rule(Cosine, replace=True)(Bare())
    model = chain((3,), Cosine(4, name="a"), dense(2, "b"))
    reasons = {r.producer: r.reason for r in kg.sites(model, refused=True)}
    assert "has no attribute 'activation'" in reasons["a"]
    assert "activation = None" in reasons["a"]
