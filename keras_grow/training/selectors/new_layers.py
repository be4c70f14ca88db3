"""New layers and bridges at scheduled times, and selectors in turn."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from keras_grow import _keras
from keras_grow.errors import GrowthError, check_flag, check_whole
from keras_grow.graph.places import edge
from keras_grow.growth import methods
from keras_grow.planning import Atlas
from keras_grow.surgery.bridging import known_bridge
from keras_grow.surgery.building import NewBridge
from keras_grow.training.selectors.base import Occasion, Selector


@dataclass(frozen=True)
class NewLayer:
    """A layer to be inserted as the identity, as `keras_grow.insert_` does it."""

    make: Callable[[int], Any]
    number: int
    after: str
    before: str | None
    branch: bool


class Insert(Selector):
    """New layers, one a growth, each as the identity where it is put.

    ```python
    deeper = kg.selectors.Insert(
        lambda number: keras.layers.Conv2D(16, 3, padding="same", activation="relu"),
        after=["conv_1", "conv_2"],
    )
    ```

    Args:
        make: a function of the number of the insertion (0, 1, ...) that returns a fresh layer or
            model.
        after: the layer behind which the new one is put, as for `keras_grow.insert`; or a list
            of layers, for one growth each. They are layers that the model has when `fit` begins.
        before, branch: as for `keras_grow.insert`.

    Raises:
        GrowthError: arguments that do not fit; in `fit`, no such edge in the model, or a layer
            that cannot be the identity there.
    """

    def __init__(
        self,
        make: Callable[[int], Any],
        after: str | Sequence[str],
        before: str | None = None,
        branch: bool = False,
    ) -> None:
        if not callable(make) or hasattr(make, "weights"):
            raise GrowthError(
                "make must be a function of the insertion's number that returns a fresh layer, "
                "such as lambda number: keras.layers.Dense(8). A layer can be inserted only once. "
                f"Received: make={make!r}"
            )
        check_flag("branch", branch)
        self.make = make
        if not isinstance(after, Sequence):
            raise GrowthError(f"after must name one layer or several. Received: after={after!r}")
        self.after = [after] if isinstance(after, str) else list(after)
        if not self.after or not all(isinstance(name, str) for name in self.after):
            raise GrowthError(f"after must name one layer or several. Received: after={after!r}")
        self.before = before
        self.branch = branch
        self.done = 0

    def check(self, atlas: Atlas) -> None:
        for after in self.after[self.done :]:
            edge(atlas.graph.model, after, self.before)

    def select(self, occasion: Occasion) -> NewLayer | None:
        if self.done >= len(self.after):
            return None
        number = self.done
        self.done += 1
        return NewLayer(self.make, number, self.after[number], self.before, self.branch)

    def get_state(self) -> dict[str, Any]:
        return {"done": self.done}

    def set_state(self, state: Mapping[str, Any]) -> None:
        self.done = int(state["done"])


class Bridge(Selector):
    """A bridge from one layer's output into another's pre-activation; later growths widen it.

    Args:
        after, before, width, activation: as for `keras_grow.bridge`.
        method: how its weights are chosen; the callback's method if left out.
        times: how often; no end if left out.

    Raises:
        GrowthError: arguments that do not fit; in `fit`, no bridge is possible there.
    """

    def __init__(
        self,
        after: str,
        before: str,
        width: int = 8,
        activation: Any = "relu",
        method: Any = None,
        times: int | None = None,
    ) -> None:
        check_whole("width", width, 1)
        if times is not None:
            check_whole("times", times, 1)
        self.after = after
        self.before = before
        self.width = width
        self.activation = activation
        self.method = None if method is None else methods.get(method)
        self.times = times
        self.done = 0

    def check(self, atlas: Atlas) -> None:
        known_bridge(atlas.graph.model, self._new, _keras.Living())

    def select(self, occasion: Occasion) -> NewBridge | None:
        if self.times is not None and self.done >= self.times:
            return None
        self.done += 1
        return self._new

    def foreseen(self, occasion: Occasion) -> list[NewBridge]:
        return [self._new] if self.times is None or self.done < self.times else []

    @property
    def _new(self) -> NewBridge:
        return NewBridge(self.after, self.before, self.width, self.activation, self.method)

    def get_state(self) -> dict[str, Any]:
        return {"done": self.done}

    def set_state(self, state: Mapping[str, Any]) -> None:
        self.done = int(state["done"])
