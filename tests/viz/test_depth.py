"""Drawings of depth: every cell says its rail, folds keep their signs, and a lost memory is a cross."""

import numpy as np
import pytest

from titans_mini.viz import draw, figure, png

K = np.array([[1, 1, 1], [1, -1, 1], [-1, 1, 1], [-1, -1, 1.0]])
W1, W2 = np.array([[1, -1, 0], [1, -1, 0], [0, 0, 1.0]]), np.array([[1], [1], [-1.0]])
HIDDEN = np.maximum(K @ W1, 0)


def texts(ax):
    return [text.get_text() for text in ax.texts]


def test_a_board_counts_and_crosses():
    _, ax = figure(3, 2)
    assert draw.pair_board(ax, [[0, 1], [1, 1]], [[0, 1], [1, 0]], ["Anna", "Bob"], ["red", "blue"], "x") == 3
    assert texts(ax).count("✓") == 3 and texts(ax).count("✗") == 1 and "3 of 4" in ax.get_title(loc="left")
    with pytest.raises(ValueError, match="got boards of"):
        draw.pair_board(ax, [[0, 1]], [[0, 1]], ["Anna", "Bob"], ["red", "blue"], "x")


def test_the_fold_has_four_guests_twice():
    fig, ax = figure(7.2, 2.75)
    draw.fold_sheet(ax, ["a", "b", "c", "d"], HIDDEN, (HIDDEN @ W2)[:, 0], ["h₁", "h₂", "h₃"])
    markers = [line.get_marker() for line in ax.lines]
    assert markers.count("o") == 4 and markers.count("s") == 4
    assert png(fig) == png(fig)


def test_stamps_are_outer_products():
    _, ax = figure(7.2, 2.6)
    draw.two_stamps(ax, K[0], HIDDEN[0], np.array([2, 0, -2.0]), np.array([2.0]), W2)
    assert texts(ax).count("−2") == 1 + 3 and "+4" in texts(ax)


def test_tiles_name_the_guest_at_the_end():
    _, axes = figure(7.2, 2.9, 2, 2)
    after = np.zeros((2, 2, 2))
    after[0, 1, 0] = after[1, 0, 1] = 1
    draw.unit_tiles(axes, after * 0.1, after, ["Anna", "Bob"], ["red", "blue"])
    assert [ax.get_xlabel() for ax in axes[1]] == ["Bob,\nred", "Anna,\nblue"]


def test_a_lost_memory_is_a_cross():
    _, ax = figure(5, 3)
    looks = {"a": ("k", "-", "o"), "b": ("k", "--", "s")}
    assert draw.by_step(ax, (0.1, 0.2), {"a": [0.5, 0.6], "b": [0.5, np.nan]}, looks) == ["b"]
    assert [line.get_marker() for line in ax.lines].count("X") == 1 and "b: NaN" in texts(ax)
    _, ax = figure(5, 3)
    assert draw.by_step(ax, (0.1, 0.2), {"a": [0.5, 0.6]}, looks) == [] and not texts(ax)


def test_duel_rows_and_fades():
    _, ax = figure(5, 3)
    draw.duel(ax, {"x": (0.25, 1.0), "y": (0.5, 0.9)}, [0.25, 0.5])
    assert texts(ax) == ["25%", "100%", "50%", "90%"]
    _, ax = figure(5, 2)
    draw.row_lengths(ax, [1, 1, 1], [3, 1, 1], {0: "first"})
    assert len(ax.patches) == 3 and [t.get_text() for t in ax.get_xticklabels()] == ["first"]
    _, axes = figure(7.2, 3, 1, 2)
    draw.fade_and_wake(axes, {"L = 1": [1, 0.5], "norm": [1, 1]}, {"matrix": [1, 0], "net": [1, 1]})
    assert [len(ax.lines) for ax in axes] == [2, 2]
