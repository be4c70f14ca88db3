"""What a model looked like at one time: enough to draw it, and to see which widths are tied."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Node:
    """A layer or op of the model.

    Attributes:
        path: its address, `outer/inner` inside nested models.
        kind: its class, such as "Conv2D".
        width: channels of its (first) output; None for tensors without any, such as a scalar.
        site: name of the site whose growth makes that wider; None if it cannot grow.
        parameters: numbers in its weights.
    """

    path: str
    kind: str
    width: int | None = None
    site: str | None = None
    parameters: int = 0


@dataclass(frozen=True)
class Network:
    """A graph of layers and ops.

    Attributes:
        name: of the model.
        step: training steps done when it looked like this.
        nodes: in an order in which they can run.
        edges: pairs of indices into `nodes`: what the first computes, the second reads.
    """

    name: str
    step: int
    nodes: tuple[Node, ...] = ()
    edges: tuple[tuple[int, int], ...] = field(default=(), repr=False)
