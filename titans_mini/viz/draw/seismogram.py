"""Momentary surprise upwards, past surprise downwards: the trace of a seismograph."""

from __future__ import annotations

import numpy as np

from titans_mini.viz.draw.arrays import as_array
from titans_mini.viz.palette import GRID, MOMENTUM, SURPRISE


class Seismogram:
    """A drawn trace; `update(momentary, past)` shows another one of the same length."""

    def __init__(self, up, down):
        self.up = up
        self.down = down

    def update(self, momentary, past) -> None:
        """Show other magnitudes (T,), both ≥ 0."""
        for strokes, heights in ((self.up, as_array(momentary)), (self.down, -as_array(past))):
            if len(heights) != len(strokes.get_segments()):
                raise ValueError(f"got {len(heights)} tokens, expected {len(strokes.get_segments())}: make a new trace")
            x = np.arange(len(heights))
            strokes.set_segments(np.stack([np.stack([x, 0 * x], -1), np.stack([x, heights], -1)], 1))


def seismogram(ax, momentary, past, *, width: float = 5.5) -> Seismogram:
    """Draw ‖θ∇ℓ‖ (T,) upwards and ‖ηS‖ (T,) downwards, one stroke per token; the axis shows magnitudes.

    Args:
        ax: Axes to draw on.
        momentary: (T,) norm of each token's own update, ‖θ∇ℓ‖.
        past: (T,) norm of the momentum carried over from earlier tokens, ‖ηS‖.
        width: stroke width in points.
    """
    momentary, past = as_array(momentary), as_array(past)
    if momentary.shape != past.shape or momentary.ndim != 1:
        raise ValueError(f"got shapes {momentary.shape} and {past.shape}, expected (T,) twice: pick a batch and a head")
    x = np.arange(len(momentary))
    up = ax.vlines(x, 0, momentary, color=SURPRISE, linewidth=width, label="momentary surprise $‖θ∇ℓ‖$")
    down = ax.vlines(x, 0, -past, color=MOMENTUM, linewidth=width, label="past surprise $‖ηS_{t-1}‖$")
    ax.axhline(0, color=GRID, linewidth=0.8, zorder=0.5)
    ax.yaxis.set_major_formatter(lambda y, _: f"{abs(y):.2g}")
    ax.set(xlim=(-0.9, len(x) - 0.1), ylabel="push")
    return Seismogram(up, down)
