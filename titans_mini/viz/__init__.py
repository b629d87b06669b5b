"""Pictures: one palette, pure draw functions, and (behind `titans_mini.viz.widgets`) live explorers."""

from titans_mini.viz import draw, palette
from titans_mini.viz.picture import Picture, figure, legend, png, show, shrink

__all__ = ["Picture", "draw", "figure", "legend", "palette", "png", "show", "shrink"]
