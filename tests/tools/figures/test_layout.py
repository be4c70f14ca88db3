"""The layout of any network: no two nodes in one place, edges lead down, arcs apart."""

from hypothesis import given
from hypothesis import strategies as st

from keras_grow.tools.figures.layout import arrange


@st.composite
def graphs(draw):
    """Nodes and edges: a sparse network, now and then with edges that are nonsense."""
    count = draw(st.integers(1, 30))
    edges = []
    for node in range(1, count):
        for _ in range(draw(st.integers(0, 3))):
            edges.append((draw(st.integers(max(node - 6, 0), node - 1)), node))
    wild = st.integers(-3, count + 3)
    edges += draw(st.lists(st.tuples(wild, wild), max_size=4))
    return count, edges


@given(graphs())
def test_any_graph(graph):
    count, edges = graph
    layout = arrange(count, edges)
    places = list(zip(layout.ranks, layout.lanes, strict=True))
    assert len(set(places)) == len(places) == count
    taken = {}
    drawn = set()
    for route in layout.routes:
        above, below = layout.ranks[route.source], layout.ranks[route.target]
        assert above < below
        drawn.add((route.source, route.target))
        lane = {"down": layout.lanes[route.source], "across": layout.lanes[route.target]}
        if route.way == "arc":
            assert 0 <= route.depth < layout.depths
            for start, end in taken.setdefault(route.depth, []):
                assert end <= above or below <= start
            taken[route.depth].append((above, below))
        else:
            between = [p for p in places if p[1] == lane[route.way] and above < p[0] < below]
            assert not between
    assert drawn <= set(edges)


@given(graphs())
def test_every_edge_of_a_graph_without_circles_is_drawn(graph):
    count, edges = graph
    good = {(a, b) for a, b in edges if 0 <= a < b < count}
    layout = arrange(count, good)
    assert {(r.source, r.target) for r in layout.routes} == good


def test_a_chain_stands_in_one_lane():
    layout = arrange(5, [(i, i + 1) for i in range(4)])
    assert layout.ranks == (0, 1, 2, 3, 4)
    assert set(layout.lanes) == {0}
    assert layout.depths == 0


def test_a_skip_goes_around_in_an_arc_and_a_longer_one_further_out():
    edges = [(0, 1), (1, 2), (2, 3), (3, 4), (1, 3), (0, 4)]
    arcs = {(r.source, r.target): r.depth for r in arrange(5, edges).routes if r.way == "arc"}
    assert arcs == {(1, 3): 0, (0, 4): 1}


def test_branches_share_a_lane_where_they_do_not_meet():
    # Two blocks, each with a layer beside the trunk.
    edges = [(0, 1), (1, 2), (0, 3), (2, 4), (3, 4), (4, 5), (5, 6), (4, 7), (6, 8), (7, 8)]
    layout = arrange(9, edges)
    assert layout.lanes[3] == layout.lanes[7] == 1
    assert max(layout.lanes) == 1


def test_an_input_stands_where_it_is_used():
    layout = arrange(5, [(0, 1), (1, 2), (2, 3), (4, 3)])
    assert layout.ranks[4] == 2


def test_circles_are_cut():
    layout = arrange(3, [(0, 1), (1, 2), (2, 0)])
    assert len(layout.routes) == 2
    assert sorted(layout.ranks) == [0, 1, 2]


def test_a_large_network_takes_no_time():
    count = 1500
    edges = [(i, i + 1) for i in range(count - 1)] + [(i, i + 3) for i in range(count - 3)]
    layout = arrange(count, edges)
    assert len(layout.routes) == len(edges)
    assert layout.depths <= 3
