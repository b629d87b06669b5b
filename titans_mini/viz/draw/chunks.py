"""Chunk outlines over a heatmap (T, T): the diagonal blocks that masked attention reads."""

from __future__ import annotations

import numpy as np
from matplotlib.collections import LineCollection

from titans_mini.viz.palette import PAPER
from titans_mini.viz.screen import on_cells


class ChunkBoxes:
    """Drawn outlines; `update(chunk_size)` moves them to another chunk size."""

    def __init__(self, lines, tokens: int):
        self.lines = lines
        self.tokens = tokens

    def update(self, chunk_size: int) -> None:
        """Show chunks of `chunk_size` tokens; the last one may be shorter."""
        self.lines.set_segments(chunk_outlines(self.tokens, chunk_size))


def chunk_outlines(tokens: int, chunk_size: int) -> list[np.ndarray]:
    """Compute the chunks' outlines on the diagonal of a heatmap whose cell i spans i − ½ … i + ½.

    Args:
        tokens: T.
        chunk_size: C; the last chunk is shorter if T is not a multiple of it.

    Returns:
        ⌈T/C⌉ arrays (5, 2), the corners of each closed path in x and y.
    """
    if tokens < 1 or chunk_size < 1:
        raise ValueError(f"got tokens={tokens}, chunk_size={chunk_size}, expected both at least 1")
    starts = np.arange(0, tokens, chunk_size)
    corners = np.array([[0, 0], [1, 0], [1, 1], [0, 1], [0, 0]])
    return [start - 0.5 + min(chunk_size, tokens - start) * corners for start in starts]


def chunk_boxes(ax, tokens: int, chunk_size: int, *, color: str = PAPER, width: float = 1.4) -> ChunkBoxes:
    """Outline the chunks of a sequence on the diagonal of a heatmap (T, T).

    Args:
        ax: Axes that hold the heatmap.
        tokens: T, rows and columns of the heatmap.
        chunk_size: C.
        color: a colour of the palette that is legible on the heatmap.
        width: line width in points.

    Returns:
        ChunkBoxes: a handle with `.update(chunk_size)`.
    """
    lines = LineCollection(chunk_outlines(tokens, chunk_size), colors=color, linewidths=width, joinstyle="miter")
    ax.add_collection(on_cells(lines), autolim=False)
    return ChunkBoxes(lines, tokens)
