"""Text as a grid of coloured cells, one per character."""

from __future__ import annotations

import unicodedata
from functools import lru_cache

import matplotlib
import numpy as np
from matplotlib.collections import PathCollection
from matplotlib.colors import Normalize
from matplotlib.font_manager import FontProperties
from matplotlib.path import Path
from matplotlib.textpath import TextPath

from titans_mini.viz.draw.arrays import as_array
from titans_mini.viz.fonts import family_with
from titans_mini.viz.palette import DIVERGED, MAGNITUDE, ink_on
from titans_mini.viz.screen import on_cells

CELL, LINE = 0.66, 1.32  # width and height of a cell in em; DejaVu Sans Mono is 0.602 em wide
MONO = "DejaVu Sans Mono"
SUBSTITUTE = "□"  # for a character that no installed font has
UNREAD = (1.0, 1.0, 1.0, 0.0)  # the page shows through
VISIBLE = {"\n": "¶", "\t": "→", "\r": "¶", " ": " ", "\u00a0": " "}


class TextGrid:
    """Drawn text; `update(values)` recolours it, `update(values, text)` writes another text."""

    def __init__(self, ax, columns: int, rows: int, norm: Normalize):
        self.ax, self.columns, self.rows = ax, columns, rows
        self.cmap = matplotlib.colormaps[MAGNITUDE].with_extremes(bad=DIVERGED)
        self.norm = norm
        self.text = ""
        blank = np.tile(UNREAD, (rows, columns, 1))
        extent = (0, columns * CELL, rows * LINE, 0)
        self.image = ax.imshow(blank, extent=extent, aspect="equal", interpolation="nearest")
        self.glyphs = on_cells(ax.add_collection(PathCollection([], linewidths=0, antialiased=True), autolim=False))
        self.missing: set[str] = set()  # characters of the text that no installed font has

    def update(self, values, text: str | None = None) -> None:
        """Colour the characters by `values` (N,), one per character; inf and NaN are dark red.

        Args:
            values: (N,) magnitudes; characters without a value stay white (not yet read).
            text: new text of N characters; None keeps the old one.
        """
        if text is not None:
            self._write(text)
        numbers = as_array(values)[: len(self.text)]
        if len(as_array(values)) > self.rows * self.columns:
            raise ValueError(
                f"got {len(as_array(values))} values, expected at most {self.rows * self.columns}: "
                "make the grid with more rows"
            )
        cells = np.tile(UNREAD, (self.rows * self.columns, 1))
        cells[: len(numbers)] = self.cmap(self.norm(np.ma.masked_invalid(numbers)))
        self.image.set_data(cells.reshape(self.rows, self.columns, 4))
        self.glyphs.set_facecolor(ink_on(cells[self._drawn]) if len(self._drawn) else "none")

    def _write(self, text: str) -> None:
        self.text = text[: self.rows * self.columns]
        paths, drawn, self.missing = [], [], set()
        for i, character in enumerate(self.text):
            if not _can_be_drawn(character):
                self.missing.add(character)
            glyph = _glyph(VISIBLE.get(character, character))
            if glyph is None:
                continue
            corner = np.array([i % self.columns * CELL, (i // self.columns + 1) * LINE])
            paths.append(Path(glyph.vertices + corner, glyph.codes))
            drawn.append(i)
        self._drawn = np.array(drawn, dtype=int)
        self.glyphs.set_paths(paths)


def text_height(rows: int, columns: int = 60, width: float = 7.2) -> float:
    """Return the height in inches of a figure that `rows` lines of `columns` characters fill exactly, at `width`."""
    margin = 0.06
    return (width - margin) * rows * LINE / (columns * CELL) + margin


def text_grid(
    ax, text: str, values, *, columns: int = 60, rows: int | None = None, limit: float | None = None
) -> TextGrid:
    """Write `text` in a grid of equal cells, each coloured by its value, with black or white ink for contrast.

    Args:
        ax: Axes to draw on; its ticks and spines are removed.
        text: N characters; a line end is written ¶, a tab →.
        values: (N,) magnitudes ≥ 0; characters without a value stay white.
        columns: characters per line.
        rows: lines; by default as many as the text needs.
        limit: magnitude of the brightest colour; by default the largest finite value.

    Returns:
        TextGrid: a handle with `.update(values, text=None)`.
    """
    if columns < 1:
        raise ValueError(f"got columns={columns}, expected at least 1")
    numbers = as_array(values)
    finite = numbers[np.isfinite(numbers)]
    if limit is None:
        limit = float(finite.max()) if finite.size and finite.max() > 0 else 1.0
    rows = rows or max(1, -(-len(text) // columns))
    ax.set_axis_off()
    grid = TextGrid(ax, columns, rows, Normalize(0.0, limit, clip=True))
    ax.hlines(np.arange(1, rows) * LINE, 0, columns * CELL, color="white", linewidth=1.5, zorder=1.5)
    ax.set(xlim=(0, columns * CELL), ylim=(rows * LINE, 0))
    grid.update(numbers, text)
    return grid


def _can_be_drawn(character: str) -> bool:
    """Return whether a character needs no ink or an installed font has it."""
    character = VISIBLE.get(character, character)
    return _is_blank(character) or family_with(character, MONO) is not None


def _is_blank(character: str) -> bool:
    """Return whether a character leaves its cell empty: spaces, joiners, and selectors of a variant."""
    return not character.strip() or unicodedata.category(character) == "Cf" or "\ufe00" <= character <= "\ufe0f"


@lru_cache(maxsize=1024)
def _glyph(character: str) -> Path | None:
    """Return the outline of one character, 1 em high, y downwards, its baseline in the lower part of a cell.

    A wide one, such as a Chinese character, is made as narrow as the cell.
    """
    if _is_blank(character):
        return None
    family = family_with(character, MONO)
    if family is None:
        character, family = SUBSTITUTE, MONO
    outline = TextPath((0, 0), character, size=1, prop=FontProperties(family=[family]))
    if not len(outline.vertices):
        return None
    left, right = outline.vertices[:, 0].min(), outline.vertices[:, 0].max()
    if family == MONO:
        scale, shift = 1.0, (CELL - 0.602) / 2
    else:
        scale = min(1.0, 0.94 * CELL / max(right - left, 1e-6))
        shift = (CELL - scale * (left + right)) / 2
    return Path(outline.vertices * [scale, -scale] + [shift, -0.38], outline.codes)
