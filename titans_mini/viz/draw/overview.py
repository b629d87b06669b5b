"""The three drawings of notebook 00: one write, what learns when, and the course."""

from __future__ import annotations

import textwrap
from collections.abc import Collection

from titans_mini.viz.draw.grammar import arrow, box, canvas, tint
from titans_mini.viz.palette import FORGET, GRID, INK, KEY, MEMORY, MOMENTUM, MUTED, SURPRISE, TRAINED, VALUE

COURSE = (
    "Start here",
    "A memory that is a matrix",
    "Surprise",
    "Forgetting",
    "Stability",
    "Deep memory",
    "Two loops",
    "Learning to memorize",
    "Making it parallel",
    "Exact and fast",
    "Memory as context",
    "Memory as gate, memory as layer",
    "Does it remember?",
    "Triton kernels",
    "Real streams",
    "Scaling up",
    "Reading the paper",
)


def write_loop(ax) -> None:
    """Draw one turn of the inner loop, in a figure of 7.2 × 2.5 inches: predict, be surprised, write.

    Args:
        ax: Axes to draw on; its ticks and spines are removed.
    """
    canvas(ax, 7.2, 2.4)
    top, bottom, h = 1.82, 0.5, 0.72
    box(ax, 0.62, top, 1.1, h, KEY, "key", "$k_t$: context")
    box(ax, 2.14, top, 1.34, h, MEMORY, "memory", "$M_{t-1}$")
    box(ax, 3.76, top, 1.22, h, MEMORY, "guess", "$M_{t-1}(k_t)$")
    box(ax, 5.26, top, 1.1, h, SURPRISE, "surprise", "$\\ell_t$")
    box(ax, 6.58, top, 1.06, h, VALUE, "value", "$v_t$: character")
    box(ax, 5.74, bottom, 1.78, h, SURPRISE, "momentary surprise", "$-\\theta_t\\,\\nabla\\ell_t$")
    box(ax, 3.7, bottom, 1.62, h, MOMENTUM, "+ past surprise", "$S_t=\\eta_t S_{t-1}-\\theta_t\\nabla\\ell_t$")
    box(ax, 1.5, bottom, 2.1, h, FORGET, "forgetting, then the write", "$M_t=(1-\\alpha_t)\\,M_{t-1}+S_t$")
    for start, end in (((1.17, top), (1.46, top)), ((2.81, top), (3.14, top)), ((4.37, top), (4.7, top))):
        arrow(ax, start, end)
    arrow(ax, (6.05, top), (5.82, top))
    arrow(ax, (5.26, top - h / 2), (5.26, bottom + h / 2))
    arrow(ax, (4.85, bottom), (4.52, bottom))
    arrow(ax, (2.89, bottom), (2.56, bottom))
    arrow(ax, (2.14, bottom + h / 2), (2.14, top - h / 2), MEMORY)
    ax.text(2.24, (top + bottom) / 2, "$M_t$ meets the next character", va="center", fontsize=8.5, color=MUTED)


def two_loops(ax) -> None:
    """Draw what moves in training and what moves at test time, in a figure of 7.2 × 2.6 inches.

    Args:
        ax: Axes to draw on; its ticks and spines are removed.
    """
    canvas(ax, 7.2, 2.6)
    ax.text(2.2, 2.42, "parameters (outer loop)", ha="center", fontsize=9.5, fontweight="bold", color=INK)
    ax.text(5.5, 2.42, "state (inner loop)", ha="center", fontsize=9.5, fontweight="bold", color=INK)
    rows = ((1.72, "training", "on many texts, once", True), (0.5, "test time", "on your text, always", False))
    for y, when, what, moves in rows:
        ax.text(0.02, y + 0.12, when, fontsize=9.5, fontweight="bold", va="center", color=INK)
        ax.text(0.02, y, what.replace(", ", ",\n"), fontsize=8, va="top", color=MUTED, linespacing=1.1)
        frozen = {} if moves else {"linestyle": "--", "facecolor": "#F4F4F4"}
        text = "move by gradient descent" if moves else "frozen: not one number moves"
        box(ax, 2.35, y, 2.2, 0.86, TRAINED if moves else MUTED, "$W_K$, $W_V$, $W_Q$, gates, $M_0$", text, **frozen)
        for i, label in enumerate(("$M_0$", "$M_1$", "$M_2$", "$M_T$")):
            x = 4.2 + 0.86 * i
            box(ax, x, y + 0.14, 0.52, 0.46, MEMORY, label, facecolor=tint(MEMORY, 0.12 + 0.14 * i))
            if i:
                arrow(ax, (x - 0.6, y + 0.14), (x - 0.27, y + 0.14), SURPRISE)
        ax.text(5.5, y - 0.27, "moves with every token, from $M_0$ on", ha="center", fontsize=9, va="center")
    ax.axhline(1.14, color=GRID, linewidth=1)


def course_map(ax, ready: Collection[int], here: int = 0) -> None:
    """Draw the seventeen lessons as tiles, in a figure of 7.2 × 2.8 inches.

    Args:
        ax: Axes to draw on; its ticks and spines are removed.
        ready: numbers of the lessons that exist; the others are outlines.
        here: the notebook that the reader is in.
    """
    canvas(ax, 7.2, 2.7)
    for i, title in enumerate(COURSE):
        x, y = 0.6 + 1.2 * (i % 6), 2.26 - 0.91 * (i // 6)
        colour = SURPRISE if i == here else MEMORY if i in ready else GRID
        style = {} if i in ready else {"facecolor": "white"}
        box(ax, x, y, 1.12, 0.82, colour, "", **style)
        ink = INK if i in ready else MUTED
        ax.text(x - 0.48, y + 0.26, f"{i:02d}", fontsize=10.5, fontweight="bold", va="center", color=ink)
        lines = "\n".join(textwrap.wrap(title, 14))
        ax.text(x - 0.48, y + 0.11, lines, fontsize=8, va="top", color=ink, linespacing=1.25)
