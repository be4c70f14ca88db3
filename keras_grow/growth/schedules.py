"""When to grow."""

from dataclasses import dataclass
from typing import Protocol

from keras_grow.errors import GrowthError


class Schedule(Protocol):
    """What a schedule offers. It is asked after every training step (or block of steps)."""

    def due(self, step: int, count: int) -> bool:
        """Whether to grow now, after `step` training steps and `count` growths."""
        ...

    def remaining(self, count: int) -> int | None:
        """How many growths are still to come after `count`; None if there is no end."""
        ...


def _positive(name: str, value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise GrowthError(f"{name} must be a whole number of 1 or more. Received: {name}={value!r}")


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
        _positive("steps", self.steps)
        if self.start is not None:
            _positive("start", self.start)
        if self.times is not None:
            _positive("times", self.times)

    def due(self, step: int, count: int) -> bool:
        if self.times is not None and count >= self.times:
            return False
        first = self.steps if self.start is None else self.start
        return step >= first + count * self.steps

    def remaining(self, count: int) -> int | None:
        return None if self.times is None else max(self.times - count, 0)
