"""Many small images in rows: digits, or the columns of a memory reshaped to images."""

from __future__ import annotations

import matplotlib
import numpy as np
from matplotlib.collections import PatchCollection
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.patches import Rectangle

from titans_mini.viz.draw.arrays import as_array
from titans_mini.viz.palette import DIVERGED, GRID, INK, KEY, PAPER, SIGNED, signed_norm

GAP = 0.125  # between tiles, as a share of their width
LINE = 0.32  # height of a caption line, as a share of a tile's height


class Tiles:
    """Drawn tiles; `update` recolours them and keeps the colour limit unless it gets another."""

    def __init__(self, image, texts, cmap, norm, columns: int, shape: tuple[int, int, int], room: int):
        self.image = image
        self.texts = texts  # one Text per tile, or none
        self.cmap = cmap
        self.norm = norm
        self.columns = columns
        self.shape = shape
        self.room = room  # pixels below a tile, for its caption

    def update(self, images, captions=None, colours=None, limit: float | None = None) -> None:
        """Show other images (N, height, width) of the same shape; without captions the old ones stay."""
        images = as_array(images)
        if images.shape != self.shape:
            raise ValueError(f"got images of shape {images.shape}, expected {self.shape}: tiles keep number and size")
        if limit is not None:
            self.norm = Normalize(-limit if self.norm.vmin else 0.0, limit)
        self.image.set_data(self._mosaic(images))
        for i, text in enumerate(self.texts):
            if captions is not None:
                text.set_text(str(captions[i]))
            text.set_color(INK if colours is None else colours[i])

    def _mosaic(self, images: np.ndarray) -> np.ndarray:
        """Return one RGBA image of all tiles, which draws ten times faster than one artist per tile."""
        n, height, width = self.shape
        gap = _gap(width)
        rows = -(-n // self.columns)
        canvas = np.ones((rows * (height + self.room), min(n, self.columns) * (width + gap) - gap, 4))
        canvas[..., 3] = 0  # between the tiles the page shows through
        painted = self.cmap(self.norm(np.ma.masked_invalid(images)))
        for i, tile in enumerate(painted):
            x, y = i % self.columns * (width + gap), i // self.columns * (height + self.room)
            canvas[y : y + height, x : x + width] = tile
        return canvas


def tiles(
    ax, images, captions=None, *, columns: int = 10, signed: bool = False, limit: float | None = None,
    color: str = KEY, colours=None, fontsize: float = 9,
) -> Tiles:  # fmt: skip
    """Draw images (N, height, width) in rows, each with a caption below. Inf and NaN are dark red.

    Args:
        ax: Axes to draw on; its ticks and spines are removed.
        images: (N, height, width) numbers.
        captions: N short texts, one below each tile, or None to leave no room for them.
        columns: tiles per row.
        signed: colour by sign, PuOr about 0; else from white (0 or less) to `color`.
        limit: magnitude of the strongest colour; by default the largest finite one.
        color: a colour of the palette, for images that are not signed.
        colours: N colours of the captions.
        fontsize: font size of the captions, in points.

    Returns:
        Tiles: a handle with `.update(images, captions=None, colours=None, limit=None)`.
    """
    images = as_array(images)
    if images.ndim != 3 or not len(images):
        raise ValueError(f"got images of shape {images.shape}, expected (N, height, width): unflatten the pixels?")
    n, height, width = images.shape
    norm = signed_norm(images, limit)
    cmap = matplotlib.colormaps[SIGNED] if signed else LinearSegmentedColormap.from_list("ink", [PAPER, color])
    norm = norm if signed else Normalize(0.0, norm.vmax)
    room = _gap(width) + (round(LINE * height) if captions is not None else 0)
    corners = [(i % columns * (width + _gap(width)), i // columns * (height + room)) for i in range(n)]
    frames = [Rectangle((x - 0.5, y - 0.5), width, height) for x, y in corners]
    ax.add_collection(PatchCollection(frames, facecolor="none", edgecolor=GRID, linewidth=0.7))
    below = [(x + width / 2 - 0.5, y + height - 0.15) for x, y in corners]
    texts = [ax.text(x, y, "", ha="center", va="top", fontsize=fontsize) for x, y in below if captions is not None]
    handle = Tiles(None, texts, cmap.with_extremes(bad=DIVERGED), norm, columns, images.shape, room)
    handle.image = ax.imshow(handle._mosaic(images), interpolation="nearest")
    ax.set_axis_off()
    handle.update(images, captions, colours)
    return handle


def _gap(width: int) -> int:
    """Return the number of pixels between two tiles."""
    return max(1, round(GAP * width))
