"""The widget base, without a kernel: set values, look at bytes."""

import base64
import subprocess
import sys

import ipywidgets
import numpy as np
import pytest

from titans_mini.viz import draw, figure
from titans_mini.viz.widgets import Explorer
from titans_mini.viz.widgets.explorer import NamedImage


class Demo(Explorer):
    caption = "The bars <grow>."
    presets = {"late": {"t": 4}, "late & doubled": {"t": 4, "double": True}}

    def __init__(self):
        self.record = np.random.default_rng(0).uniform(0, 1, (5, 3))
        self.draws = 0
        super().__init__()

    def controls(self):
        return {"t": ipywidgets.IntSlider(0, 0, 4), "double": ipywidgets.Checkbox(False, description="double it")}

    def build(self):
        fig, ax = figure(3, 2)
        self.bars = draw.bars(ax, self.record[0])
        ax.set(ylim=(0, 2))
        return fig

    def draw(self, t, double):
        self.draws += 1
        self.bars.update(self.record[t] * (2 if double else 1))

    def alt(self, t, double):
        return f"Three bars at token {t}{', doubled' if double else ''}."


class Raising(Demo):
    def draw(self, t, double):
        if t == 3:
            raise ZeroDivisionError("t is <three>")
        super().draw(t, double)


def every_widget(widget):
    yield widget
    for child in getattr(widget, "children", ()):
        yield from every_widget(child)


def button(demo, name):
    return next(w for w in every_widget(demo.box) if isinstance(w, ipywidgets.Button) and w.description == name)


def test_every_control_changes_the_picture_and_the_sentence():
    demo = Demo()
    for name, value in {"t": 2, "double": True}.items():
        picture, sentence = demo.png, demo.alt_text
        demo._controls[name].value = value
        assert demo.png != picture and demo.alt_text != sentence
        assert demo.alt_text in demo._sentence.value
    assert demo.values == {"t": 2, "double": True}


def test_same_values_same_bytes_whatever_came_before():
    demo, other = Demo(), Demo()
    demo.set(t=3, double=True)
    demo.set(t=1, double=False)
    other.set(t=1)
    assert demo.png == other.png


@pytest.mark.parametrize("how", ["method", "button"])
def test_reset_returns_the_first_picture(how):
    demo = Demo()
    first = demo.png
    demo.set(t=4, double=True)
    demo.reset() if how == "method" else button(demo, "reset").click()
    assert demo.png == first and demo.values == {"t": 0, "double": False}


def test_presets_start_from_the_start():
    demo = Demo()
    demo.preset("late & doubled")
    assert demo.values == {"t": 4, "double": True}
    button(demo, "late").click()
    assert demo.values == {"t": 4, "double": False}


def test_set_redraws_once_and_not_at_all_when_nothing_changes():
    demo = Demo()
    count = demo.draws
    demo.set(t=2, double=True)
    assert demo.draws == count + 1
    demo.set(t=2)
    assert demo.draws == count + 1


def test_names_are_checked():
    demo = Demo()
    with pytest.raises(KeyError, match="'tt', expected one of t, double"):
        demo.set(tt=1)
    with pytest.raises(KeyError, match="expected one of 'late'"):
        demo.preset("early")
    bad = type("Bad", (Demo,), {"presets": {"oops": {"q": 1}}})
    with pytest.raises(KeyError, match="oops"):
        bad()


def test_a_refused_value_changes_nothing():
    demo = Demo()
    picture = demo.png
    with pytest.raises(Exception, match="int"):
        demo.set(double=True, t="three")
    assert demo.values == {"t": 0, "double": False} and demo.png == picture


@pytest.mark.parametrize("count", [0, 4])
def test_one_to_three_controls(count):
    bad = type("Bad", (Demo,), {"controls": lambda self: {str(i): ipywidgets.IntSlider() for i in range(count)}})
    with pytest.raises(ValueError, match=f"got {count} controls"):
        bad()


@pytest.mark.parametrize("move", [lambda d: setattr(d._controls["t"], "value", 3), lambda d: d.set(t=3)])
def test_an_exception_surfaces_and_the_picture_says_so(move):
    demo = Raising()
    picture = demo.png
    with pytest.raises(ZeroDivisionError):
        move(demo)
    assert "not up to date" in demo._message.value and "t is &lt;three&gt;" in demo._message.value
    assert demo.png == picture
    demo.set(t=1)
    assert demo._message.value == "" and demo.png != picture


def test_bundle_has_widget_picture_and_sentence():
    demo = Demo()
    data, metadata = demo._repr_mimebundle_()
    view = data["application/vnd.jupyter.widget-view+json"]
    assert view == {"version_major": 2, "version_minor": 0, "model_id": demo.box.model_id}
    assert base64.b64decode(data["image/png"])[:4] == b"\x89PNG"
    assert data["text/plain"] == repr(demo) == "Three bars at token 0."
    assert metadata["image/png"] == {"alt": "Three bars at token 0.", "width": 300}


def test_bundle_shows_the_present_state():
    demo = Demo()
    before = demo._repr_mimebundle_()[0]["image/png"]
    demo.set(t=4)
    assert demo._repr_mimebundle_()[0]["image/png"] != before


def test_only_core_controls_and_no_output_widget():
    kinds = {type(widget) for widget in every_widget(Demo().box)}
    assert ipywidgets.Output not in kinds and NamedImage in kinds
    assert all(kind.__module__.startswith("ipywidgets.") for kind in kinds - {NamedImage})
    assert issubclass(NamedImage, ipywidgets.Image) and NamedImage().model_id


def test_controls_are_described_and_the_caption_is_escaped():
    demo = Demo()
    assert [c.description for c in demo._controls.values()] == ["t", "double it"]
    texts = [w.value for w in every_widget(demo.box) if isinstance(w, ipywidgets.HTML)]
    assert any("The bars &lt;grow&gt;." in text for text in texts)
    assert all(w.tooltip for w in every_widget(demo.box) if isinstance(w, ipywidgets.Button))


def test_viz_alone_does_not_load_ipywidgets():
    script = "import sys, titans_mini.viz; assert 'ipywidgets' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True)
