"""A marble in the bowl of one guest's loss: it rolls to the bottom, rings about it, or leaves over the rim."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.patheffects import withStroke

from titans_mini.viz.draw.arrays import as_array
from titans_mini.viz.draw.grammar import SMALL, TEXT, page_ink, page_mark
from titans_mini.viz.palette import DIVERGED, GRID, INK, MEMORY, MUTED, PAPER

FLOOR = -0.36  # lower edge of the picture, as a share of the rim's height


def marbles(axes, paths: Sequence, titles: Sequence[str], verdicts: Sequence[str], *, reach: float = 2.2) -> None:
    """Draw one bowl per path, with a dot on its wall for every visit and a line from each dot to the next.

    Args:
        axes: one Axes per path; their ticks and spines are removed.
        paths: each (T+1,) the error before the first visit and after every visit, 0 is the bottom of the bowl.
        titles: words above the bowls.
        verdicts: words below them.
        reach: distance from the bottom to the rim; a path that passes it ends in a dark red cross beyond the rim.
    """
    axes = list(np.ravel(axes))
    if not len(axes) == len(paths) == len(titles) == len(verdicts):
        raise ValueError(
            f"got {len(axes)} axes, {len(paths)} paths, {len(titles)} titles and {len(verdicts)} verdicts: one each"
        )
    for ax, path, title, verdict in zip(axes, paths, titles, verdicts, strict=True):
        _marble(ax, as_array(path), reach)
        ax.set_title(title, fontsize=TEXT, color=page_ink(ax), fontweight="bold")
        ax.text(0, FLOOR * 0.45 * reach**2, verdict, ha="center", va="top", fontsize=SMALL, color=page_ink(ax))


def _marble(ax, path: np.ndarray, reach: float) -> None:
    """Draw one bowl and one path in it."""
    ax.set_axis_off()
    wall = np.linspace(-reach, reach, 201)
    ax.fill_between(wall, wall**2, reach**2, color=page_mark(ax, GRID), alpha=0.35, linewidth=0)
    ax.plot(wall, wall**2, color=page_mark(ax, MUTED), linewidth=2.2)
    out = np.flatnonzero(~(np.abs(path) <= reach))
    inside = path[: out[0]] if out.size else path
    blue = page_mark(ax, MEMORY)
    ax.plot(inside, inside**2, "o-", color=blue, markersize=4.5, markeredgecolor=PAPER, linewidth=1, zorder=3)
    ax.plot(inside[:1], inside[:1] ** 2, "o", color=PAPER, markeredgecolor=blue, markersize=8, mew=1.8, zorder=4)
    halo = [withStroke(linewidth=2.5, foreground=ax.figure.get_facecolor())]
    for visit, x in enumerate(inside[:4]):
        if visit and np.abs(x - inside[:visit]).min() < 0.17:
            break
        place = {"xytext": (9 if x >= 0 else -9, -3), "textcoords": "offset points", "ha": "center", "va": "center"}
        ax.annotate(f"{visit}", (x, x**2), fontsize=SMALL, color=page_ink(ax), path_effects=halo, zorder=6, **place)
    if out.size:
        side = 1.0 if np.isnan(path[out[0]]) or path[out[0]] > 0 else -1.0
        end = 1.12 * side * reach, 1.1 * reach**2
        style = {"arrowstyle": "-", "color": blue, "linewidth": 1, "shrinkA": 0, "shrinkB": 0}
        ax.annotate("", end, (inside[-1], inside[-1] ** 2), arrowprops=style)
        ax.plot(*end, "X", color=DIVERGED, markersize=11, markeredgecolor=PAPER, zorder=5)
    else:
        ax.plot(inside[-1:], inside[-1:] ** 2, "o", color=blue, markersize=11, markeredgecolor=PAPER, zorder=5)
    ax.set(xlim=(-1.25 * reach, 1.25 * reach), ylim=(FLOOR * reach**2, 1.2 * reach**2))


def pauses(ax, errors: dict[str, Sequence[float]], present: Sequence[bool], *, limit: float = 2.5) -> None:
    """Draw errors over the visits of an evening, with a column where the guest herself is at the counter.

    Args:
        ax: Axes to draw on.
        errors: words at the end of a curve → (T+1,) its error, from before the first visit on. The first is strong,
            the others are thin and dashed.
        present: (T,) whether the guest comes at this visit.
        limit: of the vertical axis.
    """
    for t in np.flatnonzero(present):
        ax.axvspan(t, t + 1, color=GRID, alpha=0.8, linewidth=0, zorder=0)
    ax.plot([0, len(present)], [0, 0], color=MUTED, linewidth=0.8)  # it ends before the words at the curves' ends
    for i, (words, error) in enumerate(errors.items()):
        error = as_array(error)
        look = {"color": MUTED, "linewidth": 1.4, "linestyle": "--"} if i else {"color": MEMORY, "linewidth": 2.2}
        ax.plot(np.arange(len(error)), error, marker="o", markersize=0 if i else 4, markeredgecolor=PAPER, **look)
        y = np.clip(error[-1], -limit, limit)
        ax.annotate(words, (len(error) - 1, y), xytext=(6, 0), textcoords="offset points", va="center", fontsize=SMALL)
    ax.set(xlim=(0, len(present) * 1.22), ylim=(-limit, limit), xlabel="visit", ylabel="error")
    ax.tick_params(axis="x", colors=INK)
