"""Every layer and op of Keras has a rule or is refused by name with its reason."""

import importlib
import inspect
import pkgutil

import keras
import pytest
from helpers.growing import dense
from keras.src import ops as ops_package
from keras.src.ops.operation import Operation

import keras_grow as kg
from keras_grow.rules import refused
from keras_grow.rules.refused import RefusedRule
from keras_grow.rules.registry import find

# Not layers that stand in a graph by themselves: bases, cells, and what enters it.
NO_LAYERS = {
    "InputLayer", "InputSpec", "Layer", "Wrapper", "RNN", "GRUCell", "LSTMCell", "SimpleRNNCell",
    "StackedRNNCells",
}  # fmt: skip
# Bases of ops, and a whole graph.
NO_OPS = {"Operation", "Function"}


def _layer_classes() -> dict[str, type]:
    return {
        name: cls
        for name, cls in vars(keras.layers).items()
        if inspect.isclass(cls) and name not in NO_LAYERS
    }


def _op_names() -> set[str]:
    names = set()
    for module in pkgutil.iter_modules(ops_package.__path__):
        if module.name.endswith("_test"):
            continue
        found = vars(importlib.import_module(f"keras.src.ops.{module.name}"))
        names |= {
            name
            for name, cls in found.items()
            if inspect.isclass(cls)
            and issubclass(cls, Operation)
            and cls.__module__ == f"keras.src.ops.{module.name}"
        }
    return names - NO_OPS


def test_every_layer_has_a_rule_or_a_reason() -> None:
    missing = [name for name, cls in _layer_classes().items() if find(cls) is None]
    assert missing == []


def test_every_op_has_a_rule_or_a_reason() -> None:
    missing = sorted(name for name in _op_names() if find(f"ops.{name}") is None)
    assert missing == []


def test_reasons_are_given_for_what_exists() -> None:
    """A name that is misspelt would refuse nothing."""
    listed = {name for names in refused.OPS.values() for name in names.split()}
    assert listed <= _op_names()
    assert all(isinstance(find(f"ops.{name}"), RefusedRule) for name in listed)
    listed = {name for names in refused.LAYERS.values() for name in names.split()}
    known = [cls for cls in (getattr(keras.layers, name, None) for name in listed) if cls]
    assert len(known) > 40
    assert all(isinstance(find(cls), RefusedRule) for cls in known)


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda x: keras.layers.RandomContrast(0.1)(x), "augments the data"),
        (lambda x: keras.ops.linalg.inv(x), "treats the tensor as a matrix"),
        (lambda x: keras.ops.tril(x), "treats the tensor as a matrix"),
        (lambda x: keras.ops.conv(x, keras.ops.ones((1, 1, 4, 4)), 1), "takes its kernel from"),
        (lambda x: keras.layers.Lambda(lambda y: y)(x), "runs code of its own"),
        (lambda x: keras.ops.rms_normalization(x), "takes its scales and statistics"),
    ],
)
def test_reasons_reach_the_user(function, reason: str) -> None:
    x = keras.Input((4, 4, 4))
    model = keras.Model(x, dense(2, "b")(function(dense(4, "a")(x))))
    (refusal,) = [r for r in kg.sites(model, refused=True) if r.producer == "a"]
    assert reason in refusal.reason
    with pytest.raises(kg.GrowthError, match=reason):
        kg.widen(model, {"a": 6})
