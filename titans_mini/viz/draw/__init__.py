"""Draw functions: numbers in, artists out. Each returns a handle whose `update` reuses the artists."""

from titans_mini.viz.draw.arrays import Heatmap, as_array, heatmap
from titans_mini.viz.draw.board import Sheet, puzzle, sheet
from titans_mini.viz.draw.chunks import ChunkBoxes, chunk_boxes
from titans_mini.viz.draw.needle import needle_map
from titans_mini.viz.draw.seismogram import Seismogram, seismogram
from titans_mini.viz.draw.series import Bars, Line, Marker, bars, line, marker
from titans_mini.viz.draw.text import TextGrid, text_grid, text_height
from titans_mini.viz.draw.tiles import Tiles, tiles

__all__ = [
    "Bars",
    "ChunkBoxes",
    "Heatmap",
    "Line",
    "Marker",
    "Seismogram",
    "Sheet",
    "TextGrid",
    "Tiles",
    "as_array",
    "bars",
    "chunk_boxes",
    "heatmap",
    "line",
    "marker",
    "needle_map",
    "puzzle",
    "seismogram",
    "sheet",
    "text_grid",
    "text_height",
    "tiles",
]
