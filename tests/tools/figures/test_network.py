"""The drawn network: its layers, widths, colours and frames."""

import numpy as np
import pytest
from helpers.synthetic import mobilenet, synthetic_run, wide_resnet

from keras_grow.logs.networks import Network, Node
from keras_grow.logs.runs import Run
from keras_grow.tools import figures
from keras_grow.tools.figures.network import (
    _COLORS,
    _EARLIER,
    _NEW,
    _NOW,
    _row_text,
)
from keras_grow.tools.figures.network_story import _folded, blocks


def trace(figure, what):
    (found,) = [one for one in figure.data if one.meta and one.meta["what"] == what]
    return found


def in_frame(figure, step):
    """The layers of one frame by path: width, added, colour."""
    (frame,) = [one for one in figure.frames if one.name == str(step)]
    bars = frame.data[0]
    paths = trace(figure, "layers").meta["paths"]
    return {
        path: (width, added, color)
        for path, (width, added), color in zip(
            paths, bars.customdata.tolist(), bars.marker.color.tolist(), strict=True
        )
    }


@pytest.mark.parametrize(
    ("network", "groups", "thin"), [(wide_resnet(), 41, 13), (mobilenet(), 64, 11)]
)
def test_what_only_passes_channels_on_is_drawn_with_its_layer(network, groups, thin):
    found, group_of = _folded(list(network.nodes), list(network.edges))
    assert len(found) == groups
    assert sum(one.merges for one in found) == thin  # the input and the Adds
    assert len(group_of) == len(network.nodes)
    told = {one.path: one.followers for one in found}
    if "block_1_expand" in told:
        assert told["block_1_expand"] == ["BatchNormalization", "ReLU", "ZeroPadding2D"]


def rectangles(figure):
    bars = trace(figure, "layers")
    return np.stack(
        [bars.base, bars.base + bars.x, bars.y - bars.width / 2, bars.y + bars.width / 2]
    )


@pytest.mark.parametrize("name", ["mlp", "wide_resnet", "mobilenet"])
def test_no_two_layers_overlap(name):
    run = synthetic_run(network=name, sites=None if name != "mlp" else 6)
    left, right, low, high = rectangles(figures.network(run)).astype(float)
    across = (left[:, None] < right - 1e-9) & (left < right[:, None] - 1e-9)
    down = (low[:, None] < high - 1e-9) & (low < high[:, None] - 1e-9)
    assert (across & down).sum() == len(left)  # each only itself


def test_lines_lead_down():
    run = synthetic_run(network="wide_resnet", sites=None)
    edges = trace(figures.network(run), "edges")
    ends = np.flatnonzero(np.isnan(edges.x))
    start = 0
    for end in ends:
        assert (np.diff(edges.y[start:end]) <= 1e-9).all()
        assert edges.y[end - 1] < edges.y[start]
        start = end + 1
    assert len(ends) == edges.meta["count"] == 52


def test_bars_are_as_long_as_the_root_of_the_width():
    run = synthetic_run(events=4, sites=4)
    bars = trace(figures.network(run), "layers")
    widths = bars.customdata[:, 0]
    np.testing.assert_allclose(bars.x / bars.x.max(), np.sqrt(widths / widths.max()), rtol=1e-5)


def test_every_growth_has_a_frame_with_its_widths_and_colours():
    run = synthetic_run(events=5, sites=4)
    figure = figures.network(run)
    assert [frame.name for frame in figure.frames] == ["0", "200", "400", "600", "800", "1000"]
    assert [step.label for step in figure.layout.sliders[0].steps][-1] == "1,000"
    widths = {f"dense_{i}": 8 for i in range(1, 5)}
    for growth in run.growths:
        grown = {site.name: site for site in run.sites[growth.step]}
        shown = in_frame(figure, growth.step)
        for name in widths:
            width, added, color = shown[name]
            if name in grown:
                widths[name] = grown[name].width_after
                assert color == _NOW
                assert added == grown[name].width_after - grown[name].width_before
            else:
                assert added == 0
                assert color != _NOW
                assert (color == _EARLIER) == (widths[name] > 8)
            assert width == widths[name]
    assert figure.layout.meta["steps"] == [0, 200, 400, 600, 800, 1000]


def test_without_a_slider_one_step_is_shown():
    run = synthetic_run(events=5, sites=4)
    figure = figures.network(run, step=600, slider=False)
    assert not figure.frames
    assert not figure.layout.sliders
    with_slider = in_frame(figures.network(run), 600)
    bars = trace(figure, "layers")
    assert bars.customdata[:, 0].tolist() == [width for width, _, _ in with_slider.values()]
    assert bars.marker.color.tolist() == [color for _, _, color in with_slider.values()]


def test_between_growths_nothing_is_marked_as_grown():
    run = synthetic_run(events=3, sites=3)
    bars = trace(figures.network(run, step=250, slider=False), "layers")
    assert _NOW not in bars.marker.color
    assert bars.customdata[:, 1].tolist() == [0] * len(bars.y)


def test_a_new_layer_appears_and_takes_over_its_edge():
    run = synthetic_run(events=4, sites=3, trouble=("insert",))
    figure = figures.network(run)
    assert in_frame(figure, 400)["inserted"][0] == 0
    assert in_frame(figure, 600)["inserted"][2] == _NEW
    lines = {frame.name: np.isnan(frame.data[3].x).sum() for frame in figure.frames}
    assert lines["600"] == lines["400"] + 1
    labels = {
        frame.name: [t for t in frame.data[2].text if "inserted" in t] for frame in figure.frames
    }
    assert labels["400"] == []
    assert "<b>new</b>" in labels["600"][0]


def test_tied_layers_grow_together():
    run = synthetic_run(events=3, network="wide_resnet", sites=None)
    shown = in_frame(figures.network(run), 600)
    stem = shown["stem"]
    for name in ("block1_1_conv2", "block1_4_conv2", "block1_1_add"):
        assert shown[name] == stem


def test_widths_that_are_multiples_keep_their_ratio():
    nodes = (Node("a", "Dense", 4, "a", 10), Node("b", "Flatten2", 36, "a", 1))
    run = synthetic_run(events=0)
    run.networks = [Network("n", 0, nodes, ((0, 1),))]
    steps = np.array([0, 10])
    run.scalars = {"width/a": type(run.scalars["loss"])(steps, steps + 1.0, np.array([4.0, 6.0]))}
    bars = trace(figures.network(run, step=10, slider=False), "layers")
    assert bars.customdata[:, 0].tolist() == [6, 54]


def test_many_growths_have_at_most_60_frames_and_it_is_told():
    run = synthetic_run(events=200, sites=4, every=5)
    figure = figures.network(run)
    assert len(figure.frames) == 60
    assert "60 of 200 steps" in figure.layout.meta["notes"][0]
    # What grew in the steps between counts at the next frame.
    first, last = in_frame(figure, 0), in_frame(figure, 1000)
    added = sum(in_frame(figure, frame.name)["dense_1"][1] for frame in figure.frames)
    assert added == last["dense_1"][0] - first["dense_1"][0]


def test_a_network_too_large_to_draw_is_told():
    nodes = tuple(Node(f"n{i}", "Dense", 2, None, 4) for i in range(2000))
    run = Run("r", networks=[Network("n", 0, nodes, ())])
    assert "2,000 layers, more than can be drawn" in figures.network(run).layout.annotations[0].text


def test_labels_of_a_row_fit_their_room():
    parts = ["<b>a</b>" * 5, "x" * 10, "y" * 10, "z" * 10]
    assert _row_text(parts, 100) == ",  ".join(parts)
    assert _row_text(parts, 36) == f"{parts[0]},  {parts[1]}, and 2 more"
    assert _row_text(parts[:2], 18) == f"{parts[0]},  {parts[1]}"
    assert _row_text(["w" * 50, "x"], 20) == "w" * 50 + ", and 1 more"


def test_blocks_are_found_by_names():
    assert blocks(
        ["stem", "block1_1_conv1", "block1_1_conv2", "block1_2_conv1", "block1_2_add"]
    ) == [
        ("block1_1", 1, 2),
        ("block1_2", 3, 4),
    ]
    names = [
        "conv2_block1_1_conv",
        "conv2_block1_2_conv",
        "conv2_block1_add",
        "conv2_block2_1_conv",
    ]
    assert blocks(names) == [("conv2_block1", 0, 2)]
    assert blocks(["encoder/a", "encoder/b", "decoder/a", "decoder/b"]) == [
        ("encoder", 0, 1),
        ("decoder", 2, 3),
    ]
    assert blocks(["dense_1", "dense_2", "dense_3"]) == []


def test_colours_of_frames_are_of_the_list():
    figure = figures.network(synthetic_run(events=3, sites=3))
    scale = trace(figure, "layers").marker.colorscale
    assert [color for _, color in scale[::2]] == list(_COLORS)
