"""The dataflow explorer, without a kernel: its controls, and that the drawn paths are those of the library."""

import ipywidgets
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from matplotlib.colors import to_rgb

from titans_mini import TitansConfig, TitansLM
from titans_mini.viz import palette
from titans_mini.viz.widgets import DataflowExplorer
from titans_mini.viz.widgets.dataflow import PERSISTENT, SIZES, VARIANTS, influence, visible

T = 16
CAUSAL = np.tri(T, dtype=bool)


@pytest.fixture(scope="module")
def made():
    return DataflowExplorer(("mac", "mac literal", "mag", "swa"))


@pytest.fixture
def widget(made):
    made.reset()
    return made


def test_every_control_changes_the_picture_and_the_sentence(widget):
    for name, value in {"output": 3, "size": 4}.items():
        widget.reset()
        picture, sentence = widget.png, widget.alt_text
        widget._controls[name].value = value
        assert widget.png != picture and widget.alt_text != sentence


def test_the_presets_show_different_pictures_and_reset_returns(widget):
    first, sentence = widget.png, widget.alt_text
    pictures = {}
    for name in widget.presets:
        widget.preset(name)
        pictures[name] = widget.png
    assert len(set(pictures.values())) == len(pictures) == 3
    widget.reset()
    assert widget.png == first and widget.alt_text == sentence


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_is_drawn_is_what_may_be_used_and_what_was_measured(variant):
    widget = DataflowExplorer((variant,))
    panel, red = widget.panels[variant], np.array(to_rgb(palette.DIVERGED))
    for size in SIZES:
        for output in (0, 8, T - 1):
            widget.set(output=output, size=size)
            sees = visible(variant, T, size)
            lines = len(panel["lines"].get_segments())
            assert lines == sum(int(mask[output].sum()) for name, mask in sees.items() if name != "M")
            for name, cells in panel["cells"].items():
                empty = np.zeros((T, T), bool)
                filled = [cell.get_facecolor()[:3] != to_rgb(palette.PAPER) for cell in cells]
                assert filled == sees.get(name, empty)[output].tolist()
            assert sum(bar.get_height() > 1e-3 for bar in panel["bars"]) == sum(widget.count(variant, output, size))
            future = [cell.get_facecolor()[:3] == tuple(red) for cells in panel["cells"].values() for cell in cells]
            leaks = variant == "mac literal" and output % size < size - 1
            assert any(future) == leaks == ("a leak" in widget.alt_text)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("size", SIZES)
def test_what_may_be_used_is_what_moves(variant, size):
    """A token is used through S, through the memory, or through h; an h carries tokens of earlier segments too."""
    sees = visible(variant, T, size)
    reach = np.zeros((T, T), bool)
    for name, mask in sees.items():
        reach |= mask if name != "P" else False
    assert np.array_equal(influence(variant, T, size) > 0, reach)
    assert (reach <= CAUSAL).all() == (variant != "mac literal")


@pytest.mark.parametrize("variant", ["mac", "mac literal", "mag", "mal", "swa", "transformer"])
@pytest.mark.parametrize("size", SIZES)
def test_the_masks_are_those_that_attention_gets(variant, size, monkeypatch):
    name, _, literal = variant.partition(" ")
    sizes = {"window": size, "segment": size, "chunk_size": 4, "persistent": PERSISTENT, "literal": bool(literal)}
    model, masks = TitansLM(TitansConfig(name, 20, 16, 1, **sizes)), []
    original = F.scaled_dot_product_attention

    def spy(q, k, v, attn_mask=None, is_causal=False):
        causal = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool).tril()
        masks.append(causal if is_causal else attn_mask == 0)  # what is added to a score: 0 where it counts
        return original(q, k, v, attn_mask=attn_mask, is_causal=is_causal)

    monkeypatch.setattr(F, "scaled_dot_product_attention", spy)
    with torch.no_grad():
        state = None
        for part in torch.zeros(1, T, dtype=torch.long).split(size if name == "mac" else 1, 1):  # a window: one by one
            _, state = model(part, state)
    sees = visible(variant, T, size)
    at = 0
    for mask in masks:
        rows = np.concatenate([sees[g][at : at + len(mask)] for g in "PhS" if g in sees], 1)
        if name == "mac":  # only the columns of this segment exist
            own = np.r_[0:PERSISTENT, PERSISTENT + at : PERSISTENT + at + size]
            own = np.r_[own, own[PERSISTENT:] + T]
            others = np.delete(rows, own, 1)
            assert np.array_equal(mask.numpy(), rows[:, own]) and not others.any()
        else:
            assert int(mask.sum()) == int(rows.sum())
        at += len(mask)
    assert at == T


def test_a_row_by_hand():
    sees = visible("mac", 8, 4)
    assert [int(mask[6].sum()) for mask in sees.values()] == [2, 3, 3, 7]
    assert list(np.flatnonzero(sees["h"][6])) == [4, 5, 6]
    assert list(np.flatnonzero(visible("mac literal", 8, 4)["h"][6])) == [4, 5, 6, 7]
    assert list(np.flatnonzero(visible("swa", 8, 4)["S"][6])) == [3, 4, 5, 6]
    assert list(visible("lmm", 8, 4)) == ["M"] and list(visible("transformer", 8, 4)) == ["S"]


def test_two_sliders(widget):
    kinds = [type(control) for control in widget._controls.values()]
    assert kinds == [ipywidgets.IntSlider, ipywidgets.SelectionSlider]


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="expected one to four of mac"):
        DataflowExplorer(("mac", "rnn"))
    with pytest.raises(ValueError, match="expected one to four of mac"):
        DataflowExplorer(VARIANTS)
    with pytest.raises(ValueError, match="got 18 tokens"):
        DataflowExplorer(tokens=18)
    with pytest.raises(ValueError, match="got the variant 'rnn'"):
        visible("rnn", 8, 4)
