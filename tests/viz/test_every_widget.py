"""What holds for every widget: two pages, a colour key, a still for readers who run nothing, words for what moved."""

import asyncio
import html
import io
import re
import textwrap

import matplotlib.axis
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from tests.viz.test_chunks import made as chunks  # noqa: F401
from tests.viz.test_dataflow import made as dataflow  # noqa: F401
from tests.viz.test_desk import made as desk  # noqa: F401
from tests.viz.test_loops import made as blame  # noqa: F401
from tests.viz.test_needle import widget as needle  # noqa: F401
from tests.viz.test_picture import SIMULATIONS, least_distance
from tests.viz.test_recall import made as recall  # noqa: F401
from tests.viz.test_scrubber import stream  # noqa: F401
from tests.viz.test_scrubber import widget as scrubber  # noqa: F401
from tests.viz.test_seismograph import shared as seismograph  # noqa: F401
from tests.viz.test_speed import widget as speed  # noqa: F401
from tests.viz.test_stability import made as stability  # noqa: F401
from tests.viz.test_stepper import history, model  # noqa: F401
from tests.viz.test_stepper import made as stepper  # noqa: F401
from tests.viz.test_strip import strip  # noqa: F401
from tests.viz.test_tiles_roofline import viewer  # noqa: F401
from titans_mini.viz import palette, png, widgets
from titans_mini.viz.screen import dark
from titans_mini.viz.widgets import explorer

NAMES = [
    *("blame", "chunks", "dataflow", "desk", "needle", "recall", "roofline", "scrubber", "seismograph", "speed"),
    *("stability", "stepper", "strip", "viewer"),
]
ROW = 100  # characters of a line of the sentence, 13 px high and 720 px wide


@pytest.fixture(scope="module")
def roofline():
    return widgets.Roofline()


@pytest.fixture(params=NAMES)
def each(request):
    widget = request.getfixturevalue(request.param)
    widget.reset()
    return widget


def pixels(data):
    return np.asarray(Image.open(io.BytesIO(bytes(data))).convert("RGB")).astype(int)


def ends(widget):
    """Every control at its first and its last value, one after another."""
    for name, control in widget._controls.items():
        options = getattr(control, "_options_full", None)
        low, high = (options[0][1], options[-1][1]) if options else (getattr(control, "min", 0), control.value)
        for value in (low, getattr(control, "max", high)) if not isinstance(control.value, (bool, str)) else ():
            yield {name: value}


def test_all_widgets_are_here():
    kinds = {"ForgettingDesk", "BlameMap", "ChunkExplorer", "DataflowExplorer", "NeedleMap", "RecallMatrix", "Roofline"}
    kinds |= {"MemoryScrubber", "Seismograph", "SpeedBars", "StabilityMap", "TwoLoopStepper", "SurpriseStrip"}
    assert kinds | {"TileViewer", "Explorer"} == set(widgets.__all__) and len(NAMES) == len(kinds) + 1


def test_what_is_not_drawn_again_is_still_there(each):
    """Compare the picture with the whole figure drawn from scratch; where things overlap, a few pixels may differ."""
    for values in [each.presets[name] for name in each.presets] + list(ends(each)):
        each.set(**values)
        whole = np.abs(pixels(each.png) - pixels(png(each.figure, 100, colours=None))).max(-1)
        assert (whole > 24).mean() < 0.005, values


def test_a_move_draws_no_axis_again_unless_its_limits_change(each, monkeypatch):
    axes = [axis for ax in each.figure.axes for axis in (ax.xaxis, ax.yaxis)]
    drawn = []
    draw = matplotlib.axis.Axis.draw
    monkeypatch.setattr(matplotlib.axis.Axis, "draw", lambda axis, *a, **k: (drawn.append(axis), draw(axis, *a, **k)))
    moves = moved = 0
    for values in ends(each):
        before = [tuple(axis.get_view_interval()) for axis in axes]
        drawn.clear()
        each.set(**values)
        same = before == [tuple(axis.get_view_interval()) for axis in axes]
        moves += same
        assert not (same and drawn), values
        moved += bool(drawn)
    assert moves > 0


def test_it_is_drawn_on_a_light_and_on_a_dark_page(each):
    light, night = pixels(each.image.value), pixels(each.dark_image.value)
    assert light.shape == night.shape
    assert (light[-1, -1] == 255).all() and (night[-1, -1] == 17).all()
    shares = [np.mean((x.max(-1) - x.min(-1) < 12) & (x.max(-1) > 180)) for x in (light, night)]
    assert shares[1] < 0.75 * shares[0], "much of the dark page is light"
    assert (night.max(-1) > 200).any(), "words are light"
    each.preset(list(each.presets)[-1])
    assert (pixels(each.dark_image.value) != night).any(), "both follow a move"


def test_the_page_shows_the_one_that_fits_the_theme(each):
    sheet = next(child.value for child in each.box.children if "<style>" in getattr(child, "value", ""))
    assert "titans-light" in each.image._dom_classes and "titans-dark" in each.dark_image._dom_classes
    assert 'body[data-jp-theme-light="false"] .titans-dark{display:block' in sheet


def test_it_has_a_colour_key(each):
    legends = [ax.get_legend() for ax in each.figure.axes if ax.get_legend()]
    assert each.key or legends
    picture = pixels(each.png)
    low = picture[-60:]
    for entry in each.key:
        colour = None if len(entry) == 3 else entry[1]
        if colour is not None:
            found = (np.abs(low - np.array(to_rgb(colour)) * 255).max(-1) <= 2).sum()
            assert found > 60, f"no swatch of {entry[0]}"


def test_the_still_compares_and_says_how_to_move_it(each):
    picture, still = pixels(each.png), pixels(each.still())
    assert still.shape[1] == picture.shape[1] and still.shape[0] > picture.shape[0] + 15
    assert np.abs(still[: picture.shape[0]] - picture).mean() < 6, "the present picture comes first"
    assert (still[-24:, :300].min(-1) < 160).any(), "a line of words at the end"
    before = each.values, each.png
    data, metadata = each._repr_mimebundle_()
    assert (each.values, each.png) == before and len(each.still()) < 60_000
    names = [name for name in each.compared if name in each.presets]
    assert not names or still.shape[0] > picture.shape[0] + 50
    assert all(name in metadata["image/png"]["alt"] for name in names) and len(names) != 1
    cuts = {each._cut_out(each._start | each.presets[name]).tobytes() for name in names}
    assert len(cuts) == len(names), "every part of the comparison is another picture"


def test_the_sentence_has_room_so_that_nothing_jumps(each):
    room = each.sentence_lines
    assert f"min-height:{1.4 * room:.1f}em" in each._sentence.value
    sizes = set()
    for values in [each.presets[name] for name in each.presets] + list(ends(each)):
        each.set(**values)
        assert len(textwrap.wrap(each.alt_text, ROW)) <= room, each.alt_text
        sizes.add(pixels(each.png).shape)
    assert len(sizes) == 1


def test_a_move_says_what_moved(each):
    name, value = next((n, v) for values in ends(each) for n, v in values.items() if each.values[n] != v)
    each.set(**{name: value})
    spoken = html.unescape(re.search(r'titans-said">(.*?)</span>', each._sentence.value)[1])
    assert spoken.startswith(f"{each._controls[name].description}: ") and spoken.count(": ") == 1
    assert 'role="status"' in each._sentence.value and each.alt_text in html.unescape(each._sentence.value)
    if each.image.has_trait("tooltip"):
        assert each.image.tooltip == each.alt_text


def test_a_narrow_page_cuts_nothing(each):
    for part in (*each._controls.values(), each.image, each.dark_image):
        assert part.layout.max_width == explorer.INSIDE


def test_typing_waits_for_a_pause(strip, monkeypatch):  # noqa: F811
    monkeypatch.setattr(explorer, "PAUSE", 0.15)
    first, pictures = strip.png, []
    strip.image.observe(lambda change: pictures.append(change["new"]), "value")

    async def type_and_wait():
        for length in range(1, 9):
            strip._controls["text"].value = "abcdefgh"[:length]
            await asyncio.sleep(0.02)
        assert strip.png == first, "it drew while somebody typed"
        await asyncio.sleep(0.6)

    asyncio.run(type_and_wait())
    assert len(pictures) == 1 and "8 characters" in strip.alt_text

    async def type_and_move():
        strip._controls["text"].value = "abc"
        strip._controls["theta"].value = 0.6  # draws at once, with the new text
        await asyncio.sleep(0.4)

    asyncio.run(type_and_move())
    assert len(pictures) == 2
    strip._controls["text"].value = "in a script no loop runs: at once"
    assert len(pictures) == 3


def test_an_error_behind_a_pause_is_told(strip, monkeypatch):  # noqa: F811
    monkeypatch.setattr(explorer, "PAUSE", 0.01)
    monkeypatch.setattr(strip, "draw", lambda **_: 1 / 0)
    told = []

    async def type_it():
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context["exception"]))
        strip._controls["text"].value = "abc"
        await asyncio.sleep(0.1)

    asyncio.run(type_it())
    assert isinstance(told[0], ZeroDivisionError) and "not up to date" in strip._message.value


def test_concepts_are_told_apart_on_the_dark_page():
    page = palette.luminance(palette.DARK_PAPER)
    colours = {name: dark(to_rgb(colour)) for name, colour in palette.CONCEPTS.items()}
    for name, colour in colours.items():
        assert (palette.luminance(colour) + 0.05) / (page + 0.05) >= 3, name  # WCAG, parts of a picture
    distances = [least_distance(list(colours.values()), eye) for eye in (None, *SIMULATIONS)]
    assert distances[0] > 20 and min(distances) > 14
    assert (palette.luminance(dark(to_rgb(palette.INK))) + 0.05) / (page + 0.05) >= 7
    assert (palette.luminance(dark(to_rgb(palette.MUTED))) + 0.05) / (page + 0.05) >= 4.5
    assert palette.luminance(colours["memory"]) < palette.luminance(colours["query"]), "dark blue stays the darker"
