"""A colour key below a figure: swatches and scales, each with its words."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.collections import PatchCollection
from matplotlib.colors import Colormap
from matplotlib.patches import Rectangle

from titans_mini.viz.palette import INK, MUTED, style
from titans_mini.viz.screen import STILL, STILL_CELLS

SIZE = 8.5  # of the words, in points
LINE, SWATCH, SCALE, GAP = 0.2, 0.13, 0.9, 0.22  # inches
STEPS = 48  # colours of a scale

Swatch = tuple[str, object]  # (words, colour)
Scale = tuple[str, object, str]  # (words at the low end, colour map, words at the high end)


def colour_key(fig, entries: Sequence[Swatch | Scale], *, on_cells: bool = False) -> float:
    """Write a colour key into extra room below a figure, in as many lines as it needs.

    Args:
        fig: a figure with a layout engine that has a ``rect``, such as one of `titans_mini.viz.figure`.
        entries: (words, colour), or (words at the low end, name of a colour map, words at the high end).
        on_cells: whether the swatches' colours are those of cells, which a dark page does not change.

    Returns:
        The height in inches that was added.
    """
    width, height = fig.get_size_inches()
    with matplotlib.rc_context(style()):
        lines = _wrap([_measured(fig, entry) for entry in entries], width - 0.2)
        extra = LINE * len(lines) + 0.04
        _make_room(fig, extra)
        for i, line in enumerate(lines):
            x, y = 0.1, extra - LINE * (i + 0.5)
            for entry, widths in line:
                _place(fig, entry, widths, x, y, on_cells)
                x += _room(entry, widths) + GAP
    return extra


def _make_room(fig, extra: float) -> None:
    width, height = fig.get_size_inches()
    engine = fig.get_layout_engine()
    left, low, wide, high = engine.get()["rect"]
    share = extra / (height + extra)
    engine.set(rect=(left, share + low * (1 - share), wide, high * (1 - share)))
    fig.set_size_inches(width, height + extra)


def _measured(fig, entry) -> tuple[Swatch | Scale, list[float]]:
    """Return the entry and the widths of its words in inches."""
    widths = []
    for words in entry[::2]:
        text = fig.text(0, 0, words, fontsize=SIZE)
        widths.append(text.get_window_extent(fig.canvas.get_renderer()).width / fig.dpi)
        text.remove()
    return entry, widths


def _room(entry, widths) -> float:
    return sum(widths) + 0.06 * len(widths) + (SWATCH if len(entry) == 2 else SCALE)


def _wrap(measured: list, width: float) -> list[list]:
    lines, used = [], np.inf
    for entry, widths in measured:
        room = _room(entry, widths)
        if used + GAP + room > width:
            lines.append([])
            used = -GAP
        lines[-1].append((entry, widths))
        used += GAP + room
    return lines


def _place(fig, entry, widths, x: float, y: float, on_cells: bool) -> None:
    look = {"fontsize": SIZE, "color": INK, "va": "center_baseline", "transform": fig.dpi_scale_trans, "gid": STILL}
    if len(entry) == 2:
        words, colour = entry
        patch = Rectangle((x, y - SWATCH / 2), SWATCH, SWATCH, facecolor=colour, edgecolor=MUTED, linewidth=0.6)
        patch.set(transform=fig.dpi_scale_trans, gid=STILL_CELLS if on_cells else STILL)
        fig.add_artist(patch)
        _text(fig, x + SWATCH + 0.06, y, words, look)
        return
    low, colours, high = entry
    colours = colours if isinstance(colours, Colormap) else matplotlib.colormaps[colours]
    _text(fig, x, y, low, look)
    x += widths[0] + 0.06
    step = SCALE / STEPS
    cells = [Rectangle((x + i * step, y - SWATCH / 2), step, SWATCH) for i in range(STEPS)]
    scale = PatchCollection(cells, facecolors=colours(np.linspace(0, 1, STEPS)), linewidths=0, antialiased=False)
    scale.set(transform=fig.dpi_scale_trans, gid=STILL_CELLS)
    fig.add_artist(scale)
    _text(fig, x + SCALE + 0.06, y, high, look)


def _text(fig, x, y, words, look) -> None:
    fig.text(x, y, words, **look).set_in_layout(False)
