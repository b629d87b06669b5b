"""The recall matrix, without a kernel: every preset and control, and what it counts."""

import ipywidgets
import numpy as np
import pytest
import torch

from titans_mini.viz import palette
from titans_mini.viz.widgets import RecallMatrix

NAMES = ("matrix", "wide key", "MLP", "MLP, 3 layers")
COUNTS, PASSES, D = (8, 16, 32, 64), 6, 16


@pytest.fixture(scope="module")
def made():
    g = torch.Generator().manual_seed(0)
    values = {n: torch.randn(n, D, generator=g) for n in COUNTS}
    answers = {}
    for n in COUNTS:  # each memory nears the values at its own speed; all start empty
        noise = torch.randn(len(NAMES), n, D, generator=g)
        mix = [[p / PASSES * (i + 1) / len(NAMES) for p in range(PASSES + 1)] for i in range(len(NAMES))]
        answers[n] = {
            name: torch.stack([m * values[n] + (m > 0) * (1 - m) * noise[i] for m in mix[i]])
            for i, name in enumerate(NAMES)
        }
    return RecallMatrix(answers, values)


@pytest.fixture
def widget(made):
    made.reset()
    return made


def test_every_control_changes_the_picture_and_the_sentence(widget):
    for name, value in {"memory": "MLP", "pairs": 16, "after": 2}.items():
        picture, sentence = widget.png, widget.alt_text
        widget._controls[name].value = value
        assert widget.png != picture and widget.alt_text != sentence


def test_the_presets_show_different_pictures_and_reset_returns(widget):
    first, sentence = widget.png, widget.alt_text
    widget.preset("full matrix")
    pictures = {}
    for name in widget.presets:
        widget.preset(name)
        pictures[name] = widget.png
    assert len(set(pictures.values())) == len(pictures) == 5
    widget.reset()
    assert widget.png == first and widget.alt_text == sentence


@pytest.mark.parametrize("name", NAMES)
def test_the_ends_of_every_slider(widget, name):
    for pairs in COUNTS:
        for after in (0, PASSES):
            widget.set(memory=name, pairs=pairs, after=after)
            assert f"“{name}”, {pairs} pairs after {after} pass" in widget.alt_text
            assert widget._message.value == ""


def test_perfect_answers_shine_on_the_diagonal(widget):
    widget.set(memory="MLP, 3 layers", pairs=16, after=PASSES)
    assert widget.share[16, "MLP, 3 layers"][PASSES] == 1 and "16 right" in widget.alt_text
    assert np.diag(widget.similar[16, "MLP, 3 layers"][PASSES]) == pytest.approx(1)
    assert len(widget.hit.get_xdata()) == 16 and len(widget.miss.get_xdata()) == 0
    assert widget.verdict.get_text() == "16 of 16 after 6 passes"


def test_smaller_sets_have_larger_cells_and_dots_at_their_centres(widget):
    widget.set(memory="MLP, 3 layers", pairs=8, after=PASSES)
    shown = np.asarray(widget.map.image.get_array())
    assert shown.shape == (64, 64) and (shown[:8, :8] == shown[0, 0]).all()
    assert widget.hit.get_xdata()[1] == pytest.approx(8 + 3.5)


def test_an_empty_memory_resembles_nothing(widget):
    widget.set(memory="matrix", pairs=64, after=0)
    assert not widget.similar[64, "matrix"][0].any() and np.isfinite(widget.share[64, "matrix"]).all()
    assert "0.00 on the diagonal" in widget.alt_text


def test_an_empty_memory_recalls_nothing_and_shows_no_dots(widget):
    widget.set(memory="matrix", pairs=64, after=0)
    assert widget.share[64, "matrix"][0] == 0
    assert len(widget.hit.get_xdata()) == len(widget.miss.get_xdata()) == 0


def test_right_dots_are_ink_and_wrong_ones_dark_red(widget):
    widget.set(memory="matrix", pairs=64, after=1)
    assert len(widget.hit.get_xdata()) + len(widget.miss.get_xdata()) == 64
    assert widget.hit.get_color() == palette.INK and widget.miss.get_color() == palette.DIVERGED


def test_one_menu_and_two_sliders(widget):
    kinds = [type(control) for control in widget._controls.values()]
    assert kinds == [ipywidgets.Dropdown, ipywidgets.SelectionSlider, ipywidgets.IntSlider]


def test_numbers_of_pairs_that_do_not_divide_the_largest_are_refused():
    some = {n: {"matrix": torch.ones(2, n, 3)} for n in (5, 8)}
    with pytest.raises(ValueError, match=r"got pairs \[5, 8\]"):
        RecallMatrix(some, {n: torch.ones(n, 3) for n in (5, 8)})
