"""Figures of lessons 08 and 09: bars with their numbers, the life of a write, masks, and curves over the chunk size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from titans_mini.viz.draw.arrays import as_array, heatmap
from titans_mini.viz.draw.grammar import page_mark, tint
from titans_mini.viz.draw.series import Bars, bars, line
from titans_mini.viz.palette import DIVERGED, INK, MEMORY, MUTED, SURPRISE
from titans_mini.viz.picture import legend


def numbered_bars(ax, heights, labels: Sequence[str], *, color=MEMORY, digits: int = 0, top=None) -> Bars:
    """Draw bars that carry their numbers, without an axis at the left.

    Args:
        ax: Axes to draw on.
        heights: (N,) numbers.
        labels: (N,) names below the bars.
        color: one colour, or one per bar.
        digits: digits after the point.
        top: upper limit of the axis; by default a little above the highest bar.
    """
    heights = as_array(heights)
    handle = bars(ax, heights, labels, color=color)
    for place, height in enumerate(heights):
        ax.text(place, height, f"{height:.{digits}f}", ha="center", va="bottom", fontsize=9.5)
    ax.set(yticks=[], ylim=(0, top or 1.17 * heights.max()))
    ax.spines["left"].set_visible(False)
    return handle


def write_lives(axes, shares, starts: Sequence[int]) -> None:
    """Draw how much of each write the memory holds: as a map, and some writes as curves.

    Args:
        axes: two Axes, for the map and for the curves.
        shares: (T, T), row t the memory after token t, column j the write of token j.
        starts: the writes that are drawn as curves, three or fewer.
    """
    left, right = axes
    shares = as_array(shares)
    tokens = len(shares)
    heatmap(left, shares, signed=False, colorbar=True, xlabel="slip of guest j", ylabel="book after guest t")
    for j, style in zip(starts, ("-", "--", ":"), strict=False):
        line(right, shares[j:, j], range(j, tokens), ls=style, label=f"written by guest {j}")
    right.set(xlabel="guest t", ylabel="weight in the book", ylim=(0, 1.45 * shares.max()), xlim=(-1, tokens))
    legend(right, loc="upper right")


def mask_maps(axes, kinds: Mapping[str, tuple]) -> None:
    """Draw n above G for several kinds of gates.

    Args:
        axes: (2, N) Axes.
        kinds: name → n and G, (T, T) each.
    """
    for (name, (n, G)), (above, below) in zip(kinds.items(), axes.T, strict=True):
        heatmap(above, n, signed=False)
        heatmap(below, G, signed=False, xlabel=f"brightest {as_array(G).max():.2g}")
        above.set_title(name, fontsize=9)
        for ax in (above, below):
            ax.set(xticks=[], yticks=[])
    axes[0, 0].set(ylabel="n, the momentum")
    axes[1, 0].set(ylabel="G, the memory")


def error_curves(ax, sizes, curves: Mapping[float, tuple]) -> None:
    """Draw the share of an error that is left after C visits of one guest, in a coach and in a queue.

    Args:
        ax: Axes to draw on.
        sizes: (N,) the C.
        curves: θ → shares left by the coach and by the queue, (N,) each; two θ or one.
    """
    for (theta, (coach, queue)), style in zip(curves.items(), ("-", "--"), strict=False):
        line(ax, coach, sizes, color=SURPRISE, ls=style, label=f"coach, θ = {theta}")
        line(ax, queue, sizes, color=MEMORY, ls=style, marker="o", ms=3.5, label=f"queue, θ = {theta}")
    ax.axhspan(-2.4, -1, color=DIVERGED, alpha=0.12, lw=0)
    ax.text(1, -1.8, "worse than before: the next\ncoach is further off still", fontsize=9, va="center")
    ax.set(xlabel="visits C of the same guest", ylabel="share of the error left", ylim=(-2.4, 1.9))
    legend(ax, loc="upper right", ncols=2)


def reading_curves(axes, sizes: Sequence[int], trained: Mapping[str, tuple], random: Mapping[str, Sequence]) -> None:
    """Draw memories that are read with other chunk sizes than they were trained with.

    Args:
        axes: two Axes, for distances to the online rule and for right answers.
        sizes: the chunk sizes C; the first is 1.
        trained: name → shares of right answers and distances, one for each size; three memories or fewer.
        random: name → distances of random tokens; two or fewer.
    """
    left, right = axes
    for (name, distance), style in zip(random.items(), (":", "--"), strict=False):
        line(left, distance[1:], sizes[1:], color=MUTED, ls=style, label=f"random, {name}")
    looks = zip((MEMORY, tint(MEMORY, 0.5), page_mark(left, INK)), "osD", strict=True)
    for (name, (share, distance)), (color, mark) in zip(trained.items(), looks, strict=False):
        look = {"color": color, "marker": mark, "ms": 4.5}
        line(left, distance[1:], sizes[1:], **look)
        line(right, share, sizes, label=name, **look)
    for ax, where in ((left, "lower right"), (right, "lower left")):
        ax.set(xscale="log", xlabel="read with chunks of C tokens", xticks=sizes, xticklabels=sizes)
        ax.minorticks_off()
        legend(ax, loc=where)
    left.set(yscale="log", title="distance to online (1 = 100 %)", ylim=(0.008, 40))
    right.set(title="right answers", ylim=(0, 1.04))


def counted_and_timed(ax, lengths: Sequence[int], counted, timed) -> None:
    """Draw two ratios of attention to chunks over the length: of operations, and of recorded times.

    Args:
        ax: Axes to draw on.
        lengths: (N,) tokens.
        counted: (N,) ratio of operations.
        timed: (N,) ratio of times.
    """
    line(ax, counted, lengths, color=MUTED, ls=":", marker="s", label="operations")
    line(ax, timed, lengths, color=page_mark(ax, INK), marker="^", label="recorded time")
    ax.set(xscale="log", yscale="log", xlabel="tokens T", title="attention over chunks")
    ax.set_xticks(lengths, [f"{T:,}" for T in lengths])
    ax.set_yticks([2, 5, 10, 20, 40], ["2", "5", "10", "20", "40"])
    ax.minorticks_off()
    legend(ax, loc="upper left")


def chunk_bowl(ax, times: Mapping[str, Mapping[int, float]]) -> None:
    """Draw the time per token over the chunk size.

    Args:
        ax: Axes to draw on.
        times: name → C → microseconds per token; two forms or fewer.
    """
    for (name, found), (color, mark) in zip(times.items(), ((MEMORY, "o"), (tint(MEMORY, 0.5), "s")), strict=False):
        sizes = sorted(found)
        line(ax, [found[C] for C in sizes], sizes, color=color, marker=mark, label=name)
    most = max(max(found.values()) for found in times.values())
    ax.set(xscale="log", xlabel="chunk size C", title="µs per token", ylim=(0, 1.1 * most))
    ax.set_xticks(sizes, sizes)
    ax.minorticks_off()
    legend(ax, loc="upper center", ncols=2)
