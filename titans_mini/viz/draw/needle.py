"""Accuracy of a needle in a haystack as a heatmap: one column per length, one row per depth."""

from __future__ import annotations

from titans_mini.viz.draw.arrays import Heatmap, as_array, heatmap
from titans_mini.viz.palette import PAPER
from titans_mini.viz.screen import on_cells


def needle_map(ax, accuracy, lengths, trained: int | None = None, *, title: str | None = None) -> Heatmap:
    """Draw the share of needles found, from 0 (dark) to 1 (yellow), with the number in each cell.

    Args:
        ax: Axes to draw on.
        accuracy: (bins, lengths) in [0, 1]; the first row is the start of the haystack.
        lengths: haystack length of each column in tokens, increasing.
        trained: training length in tokens; a white line follows its column.
        title: title of the axes.

    Returns:
        Heatmap: a handle with `.update(accuracy)`.
    """
    accuracy = as_array(accuracy)
    if accuracy.ndim != 2 or accuracy.shape[1] != len(lengths):
        raise ValueError(
            f"got accuracy of shape {accuracy.shape}, expected (bins, {len(lengths)}): one column a length"
        )
    handle = heatmap(ax, accuracy, signed=False, limit=1.0, numbers=True, aspect="auto", title=title)
    for row in handle.numbers:
        for text in row:
            text.set_fontsize(7)
    bins = len(accuracy)
    ax.set_xticks(range(len(lengths)), [f"{n // 1024}k" if n >= 1024 and n % 1024 == 0 else str(n) for n in lengths])
    ax.set_yticks([-0.5, bins / 2 - 0.5, bins - 0.5], ["start", "middle", "end"])
    ax.set(xlabel="length of the haystack", ylabel="depth of the needle")
    if trained is not None:
        seen = sum(n <= trained for n in lengths)
        on_cells(ax.axvline(seen - 0.5, color=PAPER, lw=2))
    return handle
