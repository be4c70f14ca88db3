"""Puts activations with an explicit slope at zero in place, and the user's own back."""

from typing import Any

from keras_grow import _keras
from keras_grow.graph import Call
from keras_grow.rules import activations


class Slopes:
    """The activations replaced so far, so that all can be put back.

    While an explicit form is in place it has the plain one's name, so a model saved meanwhile is
    the user's own model.
    """

    def __init__(self) -> None:
        self._replaced: dict[int, tuple[Any, Any]] = {}

    def __len__(self) -> int:
        return len(self._replaced)

    def install(self, call: Call) -> None:
        """Gives the activation of `call` its explicit slope; does nothing where it has one."""
        op = call.op
        if id(op) in self._replaced:
            return
        if _keras.has_own_activation(op):
            facts = activations.at_zero(op.activation)
            if facts is None or facts.explicit is None:
                return
            # Where a fit that ended in an error left an explicit form, its plain one is meant.
            self._replaced[id(op)] = (op, activations.plain(op.activation))
            op.activation = facts.explicit
        else:
            explicit = activations.explicit_call(call)
            if explicit is None:
                return
            self._replaced[id(op)] = (op, None)
            op.call = explicit

    def helps(self, call: Call) -> bool:
        """Whether `install` gives new channels a slope at this call, or has done so."""
        if _keras.has_own_activation(call.op):
            facts = activations.at_zero(call.op.activation)
            return facts is not None and facts.explicit is not None
        return id(call.op) in self._replaced or activations.explicit_call(call) is not None

    def remove(self, keep: "frozenset[int] | set[int]" = frozenset()) -> list[Any]:
        """Puts the plain activations back, except for ops whose id is in `keep`."""
        restored = []
        for key, (op, plain) in list(self._replaced.items()):
            if key in keep:
                continue
            if plain is None:
                _keras.remove_instance_call(op)
            else:
                op.activation = plain
            restored.append(op)
            del self._replaced[key]
        return restored

    @property
    def ops(self) -> frozenset[int]:
        return frozenset(self._replaced)
