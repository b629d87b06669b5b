"""Drawings of lessons 10 and 11: LMM, MAC, MAG and MAL as one slide each, in one grammar, and the leaks of MAC.

The SVGs that speakers use: python -c "from titans_mini.viz import draw; draw.save_slides('assets/slides')".
"""

from __future__ import annotations

from pathlib import Path

import matplotlib
from matplotlib.patches import Rectangle

from titans_mini.viz.draw.grammar import SMALL, arrow, box, canvas, page_ink, page_mark, tint
from titans_mini.viz.palette import DIVERGED, GRID, KEY, MEMORY, MUTED, PAPER, TRAINED

TITLES = {
    "lmm": "LMM · the memory alone",
    "mac": "MAC · memory as context",
    "mag": "MAG · memory as a gate",
    "mal": "MAL · memory as a layer",
}
WIDTH, HEIGHT = 7.2, 3.7  # inches of a slide
TOP, LOW = 2.66, 1.2  # of the memory, of the tokens
CELL = 0.2  # a token
SLIDES = ("lmm", "mac", "mac_leaks", "mag", "mal")


def architecture(ax, variant: str, leaks: bool = False) -> None:
    """Draw one layer as a slide: tokens run along the bottom, the memory's state along the top, time to the right.

    Args:
        ax: Axes of a figure of 7.2 × 3.7 inches; its ticks and spines are removed.
        variant: "lmm", "mac", "mag" or "mal".
        leaks: for "mac", add the two ways in which the equations as printed see the future.
    """
    if variant not in TITLES:
        raise ValueError(f"got variant={variant!r}, expected one of {', '.join(TITLES)}")
    if leaks and variant != "mac":
        raise ValueError(f"got leaks=True for {variant!r}, expected 'mac': the others are causal as printed")
    canvas(ax, WIDTH, HEIGHT)
    title = "MAC as the paper prints it" if leaks else TITLES[variant]
    _word(ax, 0.1, HEIGHT - 0.12, title, ha="left", va="top", fontsize=12, fontweight="bold")
    if variant == "mac":
        _mac(ax, leaks)
    else:
        {"lmm": _lmm, "mag": _mag, "mal": _mal}[variant](ax)
    if not leaks:
        _key(ax, attention=variant != "lmm")


def save_slides(folder: str | Path) -> list[Path]:
    """Write each slide as an SVG, letters as text.

    Args:
        folder: where to; made if it is not there.

    Returns:
        list of Path: the files, in the order of `SLIDES`.
    """
    from titans_mini.viz.picture import figure

    folder, written = Path(folder), []
    folder.mkdir(parents=True, exist_ok=True)
    for name in SLIDES:
        variant, _, leaks = name.partition("_")
        fig, ax = figure(WIDTH, HEIGHT)
        architecture(ax, variant, leaks=bool(leaks))
        written.append(folder / f"{name}.svg")
        with matplotlib.rc_context({"svg.hashsalt": "titans_mini", "svg.fonttype": "none"}):
            fig.savefig(written[-1], metadata={"Date": None})
    return written


def _word(ax, x, y, text, **style):
    ax.text(x, y, text, **({"ha": "center", "va": "center", "fontsize": SMALL, "color": page_ink(ax)} | style))


def _row(ax, x, y, count, name, edge=MUTED, fill=PAPER, hollow=False):
    """Draw `count` tokens side by side, the first about (x, y), and their name below; return the right edge."""
    for i in range(count):
        style = {"facecolor": fill, "edgecolor": edge, "linewidth": 1.2, "linestyle": ":" if hollow else "-"}
        ax.add_patch(Rectangle((x + i * CELL - CELL / 2, y - CELL / 2), CELL, CELL, **style))
    _word(ax, x + (count - 1) * CELL / 2, y - 0.25, name)
    return x + (count - 0.5) * CELL


def _persistent(ax, x, y):
    return _row(ax, x, y, 2, "$p$, fixed", TRAINED, tint(TRAINED, 0.35))


def _memory(ax, x, title, text):
    box(ax, x, TOP, 1.52, 0.68, "learns", title, text)


def _state(ax, start, end, label=""):
    arrow(ax, (start, TOP), (end, TOP), kind="state", label=label)


def _mask(ax, x, y, rows, columns, words="who sees\nwhom"):
    """Draw whom each token sees, a row per token, centred below (x, y): `columns` of (width, sees(i, j), colour)."""
    size, gap = 0.34 / rows, 0.04
    left = x - (size * sum(width for width, *_ in columns) + gap * (len(columns) - 1)) / 2
    for width, sees, colour in columns:
        for i in range(rows):
            for j in range(width):
                style = {"facecolor": colour if sees(i, j) else PAPER, "edgecolor": GRID, "linewidth": 0.3}
                ax.add_patch(Rectangle((left + j * size, y - (i + 1) * size), size, size, **style))
        left += width * size + gap
    _word(ax, left + 0.05, y - 0.17, words, ha="left", fontsize=7.5)


def _lmm(ax):
    for i in range(8):
        _row(ax, 1.6 + i * CELL, LOW, 1, "")
    _word(ax, 2.3, LOW - 0.25, "tokens $x$")
    _state(ax, 0.1, 2.82)
    _memory(ax, 3.6, "Memory", "of all tokens so far")
    _state(ax, 4.38, 7.1)
    _word(ax, 0.95, TOP + 0.22, r"$\mathcal{M}_{t-1}$")
    _word(ax, 6.2, TOP + 0.22, r"$\mathcal{M}_t$")
    arrow(ax, (3.0, LOW + 0.14), (3.36, TOP - 0.37), MEMORY)
    arrow(ax, (3.84, TOP - 0.37), (4.2, LOW + 0.14), MEMORY)
    _word(ax, 2.72, 1.95, "① write\n$k_t, v_t$")
    _word(ax, 4.5, 1.95, "② ask\n$q_t$")
    _row(ax, 4.2, LOW, 8, "outputs $o$")
    _word(ax, 3.6, 0.62, "no attention, no window: what lies further back than a few tokens is in the memory, or lost")


def _mac(ax, leaks):
    end = _persistent(ax, 0.22, LOW)
    _row(ax, end + 0.16, LOW, 4, "answers $h$", MEMORY, tint(MEMORY, 0.3))
    _row(ax, end + 1.02, LOW, 4, "segment $S$")
    right, low = end + 1.76, LOW - 0.42
    ax.plot([0.1, 0.1, right, right], [low + 0.06, low, low, low + 0.06], color=page_mark(ax, MUTED), lw=1.2)
    arrow(ax, (end + 1.76, LOW), (2.66, LOW))
    box(ax, 3.22, LOW, 1.08, 0.62, "trained", "Attention", "one segment")
    triangle = (4, lambda i, j: j <= i, KEY)
    answers = (4, lambda i, j: leaks or j <= i, MEMORY)
    words = "" if leaks else "who sees\nwhom"  # the leak's arrow runs there
    _mask(ax, 3.22, LOW - 0.38, 4, ((2, lambda i, j: True, TRAINED), answers, triangle), words)
    arrow(ax, (3.78, LOW), (4.12, LOW))
    _row(ax, 4.26, LOW, 4, "$y$")
    arrow(ax, (5.0, LOW), (5.36, LOW))
    box(ax, 5.6, LOW, 0.44, 0.44, "trained", "⊗")
    arrow(ax, (5.84, LOW), (6.2, LOW))
    _row(ax, 6.34, LOW, 4, "outputs $o$")
    _state(ax, 0.1, 0.48)
    _memory(ax, 1.26, "Memory", "before the segment")
    _state(ax, 2.04, 3.76)
    _memory(ax, 4.54, "Memory", "after the segment" if leaks else "the same, later")
    _state(ax, 5.32, 7.1)
    arrow(ax, (end + 1.36, LOW + 0.14), (1.62, TOP - 0.37), MEMORY)
    _word(ax, 2.16, 1.86, "① ask")
    arrow(ax, (1.1, TOP - 0.37), (end + 0.46, LOW + 0.14), MEMORY)
    arrow(ax, (4.5, LOW + 0.14), (4.5, TOP - 0.37), MEMORY)
    _word(ax, 4.1, 1.86, "② write $y$")
    arrow(ax, (4.86, TOP - 0.37), (5.5, LOW + 0.26), MEMORY)
    _word(ax, 5.66, 1.9, "③ ask with $y$")
    if leaks:
        _leaks(ax)


def _mag(ax):
    end = _persistent(ax, 0.4, LOW + 0.52)
    _row(ax, end + 0.1, LOW + 0.52, 6, "tokens $x$")
    end += 1.26
    arrow(ax, (end, LOW + 0.62), (2.86, TOP - 0.16), MEMORY, bend=-0.12)
    _word(ax, 1.5, 2.44, "each token: ① writes, ② asks")
    arrow(ax, (end, LOW + 0.42), (2.96, LOW + 0.02))
    box(ax, 3.6, LOW, 1.24, 0.62, "trained", "Attention", "last $w=3$ tokens")
    _window(ax, 3.6)
    _state(ax, 0.1, 2.82)
    _memory(ax, 3.6, "Memory", "of all tokens so far")
    _state(ax, 4.38, 7.1)
    arrow(ax, (4.0, TOP - 0.37), (4.84, LOW + 0.68), MEMORY)
    arrow(ax, (4.24, LOW + 0.08), (4.84, LOW + 0.4))
    box(ax, 5.12, LOW + 0.52, 0.5, 0.5, "trained", "⊗")
    arrow(ax, (5.39, LOW + 0.52), (5.74, LOW + 0.52))
    _row(ax, 5.9, LOW + 0.52, 6, "outputs $o$")


def _window(ax, x, prefix=TRAINED):
    band = (6, lambda i, j: i - 3 < j <= i, KEY)
    _mask(ax, x, LOW - 0.38, 6, ((2, lambda i, j: True, prefix), band))


def _mal(ax):
    end = _persistent(ax, 0.35, LOW)
    _row(ax, end + 0.1, LOW, 6, "tokens $x$")
    end += 1.24
    _state(ax, 0.1, 1.82)
    _memory(ax, 2.6, "Memory", "of all tokens so far")
    _state(ax, 3.38, 7.1)
    arrow(ax, (end - 0.25, LOW + 0.14), (2.3, TOP - 0.37), MEMORY)
    _word(ax, 0.98, 2.06, "each token:\n① writes, ② asks")
    arrow(ax, (2.9, TOP - 0.37), (3.3, LOW + 0.2), MEMORY)
    arrow(ax, (end, LOW), (3.18, LOW))
    _word(ax, 2.56, LOW + 0.13, "⚠ our skip")
    _word(ax, 3.36, LOW, "+", fontsize=13, fontweight="bold")
    arrow(ax, (3.54, LOW), (3.86, LOW))
    box(ax, 4.5, LOW, 1.24, 0.62, "trained", "Attention", "last $w=3$ tokens")
    _window(ax, 4.5, MEMORY)  # in front stands what the memory answers to p
    arrow(ax, (5.14, LOW), (5.6, LOW))
    _row(ax, 5.74, LOW, 6, "outputs $o$")


def _leaks(ax):
    red = page_mark(ax, DIVERGED)
    style = {"arrowstyle": "-|>", "color": red, "linewidth": 2.0, "mutation_scale": 14, "shrinkA": 0}
    h, y, o = 1.28, 4.46, 6.54  # the last token of h, the second of y and of o
    for start, end, rad in (
        ((h, LOW - 0.12), (y, LOW - 0.12), 0.58),
        ((5.2, TOP - 0.3), (o, LOW + 0.12), -0.3),
    ):
        ax.annotate("", end, start, arrowprops=style | {"connectionstyle": f"arc3,rad={rad}"})
    for x in (h, y, o):
        ax.add_patch(Rectangle((x - CELL / 2, LOW - CELL / 2), CELL, CELL, fill=False, edgecolor=red, linewidth=2.2))
    bold = {"color": red, "fontweight": "bold"}
    _word(ax, 4.72, 0.4, "leak 1: the second token sees\nthe answer to the last token", ha="left", **bold)
    words = "leak 2: the memory that answers the second token\nhas read the whole segment"
    _word(ax, 7.1, 3.42, words, ha="right", **bold)


def _key(ax, attention):
    x, y = 0.22, 0.2
    entries = (("learns", "learns at test time"), ("trained", "was trained"), ("data", "tokens"))
    for role, words in entries:
        if role == "trained" and not attention:
            continue
        box(ax, x, y, 0.3, 0.3, role, "")
        _word(ax, x + 0.22, y, words, ha="left")
        x += 0.52 + 0.078 * len(words)
    arrow(ax, (x - 0.1, y), (x + 0.3, y), kind="state")
    _word(ax, x + 0.36, y, "the memory’s state", ha="left")
