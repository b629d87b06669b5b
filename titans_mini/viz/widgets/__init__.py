"""Interactive explorers. No other package of the library imports ipywidgets."""

from titans_mini.viz.widgets.blame import BlameMap
from titans_mini.viz.widgets.chunks import ChunkExplorer
from titans_mini.viz.widgets.dataflow import DataflowExplorer
from titans_mini.viz.widgets.desk import ForgettingDesk
from titans_mini.viz.widgets.explorer import Explorer
from titans_mini.viz.widgets.needle import NeedleMap
from titans_mini.viz.widgets.recall import RecallMatrix
from titans_mini.viz.widgets.roofline import Roofline
from titans_mini.viz.widgets.scrubber import MemoryScrubber
from titans_mini.viz.widgets.seismograph import Seismograph
from titans_mini.viz.widgets.speed import SpeedBars
from titans_mini.viz.widgets.stability import StabilityMap
from titans_mini.viz.widgets.stepper import TwoLoopStepper
from titans_mini.viz.widgets.strip import SurpriseStrip
from titans_mini.viz.widgets.tiles import TileViewer

__all__ = [
    "BlameMap",
    "ChunkExplorer",
    "DataflowExplorer",
    "Explorer",
    "ForgettingDesk",
    "MemoryScrubber",
    "NeedleMap",
    "RecallMatrix",
    "Roofline",
    "Seismograph",
    "SpeedBars",
    "StabilityMap",
    "SurpriseStrip",
    "TileViewer",
    "TwoLoopStepper",
]
