"""The surprise seismograph, without a kernel, and the trace it draws."""

import base64

import ipywidgets
import numpy as np
import pytest
import torch

from titans_mini import MemoryNet
from titans_mini.memory.trace import record
from titans_mini.viz import draw, figure, palette
from titans_mini.viz.widgets import Seismograph

D, T, AT = 4, 16, 5
PRESETS = {"rule": {"event": "new rule"}, "dropped": {"drop": True}, "rule, no past": {"event": "new rule", "eta": 0.0}}


def events():
    """Unit keys in a loop; once another value, or another value from then on, asked for with all keys."""
    keys, values = torch.eye(D, dtype=torch.float64), torch.eye(D, dtype=torch.float64)
    loop = torch.arange(T) % D
    k, odd, rule = keys[loop], values[loop].clone(), values[loop].clone()
    odd[AT] = values[(AT + 2) % D]
    rule[AT:] = values.roll(1, 0)[loop[AT:]]
    return {
        "odd token": (k, odd, keys[AT % D][None], values[AT % D][None], "one key"),
        "new rule": (k, rule, keys, values.roll(1, 0), "all keys"),
    }


@pytest.fixture(scope="module")
def shared():
    return Seismograph(events(), torch.eye(D, dtype=torch.float64)[None], at=AT, presets=PRESETS)


@pytest.fixture
def seismograph(shared):
    shared.reset()
    return shared


def heights(strokes):
    return np.array([segment[1, 1] for segment in strokes.get_segments()])


@pytest.mark.parametrize("event", ["odd token", "new rule"])
@pytest.mark.parametrize("eta", [0.0, 0.45, 0.8, 0.9])
@pytest.mark.parametrize("drop", [False, True])
def test_every_state_shows_what_a_single_run_records(seismograph, event, eta, drop):
    seismograph.set(event=event, eta=eta, drop=drop)
    k, v, asked, truth, about = events()[event]
    gate = torch.full((1, 1, T), eta, dtype=torch.float64)
    gate[..., AT + 1] *= not drop
    net = MemoryNet(D, depth=1, residual=False, norm=False)
    start = net.init_state(1, 1, (torch.eye(D, dtype=torch.float64)[None],))
    one = record(*(x[None, None] for x in (k, k, v)), 0 * gate, gate, 0 * gate + 0.1, start, net=net)
    np.testing.assert_allclose(heights(seismograph.trace.up), one.momentary[:, 0, 0], atol=1e-12)
    np.testing.assert_allclose(heights(seismograph.trace.down), -one.past[:, 0, 0], atol=1e-12)
    error = (asked @ one.weights[0][:, 0, 0] - truth).square().sum(-1).mean(-1)
    np.testing.assert_allclose(seismograph.error.artist.get_ydata(), error, atol=1e-12)
    assert about in seismograph.asked.get_text()
    top, low = seismograph.figure.axes
    for ax, shown in ((top, one.momentary), (top, -one.past), (low, error)):
        assert ax.get_ylim()[0] <= shown.min() and shown.max() <= ax.get_ylim()[1]


def test_every_control_changes_the_picture_and_the_sentence(seismograph):
    for name, value in {"event": "new rule", "eta": 0.3, "drop": True}.items():
        before, sentence = seismograph.png, seismograph.alt_text
        seismograph._controls[name].value = value
        assert seismograph.png != before
        assert seismograph.alt_text != sentence


def test_every_slider_position_has_its_own_record(seismograph):
    slider = seismograph._controls["eta"]
    assert len(seismograph.etas) == round((slider.max - slider.min) / slider.step) + 1
    past = []
    for eta in np.arange(len(seismograph.etas)) * slider.step:
        seismograph.set(eta=float(eta))
        past.append(-heights(seismograph.trace.down).min())
    assert past[0] == 0
    assert all(a < b for a, b in zip(past, past[1:], strict=False))


@pytest.mark.parametrize("name", PRESETS)
def test_presets_and_reset(seismograph, name):
    start, picture = seismograph.values, seismograph.png
    seismograph.preset(name)
    assert seismograph.values == start | PRESETS[name]
    assert seismograph.png != picture
    seismograph.reset()
    assert seismograph.png == picture


def test_without_past_surprise_there_is_nothing_to_drop(seismograph):
    seismograph.set(eta=0.0)
    before = seismograph.png
    seismograph.set(drop=True)
    assert seismograph.png == before


def test_the_bundle_holds_the_picture_and_its_sentence(seismograph):
    data, metadata = seismograph._repr_mimebundle_()
    assert base64.b64decode(data["image/png"]).startswith(b"\x89PNG")
    assert metadata["image/png"]["alt"] == data["text/plain"]
    assert data["text/plain"].startswith(seismograph.alt_text + " Below, for comparison: ")
    assert isinstance(seismograph.box, ipywidgets.VBox)


@pytest.mark.parametrize("at", [-1, T - 1])
def test_an_event_outside_the_stream_is_refused(at):
    with pytest.raises(ValueError, match="an event at"):
        Seismograph(events(), torch.eye(D, dtype=torch.float64)[None], at=at)


def test_streams_of_different_lengths_are_refused():
    odd, rule = events().values()
    with pytest.raises(ValueError, match="equal lengths"):
        Seismograph({"a": odd, "b": (rule[0][:-1], rule[1][:-1], *rule[2:])}, torch.eye(D)[None], at=AT)


def test_the_trace_goes_up_and_down_and_keeps_its_length():
    _, ax = figure(3, 2)
    trace = draw.seismogram(ax, [1.0, 0.5], torch.tensor([0.0, 2.0]))
    assert heights(trace.up).tolist() == [1, 0.5] and heights(trace.down).tolist() == [0, -2]
    trace.update([0.0, 3.0], [1.0, 0.0])
    assert heights(trace.up).tolist() == [0, 3] and heights(trace.down).tolist() == [-1, 0]
    assert ax.yaxis.get_major_formatter()(-2.0, None) == "2"
    assert palette.to_rgb(palette.SURPRISE) == tuple(trace.up.get_colors()[0][:3])
    with pytest.raises(ValueError, match="expected 2"):
        trace.update([1.0], [1.0])
    with pytest.raises(ValueError, match="pick a batch"):
        draw.seismogram(ax, np.ones((2, 1)), np.ones((2, 1)))
