"""Figures: one palette, pure draw functions, and (in `titans_mini.viz.widgets`) interactive explorers."""

from titans_mini.viz import draw, palette
from titans_mini.viz.picture import Picture, figure, legend, png, show, shrink

__all__ = ["Picture", "draw", "figure", "legend", "palette", "png", "show", "shrink"]
