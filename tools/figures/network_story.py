"""What `network` draws: a run's networks as one graph, and how wide its layers were when."""

import math
import re
from dataclasses import dataclass, field

import numpy as np

from keras_grow.logs.networks import Node
from keras_grow.logs.runs import Run
from keras_grow.tools.figures.axes import changes
from keras_grow.tools.figures.widths import Widths

_NORMALIZING = re.compile(r"Normalization$|^PReLU$")
_BLOCK = re.compile(
    r"^(.*?(?:block|stage|layer|stack|module|cell|mixed|group|unit)_?\d+[a-z]?)(_\d+)?(?=[_/]|$)",
    re.IGNORECASE,
)


@dataclass
class Group:
    """A layer with what follows it and only passes its channels on.

    Attributes:
        path, kind: of the layer.
        followers: the kinds that follow.
        merges: whether it joins several, or has no weights: such are drawn thin.
    """

    path: str
    kind: str
    followers: list[str] = field(default_factory=list)
    merges: bool = False


class Story:
    """A run's networks as one graph, and how wide its layers were at each step.

    Attributes:
        groups: what is drawn.
        edges: between groups, of all versions.
        steps: 0 and all steps at which something grew.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.versions = sorted((n for n in run.networks if n.nodes), key=lambda n: n.step)
        index: dict[str, int] = {}
        nodes: list[Node] = []
        links: list[tuple[int, int]] = []
        self._links: list[set[tuple[int, int]]] = []
        for version in self.versions:
            own = []
            for node in version.nodes:
                if node.path not in index:
                    index[node.path] = len(nodes)
                    nodes.append(node)
                own.append(index[node.path])
            good = [
                (own[a], own[b])
                for a, b in version.edges
                if 0 <= a < len(own) and 0 <= b < len(own) and own[a] != own[b]
            ]
            self._links.append(set(good))
            links += good
        links = list(dict.fromkeys(links))
        self.groups, self._group_of = _folded(nodes, links)
        self._nodes_of: list[dict[str, Node]] = [
            {node.path: node for node in version.nodes} for version in self.versions
        ]
        self.edges = list(
            dict.fromkeys(
                (self._group_of[a], self._group_of[b])
                for a, b in links
                if self._group_of[a] != self._group_of[b]
            )
        )
        self.widths = Widths(run)
        grown = [g.step for g in changes(run) if g.sites]
        inserted = [v.step for v in self.versions[1:]]
        self.steps = sorted({0, *grown, *inserted})

    def version(self, step: int) -> int:
        """Number of the network as it was after what grew at `step`."""
        there = [i for i, one in enumerate(self.versions) if one.step <= step]
        return there[-1] if there else 0

    def edges_at(self, step: int) -> set[tuple[int, int]]:
        """Edges between groups in the network of that time."""
        return {
            (self._group_of[a], self._group_of[b])
            for a, b in self._links[self.version(step)]
            if self._group_of[a] != self._group_of[b]
        }

    def grows(self, path: str) -> bool:
        """Whether it could grow in any version."""
        return any(path in own and own[path].site is not None for own in self._nodes_of)

    def table(self, steps: list[int]) -> np.ndarray:
        """Channels of every group after each of `steps`, (steps, groups); NaN for none known.

        0 where a layer was not there yet.
        """
        known = set(self.widths.names)
        now = {site: self.widths.at(site, np.array(steps, float)) for site in known}
        version_of = np.array([self.version(step) for step in steps])
        table = np.zeros((len(steps), len(self.groups)))
        for version in np.unique(version_of):
            rows = version_of == version
            own, start = self._nodes_of[version], self.versions[version].step
            for column, group in enumerate(self.groups):
                node = own.get(group.path)
                if node is None:
                    continue
                table[rows, column] = math.nan if node.width is None else node.width
                if node.site in known and node.width is not None:
                    # By the site's widths, of which this may be a multiple.
                    ratio = now[node.site][rows] / (self._width(node.site, start) or math.nan)
                    ratio = np.where(np.isfinite(ratio), ratio, 1.0)
                    table[rows, column] = np.round(node.width * ratio)
        return table

    def _width(self, site: str, step: int) -> float:
        width = float(self.widths.at(site, np.array([step]))[0])
        return width if math.isfinite(width) else self.widths.first(site)


def _folded(nodes: list[Node], links: list[tuple[int, int]]) -> tuple[list[Group], list[int]]:
    """Groups of nodes, and the group of each node."""
    before: list[set[int]] = [set() for _ in nodes]
    for source, target in links:
        before[target].add(source)
    group_of = [-1] * len(nodes)
    groups: list[Group] = []

    def visit(number: int) -> int:
        # Predecessors may stand behind in the list: of layers that were inserted later.
        stack = [number]
        while stack:
            at = stack[-1]
            node, sources = nodes[at], before[at]
            passing = not node.parameters or _NORMALIZING.search(node.kind)
            if group_of[at] >= 0:
                stack.pop()
            elif passing and len(sources) == 1:
                (source,) = sources
                if group_of[source] >= 0:
                    groups[group_of[source]].followers.append(node.kind)
                    group_of[at] = group_of[source]
                    stack.pop()
                elif source in stack:  # a circle
                    groups.append(Group(node.path, node.kind, merges=True))
                    group_of[at] = len(groups) - 1
                    stack.pop()
                else:
                    stack.append(source)
            else:
                groups.append(Group(node.path, node.kind, merges=bool(passing)))
                group_of[at] = len(groups) - 1
                stack.pop()
        return group_of[number]

    for number in range(len(nodes)):
        visit(number)
    return groups, group_of


def blocks(paths: list[str]) -> list[tuple[str, int, int]]:
    """Runs of two or more layers in a row whose names say that they are one block.

    Returns:
        The block's name, and the first and the last of its layers.
    """

    def keys(path: str) -> tuple[str, str]:
        found = _BLOCK.match(path)
        if found:
            return found.group(0), found.group(1)
        folder = path.rpartition("/")[0]
        return folder, folder

    both = [keys(path) for path in paths]
    chosen: list[str] = []
    for number, (long, short) in enumerate(both):
        near = [both[i][0] for i in (number - 1, number + 1) if 0 <= i < len(both)]
        chosen.append(long if long in near else short)
    found = []
    start = 0
    for end in range(1, len(paths) + 1):
        if end == len(paths) or chosen[end] != chosen[start]:
            if chosen[start] and end - start > 1:
                found.append((chosen[start], start, end - 1))
            start = end
    return found
