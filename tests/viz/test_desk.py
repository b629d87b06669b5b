"""The forgetting desk and its drawings, without a kernel."""

import math

import numpy as np
import pytest
import torch

from titans_mini.data.evening import attend, evening
from titans_mini.viz import draw, figure, png
from titans_mini.viz.widgets import ForgettingDesk


@pytest.fixture(scope="module")
def made():
    return ForgettingDesk(evening(7, visits=160))


@pytest.fixture
def widget(made):
    made.reset()
    return made


def test_every_control_changes_the_picture_and_the_sentence(widget):
    for name, value in {"half_life": 4, "step": 0.2, "level": 0.3}.items():
        picture, sentence = widget.png, widget.alt_text
        widget._controls[name].value = value
        assert widget.png != picture and widget.alt_text != sentence


def test_the_presets_show_the_trade(widget):
    found, silent = {}, {}
    for name, preset in widget.presets.items():
        widget.preset(name)
        assert widget._message.value == ""
        _, found[name], silent[name] = widget.measure(**preset)
    assert silent["never"] < silent["24 visits"] < silent["too short"]
    assert found["too short"] < found["24 visits"] and silent["too short, lower level"] < silent["too short"]
    widget.set(half_life=math.inf)
    assert "no forgetting" in widget.alt_text


def test_ink_before_the_arrival_is_left_out():
    e = evening(3, visits=60)
    loud = (e.keys @ attend(*e.visits, 0, 0, 0.5)).amax(-1).T
    fig, ax = figure(5, 2)
    handle = draw.ghosts(ax, loud, e.stays, e.names)
    shown = handle.image.get_array().filled(0)
    arrival, departure = e.stays[-1]
    assert not shown[-1, :arrival].any() and np.allclose(shown[-1, arrival:], loud[-1, arrival:])
    handle.update(torch.zeros_like(loud))
    assert not handle.image.get_array().filled(0).any()
    assert png(fig)


def test_fade_then_write_shows_both_orders():
    fig, ax = figure(7.2, 2.5)
    draw.fade_then_write(ax, [4, 2, 0], [-0.5, -1, 0], 0.5, "ABC")
    words = [text.get_text() for text in ax.texts]
    assert "+1.5" in words and "+1.8" in words and "S = (−0.5, −1, 0)" in words
    assert words.index("fade, then write") < words.index("write, then fade")


def test_half_lives_are_marked():
    _, ax = figure(5, 2)
    draw.halves(ax, 24, 100)
    assert [text.get_text() for text in ax.texts] == ["1/2", "1/4", "1/8", "1/16"]
