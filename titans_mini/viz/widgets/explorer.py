"""Base class of the widgets: a few controls, one picture, one sentence that describes it."""

from __future__ import annotations

import asyncio
import base64
import html
import io
from typing import ClassVar

import ipywidgets
import numpy as np
from matplotlib.figure import Figure
from PIL import Image
from traitlets import Unicode

from titans_mini.viz.draw.colour_key import colour_key
from titans_mini.viz.palette import DIVERGED, MUTED, PAPER
from titans_mini.viz.picture import figure, png, shrink
from titans_mini.viz.screen import Screen, quick_png

MOST_CONTROLS = 3
DPI = 100
INSIDE = "calc(100% - 4px)"  # a widget has 2 pixels of margin
PAUSE = 0.5  # seconds without a key press after which a text is read
MOVE_IT = "Run this cell to move it."
# A page is dark by JupyterLab's, VS Code's or Colab's own mark; of the two pictures it shows the one that fits.
THEMES = ('body[data-jp-theme-light="false"]', "body.vscode-dark", "body.vscode-high-contrast", "html[theme=dark]")
SHEET = "".join(
    [
        ".titans-dark{display:none!important}",
        *(f"{theme} .titans-dark{{display:block!important}}" for theme in THEMES),
        *(f"{theme} .titans-light{{display:none!important}}" for theme in THEMES),
        ".titans-said{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%)}",
        ".titans-controls .widget-label{white-space:normal}",
    ]
)
ALERT = f"padding:4px 10px;border-radius:3px;color:{PAPER};background:{DIVERGED}"


class NamedImage(ipywidgets.Image):
    """A picture whose `tooltip` is its name to a screen reader.

    The browser's side of ipywidgets 8 shows a tooltip only where a description is known to be empty.
    """

    description = Unicode("").tag(sync=True)


class Explorer:
    """A picture with at most three controls, some presets and a reset button.

    A subclass computes its data once, in its own ``__init__`` before ``super().__init__()``, and implements

    - ``controls()``: a dict from name to a core ipywidgets control; the controls' values are the state,
    - ``build()``: the figure with all its artists, once; limits and colour scales are fixed here,
    - ``draw(**values)``: moves the artists to the given values, in less than 100 ms,
    - ``alt(**values)``: one sentence that replaces the picture for readers who cannot see it,

    and may set

    - `caption`, a guide to the picture, and `presets`, name → dict of some or all values,
    - `key`, the entries of a colour key, see `titans_mini.viz.draw.colour_key`, and whether they are `key_on_cells`,
    - `compared`, names of presets that the stored picture shows side by side, for readers who run nothing, and
      in ``build()`` the axes of which it shows them, `main`.

    The picture is drawn on a light and on a dark page, and the theme shows one of them. A text acts when nobody has
    typed for half a second. A slider that is dragged needs nothing here: the browser sends no value before the answer
    to the last one, and then only the newest.

    An exception in ``draw`` or ``alt`` is never swallowed: a message says that the picture is not up to date, and the
    exception propagates.
    """

    caption: ClassVar[str] = ""
    presets: ClassVar[dict[str, dict]] = {}
    key: ClassVar[tuple] = ()
    key_on_cells: ClassVar[bool] = False
    compared: ClassVar[tuple[str, ...]] = ()
    sentence_lines: ClassVar[int] = 3  # room for the sentence, so that nothing below it jumps
    main = None

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
        self.main = self.main or self.figure.axes[0]
        if self.key:
            colour_key(self.figure, self.key, on_cells=self.key_on_cells)
        self.image, self.dark_image = (
            NamedImage(format="png", layout=_layout(max_width=INSIDE, align_self="flex-start")) for _ in range(2)
        )
        self.image.add_class("titans-light")
        self.dark_image.add_class("titans-dark")
        self._sentence = ipywidgets.HTML()
        self._message = ipywidgets.HTML()
        self._held = False
        self._screen = self._timer = None
        self._before: dict = {}
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
        if self._held or change["new"] == change["old"]:
            return
        if isinstance(change["owner"], (ipywidgets.Textarea, ipywidgets.Text)) and self._wait():
            return
        self._refresh()

    def _wait(self) -> bool:
        """Redraw after a pause, counted from now; False where no loop runs that could wake us, as in a script."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return False
        self._forget_timer()
        self._timer = loop.call_later(PAUSE, self._refresh)
        return True

    def _forget_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None

    def _render(self, values: dict) -> tuple[np.ndarray, np.ndarray]:
        """Move the artists and return the light and the dark picture."""
        self.draw(**values)
        if self._screen is None:  # lay the axes out once, so that nothing moves when a slider does
            self.figure.set_dpi(DPI)
            png(self.figure, DPI)
            self.figure.set_layout_engine("none")
            self._screen = Screen(self.figure)
        return self._screen.draw()

    def _refresh(self) -> None:
        self._forget_timer()  # whatever waits is drawn now
        values = self.values
        try:
            pictures = [quick_png(picture) for picture in self._render(values)]
            sentence = self.alt(**values)
        except Exception as error:
            note = f"{type(error).__name__}: {error}"
            self._message.value = _html_line(f"The picture is not up to date. {html.escape(note)}", ALERT, "alert")
            raise
        self._message.value = ""
        for image, picture in zip((self.image, self.dark_image), pictures, strict=True):
            image.value = picture
            if image.has_trait("tooltip"):  # the name of the picture to a screen reader
                image.tooltip = sentence
        said = f'<span class="titans-said">{html.escape(self._what_moved(values))}</span>'
        look = f"opacity:.75;min-height:{1.4 * self.sentence_lines:.1f}em"
        self._sentence.value = _html_line(said + html.escape(sentence), look, "status")

    def _what_moved(self, values: dict) -> str:
        """Return the names and the values of the controls that moved since the last picture, to be read aloud."""
        moved = [name for name, value in values.items() if self._before and self._before[name] != value]
        self._before = values
        return "".join(f"{self._controls[name].description}: {self._spoken(name, values[name])}. " for name in moved)

    def _spoken(self, name: str, value) -> str:
        if isinstance(value, bool):
            return "on" if value else "off"
        if isinstance(value, str) and len(value) > 40:
            return f"{len(value):,} characters"
        labels = getattr(self._controls[name], "_options_full", ())
        return next(
            (str(label) for label, option in labels if option == value),
            f"{value:.3g}" if isinstance(value, float) else str(value),
        )

    def _arrange(self):
        for name, control in self._controls.items():
            if not control.description:
                control.description = name
            control.style.description_width = "initial"
            if isinstance(control, (ipywidgets.Textarea, ipywidgets.Text)):
                control.continuous_update = True  # every key restarts the pause
            elif control.layout.width is None:
                control.layout.width = "340px"
            control.layout.max_width = INSIDE  # a narrow page, or one at 200 %, cuts nothing
        wrap = _layout(display="flex", flex_flow="row wrap", align_items="center", max_width="100%")
        sheet = ipywidgets.HTML(f"<style>{SHEET}</style>", layout=_layout(display="none"))
        rows = [sheet, ipywidgets.Box([*self._controls.values()], layout=wrap)]
        buttons = [self._button(name, lambda _, name=name: self.preset(name)) for name in self.presets]
        buttons.append(self._button("reset", lambda _: self.reset(), "Move every control back to where it started"))
        rows.append(ipywidgets.Box(buttons, layout=wrap))
        rows += [self.image, self.dark_image, self._message]
        if self.caption:
            rows.append(ipywidgets.HTML(_html_line(html.escape(self.caption))))
        return ipywidgets.VBox([*rows, self._sentence])

    def _button(self, name: str, action, tooltip: str = ""):
        button = ipywidgets.Button(description=name, tooltip=tooltip or f"Preset: {name}", layout=_layout(width="auto"))
        button.on_click(action)
        return button

    def __repr__(self) -> str:
        return self.alt_text

    def still(self) -> bytes:
        """Return the picture for readers who run nothing: the present one, a comparison of presets, one line."""
        rows = [np.asarray(Image.open(io.BytesIO(self.png)).convert("RGB"))]
        width = rows[0].shape[1]
        names = [name for name in self.compared if name in self.presets]
        small = [self._cut_out(self._start | self.presets[name]) for name in names]
        self._render(self.values)
        wide = width / DPI
        share = 0.94 / max(1, len(small))  # of the width, for each
        high = min(2.0, share * wide * max((x.shape[0] / x.shape[1] for x in small), default=0))
        height = 0.24 + (high + 0.24 if small else 0)
        fig, axes = figure(wide, height, 1, max(1, len(small)), squeeze=False)
        fig.set_layout_engine("none")
        for i, ax in enumerate(axes.flat):
            ax.set_axis_off()
            ax.set_position((0.01 + i * (0.98 / max(1, len(small))), 0.24 / height, share, high / height))
        for ax, picture, name in zip(axes.flat, small, names, strict=False):
            ax.imshow(picture, interpolation="antialiased")
            ax.set_title(name, fontsize=8.5)
        fig.text(0.1 / wide, 0.07 / height, MOVE_IT, fontsize=8.5, style="italic", color=MUTED)
        below = np.asarray(Image.open(io.BytesIO(png(fig, DPI, colours=None))).convert("RGB"))
        return shrink(quick_png(np.concatenate([*rows, below[:, :width]])), colours=64)  # the live picture keeps all

    def _cut_out(self, values: dict) -> np.ndarray:
        """Return the main axes at `values`, without what is around them."""
        picture, _ = self._render(values)
        box = self.main.get_window_extent()
        left, right = (round(min(max(x, 0), picture.shape[1])) for x in (box.x0 - 2, box.x1 + 2))
        low, high = (round(min(max(picture.shape[0] - y, 0), picture.shape[0])) for y in (box.y1 + 2, box.y0 - 2))
        return picture[low:high, left:right].copy()

    def _repr_mimebundle_(self, include=None, exclude=None):
        width = round(self.figure.get_figwidth() * DPI)
        names = [name for name in self.compared if name in self.presets]
        sentence = self.alt_text + (f" Below, for comparison: {', '.join(names)}." if names else "")
        data = {
            "application/vnd.jupyter.widget-view+json": {
                "version_major": 2,
                "version_minor": 0,
                "model_id": self.box.model_id,
            },
            "image/png": base64.b64encode(self.still()).decode("ascii"),
            "text/plain": sentence,
        }
        return data, {"image/png": {"alt": sentence, "width": width}}


def _layout(**traits) -> ipywidgets.Layout:
    return ipywidgets.Layout(**traits)


def _html_line(text: str, look: str = "", role: str = "") -> str:
    """Format a line below the picture; its colour is the theme's, so that it is legible in a dark theme too."""
    role = f' role="{role}"' if role else ""
    return f'<div{role} style="font-size:13px;line-height:1.4;max-width:720px;{look}">{text}</div>'
