"""Curves, bars and position markers."""

from __future__ import annotations

import numpy as np

from titans_mini.viz.draw.arrays import as_array
from titans_mini.viz.palette import GRID, INK, MEMORY


class Line:
    """A drawn curve; `update(y)` or `update(y, x)` moves it and keeps the axis limits."""

    def __init__(self, artist):
        self.artist = artist

    def update(self, y, x=None) -> None:
        """Show other numbers (T,); T may change."""
        y = as_array(y)
        x = as_array(x) if x is not None else np.arange(len(y))
        self.artist.set_data(x, y)


def line(ax, y, x=None, *, color: str = MEMORY, label: str | None = None, width: float = 1.8, **options) -> Line:
    """Draw a curve y (T,) over x (T,), by default over 0 … T−1.

    Args:
        ax: Axes to draw on.
        y: (T,) numbers; gaps where they are not finite.
        x: (T,) positions.
        color: a colour of the palette.
        label: name in the legend.
        width: line width in points.
        **options: further arguments of `Axes.plot`.
    """
    y = as_array(y)
    x = as_array(x) if x is not None else np.arange(len(y))
    (artist,) = ax.plot(x, y, color=color, label=label, linewidth=width, solid_capstyle="round", **options)
    return Line(artist)


class Bars:
    """Drawn bars; `update(heights)` changes their heights."""

    def __init__(self, container):
        self.container = container

    def update(self, heights) -> None:
        """Show other heights (N,) of the same N."""
        heights = as_array(heights)
        if len(heights) != len(self.container):
            raise ValueError(f"got {len(heights)} heights, expected {len(self.container)}: bars keep their number")
        for bar, height in zip(self.container, heights, strict=True):
            bar.set_height(height)


def bars(ax, heights, labels=None, *, color=MEMORY, label: str | None = None, zero: bool = True, **options) -> Bars:
    """Draw bars of the given heights (N,).

    Args:
        ax: Axes to draw on.
        heights: (N,) numbers.
        labels: (N,) names below the bars.
        color: one colour, or one per bar.
        label: name in the legend.
        zero: draw a line at 0.
        **options: further arguments of `Axes.bar`.
    """
    heights = as_array(heights)
    container = ax.bar(np.arange(len(heights)), heights, color=color, label=label, **{"width": 0.75} | options)
    if labels is not None:
        ax.set_xticks(np.arange(len(heights)), labels)
    ax.tick_params(axis="x", length=0)
    if zero:
        ax.axhline(0, color=GRID, linewidth=0.8, zorder=0.5)
    return Bars(container)


class Marker:
    """A vertical line at one position; `update(t)` moves it."""

    def __init__(self, artist):
        self.artist = artist

    def update(self, t: float) -> None:
        """Move the line to position t."""
        self.artist.set_xdata([t, t])


def marker(ax, t: float = 0, *, color: str = INK, width: float = 1.0) -> Marker:
    """Draw a thin vertical line at position t."""
    return Marker(ax.axvline(t, color=color, linewidth=width))
