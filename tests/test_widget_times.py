"""The recorded time of a move of each widget, and the script that records it."""

import ipywidgets
import pytest

from benchmarks import widgets as script
from titans_mini.notebook import load_results
from titans_mini.viz import widgets
from tools import notebooks


def test_every_move_of_every_widget_is_quick_enough():
    results = load_results("widgets_cpu")
    shown = {name for name in widgets.__all__ if name != "Explorer"}
    assert {row["widget"] for row in results["rows"]} == shown
    assert results["hardware"]["threads"] == 1 and results["limit"] <= 0.1
    late = [row for row in results["rows"] if row["median"] > results["limit"] or row["moves"] < 10]
    assert not late


def test_the_record_has_every_notebook_with_a_widget():
    tagged = {
        path.name[:2]
        for path in notebooks.find()
        if any(notebooks.WIDGET_TAG in cell.metadata.get("tags", []) for cell in notebooks.read(path).cells)
    }
    assert {row["notebook"] for row in load_results("widgets_cpu")["rows"]} == tagged


def test_each_control_is_moved_and_put_back():
    with script.collected() as made:
        bars = widgets.SpeedBars()
    assert made == [bars]
    rows = script.measure(bars)
    assert [row["control"] for row in rows] == list(bars._controls)
    assert all(row["moves"] >= script.MOVES and 0 < row["median"] <= row["slowest"] for row in rows)
    assert bars.values == bars._start
    assert "SpeedBars" in script.table(load_results("widgets_cpu"))


@pytest.mark.parametrize(
    "control, values",
    [
        (ipywidgets.Checkbox(), [False, True]),
        (ipywidgets.Dropdown(options=[("one", 1), ("two", 2)]), [1, 2]),
        (ipywidgets.IntSlider(3, 1, 4), [1, 2, 3, 4]),
    ],
)
def test_positions_of_a_control(control, values):
    assert script.positions(control) == values
    slider = ipywidgets.FloatSlider(0.5, min=0, max=1, step=0.05)
    assert len(script.positions(slider)) == 13 and script.positions(slider)[-1] == pytest.approx(1)
