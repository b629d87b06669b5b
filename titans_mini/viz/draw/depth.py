"""Drawings of depth: who is served by pairs, a sheet that is folded, the features of a first layer, and two stamps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.patches import Polygon, Rectangle
from matplotlib.patheffects import withStroke

from titans_mini.viz.draw.arrays import as_array
from titans_mini.viz.draw.evening import panels
from titans_mini.viz.draw.grammar import SMALL, SOFT, TEXT, arrow, canvas, cells, page_ink, page_mark, stamp, tint
from titans_mini.viz.palette import (
    DIVERGED,
    FORGET,
    GRID,
    INK,
    KEY,
    MEMORY,
    MUTED,
    PAPER,
    SIGNED,
    SURPRISE,
    signed_norm,
)


def pair_board(ax, said, right, names: Sequence[str], hats: Sequence[str], title: str) -> int:
    """Draw which rail a memory names for every pair of a name and a hat; a cross where the coat is not there.

    Args:
        ax: Axes to draw on; its ticks and spines are removed.
        said: (names, hats) the rail that is named, counted from 0.
        right: (names, hats) the rail of the coat.
        names: words for the rows.
        hats: words for the columns.
        title: words above; the number of coats found is added.

    Returns:
        int: how many guests are served.
    """
    said, right = as_array(said).astype(int), as_array(right).astype(int)
    if said.shape != right.shape or said.shape != (len(names), len(hats)):
        raise ValueError(f"got boards of {said.shape} and {right.shape}, expected {(len(names), len(hats))} for both")
    ink = page_ink(ax)
    for (i, j), rail in np.ndenumerate(said):
        good = rail == right[i, j]
        face = tint(MEMORY, 0.22) if good else PAPER
        ax.add_patch(Rectangle((j - 0.5, i - 0.5), 1, 1, facecolor=face, edgecolor=GRID, linewidth=1))
        ax.text(j - 0.13, i, str(rail + 1), ha="center", va="center", fontsize=11, color=INK)
        sign, colour = ("✓", MEMORY) if good else ("✗", DIVERGED)
        ax.text(j + 0.24, i, sign, ha="center", va="center", fontsize=10, fontweight="bold", color=colour)
    count = int((said == right).sum())
    ax.set(xlim=(-0.5, len(hats) - 0.5), ylim=(len(names) - 0.5, -0.5), xticks=range(len(hats)), xticklabels=hats)
    ax.set(yticks=range(len(names)), yticklabels=names)
    ax.tick_params(length=0, colors=ink)
    ax.spines[:].set_visible(False)
    ax.set_title(f"{title}\n{count} of {said.size} coats found", fontsize=TEXT, loc="left", color=ink)
    return count


def duel(ax, scores: Mapping[str, tuple[float, float]], guessing: Sequence[float]) -> None:
    """Draw two rivals in several rooms: a square for the first, a disc for the second, dotted where guessing is.

    Args:
        ax: Axes to draw on.
        scores: room → the shares of the two rivals.
        guessing: the share that guessing gives, one per room.
    """
    ink = page_ink(ax)
    for i, (pair, chance) in enumerate(zip(scores.values(), guessing, strict=True)):
        ax.plot(pair, [i, i], color=page_mark(ax, GRID), linewidth=3, zorder=0)
        ax.plot([chance, chance], [i - 0.2, i + 0.2], color=ink, linewidth=1, linestyle=":", zorder=1)
        for share, (marker, colour) in zip(pair, (("s", MUTED), ("o", MEMORY)), strict=True):
            ax.plot(share, i, marker, color=page_mark(ax, colour), markersize=9)
            ax.annotate(f"{share:.0%}", (share, i), xytext=(0, 9), textcoords="offset points", ha="center", color=ink)
    ax.set(xlim=(0, 1.1), ylim=(len(scores) - 0.6, -0.7))
    ax.set_yticks(range(len(scores)), list(scores))
    ax.tick_params(axis="y", length=0)


def fold_sheet(ax, guests: Sequence[str], hidden, answers, units: Sequence[str]) -> None:
    """Draw how a first layer folds the plane of names and hats, in a figure of 7.2 × 2.75 inches.

    The four guests stand at the corners (1, 1), (1, −1), (−1, 1), (−1, −1) of the flat sheet, in this order. The sheet
    is folded along x₁ + x₂ = 0, so that the last lies on the first.

    Args:
        ax: Axes to draw on; its ticks and spines are removed.
        guests: four words.
        hidden: (4, H) what the first layer makes of the four guests.
        answers: (4,) the answers, of which the sign is the rail.
        units: H labels, above the columns.
    """
    hidden, answers = as_array(hidden), as_array(answers)
    canvas(ax, 7.2, 2.75)
    ink, small = page_ink(ax), {"fontsize": SMALL, "ha": "center", "va": "center"}
    half, middle = 0.62, np.array([1.05, 1.28])
    corners = [middle + half * np.array(xy) for xy in ((1, 1), (1, -1), (-1, 1), (-1, -1))]
    titles = ((1.05, "flat"), (3.4, "folded once"), (5.75, "in numbers"))
    for x, words in titles:
        ax.text(x, 2.62, words, ha="center", va="center", fontsize=TEXT, fontweight="bold", color=ink)
    sheet = [corners[0], corners[1], corners[3], corners[2]]
    ax.add_patch(Polygon(sheet, facecolor=tint(MUTED, 0.1), edgecolor=page_mark(ax, MUTED), linewidth=1.2))
    ax.plot(*zip(corners[2], corners[1], strict=True), color=page_mark(ax, MEMORY), linewidth=1.8, linestyle="--")
    for corner, guest, answer in zip(corners, guests, answers, strict=True):
        _guest(ax, corner, answer)
        up = 0.2 if corner[1] > middle[1] else -0.2
        ax.text(corner[0], corner[1] + up, guest, **small, color=ink)
    ax.text(1.05, 0.12, "no line has ● on one side\nand □ on the other", **small, color=ink)

    arrow(ax, (2.05, 1.28), (2.52, 1.28))
    top, left, right = np.array([3.4, 1.93]), np.array([2.72, 0.98]), np.array([4.08, 0.98])
    for shift, amount in ((0.05, 0.22), (0.0, 0.1)):  # two layers of the same triangle
        corner = [p + shift * np.array([1, 0.6]) for p in (left, right, top)]
        ax.add_patch(Polygon(corner, facecolor=tint(MUTED, amount), edgecolor=page_mark(ax, MUTED), linewidth=1.2))
    ax.plot(*zip(left, right, strict=True), color=page_mark(ax, MEMORY), linewidth=1.8, linestyle="--")
    ax.plot([2.6, 4.2], [1.45, 1.45], color=page_mark(ax, MEMORY), linewidth=2.6)
    ax.text(2.58, 1.55, "cut", ha="left", va="center", fontsize=SMALL, color=ink)
    _guest(ax, top + [0.09, 0.05], answers[3])
    _guest(ax, top, answers[0])
    _guest(ax, left, answers[1])
    _guest(ax, right, answers[2])
    ax.text(3.4, 2.28, f"{guests[0]} on {guests[3]}", **small, color=ink)
    for place, guest in ((left, guests[1]), (right, guests[2])):
        ax.text(place[0], place[1] - 0.2, guest, **small, color=ink)
    ax.text(3.4, 0.12, "now one straight cut\nparts them", **small, color=ink)

    first, wide, high = 5.28, 0.4, 0.32
    upper = 1.92
    limit = SOFT * signed_norm(np.concatenate([hidden.ravel(), answers])).vmax
    look = {"limit": limit, "digits": 0, "cell": (wide, high)}
    cells(ax, hidden, first, upper, edge=page_mark(ax, MEMORY), **look)
    last = first + hidden.shape[1] * wide + 0.2
    cells(ax, answers[:, None], last, upper, edge=page_mark(ax, MUTED), **look)
    for i, guest in enumerate(guests):
        ax.text(first - 0.08, upper - (i + 0.5) * high, guest, ha="right", va="center", fontsize=SMALL, color=ink)
    for j, unit in enumerate(units):
        ax.text(first + (j + 0.5) * wide, upper + 0.13, unit, **small, color=ink)
    ax.text(last + wide / 2, upper + 0.13, "says", **small, color=ink)
    ax.text(5.75, 0.12, "h₁, h₂: the two sides of the\ncrease; h₃: the constant", **small, color=ink)


def _guest(ax, where, answer: float) -> None:
    """Draw a guest: a full disc on the first rail, an empty square on the second."""
    look = ("o", page_mark(ax, MEMORY), page_mark(ax, MEMORY)) if answer > 0 else ("s", PAPER, page_mark(ax, MUTED))
    ax.plot(*where, look[0], color=look[1], markersize=9, markeredgecolor=look[2], markeredgewidth=1.8, zorder=4)


def unit_tiles(axes, before, after, names: Sequence[str], hats: Sequence[str]) -> None:
    """Draw hidden units as tables of names by hats, the row of Axes above at the start, the row below at the end.

    Args:
        axes: (2, U) Axes; their ticks are removed but for the names and hats at the lower left.
        before: (U, names, hats) what each unit says to every pair at the start.
        after: the same at the end.
        names: words for the rows of a tile.
        hats: words for its columns.
    """
    before, after = as_array(before), as_array(after)
    limit = max(np.abs(before).max(), np.abs(after).max())
    for row, units, words in zip(axes, (before, after), ("at the start", "after the evening"), strict=True):
        for i, (ax, unit) in enumerate(zip(row, units, strict=True)):
            ax.imshow(unit, cmap=SIGNED, norm=signed_norm(unit, limit))
            ax.set(xticks=[], yticks=[])
            ax.spines[:].set_visible(True)
            ax.spines[:].set_color(page_mark(ax, MEMORY))
            if units is after:
                top = np.unravel_index(np.abs(unit).argmax(), unit.shape)
                ax.text(top[1], top[0], "●", ha="center", va="center", fontsize=6.5, color=PAPER)
                ax.set_xlabel(f"{names[top[0]]},\n{hats[top[1]]}", fontsize=SMALL, color=page_ink(ax))
            if i == 0:
                ax.set_yticks(range(len(names)), names, fontsize=7)
                ax.tick_params(length=0)
        row[0].set_title(words, loc="left", fontsize=TEXT, color=page_ink(row[0]))
    for ax in axes[0]:
        ax.set_xticks(range(len(hats)), [hat[0] for hat in hats], fontsize=7)
        ax.tick_params(length=0)


def two_stamps(ax, key, hidden, delta1, delta2, weights) -> None:
    """Draw the gradient of a memory of two layers as two stamps, in a figure of 7.2 × 2.6 inches.

    Args:
        ax: Axes to draw on; its ticks and spines are removed.
        key: (D,) the input.
        hidden: (H,) what the first layer makes of it.
        delta1: (H,) the blame of the hidden units.
        delta2: (E,) the blame of the answer.
        weights: (H, E) of the second layer, which carry the blame back.
    """
    key, hidden, delta1, delta2 = (as_array(x) for x in (key, hidden, delta1, delta2))
    weights = as_array(weights)
    canvas(ax, 7.2, 2.6)
    ink, size = page_ink(ax), (0.46, 0.34)
    limit = SOFT * max(np.abs(np.outer(key, delta1)).max(), np.abs(np.outer(hidden, delta2)).max())
    look = {"limit": limit, "digits": 0, "cell": size, "gap": 0.12}
    edges = page_mark(ax, KEY), page_mark(ax, SURPRISE), page_mark(ax, SURPRISE)
    stamp(ax, key, delta1, 1.2, 1.62, names=("k", "δ₁"), edges=edges, **look)
    stamp(ax, hidden, delta2, 5.6, 1.62, names=("h", "δ₂"), edges=(page_mark(ax, MEMORY), *edges[1:]), **look)
    word = {"ha": "center", "va": "center", "color": ink}
    ax.text(1.2 + 1.5 * size[0], 2.42, "stamp for W₁", **word, fontsize=TEXT, fontweight="bold")
    ax.text(5.6 + 0.5 * size[0], 2.42, "stamp for W₂", **word, fontsize=TEXT, fontweight="bold")
    start = (5.6 - 0.34, 1.62 + 0.12 + size[1] / 2)
    arrow(ax, start, (1.2 + 3 * size[0] + 0.08, start[1]), kind="gradient")
    column = 3.95
    cells(ax, weights, column, 1.5, edge=page_mark(ax, MEMORY), limit=limit, digits=0, cell=size)
    ax.text(column + size[0] / 2, 1.5 - len(weights) * size[1] - 0.14, "W₂", **word, fontsize=SMALL)
    ax.text(3.92, 2.12, "the blame goes back through W₂", **word, fontsize=SMALL)
    ax.text(3.3, 1.05, "… and stops\nwhere a unit\nwas off", **word, fontsize=SMALL)
    ax.text(3.6, 0.1, "each stamp: what came in (rows) × the blame (columns)", **word, fontsize=SMALL)


def by_step(ax, steps: Sequence[float], scores: Mapping[str, Sequence[float]], looks: Mapping[str, tuple]) -> list[str]:
    """Draw scores over step sizes, with a dark red cross where a memory ended in NaN.

    Args:
        ax: Axes to draw on.
        steps: step sizes θ.
        scores: memory → a score per step, NaN where it did not survive.
        looks: memory → (colour, line style, marker).

    Returns:
        list: the memories that did not survive every step.
    """
    panels(ax, steps, {"": scores}, looks, xlabel="step size θ")
    lost = [name for name, score in scores.items() if np.isnan(as_array(score)).any()]
    low = min(np.nanmin(as_array(score)) for score in scores.values())
    if lost:
        at = steps[int(np.isnan(as_array(scores[lost[0]])).argmax())]
        height = low + 0.4 * (max(np.nanmax(as_array(score)) for score in scores.values()) - low)
        ax.plot(at, height, "X", color=page_mark(ax, DIVERGED), markersize=10, zorder=4)
        words = {"xytext": (-12, 0), "textcoords": "offset points", "ha": "right", "va": "center"}
        words["path_effects"] = [withStroke(linewidth=4, foreground=ax.figure.get_facecolor())]
        ax.annotate(" and ".join(lost) + ": NaN", (at, height), fontsize=SMALL, color=page_ink(ax), **words)
    ax.set(xscale="log", ylim=(low - 0.05, None))
    ax.set_xticks(steps, [f"{step:g}" for step in steps])
    ax.minorticks_off()
    return lost


def row_lengths(ax, before, after, named: Mapping[int, str]) -> None:
    """Draw how much each part of a key counts in the first layer: bars for the end, a dash for the start.

    Args:
        ax: Axes to draw on.
        before: (D,) lengths of the rows of W₁ at the start.
        after: (D,) the same at the end.
        named: number of a part → its label.
    """
    before, after = as_array(before), as_array(after)
    x = np.arange(len(after))
    ax.bar(x, after, 0.72, color=page_mark(ax, MEMORY), label="after the evening")
    ax.plot(x, before, "_", color=page_ink(ax), markersize=16, markeredgewidth=1.8, label="at the start")
    ax.set_xticks(list(named), list(named.values()))
    ax.tick_params(axis="x", length=0)
    ax.set(ylim=(0, 1.15 * after.max()), ylabel="length of row")
    ax.legend(loc="upper right", frameon=False, fontsize=SMALL)


def fade_and_wake(axes, kept: Mapping[str, Sequence[float]], relearn: Mapping[str, Sequence[float]]) -> None:
    """Draw what is left of an answer while only α acts, and how long a faded memory takes to learn again.

    Args:
        axes: two Axes.
        kept: memory → share of the answer that is left after each visit; a name with "norm" is drawn as memory.
        relearn: memory → loss at each visit; the first is the rival.
    """
    styles = ("-", "--", ":", "-.")
    for (name, share), style in zip(kept.items(), styles, strict=False):
        colour = page_mark(axes[0], MEMORY if "norm" in name else FORGET)
        axes[0].plot(as_array(share), color=colour, linestyle=style, label=name)
    for i, (name, loss) in enumerate(relearn.items()):
        colour = page_mark(axes[1], MEMORY if i else MUTED)
        axes[1].plot(as_array(loss), color=colour, linestyle=styles[i - 1] if i else "--", label=name)
    axes[0].set(title="share of the answer that is left", xlabel="visits with α alone", ylim=(0, 1.08))
    axes[1].set(title="relearning one pair", xlabel="visit", ylabel="loss ℓ")
    axes[1].set(ylim=(0, 1.25 * axes[1].get_ylim()[1]))
    axes[0].legend(loc="center right", bbox_to_anchor=(1.0, 0.66), handlelength=2.6, frameon=False, fontsize=SMALL)
    axes[1].legend(loc="upper right", frameon=False, fontsize=SMALL)
