"""The tile viewer and the roofline, without a kernel: every control, presets, what they count, what they refuse."""

import numpy as np
import pytest
import torch

from benchmarks.cases import per_token
from titans_mini import MemoryNet
from titans_mini.kernels import emulator, interpret
from titans_mini.viz import draw, figure
from titans_mini.viz.draw.board import HELD, MOVED, UNTOUCHED
from titans_mini.viz.widgets import Roofline, TileViewer, roofline
from titans_mini.viz.widgets.roofline import CHUNKS, GPU, H200, SEQUENCES, floors, operations, recorded

STANDIN = interpret.find(allow_triton=False)


def by_row(k, M, y, D):
    tl = emulator.tl
    t, d = tl.program_id(0), tl.arange(0, D)
    row = tl.load(k + t * D + d)[None, :]
    tl.store(y + t * D + d, tl.dot(row, tl.load(M + d[:, None] * D + d[None, :]))[0])


def at_once(k, M, y, D):
    tl = emulator.tl
    r, d = tl.arange(0, 3), tl.arange(0, D)
    rows = r[:, None] * D + d[None, :]
    tl.store(y + rows, tl.dot(tl.load(k + rows), tl.load(M + d[:, None] * D + d[None, :])))


@pytest.fixture
def viewer():
    x = {"k": torch.randn(3, 4), "M": torch.randn(4, 4), "y": torch.zeros(3, 4)}
    tapes = {}
    for name, kernel, grid in (("rows", by_row, (3,)), ("all", at_once, (1,))):
        with interpret.recording(STANDIN, **x) as tapes[name]:
            emulator.triton.jit(kernel)[grid](*x.values(), 4)
    return TileViewer(tapes)


def test_every_control_of_the_viewer_changes_picture_and_sentence(viewer):
    for name, value in {"kernel": "rows", "event": 1}.items():
        viewer.reset()
        picture, sentence = viewer.png, viewer.alt_text
        viewer._controls[name].value = value
        assert viewer.png != picture and viewer.alt_text != sentence


def test_held_moved_and_untouched_cells(viewer):
    state = viewer.board("rows", 6)  # four events a program: load, load, product, store; now in the second program
    assert state["k"].tolist() == [[MOVED] * 4, [HELD] * 4, [UNTOUCHED] * 4]
    assert (state["M"] == HELD).all() and state["y"].tolist() == [[MOVED] * 4, [UNTOUCHED] * 4, [UNTOUCHED] * 4]
    viewer.set(kernel="rows", event=12)
    assert "12 of 12" in viewer.alt_text and "288 of 288 bytes" in viewer.alt_text  # 3 · (4 + 16 + 4) numbers
    viewer.set(kernel="all")
    assert "160 of 160 bytes" in viewer.alt_text and "made 1 products" in viewer.alt_text


def test_every_event_and_preset_of_the_viewer_can_be_shown(viewer):
    for name in viewer.presets:
        viewer.preset(name)
    for event in range(1, viewer.longest + 1):
        viewer.set(event=event)
        assert viewer._message.value == ""


def test_the_viewer_refuses_an_empty_tape_and_other_shapes(viewer):
    with pytest.raises(ValueError, match="without events"):
        TileViewer({"x": interpret.Tape({})})
    other = interpret.Tape({"k": torch.zeros(2, 2)}, viewer.tapes["all"].events)
    with pytest.raises(ValueError, match="expected one shape"):
        TileViewer({**viewer.tapes, "other": other})


def test_a_puzzle_has_one_axes_a_tensor():
    _, axes = figure(4, 2, 1, 2)
    with pytest.raises(ValueError, match="2 axes for 1 tensors"):
        draw.puzzle(axes, {"x": (2, 2)}, {"x": "red"}, {"x": (0, 0, 2, 2)})
    with pytest.raises(ValueError, match="at least one row"):
        draw.sheet(axes[0], (0, 2), "red", "x")


# -- the roofline ------------------------------------------------------------------------------------------------------

NETS = [MemoryNet(64, depth=1, residual=False, norm=False), MemoryNet(64, depth=2, expansion=2), MemoryNet(32, depth=3)]


@pytest.mark.parametrize("net", NETS, ids=["matrix", "mlp", "three layers"])
@pytest.mark.parametrize("C", CHUNKS)
def test_operations_are_those_of_the_benchmarks(net, C):
    every, chained = operations(net, C)
    assert every == per_token(net, C) and 0 < chained < every


def test_floors_by_hand():
    gpu = GPU("g", rate=1e9, bandwidth=1e6, processors=10, source="made up")
    net = MemoryNet(2, depth=1, residual=False, norm=False)  # P = P₁ = 4, N = 4
    found = floors(net, gpu, [1, 5], T=100, C=3)
    assert np.allclose(found["matrix"], [100 * (40 + 24) / 1e9, 500 * (40 + 24) / 1e9])
    assert np.allclose(found["bytes"], [100 * (16 + 12) / 1e6, 500 * (16 + 12) / 1e6])
    assert np.allclose(found["chain"], [100 * 24 / 1e8] * 2)


def test_every_control_of_the_roofline_changes_picture_and_sentence():
    widget = Roofline()
    for name, value in {"memory": "MLP, expansion 4", "sequences": 512, "C": 16}.items():
        widget.reset()
        picture, sentence = widget.png, widget.alt_text
        widget._controls[name].value = value
        assert widget.png != picture and widget.alt_text != sentence


def test_the_floor_is_the_highest_line_and_every_number_says_where_it_is_from():
    widget = Roofline()
    for memory in widget.nets:
        for sequences in SEQUENCES:
            widget.set(memory=memory, sequences=sequences)
            assert "data sheet, assumed" in widget.alt_text and "data sheet, assumed" in widget.title.get_text()
    lines = [line.artist.get_ydata() for line in widget.lines.values()]
    assert np.array_equal(widget.floor.artist.get_ydata(), np.max(lines, 0))
    assert widget.bound("matrix", 1, 64) == "the chain" and widget.bound("matrix", 1024, 64) == "bytes"
    assert widget.bound("MLP, expansion 4", 1024, 64) == "matrix units"


def test_what_a_gpu_reached_comes_from_the_record(monkeypatch):
    found = recorded()
    assert found.source.startswith("measured 20") and 0.5 < found.rate / H200.rate < 1
    assert 0.5 < found.bandwidth / H200.bandwidth < 1
    assert found.source in Roofline((found, H200)).alt_text
    monkeypatch.setattr(roofline, "load_results", lambda name: {"machine": None})
    assert recorded() is None


def test_one_gpu_alone_and_nonsense():
    assert not Roofline(gpus=(H200,)).others
    with pytest.raises(ValueError, match="at least one of each"):
        Roofline(gpus=())
