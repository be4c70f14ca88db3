"""Several selectors in turn, a growth each."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from keras_grow.errors import GrowthError
from keras_grow.planning import Atlas, Site
from keras_grow.training.selectors.base import Occasion, Selector


class InTurn(Selector):
    """Several selectors in turn, a growth each: widening and deepening can alternate.

    One that has nothing left to grow passes its turn on to the next.

    ```python
    selector = kg.selectors.InTurn(kg.selectors.All(2), kg.selectors.Insert(make, "conv_2"))
    ```

    Raises:
        GrowthError: not at least one selector.
    """

    def __init__(self, *selectors: Selector) -> None:
        if not selectors or not all(isinstance(s, Selector) for s in selectors):
            raise GrowthError(
                "InTurn takes selectors, such as InTurn(All(2), RoundRobin(4)). "
                f"Received: {selectors!r}"
            )
        self.selectors = selectors
        self.counts = [0] * len(selectors)

    def check(self, atlas: Atlas) -> None:
        for selector in self.selectors:
            selector.check(atlas)

    def select(self, occasion: Occasion) -> Any:
        notes: list[str] = []
        for index in self._order(occasion):
            own = replace(self._own(index, occasion), notes=[])
            chosen = self.selectors[index].select(own)
            if chosen:
                self.counts[index] += 1
                occasion.notes.extend(own.notes)
                return chosen
            notes += own.notes
        occasion.notes.extend(notes)
        return None

    def considered(self, occasion: Occasion) -> dict[Site, int]:
        index = self._order(occasion)[0]
        return self.selectors[index].considered(self._own(index, occasion))

    def foreseen(self, occasion: Occasion) -> list[Any]:
        return [
            growth
            for index in self._order(occasion)[: occasion.remaining]
            for growth in self.selectors[index].foreseen(self._own(index, occasion))
        ]

    def get_state(self) -> dict[str, Any]:
        return {"counts": list(self.counts), "selectors": [s.get_state() for s in self.selectors]}

    def set_state(self, state: Mapping[str, Any]) -> None:
        self.counts = [int(n) for n in state["counts"]]
        for selector, own in zip(self.selectors, state["selectors"], strict=True):
            selector.set_state(own)

    def _order(self, occasion: Occasion) -> list[int]:
        size = len(self.selectors)
        return [(occasion.count + shift) % size for shift in range(size)]

    def _own(self, index: int, occasion: Occasion) -> Occasion:
        """The occasion as one of the selectors sees it, counting its own growths only."""
        turns = occasion.remaining and -(-occasion.remaining // len(self.selectors))
        return replace(occasion, count=self.counts[index], remaining=turns)
