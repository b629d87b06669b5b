"""Three drawings of lessons 08 and 09: a queue beside a coach, a scan as a tree, and one chunk as a block diagram."""

from __future__ import annotations

from collections.abc import Sequence

from titans_mini.viz.draw.grammar import SMALL, TEXT, arrow, box, canvas, page_ink, page_mark, tint
from titans_mini.viz.palette import FORGET, GRID, KEY, MEMORY, MOMENTUM, MUTED, PAPER, QUERY, SURPRISE, VALUE


def _words(ax, x: float, y: float, text: str, **style) -> None:
    """Write words on the page, centred unless `style` says otherwise."""
    look = {"ha": "center", "va": "center", "fontsize": SMALL, "color": page_ink(ax)}
    ax.text(x, y, text, **look | style)


def queue_and_coach(ax, guests: Sequence[str] = tuple("ABKTABKT")) -> None:
    """Draw the same guests twice, in a figure of 7.2 × 3.1 inches: one after the other, and all in one coach.

    Args:
        ax: Axes to draw on; its ticks and spines are removed.
        guests: eight initials or fewer.
    """
    if not 1 <= len(guests) <= 8:
        raise ValueError(f"got {len(guests)} guests, expected 1 to 8: more do not fit")
    canvas(ax, 7.2, 3.0)
    count, step, size, top, low = len(guests), 0.66, 0.36, 2.32, 0.86
    places = [1.2 + step * i for i in range(count)]
    first, last = 0.42, places[-1] + 0.78
    _words(ax, 0.1, 2.82, "A queue: each guest waits for the book of the guest before", ha="left", fontsize=TEXT)
    _words(ax, 0.1, 1.62, "A coach: all guests ask the same book", ha="left", fontsize=TEXT)
    for y in (top, low):
        box(ax, first, y, 0.5, 0.44, "learns", "$M_0$")
        box(ax, last, y, 0.5, 0.44, "learns", f"$M_{count}$")
        for x, guest in zip(places, guests, strict=True):
            box(ax, x, y, size, size, KEY, guest)
    for x in (*places, last):
        left = first + 0.25 if x == places[0] else x - step + size / 2
        right = x - 0.25 if x == last else x - size / 2
        arrow(ax, (left if x != last else places[-1] + size / 2, top), (right, top), kind="state")
    below, above = 0.34, 1.3
    blue, orange = page_mark(ax, MEMORY), page_mark(ax, SURPRISE)
    ax.plot([first, first, places[-1]], [low - 0.22, below, below], color=blue, linewidth=2.4)
    ax.plot([places[0], last], [above, above], color=orange, linewidth=2.4)
    for x in places:
        arrow(ax, (x, below), (x, low - size / 2), kind="state")
        ax.plot([x, x], [low + size / 2, above], color=orange, linewidth=1.4)
    arrow(ax, (last, above), (last, low + 0.22), SURPRISE)
    _words(ax, (places[0] + places[-1]) / 2, 0.12, "the anchor, read by everyone at once")
    _words(ax, last - 0.05, above + 0.14, "one sum", ha="right")
    for y, waits in ((top, count), (low, 1)):
        _words(ax, last, y - 0.4, f"{waits} wait{'s' if waits > 1 else ''}", fontweight="bold")


def scan_tree(ax, tokens: int = 8, names: Sequence[str] = ()) -> None:
    """Draw an associative scan by doubling, in a figure of 7.2 × 3.2 inches; the tree of the last token is bold.

    Args:
        ax: Axes to draw on; its ticks and spines are removed.
        tokens: 2, 4 or 8.
        names: a word below each token's push; by default its number.
    """
    if tokens not in (2, 4, 8):
        raise ValueError(f"got tokens={tokens}, expected 2, 4 or 8: a tree that doubles, and fits")
    canvas(ax, 7.2, 3.1)
    rounds = tokens.bit_length() - 1
    x = [1.45 + 5.4 * t / (tokens - 1) for t in range(tokens)]
    y = [0.62 + 2.2 * r / rounds for r in range(rounds + 1)]
    wide, high = 0.54, 0.34
    needed = {(rounds, tokens - 1)}
    for r in range(rounds, 0, -1):
        needed |= {(r - 1, t - back) for s, t in needed if s == r for back in (0, 2 ** (r - 1)) if t >= back}
    for bold in (False, True):  # the tree lies above the rest
        for r in range(1, rounds + 1):
            for t in range(tokens):
                if ((r, t) in needed) == bold:
                    _edges(ax, x, y, r, t, high, bold)
    for r in range(rounds + 1):
        for t in range(tokens):
            start = max(0, t + 1 - 2**r) + 1
            bold = (r, t) in needed
            face = tint(MOMENTUM, 0.85 if bold else 0.12) if bold or start > 1 else tint(MOMENTUM, 0.35)
            style = {"facecolor": face, "linewidth": 1.8 if start == 1 else 0.8}
            box(ax, x[t], y[r], wide, high, MOMENTUM if bold else MUTED, "", **style)
            text = str(t + 1) if r == 0 else f"{start}–{t + 1}" if start <= t else str(t + 1)
            weight = "bold" if bold else "normal"
            ax.text(x[t], y[r], text, ha="center", va="center", fontsize=SMALL, fontweight=weight, color="#222222")
    for r in range(rounds + 1):
        _words(ax, 0.1, y[r], f"round {r}" if r else "the pushes", ha="left", fontsize=TEXT)
        if r:
            _words(ax, 0.1, y[r] - 0.18, f"look {2 ** (r - 1)} back", ha="left")
    for t in range(tokens):
        _words(ax, x[t], 0.28, names[t] if names else f"t = {t + 1}")


def _edges(ax, x, y, r: int, t: int, high: float, bold: bool) -> None:
    """Draw the two lines that lead into token t at round r: from itself, and from the token that it looks back to."""
    for back in (0, 2 ** (r - 1)):
        if t >= back:
            style = {"color": page_mark(ax, MOMENTUM), "linewidth": 2.6} if bold else {"color": GRID, "linewidth": 1.0}
            ax.plot([x[t - back], x[t]], [y[r - 1] + high / 2, y[r] - high / 2], zorder=2 if bold else 1, **style)


def chunk_diagram(ax) -> None:
    """Draw one chunk as a block diagram, in a figure of 7.2 × 3.4 inches: what comes in, three products, what goes on.

    Args:
        ax: Axes to draw on; its ticks and spines are removed.
    """
    canvas(ax, 7.2, 3.3)
    high, rows = 0.56, (2.86, 2.02, 1.18, 0.34)
    box(ax, 0.7, rows[0], 1.2, high, FORGET, "gates", "$\\alpha$, $\\eta$")
    box(ax, 0.7, rows[1], 1.2, high, QUERY, "questions", "$q$")
    box(ax, 0.7, rows[2], 1.2, high, VALUE, "pairs", "$k$, $v$, $\\theta$")
    box(ax, 0.7, rows[3], 1.2, high, "learns", "anchor", "$M_0$, $S_0$")
    box(ax, 2.75, rows[0], 1.6, high, MUTED, "coefficients", "$b$, $f$, $m$, $G$, $n$", facecolor=PAPER)
    box(ax, 2.75, rows[2], 1.6, high, SURPRISE, "writes", "$k$,  $s=2\\theta\\,(kM_0-v)$")
    box(ax, 5.1, rows[1], 1.5, high, QUERY, "read", "$(qk^\\top\\!\\circ G)\\,s$")
    box(ax, 5.1, rows[3], 1.5, high, MEMORY, "end", "$k^\\top (G_C\\circ s)$")
    box(ax, 6.72, rows[1], 0.86, high, QUERY, "answers", "$y$")
    box(ax, 6.72, rows[3], 0.86, high, "learns", "next", "$M_C$, $S_C$")
    arrow(ax, (1.3, rows[0]), (1.95, rows[0]))
    arrow(ax, (1.3, rows[1]), (4.35, rows[1]))
    arrow(ax, (1.3, rows[2]), (1.95, rows[2]))
    arrow(ax, (1.3, rows[3]), (4.35, rows[3]), kind="state")
    arrow(ax, (2.1, rows[3]), (2.45, rows[2] - high / 2), kind="state")
    arrow(ax, (3.95, rows[3]), (4.62, rows[1] - high / 2), kind="state")
    arrow(ax, (3.55, rows[0] - 0.1), (4.5, rows[1] + high / 2))
    arrow(ax, (3.3, rows[0] - high / 2), (4.5, rows[3] + high / 2))
    arrow(ax, (3.55, rows[2] + 0.12), (4.35, rows[1] - 0.14), SURPRISE)
    arrow(ax, (3.55, rows[2] - 0.12), (4.35, rows[3] + 0.14), SURPRISE)
    arrow(ax, (5.85, rows[1]), (6.29, rows[1]))
    arrow(ax, (5.85, rows[3]), (6.29, rows[3]), kind="state")
    _words(ax, 5.1, rows[0] + 0.08, "nothing in here waits\nfor another token", fontsize=TEXT)
