"""What lies beyond an axis is shown at its edge: a triangle that points to where the number is."""

from __future__ import annotations

import numpy as np

from titans_mini.viz.draw.arrays import as_array
from titans_mini.viz.palette import INK


class Edges:
    """Drawn triangles at the upper and the lower edge; `update(y, x)` moves them."""

    def __init__(self, ax, color: str):
        look = {"linestyle": "none", "color": color, "markersize": 5, "clip_on": False, "zorder": 5}
        self.ax = ax
        (self.above,) = ax.plot([], [], marker="^", **look)
        (self.below,) = ax.plot([], [], marker="v", **look)
        for artist in (self.above, self.below):
            artist.set_in_layout(False)

    def update(self, y, x=None) -> int:
        """Mark what of y (T,) over x (T,) lies beyond the limits of the axis, one triangle for each run of neighbours.

        Infinite numbers count, NaN does not. Returns the number of values that are beyond.
        """
        y = as_array(y)
        x = as_array(x) if x is not None else np.arange(len(y))
        low, high = sorted(self.ax.get_ylim())
        for artist, beyond, edge in ((self.above, y > high, high), (self.below, y < low, low)):
            starts = np.flatnonzero(beyond & ~np.concatenate([[False], beyond[:-1]]))
            ends = np.flatnonzero(beyond & ~np.concatenate([beyond[1:], [False]]))
            artist.set_data((x[starts] + x[ends]) / 2, np.full(len(starts), edge))
        return int((y > high).sum() + (y < low).sum())


def edges(ax, *, color: str = INK) -> Edges:
    """Prepare the triangles of an axis whose limits stay as they are: `edges(ax).update(y, x)`.

    Args:
        ax: Axes to draw on.
        color: the colour of the curve or the bars.

    Returns:
        Edges: a handle with `.update(y, x=None)`.
    """
    return Edges(ax, color)
