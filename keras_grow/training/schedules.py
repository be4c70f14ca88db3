"""When to grow."""

from dataclasses import dataclass
from typing import Protocol

from keras_grow.errors import check_whole


class Schedule(Protocol):
    """What a schedule offers. It is asked after every training step (or block of steps)."""

    def due(self, step: int, count: int) -> bool:
        """Whether to grow now, after `step` training steps and `count` growths."""
        ...

    def remaining(self, count: int) -> int | None:
        """How many growths are still to come after `count`; None if there is no end."""
        ...


@dataclass(frozen=True)
class Every(Schedule):
    """Grow every `steps` training steps.

    Args:
        steps: training steps between growths.
        start: training steps before the first growth; `steps` if left out.
        times: how many growths; no end if left out.
    """

    steps: int
    start: int | None = None
    times: int | None = None

    def __post_init__(self) -> None:
        check_whole("steps", self.steps, 1)
        if self.start is not None:
            check_whole("start", self.start, 1)
        if self.times is not None:
            check_whole("times", self.times, 1)

    def due(self, step: int, count: int) -> bool:
        if self.times is not None and count >= self.times:
            return False
        first = self.steps if self.start is None else self.start
        return step >= first + count * self.steps

    def remaining(self, count: int) -> int | None:
        return None if self.times is None else max(self.times - count, 0)
