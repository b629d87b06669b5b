"""Base class of the widgets: a few controls, one picture, one sentence that describes it."""

from __future__ import annotations

import base64
import html
from typing import ClassVar

import ipywidgets
from matplotlib.figure import Figure

from titans_mini.viz.palette import DIVERGED, PAPER
from titans_mini.viz.picture import png, shrink

MOST_CONTROLS = 3
DPI = 100
ALERT = f"padding:4px 10px;border-radius:3px;color:{PAPER};background:{DIVERGED}"


class Explorer:
    """A picture with at most three controls, some presets and a reset button.

    A subclass computes its data once, in its own ``__init__`` before ``super().__init__()``, and implements

    - ``controls()``: a dict from name to a core ipywidgets control; the controls' values are the state,
    - ``build()``: the figure with all its artists, once; limits and colour scales are fixed here,
    - ``draw(**values)``: moves the artists to the given values, in less than 100 ms,
    - ``alt(**values)``: one sentence that replaces the picture for readers who cannot see it,

    and may set `caption` (a guide to the picture) and `presets` (name → dict of some or all values).

    An exception in ``draw`` or ``alt`` is never swallowed: a message says that the picture is not up to date, and the
    exception propagates.
    """

    caption: ClassVar[str] = ""
    presets: ClassVar[dict[str, dict]] = {}

    def controls(self) -> dict[str, ipywidgets.Widget]:
        """Return the controls by name, at most three."""
        raise NotImplementedError

    def build(self) -> Figure:
        """Make the figure and its artists, once."""
        raise NotImplementedError

    def draw(self, **values) -> None:
        """Move the artists to `values`."""
        raise NotImplementedError

    def alt(self, **values) -> str:
        """Describe the picture at `values` in one sentence."""
        raise NotImplementedError

    def __init__(self):
        self._controls = dict(self.controls())
        if not 1 <= len(self._controls) <= MOST_CONTROLS:
            raise ValueError(f"got {len(self._controls)} controls, expected 1 to {MOST_CONTROLS}: more hide the idea")
        self._start = self.values
        for name, preset in self.presets.items():
            self._check_names(preset, f"preset {name!r}")
        self.figure = self.build()
        self.image = ipywidgets.Image(format="png", layout=_layout(max_width="100%", align_self="flex-start"))
        self._sentence = ipywidgets.HTML()
        self._message = ipywidgets.HTML()
        self._held = False
        self._settled = False
        self._refresh()
        for control in self._controls.values():
            control.observe(self._on_change, names="value")
        self.box = self._arrange()

    # -- public ----------------------------------------------------------------------------------------------------

    @property
    def values(self) -> dict:
        """Return the current value of every control, by name."""
        return {name: control.value for name, control in self._controls.items()}

    @property
    def png(self) -> bytes:
        """Return the current picture as PNG bytes."""
        return bytes(self.image.value)

    @property
    def alt_text(self) -> str:
        """Return the sentence that describes the current picture."""
        return self.alt(**self.values)

    def set(self, **values) -> None:
        """Set several controls and redraw once; an invalid value leaves all controls unchanged."""
        self._check_names(values, "set")
        before = self.values
        self._held = True
        try:
            for name, value in values.items():
                self._controls[name].value = value
        except Exception:
            for name, value in before.items():
                self._controls[name].value = value
            raise
        finally:
            self._held = False
        if self.values != before:
            self._refresh()

    def reset(self) -> None:
        """Reset every control to its initial value."""
        self.set(**self._start)

    def preset(self, name: str) -> None:
        """Set the controls to a preset, the others to their initial values."""
        if name not in self.presets:
            raise KeyError(f"got preset {name!r}, expected one of {', '.join(map(repr, self.presets)) or 'none'}")
        self.set(**self._start | self.presets[name])

    # -- private ---------------------------------------------------------------------------------------------------

    def _check_names(self, values: dict, where: str) -> None:
        for name in values:
            if name not in self._controls:
                raise KeyError(f"{where}: got a control named {name!r}, expected one of {', '.join(self._controls)}")

    def _on_change(self, change) -> None:
        if not self._held and change["new"] != change["old"]:
            self._refresh()

    def _refresh(self) -> None:
        values = self.values
        try:
            self.draw(**values)
            sentence = self.alt(**values)
            if not self._settled:  # lay the axes out once, so that nothing moves when a slider does
                self.figure.canvas.draw()
                self.figure.set_layout_engine("none")
                self._settled = True
            picture = png(self.figure, DPI, colours=None)
        except Exception as error:
            note = f"{type(error).__name__}: {error}"
            self._message.value = _html_line(f"The picture is not up to date. {html.escape(note)}", ALERT, "alert")
            raise
        self._message.value = ""
        self.image.value = picture
        self._sentence.value = _html_line(html.escape(sentence), "opacity:.75", "status")

    def _arrange(self):
        for name, control in self._controls.items():
            if not control.description:
                control.description = name
            control.style.description_width = "initial"
            if control.layout.width is None and not isinstance(control, (ipywidgets.Textarea, ipywidgets.Text)):
                control.layout.width = "340px"
        wrap = _layout(display="flex", flex_flow="row wrap", align_items="center")
        rows = [ipywidgets.Box([*self._controls.values()], layout=wrap)]
        buttons = [self._button(name, lambda _, name=name: self.preset(name)) for name in self.presets]
        buttons.append(self._button("reset", lambda _: self.reset(), "Move every control back to where it started"))
        rows.append(ipywidgets.Box(buttons, layout=wrap))
        rows += [self.image, self._message]
        if self.caption:
            rows.append(ipywidgets.HTML(_html_line(html.escape(self.caption))))
        return ipywidgets.VBox([*rows, self._sentence])

    def _button(self, name: str, action, tooltip: str = ""):
        button = ipywidgets.Button(description=name, tooltip=tooltip or f"Preset: {name}", layout=_layout(width="auto"))
        button.on_click(action)
        return button

    def __repr__(self) -> str:
        return self.alt_text

    def _repr_mimebundle_(self, include=None, exclude=None):
        width = round(self.figure.get_figwidth() * DPI)
        data = {
            "application/vnd.jupyter.widget-view+json": {
                "version_major": 2,
                "version_minor": 0,
                "model_id": self.box.model_id,
            },
            "image/png": base64.b64encode(shrink(self.png)).decode("ascii"),
            "text/plain": self.alt_text,
        }
        return data, {"image/png": {"alt": self.alt_text, "width": width}}


def _layout(**traits) -> ipywidgets.Layout:
    return ipywidgets.Layout(**traits)


def _html_line(text: str, look: str = "", role: str = "") -> str:
    """Format a line below the picture; its colour is the theme's, so that it is legible in a dark theme too."""
    role = f' role="{role}"' if role else ""
    return f'<div{role} style="font-size:13px;line-height:1.4;max-width:720px;{look}">{text}</div>'
