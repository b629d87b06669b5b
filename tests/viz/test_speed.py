"""The speed bars show the recorded ratios, every preset and control, without a kernel."""

import numpy as np
import pytest

from titans_mini.notebook import load_results
from titans_mini.viz.widgets import SpeedBars
from titans_mini.viz.widgets.speed import FORMS, OURS, PASSES, recorded


@pytest.fixture(scope="module")
def widget():
    return SpeedBars()


def test_every_control_and_preset_changes_the_picture_and_the_sentence(widget):
    first = widget.png, widget.alt_text
    for values in ({"T": 2048}, {"which": "forward and backward"}):
        widget.set(**values)
        assert widget.png != first[0] and widget.alt_text != first[1]
        widget.reset()
        assert (widget.png, widget.alt_text) == first
    pictures = set()
    for name in widget.presets:
        widget.preset(name)
        pictures.add(widget.png)
    widget.reset()
    assert len(pictures) == len(widget.presets)


def test_the_bars_are_the_recorded_times(widget):
    rows = load_results("speed_cpu")["rows"]
    for which, name in PASSES.items():
        times = recorded({"rows": rows}, name)
        assert all(times.values()), "every form was measured"
        for T in widget.lengths:
            widget.set(which=which, T=T)
            for bar, form in zip(widget.bars, FORMS, strict=True):
                micro = widget.time_of(form, which, T)
                assert bar.get_width() + 1 == pytest.approx(micro if np.isfinite(micro) else 1)
    widget.reset()


def test_chunks_are_the_measure_and_what_is_missing_is_told(widget):
    for which in PASSES:
        for T in widget.lengths:
            ratios = widget.ratios(which, T)
            assert ratios[OURS] == 1 and ratios["the loop"] > 10
            widget.set(which=which, T=T)
            missing = [text.get_text() for text in widget.words].count("not measured")
            assert missing == sum(np.isnan(x) for x in ratios.values())
    widget.reset()
