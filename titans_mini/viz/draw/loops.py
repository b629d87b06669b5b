"""Drawings of lessons 06 and 07: who answers for whom, the two loops, the parts of the layer, and blame."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from titans_mini.viz.draw.arrays import as_array, heatmap
from titans_mini.viz.draw.grammar import SMALL, TEXT, arrow, box, canvas, page_ink, page_mark, tint
from titans_mini.viz.palette import (
    DIVERGED,
    FORGET,
    GRID,
    KEY,
    MEMORY,
    MUTED,
    PAPER,
    QUERY,
    SURPRISE,
    VALUE,
    ink_on,
    signed_text,
)
from titans_mini.viz.screen import CELLS


def answer_board(ax, answers, names: Sequence[str], title: str) -> int:
    """Draw the book's answers, guests by hooks: guest i is right where the largest cell of row i is cell i.

    Args:
        ax: Axes to draw on.
        answers: (P, P) row i is the answer to guest i, whose own hook is column i.
        names: P guests.
        title: words above; the number of coats found is added.

    Returns:
        int: how many guests are served.
    """
    numbers, n = as_array(answers), len(names)
    said = numbers.argmax(1)
    right = int((said == np.arange(n)).sum())
    heatmap(ax, numbers, limit=float(np.abs(numbers).max()), grid=True)
    for i, j in enumerate(said):
        good = i == j
        ax.text(j, i, "✓" if good else "✗", ha="center", va="center", color=PAPER, fontsize=11, fontweight="bold")
        ax.text(n - 0.3, i, "her coat" if good else f"{names[j]}’s coat", va="center", fontsize=SMALL,
                color=page_ink(ax), fontweight="normal" if good else "bold")  # fmt: skip
    ax.set(yticks=range(n), yticklabels=[f"{name}?" for name in names], xticks=[], xlabel="hooks")
    ax.set_title(f"{title}\n{right} of {n} coats found", fontsize=TEXT, loc="left")
    return right


def letter_weights(ax, sizes, letters: str, mark: Sequence[str] = ()) -> None:
    """Draw how strongly each letter counts in a key, smallest first.

    Args:
        ax: Axes to draw on.
        sizes: (N,) length of each letter's row of W_K.
        letters: N letters.
        mark: letters whose bars are filled; the others are outlines.
    """
    sizes = as_array(sizes)
    for place, i in enumerate(np.argsort(sizes)):
        full = letters[i] in mark
        ax.bar(place, sizes[i], 0.7, color=KEY if full else tint(KEY, 0.2), edgecolor=KEY, linewidth=1)
        ax.text(place, sizes[i] + 0.06, letters[i].upper(), ha="center", va="bottom", fontsize=TEXT,
                color=page_ink(ax), fontweight="bold" if full else "normal")  # fmt: skip
    ax.set(xticks=[], ylim=(0, 1.15 * sizes.max()), ylabel="weight in the key", xlim=(-0.7, len(sizes) - 0.3))


def loops_with_gradient(ax, cut: str = "") -> None:
    """Draw the two loops and the gradient's path through the writes, in a figure of 7.2 × 3.6 inches.

    Args:
        ax: Axes to draw on; its ticks and spines are removed.
        cut: "" for the whole path; "surprise" or "state" leaves out what that detached tensor stops.
    """
    canvas(ax, 7.2, 3.6)
    ink, top, low = page_ink(ax), 2.45, 0.62
    xs = (0.62, 2.14, 3.66, 5.18)
    say = {"ha": "center", "va": "center", "fontsize": SMALL, "color": ink}
    ax.text(
        0.1, 3.42, "inner loop: one step per visit, always", fontsize=TEXT, fontweight="bold", color=ink, va="center"
    )
    ax.text(0.1, 0.06, "outer loop: one step per batch of evenings, in training only", fontsize=TEXT, fontweight="bold",
            color=ink, va="center")  # fmt: skip
    for i, x in enumerate(xs):
        name = "$M_0$" if i == 0 else f"$M_{i}$"
        box(ax, x, top, 0.62, 0.56, "learns", name, facecolor=tint(MEMORY, 0.1 + 0.12 * i))
    box(ax, 6.6, top, 0.96, 0.56, "data", "answer", "coat?")
    for i in (1, 2, 3):
        arrow(ax, (xs[i - 1] + 0.31, top + 0.1), (xs[i] - 0.31, top + 0.1), kind="state")
        ax.text((xs[i - 1] + xs[i]) / 2, top + 0.62, f"write {i}", **say)
        arrow(ax, ((xs[i - 1] + xs[i]) / 2, top + 0.5), ((xs[i - 1] + xs[i]) / 2, top + 0.16), SURPRISE)
    arrow(ax, (xs[3] + 0.31, top + 0.1), (6.12, top + 0.1), kind="state")
    ax.text((xs[3] + 6.12) / 2, top + 0.36, "ask", **say)
    text = "one small step against the blame, then the next evenings"
    box(ax, 2.9, low, 5.2, 0.56, "trained", "$W_K$, $W_V$, $W_Q$, gates, $M_0$", text)
    ax.text(6.6, low + 0.12, "loss $L$", ha="center", va="center", fontsize=TEXT, fontweight="bold", color=ink)
    ax.text(6.6, low - 0.1, "wrong coat", **say)
    arrow(ax, (6.6, top - 0.28), (6.6, low + 0.28), MUTED)
    # the gradient: from the answer, back along the memory, down at every write
    arrow(ax, (6.12, top - 0.14), (xs[3] + 0.33, top - 0.14), kind="gradient")
    arrow(ax, (6.2, top - 0.3), (5.1, low + 0.3), kind="gradient")
    for i in (3, 2, 1):
        middle = (xs[i - 1] + xs[i]) / 2
        reached = cut != "state" or i == 3
        if reached and cut != "state":
            arrow(ax, (xs[i] - 0.33, top - 0.14), (xs[i - 1] + 0.33, top - 0.14), kind="gradient")
        if reached and cut != "surprise" and not (cut == "state" and i < 3):
            arrow(ax, (middle, top - 0.2), (middle, low + 0.3), kind="gradient")
        if cut == "surprise":
            _scissors(ax, middle, top - 0.5)
    if cut != "state":
        arrow(ax, (xs[0], top - 0.3), (xs[0], low + 0.3), kind="gradient")
    else:
        _scissors(ax, (xs[1] + xs[2]) / 2, top - 0.14)
        _scissors(ax, (xs[0] + xs[1]) / 2, top - 0.14)
        _scissors(ax, xs[0], top - 0.5)
    words = {"": "blame", "surprise": "no word to $W_K$, $W_V$", "state": "only the last write"}[cut]
    ax.text(5.76, 1.72 if not cut else 1.36, words, fontsize=SMALL, color=ink, ha="left", va="center",
            bbox={"facecolor": ax.figure.get_facecolor(), "edgecolor": "none", "pad": 1})  # fmt: skip


def _scissors(ax, x: float, y: float) -> None:
    ax.text(x, y, "✂", ha="center", va="center", fontsize=14, color=page_mark(ax, DIVERGED), fontweight="bold")


def layer_parts(ax) -> None:
    """Draw what is inside the layer, from a word to an answer, in a figure of 7.2 × 3.3 inches.

    Args:
        ax: Axes to draw on; its ticks and spines are removed.
    """
    canvas(ax, 7.2, 3.3)
    rows = {"query": (2.72, QUERY, "$q_t$"), "key": (1.98, KEY, "$k_t$"), "value": (1.24, VALUE, "$v_t$")}
    box(ax, 0.42, 1.98, 0.68, 0.5, "data", "word", "$x_t$")
    for name, (y, colour, symbol) in rows.items():
        letter = symbol[1].upper()
        box(ax, 1.62, y, 0.8, 0.5, "trained", "linear", f"$W_{letter}$")
        box(ax, 2.78, y, 1.02, 0.5, "trained", "short conv", "word before")
        unit = "length 1" if name != "value" else ""
        box(ax, 3.84, y, 0.74, 0.5, PAPER, "SiLU", unit, edgecolor=MUTED)
        arrow(ax, (0.76, 1.98 + (y - 1.98) * 0.15), (1.22, y))
        arrow(ax, (2.02, y), (2.29, y))
        arrow(ax, (3.29, y), (3.47, y))
        end = 1.98 + (y - 1.98) * 0.62
        arrow(ax, (4.21, y), (4.66, end), colour)
        ax.text(4.4, (y + end) / 2 + 0.2, symbol, fontsize=10.5, color=page_ink(ax), ha="center")
    box(ax, 5.16, 1.98, 0.98, 1.3, "learns", "memory", "$M_t$, $S_t$")
    box(ax, 2.2, 0.44, 2.1, 0.5, "trained", "linear, sigmoid", "gates: how firmly, how long")
    arrow(ax, (0.5, 1.73), (1.2, 0.71))
    arrow(ax, (3.27, 0.44), (5.0, 1.33), FORGET)
    ax.text(4.75, 0.72, "$α_t$, $η_t$, $θ_t$", fontsize=10.5, color=page_ink(ax), ha="center")
    box(ax, 6.66, 2.5, 0.96, 0.5, "trained", "norm", "size 1")
    box(ax, 6.66, 1.76, 0.96, 0.5, "trained", "× gate", "of $x_t$")
    box(ax, 6.66, 1.02, 0.96, 0.5, "trained", "linear", "$y_t$")
    arrow(ax, (5.65, 1.98), (6.18, 2.46), MEMORY)
    arrow(ax, (6.66, 2.25), (6.66, 2.01))
    arrow(ax, (6.66, 1.51), (6.66, 1.27))
    ax.text(4.05, 0.2, "square and green: trained before, frozen tonight\nround and blue: learns tonight",
            fontsize=SMALL, color=page_ink(ax), va="center", linespacing=1.4)  # fmt: skip


def culprits(ax, visits: Sequence[tuple[str, int]], question: str, said: int, right: int, blame) -> None:
    """Draw an evening's visits in a row, and how much of one wrong answer each write is to blame for.

    Args:
        ax: Axes to draw on; its ticks and spines are removed. The figure is 7.2 × 2.6 inches.
        visits: names and hooks, in order.
        question: who asks at the end.
        said: the hook that the book answers.
        right: the hook where her coat hangs.
        blame: (T,) for every write, dL/dθ: positive where a lighter hand would have helped.
    """
    canvas(ax, 7.2, 2.6)
    blame, ink, n = as_array(blame), page_ink(ax), len(visits)
    step = 5.0 / n
    base, unit = 0.7, 1.05 / np.abs(blame).max()
    last = 0.1 + step * n
    ax.plot([0.1, last], [base, base], color=GRID, linewidth=1)
    say = {"ha": "center", "va": "center", "color": ink}
    for i, ((name, hook), size) in enumerate(zip(visits, blame, strict=True)):
        x = 0.1 + step * (i + 0.5)
        box(ax, x, 2.3, step * 0.86, 0.46, MEMORY, name, f"hook {hook}")
        height = unit * size
        hatch = None if size > 0 else "////"
        face = SURPRISE if size > 0 else PAPER
        ax.bar(x, height, step * 0.5, bottom=base, color=face, edgecolor=SURPRISE, linewidth=1.4, hatch=hatch)
        text = signed_text(size, 1) or "0"
        ax.text(x, base + height + (0.1 if height >= 0 else -0.12), text, fontsize=SMALL, **say)
    good = said == right
    box(ax, 6.25, 2.3, 1.6, 0.46, MUTED if good else DIVERGED, f"{question}?", f"hook {said} {'✓' if good else '✗'}")
    arrow(ax, (last, 2.3), (5.44, 2.3), kind="state")
    ax.annotate("", (last + 0.05, base + 0.4), (6.25, 2.05), arrowprops={
        "arrowstyle": "-|>", "color": page_mark(ax, SURPRISE), "linewidth": 1.7, "linestyle": (0, (4, 2)),
        "mutation_scale": 13, "connectionstyle": "arc3,rad=-0.3"})  # fmt: skip
    ax.text(5.45, base + 0.12, "up: a lighter hand\nwould have helped", fontsize=SMALL, color=ink, va="center")
    ax.text(5.45, base - 0.38, "down: a firmer one\nwould have", fontsize=SMALL, color=ink, va="center")


class BlameBoard:
    """A drawn blame map; `update(blame)` shows another of the same shape."""

    def __init__(self, cells, texts):
        self.cells, self.texts = cells, texts

    def update(self, blame) -> None:
        """Show blame (P, T)."""
        numbers = as_array(blame)
        self.cells.update(numbers)
        for place, text in self.texts.items():
            share = numbers[place] / self.cells.image.norm.vmax
            face = np.array(self.cells.image.cmap(self.cells.image.norm(numbers[place])))
            text.set(text=signed_text(share, None) if abs(share) > 0.04 else "", color=tuple(ink_on(face)))


def blame_board(ax, blame, names: Sequence[str], title: str, *, signed: bool, limit=None, ylabel: bool = True):
    """Draw blame as a board: who asks by which write, with signs in the cells where they matter.

    Args:
        ax: Axes to draw on.
        blame: (P, T) row i is guest i's question.
        names: T visits; the first P of them ask.
        title: words above.
        signed: whether a cell has a sign.
        limit: largest magnitude of the colour scale.
        ylabel: whether the questions are named.

    Returns:
        BlameBoard: a handle with `.update(blame)`.
    """
    numbers = as_array(blame)
    cells = heatmap(ax, numbers, signed=signed, limit=limit, title=title, aspect="auto", grid=signed)
    ax.set(xticks=range(numbers.shape[1]), xticklabels=names, xlabel="write")
    ax.set(yticks=range(len(numbers)), yticklabels=[f"{n}?" for n in names[: len(numbers)]] if ylabel else [])
    ax.tick_params(axis="x", labelrotation=60, labelsize=8)
    middle = {"ha": "center", "va": "center_baseline", "fontsize": TEXT, "fontweight": "bold", "gid": CELLS}
    places = np.ndindex(numbers.shape) if signed else ()
    handle = BlameBoard(cells, {(i, j): ax.text(j, i, "", **middle) for i, j in places})
    handle.update(numbers)
    return handle
