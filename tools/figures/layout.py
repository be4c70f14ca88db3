"""Places for the nodes of a network: ranks downwards, lanes from left to right, skips in arcs.

The longest path of the network is its trunk and stands in lane 0. What branches off stands in the
next lane to the right that is free there. An edge that jumps over nodes of its own lane goes
around them in an arc on the left, the longer the further out, as residual networks are drawn.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Route:
    """How an edge goes.

    Attributes:
        source, target: nodes.
        way: "down" in the lanes of its ends, bending just before its target; "across" bending
            right behind its source; "arc" around on the left.
        depth: of an arc: 0 is next to the trunk.
    """

    source: int
    target: int
    way: str
    depth: int = 0


@dataclass(frozen=True)
class Layout:
    """Where nodes stand and edges go.

    Attributes:
        ranks: row of each node, 0 on top; every edge leads to a greater one.
        lanes: column of each node, 0 the trunk; no two nodes have the same rank and lane.
        routes: of the edges; those that close a circle are left out.
        depths: how many arcs lie beside each other at most.
    """

    ranks: tuple[int, ...]
    lanes: tuple[int, ...]
    routes: tuple[Route, ...]
    depths: int


def arrange(count: int, edges: Iterable[tuple[int, int]]) -> Layout:
    """The layout of a graph of `count` nodes.

    Args:
        edges: pairs of indices; such as are no nodes, and all after the first that would close a
            circle, are left out.
    """
    kept = _without_circles(count, edges)
    order, edges = kept.order, kept.edges
    before: list[list[int]] = [[] for _ in range(count)]
    after: list[list[int]] = [[] for _ in range(count)]
    for source, target in edges:
        before[target].append(source)
        after[source].append(target)
    ranks = [0] * count
    for node in order:
        ranks[node] = max((ranks[one] + 1 for one in before[node]), default=0)
    for node in reversed(order):  # an input that is used late stands where it is used
        if not before[node] and after[node]:
            ranks[node] = max(min(ranks[one] for one in after[node]) - 1, 0)
    lanes = _lanes(order, before, after, ranks)
    held: dict[int, list[int]] = {}
    for node in range(count):
        held.setdefault(lanes[node], []).append(ranks[node])

    def free(lane: int, above: int, below: int) -> bool:
        return not any(above < rank < below for rank in held.get(lane, ()))

    routes, around = [], []
    for source, target in edges:
        above, below = ranks[source], ranks[target]
        if free(lanes[source], above, below):
            routes.append(Route(source, target, "down"))
        elif free(lanes[target], above, below):
            routes.append(Route(source, target, "across"))
        else:
            around.append((source, target))
    around.sort(key=lambda e: (ranks[e[1]] - ranks[e[0]], ranks[e[0]]))
    taken: list[list[tuple[int, int]]] = []
    for source, target in around:
        above, below = ranks[source], ranks[target]
        # Around all arcs that lie within it, and beside those that it overlaps.
        depth = 0
        for number, arcs in enumerate(taken):
            if any(above <= start and end <= below for start, end in arcs):
                depth = number + 1
        while len(taken) <= depth:
            taken.append([])
        while any(above < end and start < below for start, end in taken[depth]):
            depth += 1
            if depth == len(taken):
                taken.append([])
        taken[depth].append((above, below))
        routes.append(Route(source, target, "arc", depth))
    return Layout(tuple(ranks), tuple(lanes), tuple(routes), len(taken))


@dataclass
class _Sorted:
    order: list[int] = field(default_factory=list)
    edges: list[tuple[int, int]] = field(default_factory=list)


def _without_circles(count: int, edges: Iterable[tuple[int, int]]) -> _Sorted:
    """An order in which every kept edge leads forward."""
    valid = [
        (a, b) for a, b in dict.fromkeys(edges) if 0 <= a < count and 0 <= b < count and a != b
    ]
    after: list[list[int]] = [[] for _ in range(count)]
    waiting = [0] * count
    for a, b in valid:
        after[a].append(b)
        waiting[b] += 1
    ready = [node for node in range(count - 1, -1, -1) if not waiting[node]]
    place: dict[int, int] = {}
    left = 0
    while len(place) < count:
        if not ready:  # in a circle: begin with the first node that is left
            while left in place:
                left += 1
            ready.append(left)
        node = ready.pop()
        if node in place:
            continue
        place[node] = len(place)
        for one in reversed(after[node]):
            waiting[one] -= 1
            if waiting[one] == 0 and one not in place:
                ready.append(one)
    order = sorted(place, key=place.__getitem__)
    return _Sorted(order, [(a, b) for a, b in valid if place[a] < place[b]])


def _lanes(
    order: Sequence[int],
    before: Sequence[Sequence[int]],
    after: Sequence[Sequence[int]],
    ranks: Sequence[int],
) -> list[int]:
    """A lane for every node: chains that do not meet share one."""
    lanes = [-1] * len(order)
    spans: list[list[tuple[int, int]]] = []
    left = list(order)
    while left:
        chain = _longest(left, after, lanes)
        first, last = chain[0], chain[-1]
        # Down to what it leads to, and up to where it comes from, the lane is its edges'.
        top = min([ranks[first], *(max(ranks[one] + 1, 0) for one in before[first])])
        bottom = max([ranks[last], *(ranks[one] - 1 for one in after[last])])
        lane = 0
        for lane in range(len(spans) + 1):
            if lane == len(spans):
                spans.append([])
            if not any(top <= end and start <= bottom for start, end in spans[lane]):
                break
        spans[lane].append((top, bottom))
        for node in chain:
            lanes[node] = lane
        left = [node for node in left if lanes[node] < 0]
    return lanes


def _longest(
    left: Sequence[int], after: Sequence[Sequence[int]], lanes: Sequence[int]
) -> list[int]:
    """The longest path over nodes that have no lane yet; of equals the one that begins first."""
    length: dict[int, int] = {}
    following: dict[int, int] = {}
    for node in reversed(left):
        length[node] = 1
        for one in after[node]:
            if lanes[one] < 0 and length[one] + 1 > length[node]:
                length[node], following[node] = length[one] + 1, one
    node = max(left, key=length.__getitem__)
    chain = [node]
    while node in following:
        node = following[node]
        chain.append(node)
    return chain
