"""The chunk explorer and its squares, without a kernel: every preset and control, and what it measures."""

import ipywidgets
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from titans_mini.viz import draw, figure, png
from titans_mini.viz.draw.chunks import chunk_outlines
from titans_mini.viz.widgets import ChunkExplorer
from titans_mini.viz.widgets.chunks import GATES, distances

T = 32


def stream(tokens=T, seed=0):
    g = torch.Generator().manual_seed(seed)
    keys = F.normalize(torch.randn(6, 8, generator=g), dim=-1)
    k = keys[torch.randint(6, (tokens,), generator=g)]
    return k, k, F.normalize(torch.randn(tokens, 8, generator=g), dim=-1)


@pytest.fixture(scope="module")
def made():
    return ChunkExplorer(*stream(), theta=0.02)


@pytest.fixture
def widget(made):
    made.reset()
    return made


def test_every_control_changes_the_picture_and_the_sentence(widget):
    for name, value in {"gates": "half-life 4, η = 0.8", "size": 16, "t": 5}.items():
        picture, sentence = widget.png, widget.alt_text
        widget._controls[name].value = value
        assert widget.png != picture and widget.alt_text != sentence


def test_the_presets_show_different_pictures_and_reset_returns(widget):
    first, sentence = widget.png, widget.alt_text
    pictures = {}
    for name in widget.presets:
        widget.preset(name)
        pictures[name] = widget.png
    assert len(set(pictures.values())) == len(pictures) == 5
    widget.reset()
    assert widget.png == first and widget.alt_text == sentence


@pytest.mark.parametrize("gates", GATES)
def test_the_ends_of_every_slider(widget, gates):
    for size in (1, T):
        for t in (0, T - 1):
            widget.set(gates=gates, size=size, t=t)
            assert f"with {gates}, in chunks of {size}." in widget.alt_text and widget._message.value == ""
            low, high = widget.curve.artist.get_ydata().min(), widget.curve.artist.get_ydata().max()
            assert widget.limits[0] <= low <= high <= widget.limits[1]


def test_the_online_rule_is_no_distance_from_itself_and_larger_chunks_are_further(widget):
    for gates in GATES:
        far = [widget.overall(gates, size) for size in (1, 2, 4, 8, 16)]
        assert far[0] == 0 and far == sorted(far) and far[1] > 0


def test_what_a_query_meets_adds_up(widget):
    for size, t, own, before in ((8, 20, 5, 16), (1, 20, 1, 20), (T, 20, 21, 0)):
        widget.set(size=size, t=t)
        assert len(widget.own.get_segments()) == own and len(widget.state.get_segments()) == before
        assert widget.row.get_text() == f"{own} in its chunk, {before} before"
        assert f"meets {own} writes in its own chunk by masked attention and {before} through" in widget.alt_text


def test_the_bars_are_the_row_of_the_map(widget):
    widget.set(gates="no forgetting, η = 0.8", size=8, t=9)
    heights = [segment[1][1] for bars in (widget.state, widget.own) for segment in bars.get_segments()]
    assert heights == pytest.approx([(1 - 0.8 ** (9 - j + 1)) / 0.2 for j in range(10)])


def test_distances_belong_to_the_anchored_rule():
    q, k, v = stream(8)
    theta = 0.1
    far = distances(q, k, v, float("inf"), 0.0, theta, [8])[8]
    M, y = torch.zeros(8, 8, dtype=torch.float64), []
    k, v = k.double(), v.double()
    for k_t, v_t in zip(k, v, strict=True):
        M = M - theta * 2 * torch.outer(k_t, k_t @ M - v_t)
        y.append(k_t @ M)
    y = torch.stack(y)
    anchored = 2 * theta * (k @ k.T).tril() @ v
    scale = y.square().sum(-1).mean().sqrt()
    assert far == pytest.approx(((anchored - y).norm(dim=-1) / scale).numpy())


def test_one_menu_and_two_sliders(widget):
    kinds = [type(control) for control in widget._controls.values()]
    assert kinds == [ipywidgets.Dropdown, ipywidgets.SelectionSlider, ipywidgets.IntSlider]


def test_a_length_that_is_no_power_of_two_is_refused():
    with pytest.raises(ValueError, match="got 24 tokens, expected a power of two"):
        ChunkExplorer(*stream(24))


def test_squares_cover_the_diagonal_and_the_last_may_be_smaller():
    outlines = chunk_outlines(10, 4)
    assert [tuple(o[0]) for o in outlines] == [(-0.5, -0.5), (3.5, 3.5), (7.5, 7.5)]
    assert [tuple(o[2]) for o in outlines] == [(3.5, 3.5), (7.5, 7.5), (9.5, 9.5)]
    assert all((o[0] == o[-1]).all() for o in outlines)


@pytest.mark.parametrize(("tokens", "size"), [(0, 4), (8, 0)])
def test_squares_want_tokens_and_a_size(tokens, size):
    with pytest.raises(ValueError, match="expected both at least 1"):
        chunk_outlines(tokens, size)


def test_update_of_squares_equals_drawing_them_anew():
    pictures = []
    for first, then in ((4, 2), (2, 2)):
        fig, ax = figure(2, 2)
        fig.set_layout_engine("none")
        draw.heatmap(ax, np.ones((8, 8)), signed=False)
        boxes = draw.chunk_boxes(ax, 8, first)
        before = png(fig)
        boxes.update(then)
        pictures.append(png(fig))
        assert (pictures[-1] == before) == (first == then)
    assert pictures[0] == pictures[1]


@pytest.mark.parametrize("returning", [False, True])
def test_the_distance_is_proportional_to_a_small_step_and_grows_with_the_chunk(returning):
    """Lesson 08: θC is the number to watch; keys that return err in one direction, others partly cancel."""
    g = torch.Generator().manual_seed(0)
    k, v = F.normalize(torch.randn(2, 256, 16, generator=g, dtype=torch.float64), dim=-1)
    k = k[torch.randint(8, (256,), generator=g)] if returning else k
    far = {}
    for theta in (0.001, 0.01):
        found = distances(k, k, v, 70.0, 0.5, theta, [8, 16, 64])
        far[theta] = {C: np.sqrt(np.square(x).mean()) for C, x in found.items()}
    assert far[0.01][16] / far[0.001][16] == pytest.approx(10, abs=1.5)
    growth = (far[0.001][64] / far[0.001][8]) ** (1 / 3)  # per doubling
    assert 1.5 < growth < 2.05 and (growth > 1.75) == returning
