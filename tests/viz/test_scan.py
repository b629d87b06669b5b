"""The drawings and figures of lessons 08 and 09: pure, inside their frame, and refused where they would not fit."""

import numpy as np
import pytest

from titans_mini.viz import draw, figure, png

DRAWINGS = {"queue_and_coach": 3.1, "scan_tree": 3.2, "chunk_diagram": 3.4}


def drawn(name, *arguments):
    fig, ax = figure(7.2, DRAWINGS[name])
    getattr(draw, name)(ax, *arguments)
    return png(fig), ax


@pytest.mark.parametrize("name", DRAWINGS)
def test_a_drawing_is_pure_and_its_words_lie_inside_its_frame(name):
    picture, ax = drawn(name)
    assert picture == drawn(name)[0], "the same bytes each time"
    frame = ax.get_window_extent()
    words = [text for text in ax.texts if text.get_text()]
    assert words
    for text in words:
        box = text.get_window_extent()
        assert frame.x0 - 2 <= box.x0 and box.x1 <= frame.x1 + 2, text.get_text()
        assert frame.y0 - 2 <= box.y0 and box.y1 <= frame.y1 + 2, text.get_text()


@pytest.mark.parametrize("tokens", [2, 4, 8])
def test_the_tree_ends_with_every_prefix(tokens):
    words = [text.get_text() for text in drawn("scan_tree", tokens)[1].texts]
    assert {f"1–{t}" for t in range(2, tokens + 1)} <= set(words)
    assert f"round {tokens.bit_length() - 1}" in words and f"round {tokens.bit_length()}" not in words


def test_guests_and_tokens_that_do_not_fit_are_refused():
    assert drawn("queue_and_coach", "AB")[0] != drawn("queue_and_coach")[0]
    with pytest.raises(ValueError, match="got 9 guests"):
        drawn("queue_and_coach", "ABCDEFGHI")
    with pytest.raises(ValueError, match="got tokens=6"):
        drawn("scan_tree", 6)


def curves():
    triangle = np.tril(np.ones((6, 6)))
    lives = {"axes": 2, "draw": lambda axes: draw.write_lives(axes, triangle, (0, 2))}
    maps = {"axes": (2, 1), "draw": lambda axes: draw.mask_maps(axes.reshape(2, 1), {"a": (triangle, triangle)})}
    trained = {"online": ([1, 0.9, 0.5], [0, 0.1, 2]), "then": ([0.9, 0.9, 0.8], [0, 0.1, 1])}
    reading = {"axes": 2, "draw": lambda axes: draw.reading_curves(axes, [1, 2, 4], trained, {"all": [0, 0.1, 1]})}
    error = {"axes": 1, "draw": lambda ax: draw.error_curves(ax, [1, 2], {0.1: ([0.8, 0.6], [0.8, 0.64])})}
    ratio = {"axes": 1, "draw": lambda ax: draw.counted_and_timed(ax, [2048, 4096], [4, 9], [2, 5])}
    bowl = {"axes": 1, "draw": lambda ax: draw.chunk_bowl(ax, {"anchored": {8: 9.0, 16: 7.0}})}
    bars = {"axes": 1, "draw": lambda ax: draw.numbered_bars(ax, [1.0, 2.5], ["a", "b"], digits=1)}
    return {
        "lives": lives,
        "maps": maps,
        "reading": reading,
        "error": error,
        "ratio": ratio,
        "bowl": bowl,
        "bars": bars,
    }


@pytest.mark.parametrize("name", curves())
def test_figures_are_pure(name):
    pictures = []
    for _ in range(2):
        what = curves()[name]
        rows, columns = what["axes"] if isinstance(what["axes"], tuple) else (1, what["axes"])
        fig, axes = figure(6, 3, rows, columns)
        what["draw"](axes)
        pictures.append(png(fig))
    assert pictures[0] == pictures[1]


def test_bars_carry_their_numbers():
    _, ax = figure(3, 2)
    draw.numbered_bars(ax, [1.0, 2.5], ["a", "b"], digits=1)
    assert [text.get_text() for text in ax.texts] == ["1.0", "2.5"]
