"""The marble in the bowl: what settles ends on the wall, what leaves ends in a cross."""

import numpy as np
import pytest

from titans_mini.viz import draw, figure, png

STEPS = {"settles": 0.3, "rings": 0.9, "leaves": 1.2}


def paths():
    return [-((1 - 2 * step) ** np.arange(9.0)) for step in STEPS.values()]


def crosses(ax):
    return [line for line in ax.lines if line.get_marker() == "X"]


def test_only_the_marble_that_leaves_is_a_cross():
    fig, axes = figure(7.2, 2.5, 1, 3)
    draw.marbles(axes, paths(), list(STEPS), ["a", "b", "c"])
    assert [len(crosses(ax)) for ax in axes] == [0, 0, 1]
    assert [ax.get_title() for ax in axes] == list(STEPS)
    assert [ax.texts[-1].get_text() for ax in axes] == ["a", "b", "c"]
    assert png(fig) == png(fig)


def test_a_path_that_is_not_a_number_leaves_the_bowl():
    _, ax = figure(3, 2)
    draw.marbles(ax, [[-1.0, 1.5, np.nan]], ["x"], ["y"])
    assert len(crosses(ax)) == 1


def test_one_of_each_is_asked_for():
    _, axes = figure(7.2, 2.5, 1, 3)
    with pytest.raises(ValueError, match="got 3 axes, 3 paths, 2 titles and 3 verdicts"):
        draw.marbles(axes, paths(), ["a", "b"], ["a", "b", "c"])


def test_pauses_mark_the_visits_of_the_guest():
    _, ax = figure(5, 2)
    draw.pauses(ax, {"η = 0.8": [-1, 0.5, 1.0, 1.2], "η = 0": [-1, -0.4, -0.4, -0.4]}, [True, False, False])
    assert len(ax.patches) == 1 and [text.get_text() for text in ax.texts] == ["η = 0.8", "η = 0"]
