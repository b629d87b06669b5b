"""The slides of the architectures."""

import re
from pathlib import Path

import pytest

from titans_mini.viz import draw, figure
from titans_mini.viz.draw import architectures

ASSETS = Path(__file__).resolve().parents[2] / "assets" / "slides"


@pytest.mark.parametrize("variant", list(architectures.TITLES))
def test_nothing_stands_outside_the_slide(variant):
    fig, ax = figure(architectures.WIDTH, architectures.HEIGHT)
    draw.architecture(ax, variant)
    fig.canvas.draw()
    page = fig.bbox
    for text in ax.texts:
        inside = text.get_window_extent()
        assert page.x0 <= inside.x0 and inside.x1 <= page.x1, text.get_text()
        assert page.y0 <= inside.y0 and inside.y1 <= page.y1, text.get_text()


def test_leaks_are_shown_for_the_printed_mac_alone():
    words = {}
    for leaks in (False, True):
        _, ax = figure(architectures.WIDTH, architectures.HEIGHT)
        draw.architecture(ax, "mac", leaks=leaks)
        words[leaks] = " ".join(text.get_text() for text in ax.texts)
    assert "leak 1" in words[True] and "leak 2" in words[True] and "leak" not in words[False]
    with pytest.raises(ValueError, match="'mag', expected 'mac'"):
        draw.architecture(ax, "mag", leaks=True)
    with pytest.raises(ValueError, match="expected one of lmm, mac, mag, mal"):
        draw.architecture(ax, "mak")


def test_slides_in_assets_are_those_that_the_code_draws(tmp_path):
    def words(path):
        return re.findall(r"<text[^>]*>(.*?)</text>", path.read_text(), re.DOTALL)

    for made in draw.save_slides(tmp_path):
        stored = ASSETS / made.name
        assert words(made) and words(made) == words(stored), f"{stored} is old: draw it again, see architectures.py"
