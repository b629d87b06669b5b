"""The drawing grammar: pure, inside its frame, told apart without colour."""

import io

import matplotlib
import numpy as np
import pytest
from PIL import Image

from titans_mini.viz import figure, palette, png
from titans_mini.viz.draw import grammar

KEY, CORRECTION = [0.67, 0.0, -0.33], [-0.94, 0.0, 1.0]
MARBLE = {"position": 0.6, "trail": [-1.2, -0.5], "pushes": {"η": 0.5, "θ": -0.4, "α": -0.3}}


def boxes(ax):
    grammar.canvas(ax, 7, 2.5)
    for x, role, kind in ((1, "data", "plain"), (3.4, "trained", "state"), (5.8, "learns", "gradient")):
        grammar.box(ax, x, 1.3, 1.5, 0.7, role, role, "$x_t$")
        grammar.arrow(ax, (x, 1.65), (x + 0.6, 2.2), kind=kind)
    grammar.arrow(ax, (5.8, 0.95), (3.4, 0.95), kind="gradient", bend=-0.2, label="outer loop")


def stamp(ax):
    grammar.canvas(ax, 7, 2.5)
    return grammar.stamp(ax, KEY, CORRECTION, 2.5, 1.8)


def bowl(ax):
    return grammar.bowl(ax, **MARBLE, label="right answer")


def projection(ax):
    return grammar.projection(ax, [0.6, 0.8], [0.7, -0.1], 1.0, reach=1.8, label="correction")


DRAWINGS = [boxes, stamp, bowl, projection]


def drawn(draw, width=7.2, height=2.6, page=palette.PAPER):
    fig, ax = figure(width, height)
    fig.set_facecolor(page)
    handle = draw(ax)
    return png(fig), fig, ax, handle


def grey(data):
    return np.asarray(Image.open(io.BytesIO(data)).convert("L"), dtype=float)


@pytest.mark.parametrize("draw", DRAWINGS)
def test_a_drawing_is_pure_and_its_words_lie_inside_its_frame(draw):
    picture, fig, ax, _ = drawn(draw)
    assert picture == drawn(draw)[0], "the same bytes each time"
    frame = ax.get_window_extent()
    words = [text for text in ax.texts if text.get_text()]
    assert words
    for text in words:
        box = text.get_window_extent()
        assert frame.x0 - 2 <= box.x0 and box.x1 <= frame.x1 + 2, text.get_text()
        assert frame.y0 - 2 <= box.y0 and box.y1 <= frame.y1 + 2, text.get_text()


@pytest.mark.parametrize(
    ("draw", "other", "back"),
    [
        (stamp, ([0.1, -0.5, 0.3], [0.2, -0.9, 0.4]), (KEY, CORRECTION)),
        (bowl, (5.0, [0.2]), tuple(MARBLE.values())),
        (projection, ([0.2, 0.9], 0.6, 0.5), ([0.7, -0.1], 1.0)),
    ],
)
def test_update_reuses_the_drawing(draw, other, back):
    before, fig, ax, handle = drawn(draw)
    artists = len(ax.get_children())
    handle.update(*other)
    assert png(fig) != before
    handle.update(*back)
    assert png(fig) == before and len(ax.get_children()) == artists


@pytest.mark.parametrize("draw", DRAWINGS)
def test_words_on_the_page_are_readable_on_white_and_on_dark(draw):
    for page in (palette.PAPER, "#1E1E1E"):
        ax = drawn(draw, page=page)[2]
        colour = np.array(matplotlib.colors.to_rgb(grammar.page_ink(ax)))
        light, dark = sorted([palette.luminance(colour), palette.luminance(page)], reverse=True)
        assert (light + 0.05) / (dark + 0.05) > 7


# -- without colour -------------------------------------------------------------------------------------------------


def strokes(number, digits):
    """Draw one cell, convert it to grey, and find its ink: where it differs from the cell's own grey."""

    def draw(ax):
        grammar.canvas(ax, 1, 1)
        grammar.cells(ax, [[number]], 0.1, 0.9, limit=1, digits=digits, cell=(0.8, 0.8))

    shades = grey(drawn(draw, 1, 1)[0])[20:80, 20:80]
    return np.abs(shades - np.median(shades)) > 60


@pytest.mark.parametrize("size", [0.1, 0.4, 0.8, 1.0])
def test_signs_are_told_apart_in_grey(size):
    plus, minus = strokes(size, None), strokes(-size, None)
    tall, flat = (np.ptp(np.nonzero(ink)[0]) for ink in (plus, minus))
    assert minus.any() and tall > 2.5 * flat, "a plus is tall, a minus is flat"
    assert (strokes(size, 2) ^ strokes(-size, 2)).sum() > 3


def test_the_colours_alone_would_not_keep_the_sign_in_grey():
    numbers = np.linspace(-1, 1, 201)
    light = palette.luminance(matplotlib.colormaps[palette.SIGNED](palette.signed_norm([1.0])(numbers)))
    some_plus_is_as_light = np.abs(light[:95, None] - light[None, 106:]).min(1) < 0.03
    assert some_plus_is_as_light.mean() > 0.9, "so a cell needs its sign in writing"


def test_a_cell_says_what_is_zero_and_what_is_not_finite():
    handle = drawn(lambda ax: grammar.cells(ax, [[0.0, np.nan, -np.inf, 0.5]], 0, 1))[3]
    assert [text.get_text() for text in handle.texts.flat] == ["", "NaN", "−∞", "+0.50"]
    faces = [matplotlib.colors.to_hex(patch.get_facecolor()).upper() for patch in handle.patches.flat]
    assert faces[:3] == [palette.PAPER, palette.DIVERGED, palette.DIVERGED]
    with pytest.raises(ValueError, match="cells keep theirs"):
        handle.update(np.zeros((2, 2)))
    tiny = drawn(lambda ax: grammar.cells(ax, [[1e-4, -2e-4, 1e-9]], 0, 1, digits=None))[3]
    assert [text.get_text() for text in tiny.texts.flat] == ["+", "−", ""], "signs follow the scale"


@pytest.mark.parametrize(
    ("number", "digits", "text"),
    [
        (0.631, 2, "+0.63"),
        (-0.631, 1, "−0.6"),
        (0.004, 2, ""),
        (0.5, 0, ""),
        (-3, None, "−"),
        (0.0, None, ""),
        (np.inf, 2, "+∞"),
    ],
)
def test_signed_text(number, digits, text):
    assert palette.signed_text(number, digits) == text


def test_arrows_and_boxes_of_one_colour_still_differ():
    def arrows(kind):
        return drawn(lambda ax: grammar.arrow(ax, (0.1, 0.5), (0.9, 0.5), palette.INK, kind=kind))[0]

    def shapes(role):
        same = {"facecolor": palette.PAPER, "edgecolor": palette.INK, "linewidth": 2}
        return drawn(lambda ax: grammar.box(ax, 0.5, 0.5, 0.6, 0.6, role, "", **same))[0]

    for draw, names in ((arrows, grammar.KINDS), (shapes, grammar.ROLES)):
        assert len({draw(name) for name in names}) == len(names)
    with pytest.raises(ValueError, match="kind='dotted'"):
        arrows("dotted")


def test_no_colour_has_two_meanings():
    assert len(set(palette.CONCEPTS.values())) == len(palette.CONCEPTS)
    assert not {palette.INK, palette.MUTED, palette.GRID, palette.PAPER} & set(palette.CONCEPTS.values())
    shades = sorted(float(palette.luminance(colour)) for colour in grammar.PUSHES.values())
    assert min(np.diff(shades)) > 0.15, "the pushes of one marble differ in grey"
    learns, trained = (palette.luminance(grammar.ROLES[role][0]) for role in ("learns", "trained"))
    assert abs(learns - trained) > 0.2


# -- single drawings ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lost", [5.0, -5.0, np.inf, np.nan])
def test_a_marble_that_left_the_bowl_is_a_cross_on_the_rim(lost):
    handle = drawn(lambda ax: grammar.bowl(ax, lost, trail=[0.5, -1.0]))[3]
    (x,), _ = handle.marble.get_data()
    assert abs(x) == 2 and handle.marble.get_marker() == "X" and handle.marble.get_color() == palette.DIVERGED
    with pytest.raises(ValueError, match="expected names among θ, η, α"):
        handle.update(0.3, pushes={"theta": 1})
    handle.update(0.3)
    assert handle.marble.get_marker() == "o" and handle.marble.get_color() == palette.MEMORY


def test_a_full_step_gives_the_right_answer_and_leaves_the_rest_of_the_memory():
    handle = drawn(projection)[3]
    new = np.ravel(handle.artists["new"].get_data())
    assert new @ [0.6, 0.8] == pytest.approx(1.0)
    assert new @ [-0.8, 0.6] == pytest.approx(np.array([0.7, -0.1]) @ [-0.8, 0.6])


def test_a_strip_has_equal_limits():
    fig, axes = figure(7.2, 2, 1, 3)
    frames = [{"position": 0.2, "reach": reach} for reach in (1, 2, 3)]
    handles = grammar.strip(axes, frames, grammar.bowl, ["t = 0", "t = 1", "t = 2"])
    assert len(handles) == 3 and [ax.get_title() for ax in axes] == ["t = 0", "t = 1", "t = 2"]
    assert len({(*ax.get_xlim(), *ax.get_ylim()) for ax in axes}) == 1
    with pytest.raises(ValueError, match="got 3 axes for 2 frames"):
        grammar.strip(axes, frames[:2], grammar.bowl)


@pytest.mark.parametrize(
    "draw, words",
    [
        (lambda ax: grammar.box(ax, 1, 1, 1, 1, "learn", "M"), "got colour='learn', .* a role: learns, trained"),
        (lambda ax: grammar.arrow(ax, (0, 0), (1, 1), "state"), "got colour='state', .*kind= one of plain, state"),
        (lambda ax: grammar.arrow(ax, (0, 0), (1, 1), kind="back"), "got kind='back', expected one of plain"),
        (lambda ax: grammar.stamp(ax, [[1.0]], [1.0], 1, 1), r"rows of shape \(1, 1\) and columns of shape \(1,\)"),
    ],
)
def test_a_mistyped_word_is_named(draw, words):
    with pytest.raises(ValueError, match=words):
        drawn(draw)
