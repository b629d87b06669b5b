"""Draw functions: pure, reusable artists, readable text, honest about what is not finite."""

import time

import matplotlib
import numpy as np
import pytest
import torch

from titans_mini.viz import draw, figure, palette, png


def fresh(fn, *args, size=(3, 2), **options):
    fig, ax = figure(*size)
    return fig, ax, fn(ax, *args, **options)


def hexes(colours):
    return [matplotlib.colors.to_hex(colour).upper() for colour in colours]


def test_update_of_a_heatmap_equals_drawing_it_anew():
    first, second = np.eye(4), -2 * np.eye(4)
    fig, _, handle = fresh(draw.heatmap, first, limit=2, numbers=True)
    before = png(fig)
    handle.update(second)
    anew, _, _ = fresh(draw.heatmap, second, limit=2, numbers=True)
    assert png(fig) == png(anew) != before
    handle.update(first)
    assert png(fig) == before


def test_heatmap_takes_tensors_that_need_gradients_and_leaves_them_alone():
    matrix = torch.ones(2, 3, requires_grad=True)
    _, _, handle = fresh(draw.heatmap, matrix)
    assert handle.image.get_array().shape == (2, 3) and matrix.requires_grad


def test_signed_colours_are_centred_and_magnitudes_start_at_zero():
    _, _, signed = fresh(draw.heatmap, [[-1.0, 4.0]])
    _, _, magnitude = fresh(draw.heatmap, [[1.0, 4.0]], signed=False)
    assert signed.image.cmap.name == palette.SIGNED and signed.image.norm.vmin == -4
    assert magnitude.image.cmap.name == palette.MAGNITUDE and magnitude.image.norm.vmin == 0


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_is_dark_red(bad):
    _, _, handle = fresh(draw.heatmap, [[0.0, bad]], limit=1)
    colours = handle.image.cmap(handle.image.norm(handle.image.get_array()))[0]
    assert hexes(colours)[1] == palette.DIVERGED != hexes(colours)[0]


@pytest.mark.parametrize("shape", [(3,), (2, 3, 4)])
def test_heatmap_wants_two_axes(shape):
    with pytest.raises(ValueError, match=r"got a matrix of shape .* expected \(rows, columns\)"):
        fresh(draw.heatmap, np.zeros(shape))


def test_kinds_have_the_colours_that_they_are_given_and_kind_zero_has_none():
    _, ax = figure(3, 2)
    draw.kinds(ax, torch.tensor([[0, 1], [2, 0]]), (palette.KEY, palette.DIVERGED), title="a mask", grid=True)
    cells = ax.images[0].get_array().reshape(-1, 3)
    assert hexes(cells) == [palette.PAPER, palette.KEY, palette.DIVERGED, palette.PAPER]
    assert ax.get_title() == "a mask"


def test_heatmap_keeps_its_shape():
    _, _, handle = fresh(draw.heatmap, np.zeros((2, 3)))
    with pytest.raises(ValueError, match="expected"):
        handle.update(np.zeros((3, 2)))


def test_line_bars_and_marker_update():
    fig, (a, b) = figure(4, 2, 1, 2)
    curve, heights, here = draw.line(a, [0, 1, 2]), draw.bars(b, [1.0, -2.0], ["k", "v"]), draw.marker(a, 1)
    a.set(xlim=(0, 3), ylim=(0, 3))
    seen = {png(fig)}
    for change in (
        lambda: curve.update([2, 1, 0]),
        lambda: curve.update([2.0, float("nan"), 1.0], [0, 1, 2]),
        lambda: heights.update([2.0, -1.0]),
        lambda: here.update(2),
    ):
        change()
        seen.add(png(fig))
    assert len(seen) == 5
    with pytest.raises(ValueError, match="got 3 heights, expected 2"):
        heights.update([1.0, 2.0, 3.0])


def test_text_grid_colours_cells_by_value_and_leaves_the_rest_white():
    _, _, grid = fresh(draw.text_grid, "abc def", [0.0, 1.0, float("nan")], columns=4, limit=1)
    cells = hexes(np.asarray(grid.image.get_array()).reshape(-1, 4))
    assert cells[:3] == ["#00224E", "#FEE838", palette.DIVERGED]
    assert set(cells[3:]) == {"#FFFFFF"}
    inks = hexes(grid.glyphs.get_facecolor())
    assert inks[:4] == ["#FFFFFF", palette.INK, "#FFFFFF", palette.INK]
    assert len(inks) == 6, "a space has no glyph"


def test_text_grid_update_equals_drawing_it_anew():
    fig, _, grid = fresh(draw.text_grid, "hello", [1.0, 2, 3, 4, 5], columns=5, limit=5)
    before = png(fig)
    grid.update([5.0, 4, 3, 2, 1], "world")
    anew, _, _ = fresh(draw.text_grid, "world", [5.0, 4, 3, 2, 1], columns=5, limit=5)
    assert png(fig) == png(anew) != before


@pytest.mark.parametrize("text", ["", "$x_1$ \\frac", "größer 漢字 🙂", "a\tb\nc\r\n", "\x00\x07", "⁴∇ℓ"])
def test_text_grid_draws_any_text_without_a_warning(text, recwarn):
    fig, _, grid = fresh(draw.text_grid, text, np.ones(len(text)), columns=5)
    png(fig)
    assert grid.text == text and not recwarn.list


def test_text_grid_refuses_more_values_than_cells():
    _, _, grid = fresh(draw.text_grid, "ab", [1, 2], columns=2)
    with pytest.raises(ValueError, match="got 3 values, expected at most 2"):
        grid.update([1, 2, 3])


def test_text_height_fits():
    fig, ax = figure(7.2, draw.text_height(10))
    draw.text_grid(ax, "x" * 600, np.ones(600))
    fig.canvas.draw()
    box = ax.get_window_extent()
    assert box.width / fig.bbox.width > 0.97 and box.height / fig.bbox.height > 0.95


def test_600_characters_update_quickly():
    fig, _, grid = fresh(draw.text_grid, "The memory " * 54 + "learns", np.ones(600), size=(7.2, 2.6))
    png(fig)
    fig.set_layout_engine("none")
    costs = []
    for i in range(5):
        start = time.process_time()
        grid.update(np.linspace(0, 1, 600) * i)
        png(fig, colours=None)
        costs.append(time.process_time() - start)
    assert min(costs) < 0.060, f"{min(costs) * 1000:.0f} ms"
