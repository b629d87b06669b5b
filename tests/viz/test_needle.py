"""The needle map, without a kernel: every preset and control, and that cells are the recorded shares."""

import ipywidgets
import numpy as np
import pytest

from titans_mini.viz import draw, figure
from titans_mini.viz.widgets import NeedleMap

LENGTHS = (64, 256, 1024)
ASKED = np.full((2, 3, 4), 10)
RIGHT = {
    "memory": np.array([[[10, 10, 10, 10], [10, 9, 10, 10], [9, 9, 8, 10]], [[10, 10, 10, 10]] * 3]),
    "window": np.array([[[1, 1, 5, 10], [0, 1, 0, 1], [0, 1, 1, 0]]] * 2),
    "deep": np.array([[[5, 5, 5, 5], [5, 5, 5, 5], [1, 2, 3, 4]]] * 2),
}


@pytest.fixture
def widget():
    return NeedleMap(RIGHT, {name: ASKED for name in RIGHT}, LENGTHS, trained=64, chance=1 / 16)


def test_every_control_changes_the_picture_and_the_sentence(widget):
    for name, value in {"model": "window", "length": 64}.items():
        widget.reset()
        picture, sentence = widget.png, widget.alt_text
        widget._controls[name].value = value
        assert widget.png != picture and widget.alt_text != sentence


def test_presets_and_reset(widget):
    first = widget.png
    shown = {}
    for name in widget.presets:
        widget.preset(name)
        shown[name] = widget.values
    assert shown["the best, longest"] == {"model": "memory", "length": 1024}
    assert shown["the worst, longest"] == {"model": "window", "length": 1024}
    assert shown["as trained"] == {"model": "memory", "length": 64}
    widget.reset()
    assert widget.png == first


def test_cells_and_curves_are_shares(widget):
    widget.set(model="deep", length=1024)
    assert np.allclose(widget.map.image.get_array(), RIGHT["deep"][0].T / 10)
    assert np.allclose(widget.curves["memory"].artist.get_ydata(), [1, 79 / 80, 76 / 80])
    widget.set(model="memory")
    assert "95% found in 1024 tokens (90% to 100% over 2 seeds), least, 90%, at depth 50% to 75%" in widget.alt_text
    assert "window 5%" in widget.alt_text and "Guessing: 6%" in widget.alt_text


def test_every_value_can_be_shown(widget):
    for name in RIGHT:
        for length in LENGTHS:
            widget.set(model=name, length=length)
            assert f"Needle map of {name}" in widget.alt_text and widget._message.value == ""


def test_a_bin_without_questions_is_no_zero():
    asked = ASKED.copy()
    asked[:, 2, 0] = 0
    right = {"memory": np.where(asked > 0, RIGHT["memory"], 0)}
    widget = NeedleMap(right, {"memory": asked}, LENGTHS, 64, 0.1)
    assert np.isnan(widget.grid["memory"][0, 2]) and "Others: none" in widget.alt_text


def test_two_controls(widget):
    assert [type(c) for c in widget._controls.values()] == [ipywidgets.Dropdown, ipywidgets.SelectionSlider]


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="expected the same models"):
        NeedleMap(RIGHT, {"memory": ASKED}, LENGTHS, 64, 0.1)
    with pytest.raises(ValueError, match="2 lengths"):
        NeedleMap({"memory": RIGHT["memory"]}, {"memory": ASKED}, (64, 256), 64, 0.1)
    _, ax = figure(2, 2)
    with pytest.raises(ValueError, match="one column a length"):
        draw.needle_map(ax, np.zeros((4, 3)), (64, 128))
