"""A figure that is drawn many times: only what moved is drawn again, on a light page and on a dark one at once."""

from __future__ import annotations

import contextlib
import io
from functools import lru_cache

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from PIL import Image

from titans_mini.viz.palette import DARK, DARK_INK, DARK_PAPER, style

CELLS = "cells"  # the mark of an artist that stands on coloured cells, which are the same on both pages
STILL, STILL_CELLS = "still", "still cells"  # of an artist of the figure that never moves; of one that is a cell


def on_cells(artist):
    """Mark an artist that stands on the cells of a heatmap: it keeps its colours on a dark page. Return it."""
    artist.set_gid(CELLS)
    return artist


@lru_cache(maxsize=4096)
def dark(colour: tuple) -> tuple:
    """Return a colour (r, g, b) or (r, g, b, a) as it is on a dark page: our palette's by name, greys inverted."""
    rgb, rest = tuple(float(c) for c in colour[:3]), tuple(colour[3:])
    named = DARK.get(to_hex(rgb).upper())
    if named:
        return (*to_rgb(named), *rest)
    if max(rgb) - min(rgb) > 0.04:
        return colour
    low, high = to_rgb(DARK_PAPER)[0], to_rgb(DARK_INK)[0]
    return (*(low + (1 - c) * (high - low) for c in rgb), *rest)


class _Pages:
    """Two canvases of Agg, a light and a dark one, as one: each call draws on both."""

    def __init__(self, light, night):
        self.light, self.night, self.kept = light, night, 0

    def __getattr__(self, name):
        return getattr(self.light, name)

    @contextlib.contextmanager
    def _after_dark(self, gc):
        before = gc.get_rgb()
        if not self.kept:
            gc.set_foreground(dark(tuple(before)), isRGBA=True)
        try:
            yield
        finally:
            gc.set_foreground(before, isRGBA=True)

    def _face(self, colour):
        return colour if colour is None or self.kept else dark(tuple(colour))

    def _colours(self, colours):
        return colours if self.kept or not len(colours) else np.array([dark(tuple(c)) for c in colours])

    def draw_path(self, gc, path, transform, face=None):
        self.light.draw_path(gc, path, transform, face)
        with self._after_dark(gc):
            self.night.draw_path(gc, path, transform, self._face(face))

    def draw_markers(self, gc, marker_path, marker_transform, path, transform, face=None):
        self.light.draw_markers(gc, marker_path, marker_transform, path, transform, face)
        with self._after_dark(gc):
            self.night.draw_markers(gc, marker_path, marker_transform, path, transform, self._face(face))

    def draw_path_collection(self, *args, **options):
        self.light.draw_path_collection(*args, **options)
        faces, edges = map(self._colours, args[6:8])
        self.night.draw_path_collection(*args[:6], faces, edges, *args[8:], **options)

    def draw_text_image(self, image, x, y, angle, gc):
        self.light.draw_text_image(image, x, y, angle, gc)
        with self._after_dark(gc):
            self.night.draw_text_image(image, x, y, angle, gc)

    def _same(name):  # noqa: N805
        def draw(self, *args, **options):
            getattr(self.light, name)(*args, **options)
            getattr(self.night, name)(*args, **options)

        return draw

    draw_image, draw_quad_mesh, draw_gouraud_triangles = map(
        _same, ("draw_image", "draw_quad_mesh", "draw_gouraud_triangles")
    )
    clear = _same("clear")


class Screen(RendererAgg):
    """Draws one figure again and again, on a light and on a dark page.

    Pages, axes with their ticks, and what of the figure is marked `STILL`, even whole axes, are drawn once, and again
    when the limits of an axis or the text of its label are others; everything else is drawn every time.

    Args:
        figure: a laid-out figure without a layout engine; its dpi is the screen's.
    """

    def __init__(self, figure: Figure):
        width, height = figure.canvas.get_width_height()
        super().__init__(width, height, figure.dpi)
        self._renderer = _Pages(self._renderer, RendererAgg(width, height, figure.dpi)._renderer)
        self._update_methods()
        self._groups: list[bool] = []
        self.figure = figure
        for ax in figure.axes:
            ax._autotitlepos = False  # laid out already; to look for room again costs a sixth of every picture
        self._state = self._base = self._back = None
        self._restless: set = set()  # axes whose limits or labels have changed, drawn over the rest

    def open_group(self, s, gid=None):
        """Note whether what follows stands on cells; matplotlib calls this around every artist."""
        self._groups.append(gid in (CELLS, STILL_CELLS))
        self._renderer.kept += self._groups[-1]

    def close_group(self, s):
        """End what `open_group` began."""
        self._renderer.kept -= self._groups.pop()

    def draw(self) -> tuple[np.ndarray, np.ndarray]:
        """Draw the figure; return RGB (height, width, 3) of the light and of the dark page, valid until the next."""
        pages = [np.asarray(page) for page in (self._renderer.light, self._renderer.night)]
        with matplotlib.rc_context(style()):
            state = {axis: _axis_state(axis) for ax in self.figure.axes for axis in (ax.xaxis, ax.yaxis)}
            changed = {axis for axis in state if self._state and state[axis] != self._state[axis]}
            if self._state is None or changed - self._restless:
                self._restless |= changed
                self._renderer.clear()
                self._draw_still()
                self._base = [page.copy() for page in pages]
            if self._state != state:
                for page, base in zip(pages, self._base, strict=True):
                    page[:] = base
                for artist in self._still():
                    if artist in self._restless:
                        artist.draw(self)
                self._state, self._back = state, [page.copy() for page in pages]
            for page, back in zip(pages, self._back, strict=True):
                page[:] = back
            self._draw_moving()
        return tuple(page[..., :3] for page in pages)

    def _still(self):
        """Return the artists that are drawn once."""
        yield from (artist for artist in self.figure.get_children() if artist.get_gid() in (STILL, STILL_CELLS))
        for ax in self.figure.axes:
            if ax.axison and ax.get_visible() and ax.get_gid() != STILL:
                yield from (ax.patch, ax.xaxis, ax.yaxis)

    def _draw_still(self) -> None:
        self.figure.patch.draw(self)
        for ax in self.figure.axes:
            ax.apply_aspect()
        for artist in self._still():
            if artist not in self._restless:
                artist.draw(self)

    def _draw_moving(self) -> None:
        still = list(self._still())
        pages = [self.figure.patch, *(ax.patch for ax in self.figure.axes)]  # drawn even where they are animated
        seen = [page.get_visible() for page in pages]
        for page in pages:
            page.set_visible(False)
        for artist in still:
            artist.set_animated(True)  # left out by matplotlib
        try:
            self.figure.draw(self)
        finally:
            for page, visible in zip(pages, seen, strict=True):
                page.set_visible(visible)
            for artist in still:
                artist.set_animated(False)


def _axis_state(axis) -> tuple:
    low, high = axis.get_view_interval()
    return float(low), float(high), axis.get_label_text(), axis.get_visible()


def quick_png(rgb: np.ndarray) -> bytes:
    """Encode RGB (height, width, 3) in all its colours, fast rather than small."""
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(rgb)).save(file, format="PNG", compress_level=1)
    return file.getvalue()
