"""Keras objects in memory that may hold a part of a model, found through the garbage collector.

Keras keeps no register of them: a sub-model built on the same tensors, another compiled model over
the same layers or an `EarlyStopping` that waits to restore weights is known to nobody but the user.
"""

import gc
import sys
import weakref
from collections.abc import Iterable
from typing import Any

import keras
from keras.src.ops.function import Function

from keras_grow._keras.graph import all_nodes, functional_of, sublayers
from keras_grow._keras.optimizers import optimizer_variables


class Living:
    """What there is in memory beside one model. A surgery looks once and hands this value down.

    The heap, of half a million objects with a backend imported, is walked when something is first
    asked for. What was found is not kept alive by it.

    Args:
        stoppings: the `EarlyStopping` callbacks, where they are known; the walk is spared then if
            nothing else is asked for.
    """

    def __init__(self, stoppings: Iterable[Any] | None = None) -> None:
        self._stoppings = None if stoppings is None else list(stoppings)
        self._seen: list[weakref.ref] | None = None

    @classmethod
    def within(cls, model: Any) -> "Living":
        """Of a copy just made, which nobody can hold yet: the model itself and those inside it."""
        found = cls(stoppings=[])
        models = [below for below in sublayers(model) if isinstance(below, keras.Model)]
        graphs = [functional_of(below) for below in models]
        every = {id(o): o for o in [*models, *graphs] if o is not None}
        found._seen = [weakref.ref(o) for o in every.values()]
        return found

    def look_again(self) -> None:
        """Forgets what was found, for instance after a collection."""
        self._seen = None

    def _objects(self) -> list[Any]:
        if self._seen is None:
            self._seen = [weakref.ref(o) for o in _heap.look()]
        return [o for o in (ref() for ref in self._seen) if o is not None]

    @property
    def models(self) -> list[Any]:
        """Every Keras model."""
        return [o for o in self._objects() if isinstance(o, keras.Model)]

    @property
    def graphs(self) -> list[Any]:
        """Every functional graph."""
        found = [o for o in self._objects() if isinstance(o, Function)]
        return [f for f in found if "_nodes_by_depth" in vars(f)]

    @property
    def optimizers(self) -> list[Any]:
        """Every built optimizer, those inside of others included."""
        found = [o for o in self._objects() if isinstance(o, keras.optimizers.Optimizer)]
        return [o for o in found if getattr(o, "built", False)]

    @property
    def traced(self) -> list[Any]:
        """Every function that TensorFlow traces."""
        classes = _traced_classes()
        return [o for o in self._objects() if type(o) in classes] if classes else []

    @property
    def stoppings(self) -> list[Any]:
        """Every `EarlyStopping` callback."""
        if self._stoppings is not None:
            return self._stoppings
        return [o for o in self._objects() if isinstance(o, keras.callbacks.EarlyStopping)]

    def using(self, layers: Iterable[Any]) -> list[Any]:
        """Built models that contain one of `layers` now."""
        wanted = {id(layer) for layer in layers}
        found = []
        for candidate in self.models if wanted else ():
            if not getattr(candidate, "built", False):
                continue
            try:
                below = sublayers(candidate)
            except AttributeError:  # a model whose __init__ has not finished
                continue
            if any(id(layer) in wanted for layer in below):
                found.append(candidate)
        return found

    def training(self, variables: Iterable[Any]) -> list[Any]:
        """Built optimizers that train one of `variables`, whoever holds them."""
        wanted = {id(v) for v in variables}
        return [o for o in self.optimizers if any(id(v) in wanted for v in optimizer_variables(o))]

    def watching(self, model: Any) -> list[Any]:
        """The `EarlyStopping` callbacks that watch a model."""
        return [c for c in self.stoppings if getattr(c, "_model", None) is model]

    def readers_of(self, tensor: Any) -> list[Any]:
        """The calls that read a symbolic tensor, in any graph."""
        found: dict[int, Any] = {}
        for functional in self.graphs:
            for node in all_nodes(functional):
                if any(tensor is t for t in node.input_tensors):
                    found[id(node)] = node
        return list(found.values())


def _of_keras(objects: list[Any]) -> list[Any]:
    bases = (keras.Model, Function, keras.optimizers.Optimizer, keras.callbacks.EarlyStopping)
    classes = set[type]().union(*(_subclasses(base) for base in bases))
    classes |= _traced_classes()
    return [o for o in objects if type(o) in classes]


def _traced_classes() -> set[type]:
    """The class of what `@tf.function` makes, if TensorFlow is in use."""
    module = sys.modules.get("tensorflow.python.eager.polymorphic_function.polymorphic_function")
    return set() if module is None else {module.Function}


class _Heap:
    """Keras objects in memory, those included that `gc.freeze` has put out of sight.

    After a freeze they are looked for once, by lifting it for a moment. A list that this keeps
    tells whether there was a new one: it would be out of sight too.
    """

    def __init__(self) -> None:
        self.frozen: list[weakref.ref] = []
        self.mark: list = []

    def look(self) -> list[Any]:
        objects = gc.get_objects()
        if gc.get_freeze_count() and not any(o is self.mark for o in objects):
            gc.unfreeze()
            gc.collect()  # or garbage would be kept for ever
            objects = gc.get_objects()
            gc.freeze()
            self.frozen = [weakref.ref(o) for o in _of_keras(objects)]
            self.mark = []
        held = [o for o in (ref() for ref in self.frozen) if o is not None]
        return list({id(o): o for o in [*held, *_of_keras(objects)]}.values())


_heap = _Heap()


def _subclasses(cls: type) -> set[type]:
    found: set[type] = {cls}
    direct: list[type] = cls.__subclasses__()
    for below in direct:
        found |= _subclasses(below)
    return found


def early_stoppings(callback: Any) -> list:
    """The `EarlyStopping` callbacks of the `fit` that `callback` takes part in.

    Keras gives a callback no way to the others, so the lists it stands in are looked for.
    """
    lists = [holder for holder in gc.get_referrers(callback) if isinstance(holder, list)]
    found = {id(c): c for holder in lists for c in holder}
    return [c for c in found.values() if isinstance(c, keras.callbacks.EarlyStopping)]
