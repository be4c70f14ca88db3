"""Which rule answers for a layer or op: the one register of them, and the way to look there.

Keys are layer classes and kinds of ops ("ops.Einsum"). Classes are looked up exactly: a subclass
may do anything.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import keras

from keras_grow import _keras
from keras_grow.errors import GrowthError
from keras_grow.graph import Call
from keras_grow.rules.base import Rule
from keras_grow.rules.space import Space

_RULES: dict[Any, Rule] = {}
_CUSTOM: set[type] = set()

T = TypeVar("T")


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

# --- looking up --------------------------------------------------------------------------------


def find(key: Any) -> Rule | None:
    """The rule of a layer class or a kind of op, if it has one."""
    return _RULES.get(key)


def rule_for(op: Any) -> Rule:
    """The rule of a layer or op; where there is none, one that refuses all channels."""
    key = type(op) if isinstance(op, keras.layers.Layer) else _keras.op_kind(op)
    return find(key) or _UNKNOWN


def has_rule(op: Any) -> bool:
    return rule_for(op) is not _UNKNOWN


def is_custom(op: Any) -> bool:
    """Whether the rule of a layer was registered by the user."""
    return type(op) in _CUSTOM


# --- registering -------------------------------------------------------------------------------


def register(*keys: Any) -> Callable[[T], T]:
    """Decorator: a rule answers for the given layer classes and kinds of ops.

    It may be a `Rule` subclass, of which an object is made, a `Rule` object, or a function that
    does what `Rule.flow` does. What was registered before under the same key is replaced.

    Raises:
        GrowthError: something that is no rule.
    """

    def enter(rule: T) -> T:
        _RULES.update(dict.fromkeys(keys, _as_rule(rule)))
        return rule

    return enter


def register_rule(*classes: type, replace: bool = False) -> Callable[[T], T]:
    """Teaches keras_grow how channels pass a layer of your own.

    ```python
    @kg.register_rule(ChannelGain)
    class ChannelGainRule(kg.rules.PerChannel):
        weights = {"gain": 1.0}
    ```

    Prove the rule with `keras_grow.testing.run_growth_test`.

    Args:
        classes: layer classes. Subclasses are not meant: each may do something else.
        replace: whether a class that has a rule already gets this one.

    Returns:
        A decorator for a `Rule` subclass, a `Rule` object, or a function that does what
        `Rule.flow` does: `function(call, inputs, space) -> outputs`.

    Raises:
        GrowthError: not a layer class, a class that has a rule, or something that is no rule.
    """
    for cls in classes:
        if not (isinstance(cls, type) and issubclass(cls, keras.layers.Layer)):
            raise GrowthError(
                "register_rule takes classes of layers, as in @keras_grow.register_rule(MyLayer). "
                f"Received: {cls!r}."
            )
        known = find(cls)
        if known is not None and not replace:
            raise GrowthError(
                f"The layer class {cls.__name__} has a rule already "
                f"({type(known).__name__}). To put yours in its place, write "
                f"register_rule({cls.__name__}, replace=True)."
            )
    if not classes:
        raise GrowthError("register_rule needs at least one layer class. Received: none.")

    def decorate(rule: T) -> T:
        register(*classes)(rule)
        _CUSTOM.update(classes)
        return rule

    return decorate


def _as_rule(rule: Any) -> Rule:
    if isinstance(rule, Rule):
        return rule
    if isinstance(rule, type) and issubclass(rule, Rule):
        return rule()
    if callable(rule) and not isinstance(rule, type):
        return _Function(rule)
    raise GrowthError(
        "A rule is a subclass of keras_grow.rules.Rule, an object of one, or a function "
        f"(call, inputs, space) -> outputs. Received: {rule!r}."
    )


class _Function(Rule):
    def __init__(self, function: Callable) -> None:
        self.function = function

    def flow(self, call: Call, inputs: list, space: Space) -> list:
        return self.function(call, inputs, space)
