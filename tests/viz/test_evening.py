"""The cloakroom's drawings: pure, inside their frame, told apart without colour, and refusing what does not fit."""

import numpy as np
import pytest

from titans_mini.viz import draw, figure, palette, png

BOOK = np.array([[0.71, 0, 0], [0, 0, 0.89], [0, 0, 0]])
KEY, CORRECTION = np.array([0.67, 0, 0.33]), np.array([-0.94, 1.0, 0])
BEFORE, AFTER = [("Anna", "hook 1", True), ("Hanna", "hook 1", False)], [("Anna", "hook 2", False)]


def written(**options):
    fig, ax = figure(7.2, 3.1)
    return fig, draw.written(ax, BOOK, KEY, CORRECTION, "ABH", "123", BEFORE, AFTER, **options)


def test_a_write_shows_book_stamp_and_their_sum():
    fig, (before, stamp, after) = written()
    assert png(fig) == png(written()[0])
    said = [text.get_text() for text in after.texts.flat]
    assert said[0] == "+0.08" and said[1] == "+0.67" and said[5] == "+0.89"
    assert [text.get_text() for text in stamp.parts[1].texts.flat] == ["−0.94", "+1.00", ""]
    frame, words = fig.bbox, fig.axes[0].texts
    assert {"the book", "the stamp", "the book, corrected", "+", "="} <= {text.get_text() for text in words}
    for text in words:
        box = text.get_window_extent()
        assert frame.x0 - 2 <= box.x0 and box.x1 <= frame.x1 + 2 and frame.y0 - 2 <= box.y0 <= box.y1 <= frame.y1 + 2


def test_a_wrong_answer_is_bold():
    fig, _ = written(names=("key", "value"), ink_edge=palette.VALUE)
    bold = [text.get_text() for text in fig.axes[0].texts if text.get_weight() == "bold"]
    assert bold == ["Hanna?  hook 1  ✗", "Anna?  hook 2  ✗"]


def test_a_book_of_another_shape_is_refused():
    _, ax = figure(7.2, 3)
    with pytest.raises(ValueError, match="a row per letter"):
        draw.written(ax, BOOK.T[:2], KEY, CORRECTION, "ABH", "123")


def strips(visits=6):
    fig, axes = figure(7.2, 3.9, 3, 1, sharex=True)
    draw.strips(axes, np.eye(6)[2], np.ones(6), np.linspace(0, 1, 6), 0.2 * np.ones(visits), 2, "ABKABK", "abcd")
    return fig


def test_strips_mark_the_event_and_name_the_visits():
    fig = strips()
    assert png(fig) == png(strips())
    assert [label.get_text() for label in fig.axes[2].get_xticklabels()] == list("ABKABK")
    assert [bar.get_height() for bar in fig.axes[0].patches[:6]] == [0, 0, 1, 0, 0, 0]
    with pytest.raises(ValueError, match="visits"):
        strips(visits=5)


def test_a_valley_has_its_star_where_both_are_right():
    keys, values = np.array([[0.9, 0.3], [0.9, -0.3]]), np.array([1.0, -1.0])
    path = np.array([[0, 0], [0.9, 0.3], [0.2, 1.0], [0.1, 1.5]])
    fig, axes = figure(7.2, 3, 2, 1, sharex=True)
    draw.valley(axes, keys, values, {0: path, 0.5: path}, {0: "crawls", 0.5: "rolls"}, parts=(0.5, 3), note="θ = 0.5")
    star = axes[0].lines[-1]
    x, y = star.get_data()
    np.testing.assert_allclose(keys @ [y[0], x[0]], values, atol=1e-12)
    assert "crawls" in axes[0].get_title("left") and any("kept: 0.5" in t.get_text() for t in axes[1].texts)
    assert not any("kept" in t.get_text() for t in axes[0].texts)


def test_rivals_keep_their_look_in_every_room():
    fig, axes = figure(7.2, 2.6, 1, 2)
    looks = {"plain": (palette.MUTED, ":", "^"), "momentum": (palette.MOMENTUM, "-", "o")}
    draw.panels(axes, (0, 1), {"a": {"plain": (1, 2), "momentum": (2, 3)}, "b": {"momentum": (0, 1)}}, looks)
    png(fig)
    assert [text.get_text() for text in fig.legends[0].get_texts()] == ["plain", "momentum"]
    assert axes[0].lines[1].get_marker() == axes[1].lines[0].get_marker() == "o"
    assert axes[0].lines[0].get_linestyle() != axes[0].lines[1].get_linestyle()
    with pytest.raises(ValueError):
        draw.panels(axes, (0, 1), {"a": {"plain": (1, 2)}}, looks)
