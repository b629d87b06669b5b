import pytest

from titans_mini.viz import figure, png
from titans_mini.viz.draw import overview


def drawn(draw, height, *arguments):
    fig, ax = figure(7.2, height)
    draw(ax, *arguments)
    return png(fig), [text.get_text() for text in ax.texts], ax


@pytest.mark.parametrize(
    ("draw", "height", "words"),
    [
        (overview.write_loop, 2.5, {"key", "memory", "guess", "surprise", "value", "+ past surprise"}),
        (overview.two_loops, 2.7, {"training", "test time", "frozen: not one number moves"}),
        (overview.course_map, 2.8, {"00", "16", "Start here", "Surprise"}),
    ],
)
def test_a_drawing_holds_its_words_inside_its_frame(draw, height, words):
    arguments = ({0, 1, 2, 5},) if draw is overview.course_map else ()
    picture, texts, ax = drawn(draw, height, *arguments)
    assert words <= set(texts)
    assert picture == drawn(draw, height, *arguments)[0], "the same bytes each time"
    frame = ax.get_window_extent()
    for text in ax.texts:
        if text.get_text():
            box = text.get_window_extent()
            assert frame.x0 - 2 <= box.x0 and box.x1 <= frame.x1 + 2, text.get_text()
            assert frame.y0 - 2 <= box.y0 and box.y1 <= frame.y1 + 2, text.get_text()


def test_the_map_shows_what_is_ready_and_where_you_are():
    pictures = {drawn(overview.course_map, 2.8, range(n), here)[0] for n in (4, 17) for here in (0, 3)}
    assert len(pictures) == 4
    assert len(overview.COURSE) == 17


def test_a_tint_lies_between_a_colour_and_white():
    assert overview.tint("#000000", 0.25) == (0.75, 0.75, 0.75)
