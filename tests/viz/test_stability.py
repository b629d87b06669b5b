"""The stability map, without a kernel: every preset and control, and the line against simulated memories."""

import ipywidgets
import numpy as np
import pytest
import torch

from titans_mini.data import digits
from titans_mini.viz.widgets import StabilityMap
from titans_mini.viz.widgets.stability import MEMORIES, WORDS, edge, losses


@pytest.fixture(scope="module")
def made():
    images, labels = digits()
    neat = torch.stack([images[labels == c].mean(0) for c in range(10)])
    return StabilityMap(images[:96], neat[labels[:96]])


@pytest.fixture
def widget(made):
    made.reset()
    return made


def test_every_control_changes_the_picture_and_the_sentence(widget):
    for name, value in {"memory": "stream, C = 16", "step": 0.125, "eta": 0.25}.items():
        picture, sentence = widget.png, widget.alt_text
        widget._controls[name].value = value
        assert widget.png != picture and widget.alt_text != sentence


def test_the_presets_show_different_pictures_and_reset_returns(widget):
    first = widget.png
    pictures = {}
    for name in widget.presets:
        widget.preset(name)
        pictures[name] = widget.png
    assert len(set(pictures.values())) == len(pictures)
    widget.reset()
    assert widget.png == first


@pytest.mark.parametrize("memory", MEMORIES)
def test_every_memory_at_the_corners_of_the_map(widget, memory):
    for step in (widget._controls["step"].options[0][1], widget._controls["step"].options[-1][1]):
        for eta in (0.0, 0.95):
            widget.set(memory=memory, step=step, eta=eta)
            assert memory in widget.alt_text and f"η = {eta:.2f}" in widget.alt_text
            assert widget._message.value == ""


def test_the_presets_mean_what_they_say(widget):
    end = {}
    for name, preset in widget.presets.items():
        row, column = widget._cell(preset["step"], preset["eta"])
        end[name] = widget.loss[preset["memory"]][row, column][-24:].mean()
    assert end["safe"] < end["repaired"] < widget.empty
    assert end["same gates, C = 16"] > 1e3 * widget.empty and end["NaN"] > 1e15
    assert end["on the edge"] == pytest.approx(widget.empty, rel=0.5)


def test_what_overflowed_is_dark_red_and_never_infinite(widget):
    learned = widget.learned["one digit, C = 1"]
    assert np.isnan(learned[:, -1]).all() and (learned[0, 20:24] > 0).all()
    assert not np.isinf(learned).any()


def test_the_dashed_line_belongs_to_the_online_stream(widget):
    shown = []
    for memory in MEMORIES:
        widget.set(memory=memory)
        shown += [memory] * widget.pause.artist.get_visible()
    assert shown == ["stream, C = 1"]


def test_the_words_on_the_map_are_true(widget):
    for memory in MEMORIES:
        widget.set(memory=memory)
        for text, (row, column) in zip(widget.words, WORDS.values(), strict=True):
            end = widget.loss[memory][row, column][-24:].mean()
            learns = text.get_text() == "learns"
            assert not text.get_visible() or (end < 0.8 * widget.empty if learns else not end < 10 * widget.empty)
    widget.set(memory="stream, C = 1")
    assert all(text.get_visible() for text in widget.words)


def test_one_menu_and_two_sliders(widget):
    kinds = [type(control) for control in widget._controls.values()]
    assert kinds == [ipywidgets.Dropdown, ipywidgets.SelectionSlider, ipywidgets.SelectionSlider]


def test_the_line_in_closed_form():
    for alpha in (0.0, 0.3, 1.0):
        for eta in (0.0, 0.5, 0.9):
            assert edge(eta, alpha) == pytest.approx((2 - alpha) * (1 + eta) / 2)
    for C in (2, 16, 64):
        assert edge(0.0, 0.0, C) == pytest.approx(1 / C)


@pytest.mark.parametrize(("C", "alpha"), [(1, 0.0), (1, 0.3), (4, 0.0), (16, 0.0), (16, 0.3)])
@pytest.mark.parametrize("eta", [0.0, 0.5, 0.9])
def test_the_line_separates_simulated_memories(C, alpha, eta):
    key = torch.nn.functional.normalize(torch.arange(1.0, 7.0).double(), dim=0).expand(64 * C, 6)
    limit = edge(eta, alpha, C)
    step = torch.tensor([0.9 * limit, 1.1 * limit], dtype=torch.float64)
    loss = losses(key, key, step, torch.full_like(step, eta), alpha, C)[:, ::C]  # at the chunks' starts
    below, above = (torch.diff(x).abs() for x in loss)  # with α > 0 the loss settles above 0
    assert below[-8:].max() < 0.2 * below[:8].max() and above[-8:].max() > 2 * above[:8].max()


def test_the_online_map_has_no_chunks():
    images, labels = digits()
    neat = torch.stack([images[labels == c].mean(0) for c in range(10)])
    widget = StabilityMap(images[:64], neat[labels[:64]], online=True)
    assert list(widget.memories) == ["one digit", "stream", "stream, α = 0.3"]
    for name, preset in widget.presets.items():
        widget.preset(name)
        assert preset["memory"] in widget.memories and "C =" not in widget.alt_text
    assert "chunk" not in widget.caption
