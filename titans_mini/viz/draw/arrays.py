"""Matrices as coloured cells."""

from __future__ import annotations

import numpy as np
from matplotlib.colors import Normalize, to_rgb

from titans_mini.viz.palette import DIVERGED, GRID, MAGNITUDE, PAPER, SIGNED, ink_on, signed_norm
from titans_mini.viz.screen import CELLS


def as_array(x) -> np.ndarray:
    """Convert a tensor, list or number to a float array, detached from autograd."""
    if hasattr(x, "detach"):
        x = x.detach().cpu()
    return np.asarray(x, dtype=float)


class Heatmap:
    """A drawn matrix; `update(matrix)` recolours it and keeps its colour limits."""

    def __init__(self, image, numbers):
        self.image = image
        self.numbers = numbers  # rows of Text, empty when no numbers are written

    def update(self, matrix) -> None:
        """Show another matrix (rows, columns) of the same shape."""
        values = as_array(matrix)
        if values.shape != self.image.get_array().shape:
            raise ValueError(
                f"got a matrix of shape {values.shape}, expected {self.image.get_array().shape}: "
                "a heatmap keeps its axes; make a new one for another shape"
            )
        self.image.set_data(np.ma.masked_invalid(values))
        self._write(values)

    def _write(self, values: np.ndarray) -> None:
        if not self.numbers:
            return
        inks = ink_on(self.image.cmap(self.image.norm(values)))
        for i, row in enumerate(self.numbers):
            for j, text in enumerate(row):
                text.set_text(f"{values[i, j]:.2g}")
                text.set_color(tuple(inks[i, j]))


def heatmap(
    ax, matrix, *, signed: bool = True, limit: float | None = None, numbers: bool = False, colorbar: bool = False,
    title: str | None = None, xlabel: str | None = None, ylabel: str | None = None, aspect="equal", grid: bool = False,
) -> Heatmap:  # fmt: skip
    """Draw a matrix as cells: PuOr about 0 when `signed`, else cividis from 0. Inf and NaN are dark red.

    Args:
        ax: Axes to draw on.
        matrix: (rows, columns); tensors are detached.
        signed: whether the sign matters.
        limit: the largest magnitude of the colour scale, kept by `update`; by default the largest in `matrix`.
        numbers: write each number in its cell (for small matrices).
        colorbar: add a thin colour bar.
        title: title of the axes.
        xlabel: label of the columns.
        ylabel: label of the rows.
        aspect: "equal" for square cells, "auto" to fill the axes.
        grid: draw thin borders between the cells.

    Returns:
        Heatmap: a handle with `.update(matrix)` and `.image`.
    """
    values = as_array(matrix)
    if values.ndim != 2:
        raise ValueError(f"got a matrix of shape {values.shape}, expected (rows, columns): pick one batch and head")
    norm = signed_norm(values, limit)
    if not signed:
        norm = Normalize(0.0, norm.vmax)
    image = ax.imshow(
        np.ma.masked_invalid(values), cmap=_colormap(signed), norm=norm, aspect=aspect, interpolation="nearest"
    )
    _frame(ax, values.shape, grid)
    texts = []
    if numbers:
        rows, columns = values.shape
        look = {"ha": "center", "va": "center", "fontsize": 8, "gid": CELLS}
        texts = [[ax.text(j, i, "", **look) for j in range(columns)] for i in range(rows)]
    ax.set(title=title or "", xlabel=xlabel or "", ylabel=ylabel or "")
    if colorbar:
        bar = ax.figure.colorbar(image, ax=ax, fraction=0.046, pad=0.03)
        bar.outline.set_visible(False)
        bar.ax.tick_params(length=0, labelsize=8)
    handle = Heatmap(image, texts)
    handle._write(values)
    return handle


def kinds(ax, matrix, colours, *, title: str = "", xlabel: str = "", ylabel: str = "", grid: bool = False) -> None:
    """Draw a matrix of small integers as cells: kind n in the n-th colour, and kind 0 is left empty.

    Args:
        ax: Axes to draw on.
        matrix: (rows, columns) of integers 0 … N; booleans are kinds 0 and 1.
        colours: N colours.
        title: title of the axes.
        xlabel: label of the columns.
        ylabel: label of the rows.
        grid: draw thin borders between the cells.
    """
    kind = as_array(matrix).astype(int)
    ax.imshow(np.array([to_rgb(PAPER), *map(to_rgb, colours)])[kind], interpolation="nearest")
    _frame(ax, kind.shape, grid)
    ax.set(title=title, xlabel=xlabel, ylabel=ylabel)


def _colormap(signed: bool):
    import matplotlib

    return matplotlib.colormaps[SIGNED if signed else MAGNITUDE].with_extremes(bad=DIVERGED)


def _frame(ax, shape, grid: bool) -> None:
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)
    rows, columns = shape
    if max(rows, columns) <= 12:
        ax.set_xticks(range(columns))
        ax.set_yticks(range(rows))
    if grid:
        ax.hlines(np.arange(1, rows) - 0.5, -0.5, columns - 0.5, color=GRID, linewidth=0.6)
        ax.vlines(np.arange(1, columns) - 0.5, -0.5, rows - 0.5, color=GRID, linewidth=0.6)
