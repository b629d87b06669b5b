"""Draw functions: numbers in, artists out. Each returns a handle whose `update` reuses the artists."""

from titans_mini.viz.draw.architectures import architecture, save_slides
from titans_mini.viz.draw.arrays import Heatmap, as_array, heatmap, kinds
from titans_mini.viz.draw.board import Sheet, puzzle, sheet
from titans_mini.viz.draw.bowl import marbles, pauses
from titans_mini.viz.draw.chunks import ChunkBoxes, chunk_boxes
from titans_mini.viz.draw.coach import (
    chunk_bowl,
    counted_and_timed,
    error_curves,
    mask_maps,
    numbered_bars,
    reading_curves,
    write_lives,
)
from titans_mini.viz.draw.colour_key import colour_key
from titans_mini.viz.draw.depth import (
    by_step,
    duel,
    fade_and_wake,
    fold_sheet,
    pair_board,
    row_lengths,
    two_stamps,
    unit_tiles,
)
from titans_mini.viz.draw.desk import Ghosts, fade_then_write, ghosts, halves
from titans_mini.viz.draw.edges import Edges, edges
from titans_mini.viz.draw.evening import panels, strips, valley, written
from titans_mini.viz.draw.loops import (
    BlameBoard,
    answer_board,
    blame_board,
    culprits,
    layer_parts,
    letter_weights,
    loops_with_gradient,
)
from titans_mini.viz.draw.needle import needle_map
from titans_mini.viz.draw.scan import chunk_diagram, queue_and_coach, scan_tree
from titans_mini.viz.draw.seismogram import Seismogram, seismogram
from titans_mini.viz.draw.series import Bars, Line, Marker, bars, line, marker
from titans_mini.viz.draw.text import TextGrid, text_grid, text_height
from titans_mini.viz.draw.tiles import Tiles, tiles
from titans_mini.viz.draw.twins import bill, reach_panels, twin_curves, twin_dots

__all__ = [
    "Bars",
    "BlameBoard",
    "ChunkBoxes",
    "Edges",
    "Ghosts",
    "Heatmap",
    "Line",
    "Marker",
    "Seismogram",
    "Sheet",
    "TextGrid",
    "Tiles",
    "answer_board",
    "architecture",
    "as_array",
    "bars",
    "bill",
    "blame_board",
    "by_step",
    "chunk_bowl",
    "chunk_boxes",
    "chunk_diagram",
    "colour_key",
    "counted_and_timed",
    "culprits",
    "duel",
    "edges",
    "error_curves",
    "fade_and_wake",
    "fade_then_write",
    "fold_sheet",
    "ghosts",
    "halves",
    "heatmap",
    "kinds",
    "layer_parts",
    "letter_weights",
    "line",
    "loops_with_gradient",
    "marbles",
    "marker",
    "mask_maps",
    "needle_map",
    "numbered_bars",
    "pair_board",
    "panels",
    "pauses",
    "puzzle",
    "queue_and_coach",
    "reach_panels",
    "reading_curves",
    "row_lengths",
    "scan_tree",
    "save_slides",
    "seismogram",
    "sheet",
    "strips",
    "text_grid",
    "text_height",
    "tiles",
    "twin_curves",
    "twin_dots",
    "two_stamps",
    "unit_tiles",
    "valley",
    "write_lives",
    "written",
]
