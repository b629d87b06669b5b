"""Drawings of the cloakroom: a book that is corrected, an evening as three strips, two names as a valley."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from titans_mini.viz.draw.arrays import as_array
from titans_mini.viz.draw.grammar import SMALL, SOFT, TEXT, Cells, Stamp, canvas, cells, page_ink, page_mark, stamp
from titans_mini.viz.palette import GRID, INK, KEY, MAGNITUDE, MEMORY, MOMENTUM, MUTED, PAPER, SURPRISE, signed_norm

TITLE, SIGN = 10.5, 15  # points
CELL = (0.44, 0.28)  # width and height in inches
LEVELS = (0, 0.05, 0.25, 0.6, 1.1, 2, 3.5, 9)  # of the loss in a valley

Answer = tuple[str, int, bool]


def written(
    ax, book, key, correction, letters: Sequence[str], hooks: Sequence[str], before: Sequence[Answer] = (),
    after: Sequence[Answer] = (), note: str = "each cell is\nkey × correction",
    title: str = "the book, corrected", names: tuple[str, str] = ("key", "correction"), ink_edge: str = SURPRISE,
) -> tuple[Cells, Stamp, Cells]:  # fmt: skip
    """Draw one write: the book, plus a stamp of key times correction, is the corrected book.

    Args:
        ax: Axes to draw on, 7.2 inches wide; its ticks and spines are removed.
        book: (D, E) the memory M before the write.
        key: (D,) the guest's name.
        correction: (E,) −2θ times the error kM − v.
        letters: D row labels.
        hooks: E column labels.
        before: (guest, hook, right) answers of the book before the write.
        after: the same, afterwards.
        note: words below the stamp.
        title: words above the book after the write.
        names: words for the stamp's column and row.
        ink_edge: colour of the frames of row and stamp: what is written.

    Returns:
        (Cells, Stamp, Cells): the three matrices.
    """
    book, key, correction = as_array(book), as_array(key), as_array(correction)
    ink, (w, h) = np.outer(key, correction), CELL
    if book.shape != ink.shape:
        raise ValueError(f"got a book of shape {book.shape}, expected {ink.shape}: a row per letter, a column per hook")
    (rows, columns), gap = ink.shape, 0.14
    width, space = columns * w, (7.2 - 3 * columns * w - 0.25 - gap - w) / 2
    left, right = 0.25, 7.2 - width - 0.04
    middle = left + width + space + w + gap
    top = 0.2 * max(len(before), len(after), 2) + 0.4 + rows * h
    canvas(ax, 7.2, top + h + gap + 0.3)
    limit = SOFT * signed_norm(np.concatenate([key, correction, ink.ravel(), book.ravel()])).vmax
    look = {"limit": limit, "cell": CELL}
    parts = (
        cells(ax, book, left, top, edge=page_mark(ax, MEMORY), **look),
        stamp(ax, key, correction, middle, top, names=names, edges=(KEY, ink_edge, ink_edge), gap=gap, **look),
        cells(ax, book + ink, right, top, edge=page_mark(ax, MEMORY), **look),
    )
    word = {"fontsize": TEXT, "color": page_ink(ax)}
    small = {"fontsize": SMALL, "ha": "center", "va": "center", "color": page_mark(ax, MUTED)}
    for x, first in ((left, left), (middle, middle - gap - w), (right, right)):
        for i, letter in enumerate(letters):
            ax.text(first - 0.13, top - (i + 0.5) * h, letter, **small)
        for j, hook in enumerate(hooks):
            ax.text(x + (j + 0.5) * w, top - rows * h - 0.13, hook, **small)
    for x, words, y in ((left, "the book", 0), (middle, "the stamp", h + gap), (right, title, 0)):
        ax.text(x + width / 2, top + y + 0.1, words, ha="center", va="bottom", **word | {"fontsize": TITLE})
    for x, sign in (((left + width + middle - gap - w - 0.2) / 2, "+"), ((middle + width + right - 0.2) / 2, "=")):
        ax.text(x, top - rows * h / 2, sign, ha="center", va="center", **word | {"fontsize": SIGN})
    ax.text(middle, top - rows * h - 0.32, note, ha="left", va="top", linespacing=1.4, **word)
    for x, answers in ((left, before), (right, after)):
        for i, (guest, hook, good) in enumerate(answers):
            weight, y = "normal" if good else "bold", top - rows * h - 0.32 - 0.2 * i
            ax.text(x, y, f"{guest}?  {hook}  {'✓' if good else '✗'}", va="top", weight=weight, **word)
    return parts


def strips(
    axes, surprise, momentum, memory, plain, event: int, names: Sequence[str], notes: Sequence[str]
) -> None:  # fmt: skip
    """Draw surprise, momentum and memory of one evening as three strips above each other, one bar per visit.

    Args:
        axes: three Axes with a shared x.
        surprise: (T,) size of the surprise at each visit.
        momentum: (T,) size of S after each visit.
        memory: (T,) share of the new answer that is stored after each visit.
        plain: (T,) the same without momentum, drawn dashed.
        event: index of the visit with the surprise.
        names: T initials, written below the strips.
        notes: words at the event, and a sentence for each strip.
    """
    surprise, momentum, memory, plain = (as_array(x) for x in (surprise, momentum, memory, plain))
    if not len(surprise) == len(momentum) == len(memory) == len(plain) == len(names):
        raise ValueError(f"got strips of {[*map(len, (surprise, momentum, memory, plain, names))]} visits")
    visits = np.arange(len(surprise))
    for ax, y, colour in zip(axes[:2], (surprise, momentum), (SURPRISE, MOMENTUM), strict=True):
        ax.bar(visits, y, 0.72, color=colour, edgecolor=INK, linewidth=0.5)
        ax.set(ylim=(0, 1.15 * max(y)), yticks=[0])
    low = axes[2]
    low.fill_between(visits, memory, step="mid", color=MEMORY, alpha=0.15, linewidth=0)
    low.step(visits, plain, where="mid", color=MUTED, linewidth=1.4, linestyle="--")
    low.step(visits, memory, where="mid", color=MEMORY, linewidth=2.4)
    word = {"fontsize": SMALL, "color": page_ink(low)}
    low.text(visits[-1] - 1, plain[-2] + 0.08, "without momentum", ha="right", va="bottom", **word)
    axes[0].text(event + 0.6, max(surprise) / 2, notes[0], va="center", **word | {"fontsize": TEXT})
    for ax, name, note in zip(axes, ("surprise  ∇ℓ", "momentum  S", "memory  M"), notes[1:], strict=True):
        ax.axvspan(event - 0.5, event + 0.5, color=GRID, alpha=0.6, linewidth=0, zorder=0)
        ax.set_title(name, loc="left", weight="bold")
        ax.set_title(note, loc="right", fontsize=TEXT)
        ax.tick_params(length=0)
    low.set(ylim=(0, 1.15), yticks=[0, 1], yticklabels=["0", "all"], xticks=visits, xticklabels=names)
    low.set(xlim=(-0.6, visits[-1] + 0.6), xlabel="who comes to the counter")


def valley(
    axes, keys, values, paths: Mapping[float, np.ndarray], verdicts: Mapping[float, str], *, note: str = "",
    parts: tuple[float, int] | None = None, reach: tuple[float, float] = (-0.5, 9.3),
) -> None:  # fmt: skip
    """Draw the loss of two pairs as a valley, and the memory's path through it, a panel per η.

    Args:
        axes: one Axes per path, with a shared x.
        keys: (2, 2) the two keys; a row is (what they share, what tells them apart).
        values: (2,) right answers.
        paths: η → (T+1, 2) the memory before the first visit and after each.
        verdicts: η → words for the panel's title.
        note: words in the corner of the last panel.
        parts: (η, visit) of the step that is taken apart into the kept momentum and the new push.
        reach: limits of the long axis.
    """
    keys, values = as_array(keys), as_array(values)
    apart, share = np.meshgrid(np.linspace(*reach, 300), np.linspace(-1.35, 1.35, 120))
    loss = sum((share * k[0] + apart * k[1] - v) ** 2 for k, v in zip(keys, values, strict=True))
    answer = np.linalg.solve(keys, values)
    small = {"fontsize": SMALL, "va": "center", "color": INK}
    for ax, (eta, path) in zip(axes, paths.items(), strict=True):
        ax.contourf(apart, share, loss, LEVELS, cmap=MAGNITUDE, alpha=0.28, vmax=6)
        ax.contour(apart, share, loss, LEVELS, colors=PAPER, linewidths=0.9)
        y, x = as_array(path).T
        ax.plot(x, y, color=MEMORY, linewidth=1.4, zorder=3)
        ax.plot(x, y, "o", color=MEMORY, markersize=5, mec=PAPER, mew=0.8, zorder=4)
        ax.plot(x[0], y[0], "o", color=PAPER, markersize=7, mec=MEMORY, mew=1.8, zorder=5)
        ax.plot(answer[1], answer[0], "*", color=INK, markersize=14, mec=PAPER, zorder=5)
        ax.set(xlim=reach, ylim=(-1.35, 1.35), yticks=[])
        ax.set_title(f"$\\mathbf{{η = {eta}}}$   {verdicts[eta]}", loc="left")
        if parts is not None and eta == parts[0]:
            before, start, end = np.stack([x, y], -1)[parts[1] - 2 : parts[1] + 1]
            corner = start + eta * (start - before)
            for tail, head, colour in ((start, corner, MOMENTUM), (corner, end, SURPRISE)):
                style = {"arrowstyle": "-|>", "color": colour, "linewidth": 2.6, "shrinkA": 0, "shrinkB": 0}
                ax.annotate("", head, tail, arrowprops=style, zorder=6)
            ax.text(corner[0] + 0.1, -1.12, f"kept: {eta} of the last step", **small)
            ax.text(end[0], 0.55, "added: the new push", **small)
    axes[0].text(-0.42, -0.55, "start", **small)
    axes[0].text(answer[1], 0.42, "right for both", ha="center", **small)
    axes[-1].text(reach[1] - 0.1, -1.12, note, ha="right", **small)
    middle = axes[len(axes) // 2]
    middle.set_ylabel("what the two names share", fontsize=TEXT, color=page_ink(middle))
    axes[-1].set(xlabel="what tells them apart")


def panels(
    axes, x: Sequence[float], series: Mapping[str, Mapping[str, Sequence[float]]],
    looks: Mapping[str, tuple[str, str, str]], *, xlabel: str = "", ylabel: str = "",
) -> None:  # fmt: skip
    """Draw the same rivals in several rooms: a panel per room, a curve per rival, one legend above all panels.

    Args:
        axes: one Axes per room, or a single one.
        x: (N,) where the curves were measured.
        series: room → rival → (N,) numbers.
        looks: rival → (colour, line style, marker), so that a grey print tells them apart.
        xlabel: of every panel.
        ylabel: of the first panel.
    """
    axes = list(np.ravel(axes))
    for ax, (room, curves) in zip(axes, series.items(), strict=True):
        for rival, y in curves.items():
            colour, style, marker = looks[rival]
            colour = page_mark(ax, colour)
            ax.plot(x, as_array(y), color=colour, linestyle=style, marker=marker, markersize=4.5, label=rival)
        ax.set(title=room, xlabel=xlabel)
    axes[0].set(ylabel=ylabel)
    names = axes[0].get_legend_handles_labels()
    axes[0].figure.legend(*names, loc="outside upper left", ncols=len(looks), frameon=False, fontsize=SMALL)
