"""Figures without pyplot, small PNG files, and alt text and captions stored with them."""

from __future__ import annotations

import base64
import io
import textwrap
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from titans_mini.viz.palette import MUTED, style

CAPTION_SIZE = 8.5
CAPTION_LINE = 0.165  # inches


def figure(width: float = 7.2, height: float = 3.2, nrows: int = 1, ncols: int = 1, **subplots):
    """Make a figure in the house style, without the global state of pyplot.

    Args:
        width: inches; 7.2 is a notebook's column at 100 dots per inch.
        height: inches.
        nrows: rows of axes.
        ncols: columns of axes.
        **subplots: further arguments of `Figure.subplots`, such as ``width_ratios``, ``sharex`` or ``squeeze``.

    Returns:
        (figure, axes): one Axes, or an array of them.
    """
    with matplotlib.rc_context(style()):
        fig = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(fig)
        axes = fig.subplots(nrows, ncols, **subplots)
    return fig, axes


def legend(ax, *artists, **options):
    """Add a frameless legend to `ax`, of its labelled artists or of the given ones."""
    if artists:
        options = {"handles": artists} | options
    return ax.legend(**{"frameon": False, "fontsize": 8.5, "handlelength": 1.4, "borderaxespad": 0.2} | options)


def png(fig: Figure, dpi: int = 100, colours: int | None = 256) -> bytes:
    """Render `fig` as a PNG, deterministically: the file holds no date and no version.

    Args:
        fig: a figure of `figure`, or any other; its dpi is restored.
        dpi: dots per inch.
        colours: size of the palette, 2 to 256, which halves the file; None keeps every colour and is faster.
    """
    with matplotlib.rc_context(style()):
        before = fig.dpi
        fig.set_dpi(dpi)
        try:
            canvas = fig.canvas if isinstance(fig.canvas, FigureCanvasAgg) else FigureCanvasAgg(fig)
            if fig.get_layout_engine() is not None:  # the first layout is a guess, the second is a fixed point
                fig.get_layout_engine().execute(fig)
            canvas.draw()
            rgba = np.asarray(canvas.buffer_rgba())
        finally:
            fig.set_dpi(before)
    return _encode(Image.fromarray(np.ascontiguousarray(rgba[..., :3])), colours)


def shrink(data: bytes, colours: int = 256) -> bytes:
    """Quantise a PNG to a palette, which halves its size in a notebook."""
    return _encode(Image.open(io.BytesIO(data)).convert("RGB"), colours)


def _encode(image: Image.Image, colours: int | None) -> bytes:
    if colours is not None:
        # Coverage keeps rare colours, such as a colour bar's; the median cut shows bands there.
        image = image.quantize(colours, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    file = io.BytesIO()
    image.save(file, format="PNG", compress_level=4 if colours is None else 9)
    return file.getvalue()


@dataclass(frozen=True)
class Picture:
    """A PNG with its alt text; a notebook stores both."""

    data: bytes
    alt: str
    width: int  # pixels

    def __repr__(self) -> str:
        return self.alt

    def _repr_mimebundle_(self, include=None, exclude=None):
        data = {"image/png": base64.b64encode(self.data).decode("ascii"), "text/plain": self.alt}
        return data, {"image/png": {"alt": self.alt, "width": self.width}}


def show(fig: Figure, alt: str, caption: str | None = None, dpi: int = 100) -> Picture:
    """Turn a figure into a picture for a notebook; call it on the last line of a cell.

    Args:
        fig: the figure; it is left unchanged.
        alt: one sentence that replaces the picture for readers who cannot see it. Required.
        caption: a sentence drawn below the axes, so that every viewer of the notebook shows it.
        dpi: dots per inch.

    Raises:
        ValueError: if `alt` is empty.
    """
    if not alt or not alt.strip():
        raise ValueError("got an empty alt text, expected one sentence: say what the picture shows")
    with_caption = _captioned(fig, caption, dpi) if caption else png(fig, dpi)
    return Picture(with_caption, alt, round(fig.get_figwidth() * dpi))


def _captioned(fig: Figure, caption: str, dpi: int) -> bytes:
    """Render `fig` with a caption in extra space at the bottom, then restore the figure."""
    width, height = fig.get_size_inches()
    lines = textwrap.wrap(caption, max(20, int(width * 14.5)))
    engine = fig.get_layout_engine()
    extra = CAPTION_LINE * len(lines) + 0.06
    text = fig.text(
        0.08 / width,
        0.05 / (height + extra),
        "\n".join(lines),
        fontsize=CAPTION_SIZE,
        style="italic",
        color=MUTED,
        ha="left",
        va="bottom",
        linespacing=1.25,
    )
    text.set_in_layout(False)
    rect = engine.get()["rect"] if engine is not None and "rect" in engine.get() else None
    fig.set_size_inches(width, height + extra)
    share = extra / (height + extra)
    if rect is not None:
        engine.set(rect=(rect[0], share, rect[2], rect[3] - share))
    try:
        return png(fig, dpi)
    finally:
        text.remove()
        fig.set_size_inches(width, height)
        if rect is not None:
            engine.set(rect=rect)
