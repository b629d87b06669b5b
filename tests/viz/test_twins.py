"""The drawings of lesson 11."""

import torch

from titans_mini.viz import draw, figure
from titans_mini.viz.draw.twins import ARRANGEMENTS, BILL

NAMES = [*ARRANGEMENTS, *(f"{name}, never writes" for name in ARRANGEMENTS), "window + convolution", "window"]


def test_zeros_of_the_reach_are_left_out_and_memories_stand_at_the_right():
    fig, axes = figure(7.2, 2.6, 1, 2)
    felt = {"window": torch.tensor([1.0, 0.5, 0.0, 0.0]), "MAG": torch.tensor([1.0, 0.5, 0.2, 0.1])}
    draw.reach_panels(axes, felt)
    assert [list(ax.lines[0].get_xdata()) for ax in axes] == [[0, 1], [0, 1, 2, 3]]


def test_the_bill_asks_for_every_variant_at_every_length():
    fig, axes = figure(7.2, 2.6, 1, 2)
    asked = []
    draw.bill(axes, torch.tensor([10.0, 100.0]), lambda name, N: asked.append((name, N)) or N, lambda name, N: 2**20)
    assert asked == [(name, N) for name in BILL for N in (10, 100)]
    assert list(axes[1].lines[0].get_ydata()) == [1, 1]


def test_each_panel_has_a_model_its_twin_and_the_rival():
    fig, axes = figure(7.2, 2.4, 1, 4)
    curves = {name: torch.full((2, 12), float(i)) for i, name in enumerate(NAMES)}
    draw.twin_curves(axes, curves, "window")
    assert [[ax_line.get_ydata()[0] for ax_line in ax.lines] for ax in axes] == [[9, 4 + i, i] for i in range(4)]
    assert len(axes[0].lines[0].get_ydata()) == 4


def test_filled_dots_write_and_hollow_ones_do_not():
    fig, ax = figure(7.2, 2.3)
    draw.twin_dots(ax, {name: torch.tensor([float(i), i + 0.5]) for i, name in enumerate(NAMES)})
    dots = [one for one in ax.lines if one.get_marker() == "o"]
    assert len(dots) == len(NAMES)
    assert [one.get_xdata()[0] for one in dots][:2] == [0, 4]
    assert dots[0].get_markerfacecolor() != dots[1].get_markerfacecolor()
