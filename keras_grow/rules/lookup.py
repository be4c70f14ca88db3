"""From a layer or op to its rule. Classes are looked up exactly: a subclass may do anything."""

from typing import Any

import keras

from keras_grow import _keras
from keras_grow.graph import Call
from keras_grow.rules import base
from keras_grow.rules.base import Rule, Space


class Unknown(Rule):
    """Refuses whatever reaches it, by class name."""

    def flow(self, call: Call, inputs: list, space: Space) -> list:
        if any(x is not None for x in inputs):
            kind = type(call.op)
            what = "layer" if isinstance(call.op, keras.layers.Layer) else "op"
            hint = "; keras_grow.register_rule teaches one" if what == "layer" else ""
            space.refuse(
                call,
                inputs,
                f"is a {what} of class {kind.__name__}, for which there is no rule{hint}",
            )
        return [None] * len(call.outputs)


_UNKNOWN = Unknown()


class Mixing(Unknown):
    """A known layer or op that no rule can make exact."""

    def __init__(self, reason: str) -> None:
        self.reason = reason

    def flow(self, call: Call, inputs: list, space: Space) -> list:
        if any(x is not None for x in inputs):
            space.refuse(call, inputs, self.reason)
        return [None] * len(call.outputs)


def rule_for(op: Any) -> Rule:
    key = type(op) if isinstance(op, keras.layers.Layer) else _keras.op_kind(op)
    return base.find(key) or _UNKNOWN


def has_rule(op: Any) -> bool:
    return rule_for(op) is not _UNKNOWN
