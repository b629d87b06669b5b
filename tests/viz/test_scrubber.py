"""The memory scrubber in every state, and the tiles it draws, without a kernel."""

import matplotlib
import numpy as np
import pytest
import torch
from torch.nn import functional as F

from titans_mini import MemoryNet
from titans_mini.memory.trace import record
from titans_mini.viz import draw, figure, palette, png
from titans_mini.viz.widgets import MemoryScrubber

T = 12


@pytest.fixture(scope="module")
def stream():
    g = torch.Generator().manual_seed(0)
    images, labels = torch.rand(T, 64, generator=g, dtype=torch.float64), torch.randint(10, (T,), generator=g)
    k = F.normalize(images - images.mean(-1, keepdim=True), dim=-1)[None, None]
    v = F.one_hot(labels, 64).double()[None, None]
    zero, net = torch.zeros(1, 1, T, dtype=torch.float64), MemoryNet(64, depth=1, residual=False, norm=False)
    delta = record(k, k, v, zero, zero, zero + 0.25, net=net)  # read after the write: the widget asks before it
    hebb = record(k, k, v, zero, zero, zero + 0.5, net=net, chunk_size=T, read="before")
    return images, labels, {"delta rule": delta, "Hebb": hebb}


@pytest.fixture(scope="module")
def widget(stream):
    return MemoryScrubber(*stream)


@pytest.fixture
def scrubber(widget):
    widget.reset()
    return widget


@pytest.mark.parametrize("change", [{"t": 1}, {"t": 5}, {"rule": "Hebb"}, {"show": "write"}])
def test_every_control_changes_picture_and_sentence(scrubber, change):
    before = scrubber.png, scrubber.alt_text
    for name, value in change.items():
        scrubber._controls[name].value = value
    assert scrubber.png != before[0] and scrubber.alt_text != before[1]
    scrubber.reset()
    assert (scrubber.png, scrubber.alt_text) == before


@pytest.mark.parametrize("rule", ["delta rule", "Hebb"])
@pytest.mark.parametrize("show", ["memory", "write"])
def test_every_token_of_every_rule_can_be_drawn(scrubber, rule, show):
    pictures = set()
    for t in range(1, T + 1):
        scrubber.set(t=t, rule=rule, show=show)
        pictures.add(scrubber.png)
    assert len(pictures) == T


def test_presets(scrubber):
    first = scrubber.png
    assert set(scrubber.presets) == {"ten digits", "a surprise", "all", "all, Hebb"}
    for name in scrubber.presets:
        scrubber.preset(name)
        assert scrubber.values["t"] == scrubber.presets[name]["t"]
    scrubber.preset("all")
    assert scrubber.png == first
    scrubber.preset("a surprise")
    losses = scrubber.rules["delta rule"]["surprise"]
    assert losses[scrubber.values["t"] - 1] == losses[T // 2 :].max()


def test_the_answer_is_what_the_memory_said_before_the_write(scrubber, stream):
    _, labels, traces = stream
    for name, trace in traces.items():
        run = scrubber.rules[name]
        for t in range(T):
            expected = trace.k[0, 0, t] @ trace.weights[0][t, 0, 0]
            np.testing.assert_allclose(run["answers"][t], expected[:10], atol=1e-12)
            assert run["hit"][t] == (int(expected[:10].argmax()) == int(labels[t]))


def test_the_sentence_tells_guess_truth_and_verdict(scrubber, stream):
    scrubber.set(t=1)
    assert f"it knows nothing yet, and is told {stream[1][0]}" in scrubber.alt_text
    scrubber.set(t=T)
    verdict = "right" if scrubber.rules["delta rule"]["hit"][-1] else "wrong"
    assert verdict in scrubber.alt_text and f"told {stream[1][-1]}" in scrubber.alt_text


def test_a_column_is_folded_back_into_a_picture(scrubber, stream):
    weights = stream[2]["delta rule"].weights[0][:, 0, 0]
    np.testing.assert_array_equal(scrubber.rules["delta rule"]["memory"][5, 3], weights[5, :, 3].reshape(8, 8))


def test_records_of_another_length_are_refused(stream):
    images, labels, traces = stream
    with pytest.raises(ValueError, match=r"got records of \[12, 12\] tokens, expected 11"):
        MemoryScrubber(images[:-1], labels[:-1], traces)


# -- tiles ----------------------------------------------------------------------------------------------------------


def fresh(*arguments, **options):
    fig, ax = figure(3, 2)
    return fig, draw.tiles(ax, *arguments, **options)


def test_updated_tiles_equal_new_ones():
    g = np.random.default_rng(0)
    first, second = g.normal(size=(2, 5, 8, 8))
    fig, handle = fresh(first, list("abcde"), columns=3, signed=True, limit=2)
    before = png(fig)
    handle.update(second, list("vwxyz"), [palette.SURPRISE] * 5, limit=1)
    anew, _ = fresh(second, list("vwxyz"), columns=3, signed=True, limit=1, colours=[palette.SURPRISE] * 5)
    assert png(fig) == png(anew) != before
    handle.update(first, list("abcde"), limit=2)
    assert png(fig) == before


def test_tiles_lie_where_they_should():
    images = np.zeros((3, 4, 4))
    images[2] = 1
    _, handle = fresh(images, columns=2, limit=1)
    mosaic = handle.image.get_array()
    assert mosaic.shape == (10, 9, 4)  # one pixel between tiles
    assert matplotlib.colors.to_hex(mosaic[5, 0]).upper() == palette.KEY
    assert (mosaic[5:9, 5:] == (1, 1, 1, 0)).all() and (mosaic[:4, :4, :3] == 1).all()


def test_zero_is_pale_and_what_is_not_finite_is_dark_red():
    images = np.zeros((1, 2, 2))
    images[0, 0, 1] = np.nan
    for signed in (False, True):
        _, handle = fresh(images, signed=signed, limit=1)
        colours = [matplotlib.colors.to_hex(c).upper() for c in handle.image.get_array()[0, :2]]
        assert colours[1] == palette.DIVERGED and colours[0] != colours[1]


def test_tiles_refuse_other_shapes():
    with pytest.raises(ValueError, match=r"got images of shape \(4, 64\), expected \(N, height, width\)"):
        fresh(np.zeros((4, 64)))
    _, handle = fresh(np.zeros((4, 8, 8)))
    with pytest.raises(ValueError, match=r"expected \(4, 8, 8\)"):
        handle.update(np.zeros((3, 8, 8)))
