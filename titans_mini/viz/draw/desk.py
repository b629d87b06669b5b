"""Drawings of forgetting: who is still in the book at which visit, and one write onto a page that fades."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.patches import Rectangle

from titans_mini.viz.draw.arrays import as_array
from titans_mini.viz.draw.grammar import SMALL, TEXT, canvas, cells
from titans_mini.viz.palette import FORGET, INK, MEMORY, MUTED, PAPER, SURPRISE
from titans_mini.viz.screen import on_cells

INKS = LinearSegmentedColormap.from_list("ink", [PAPER, MEMORY]).with_extremes(bad=(1, 1, 1, 0))


class Ghosts:
    """A drawn evening; `update(loud)` shows another memory of the same evening."""

    def __init__(self, image, arrivals):
        self.image, self.arrivals = image, arrivals

    def update(self, loud) -> None:
        """Show other numbers (N, T)."""
        self.image.set_data(_since(as_array(loud), self.arrivals))


def _since(loud: np.ndarray, arrivals: np.ndarray) -> np.ma.MaskedArray:
    """Blank each row up to the guest's arrival: nobody asks for a guest who has not come."""
    return np.ma.masked_where(np.arange(loud.shape[1]) < arrivals[:, None], loud)


def ghosts(ax, loud, stays: Sequence[tuple[int, int]], names: Sequence[str] = ()) -> Ghosts:
    """Draw how loudly the book answers to each guest's name: ink in a box is right, ink after it is a ghost.

    Args:
        ax: Axes to draw on.
        loud: (N, T) the largest number that the book answers to guest n after visit t.
        stays: visits of arrival and departure of each guest; the box around that part of the row.
        names: N names for the rows; none are written if it is empty.

    Returns:
        Ghosts: a handle with `.update(loud)` and `.image`.
    """
    arrivals = np.array([arrival for arrival, _ in stays])
    loud = _since(as_array(loud), arrivals)
    image = ax.imshow(loud, cmap=INKS, vmin=0.2, vmax=0.95, aspect="auto", interpolation="nearest")
    for row, (arrival, departure) in enumerate(stays):
        corner = arrival - 0.5, row - 0.5
        for colour, width in ((PAPER, 3.0), (INK, 1.2)):  # the pale rim shows the frame on dark ink
            frame = {"fill": False, "edgecolor": colour, "linewidth": width, "zorder": 3}
            ax.add_patch(on_cells(Rectangle(corner, departure - arrival, 1, **frame)))
    ax.set_xlabel("visit")
    ax.set_yticks(range(len(names)), names, fontsize=7)
    ax.tick_params(axis="y", length=0)
    return Ghosts(image, arrivals)


def fade_then_write(ax, book, write, alpha: float, names: Sequence[str] = ()) -> None:
    """Draw one step of equation 13 as two rows of cells, in a figure of 7.2 × 2.5 inches: right order, wrong order.

    Args:
        ax: Axes to draw on; its ticks and spines are removed.
        book: (D,) one column of the memory before the visit.
        write: (D,) the new step S.
        alpha: the forget gate.
        names: D labels, above the cells.
    """
    book, write = as_array(book), as_array(write)
    canvas(ax, 7.2, 2.3)
    wide, high, gap = 0.5, 0.36, 0.62
    kept = f"× {1 - alpha:g}"
    late = (1 - alpha) * (book + write)
    rows = (
        ("fade, then write", ((book, MEMORY), ((1 - alpha) * book, FORGET), ((1 - alpha) * book + write, MEMORY))),
        ("write, then fade", ((book, MEMORY), (book + write, MEMORY), (late, FORGET))),
    )
    signs = ((kept, "+ S"), ("+ S", kept))
    verdicts = ("✓  the new write arrives whole", "✗  the new write has already faded")
    limit = 1.6 * max(abs(book).max(), abs(book + write).max())
    for (title, pages), words, verdict, top in zip(rows, signs, verdicts, (1.86, 0.72), strict=True):
        ax.text(0, top + 0.1, title, fontsize=TEXT, fontweight="bold", va="bottom", color=INK)
        ax.text(7.2, top + 0.1, verdict, fontsize=TEXT, va="bottom", ha="right", color=INK)
        for i, (page, edge) in enumerate(pages):
            x = i * (len(book) * wide + gap + 0.35)
            cells(ax, page[None], x, top, limit=limit, edge=edge, digits=1, cell=(wide, high))
            if i < 2:
                x_sign = x + len(book) * wide + (gap + 0.35) / 2
                colour = FORGET if words[i] == kept else SURPRISE
                ax.text(x_sign, top - high / 2, words[i], ha="center", va="center", fontsize=12, color=colour)
    step = ", ".join(f"{x:g}".replace("-", "−") for x in write)
    x_sign = 2 * len(book) * wide + 1.5 * (gap + 0.35)  # below the sign of the right order
    ax.text(x_sign, 1.86 - high - 0.1, f"S = ({step})", fontsize=SMALL, ha="center", va="top", color=SURPRISE)
    for j, name in enumerate(names):
        ax.text((j + 0.5) * wide, 0.72 - high - 0.1, name, fontsize=SMALL, ha="center", va="top", color=MUTED)


def halves(ax, half_life: float, visits: int) -> None:
    """Draw what is left of a write, visit by visit, with a step down at every half-life.

    Args:
        ax: Axes to draw on.
        half_life: in visits.
        visits: length of the time axis.
    """
    t = np.arange(visits + 1)
    ax.fill_between(t, 0.5 ** (t / half_life), color=FORGET, alpha=0.15, linewidth=0)
    ax.plot(t, 0.5 ** (t / half_life), color=FORGET, linewidth=2)
    for n in range(1, int(visits // half_life) + 1):
        x, y = n * half_life, 0.5**n
        ax.plot([x, x, x - half_life], [0, y, y], color=MUTED, linewidth=0.8, linestyle=":")
        ax.plot([x], [y], "o", color=FORGET, markersize=6, markeredgecolor=PAPER)
        if n <= 4:
            ax.annotate(f"1/{2**n}", (x, y), xytext=(6, 5), textcoords="offset points", fontsize=SMALL, color=INK)
    ax.set(xlim=(0, visits), ylim=(0, 1.08), yticks=[0, 0.5, 1], xlabel="visits since the write")
