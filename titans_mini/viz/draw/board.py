"""Tensors as sheets of cells, coloured by state: held by a kernel, moved earlier, or untouched."""

from __future__ import annotations

import numpy as np
from matplotlib.colors import to_rgb

from titans_mini.viz.palette import GRID, INK, MUTED, PAPER

UNTOUCHED, MOVED, HELD = 0, 1, 2
PALE = 0.68  # share of white in the colour of a cell that was moved earlier


class Sheet:
    """A drawn tensor; `update(state)` recolours its cells."""

    def __init__(self, image, color: str):
        self.image, self.color = image, np.array(to_rgb(color))

    def update(self, state) -> None:
        """Colour cells (rows, columns) by `UNTOUCHED`, `MOVED` or `HELD`."""
        state = np.asarray(state)
        paint = np.ones((*state.shape, 3)) * np.array(to_rgb(PAPER))
        paint[state == MOVED] = PALE + (1 - PALE) * self.color
        paint[state == HELD] = self.color
        self.image.set_data(paint)


def sheet(ax, shape: tuple[int, int], color: str, title: str) -> Sheet:
    """Draw a tensor (rows, columns) as cells, all untouched.

    Args:
        ax: Axes to draw on.
        shape: rows and columns.
        color: colour of the held cells.
        title: the tensor's name.

    Returns:
        Sheet: a handle with `.update(state)`.
    """
    rows, columns = shape
    if rows < 1 or columns < 1:
        raise ValueError(f"got a sheet of shape {shape}, expected at least one row and one column")
    image = ax.imshow(np.ones((rows, columns, 3)), aspect="equal", interpolation="nearest")
    ax.hlines(np.arange(rows + 1) - 0.5, -0.5, columns - 0.5, color=GRID, linewidth=0.5)
    ax.vlines(np.arange(columns + 1) - 0.5, -0.5, rows - 0.5, color=GRID, linewidth=0.5)
    ax.set(xlim=(-0.6, columns - 0.4), ylim=(rows - 0.4, -0.6), xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    ax.set_title(title, fontsize=9, color=INK)
    return Sheet(image, color)


def puzzle(axes, tensors: dict, color: dict, tiles: dict) -> None:
    """Draw a puzzle: its tensors side by side, with the tile of the last program over each.

    Args:
        axes: one Axes per tensor.
        tensors: name → (rows, columns).
        color: name → colour of the tile.
        tiles: name → (first row, first column, rows, columns) of the tile; it may extend beyond the tensor.
    """
    if len(axes) != len(tensors):
        raise ValueError(f"got {len(axes)} axes for {len(tensors)} tensors, expected one each")
    for ax, (name, shape) in zip(axes, tensors.items(), strict=True):
        top, left, rows, columns = tiles[name]
        state = np.full(shape, MOVED)
        state[top : top + rows, left : left + columns] = HELD
        sheet(ax, shape, color[name], f"{name}  {shape[0]} × {shape[1]}").update(state)
        x, y = left - 0.5, top - 0.5
        outline = [x, x + columns, x + columns, x, x], [y, y, y + rows, y + rows, y]
        ax.plot(*outline, color=INK, lw=1.3, ls="--", clip_on=False)
        ax.set(xlim=(-0.7, max(shape[1], left + columns) - 0.3), ylim=(max(shape[0], top + rows) - 0.3, -0.7))
        if top + rows > shape[0] or left + columns > shape[1]:
            ax.set_xlabel("masked beyond", fontsize=8, color=MUTED)
