"""Numbers beyond an axis, colour keys, and characters that our font lacks."""

import io

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from titans_mini.viz import draw, figure, fonts, palette, png
from titans_mini.viz.draw import text as text_module
from titans_mini.viz.widgets import SurpriseStrip


def pixels(fig):
    return np.asarray(Image.open(io.BytesIO(png(fig, colours=None))).convert("RGB")).astype(int)


def test_what_is_beyond_an_axis_is_marked_at_its_edge():
    fig, ax = figure(4, 2)
    ax.set(xlim=(0, 9), ylim=(-1, 1))
    plain = pixels(fig)
    beyond = draw.edges(ax, color=palette.SURPRISE)
    assert beyond.update([0, 1, -1, 0.5]) == 0 and (pixels(fig) == plain).all()
    count = beyond.update([0, 2, 3, np.inf, 0, -5, np.nan, 0, 9])
    assert count == 5
    assert beyond.above.get_xdata().tolist() == [2, 8], "one triangle for each run of neighbours"
    assert beyond.above.get_ydata().tolist() == [1, 1]
    assert beyond.below.get_xdata().tolist() == [5] and beyond.below.get_ydata().tolist() == [-1]
    assert (np.abs(pixels(fig) - np.array(to_rgb(palette.SURPRISE)) * 255).max(-1) < 3).sum() > 30
    assert beyond.update([0, 0], [3, 4]) == 0 and len(beyond.above.get_xdata()) == 0
    assert beyond.update([]) == 0


def test_an_inverted_axis_has_its_edges_too():
    _, ax = figure(4, 2)
    ax.set_ylim(1, -1)
    beyond = draw.edges(ax)
    assert beyond.update([5]) == 1 and beyond.above.get_ydata().tolist() == [1]


def test_a_mean_beyond_the_strip_is_marked():
    strip = SurpriseStrip("ab" * 40)
    strip.ax.set_ylim(0, 0.2)
    strip.set(text="zq" * 30)
    assert len(strip.beyond.above.get_xdata())


@pytest.mark.parametrize("count, lines", [(2, 1), (9, 2)])
def test_a_colour_key_takes_the_lines_that_it_needs(count, lines):
    fig, ax = figure(5, 2)
    ax.set_title("above")
    entries = [(f"some words {i}", palette.KEY) for i in range(count)]
    before = fig.get_figheight()
    extra = draw.colour_key(fig, [*entries, ("low", palette.MAGNITUDE, "high")])
    assert fig.get_figheight() == pytest.approx(before + extra) and extra >= lines * 0.2
    picture = pixels(fig)
    swatches = (np.abs(picture - np.array(to_rgb(palette.KEY)) * 255).max(-1) < 3).sum()
    assert swatches > 60 * count
    high = 100 * extra
    assert ax.get_window_extent().y0 > high, "the axes lie above the key"
    for words in fig.texts:
        box = words.get_window_extent()
        assert 0 <= box.x0 and box.x1 <= 500 and -1 <= box.y0 and box.y1 <= high, words.get_text()


def grid(characters):
    _, ax = figure(7.2, 1)
    return draw.text_grid(ax, characters, np.ones(len(characters)), columns=20, rows=1, limit=1.0)


def glyphs(characters):
    return [path.vertices for path in grid(characters).glyphs.get_paths()]


@pytest.fixture
def no_other_fonts(monkeypatch):
    monkeypatch.setattr(fonts, "families", lambda: [fonts.OURS])
    for cached in (fonts.family_with, text_module._glyph):
        cached.cache_clear()
    yield
    for cached in (fonts.family_with, text_module._glyph):
        cached.cache_clear()


def test_letters_of_our_own_font_are_drawn(no_other_fonts):
    written = grid("aЖλ ع—é")
    assert not written.missing and len(written.glyphs.get_paths()) == 6


def test_another_installed_font_draws_what_ours_lacks(no_other_fonts):
    assert not fonts._opened(text_module.MONO).get_char_index(ord("ⴰ"))  # Tifinagh: not in the monospaced font
    assert fonts.family_with("ⴰ", text_module.MONO) == fonts.OURS
    written = grid("ⴰ")
    assert not written.missing
    (shape,) = written.glyphs.get_paths()
    assert len(shape.vertices) != len(glyphs("\U000f0000")[0])


def test_a_character_without_a_font_is_a_box_and_is_counted(no_other_fonts):
    written = grid("漢字 ok 漢")
    assert written.missing == {"漢", "字"}
    first, second = glyphs("漢字")[:2]
    assert np.allclose(first + [0.66, 0], second), "both are the same box"
    strip = SurpriseStrip("漢字 and 漢")
    assert "□ stands for 2 characters that no font here has" in strip.alt_text
    strip.set(text="and")
    assert "□" not in strip.alt_text


def test_a_wide_character_fits_its_cell(no_other_fonts):
    for i, character in enumerate("Ⓦﷺ☃⚀ⴰ⠿"):
        shape = glyphs("x" * i + character)[-1]
        assert i * 0.66 - 1e-9 <= shape[:, 0].min() and shape[:, 0].max() <= (i + 1) * 0.66 + 1e-9, character


def test_joiners_and_selectors_leave_their_cell_empty():
    written = grid("a\u200d\ufe0f\u200bb")
    assert len(written.glyphs.get_paths()) == 2 and not written.missing


def test_titles_and_names_use_the_same_fonts():
    assert palette.style()["font.family"] == fonts.families() and fonts.families()[0] == "DejaVu Sans"
    installed = {font.name for font in fonts.fontManager.ttflist}
    assert set(fonts.families()) <= installed, "matplotlib warns of a family that is not there"
