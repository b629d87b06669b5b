"""Drawings of lesson 11: the reach of small models, the bill, and models beside their twins that never write."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from titans_mini.viz import palette
from titans_mini.viz.draw.series import line
from titans_mini.viz.picture import legend

ARRANGEMENTS = {
    "LMM": palette.FORGET,
    "MAC": palette.VALUE,
    "MAG": palette.MEMORY,
    "MAL": palette.QUERY,
}  # one colour for each way to use a memory
BILL = {
    "transformer": (palette.INK, ":"),
    "swa": (palette.MUTED, "--"),
    "delta": (palette.KEY, "-."),
    "lmm": (palette.FORGET, "-"),
    "mag": (palette.MEMORY, "-"),
    "mac": (palette.VALUE, "-"),
}
TWIN = "{}, never writes"


def reach_panels(axes: Sequence, felt: Mapping[str, Tensor]) -> None:
    """Draw how far the last output moves against the distance of the change: windows left, memories right.

    Args:
        axes: two axes.
        felt: name → (T,) movements; exact zeros are left out. Names of `ARRANGEMENTS` go to the right.
    """
    markers = iter("osv^")
    for name, moved in felt.items():
        memory = name in ARRANGEMENTS
        color, marker = (ARRANGEMENTS[name], "") if memory else (palette.MUTED, next(markers))
        there = moved > 0
        distance = torch.arange(len(moved))[there]
        line(axes[int(memory)], moved[there], distance, color=color, marker=marker, ms=4, width=1.2, label=name)
    for ax, title in zip(axes, ("attention in a window", "one layer with a memory"), strict=True):
        ax.set(yscale="log", ylim=(6e-3, 20), xlim=(-2, len(moved) + 1), xlabel="distance d of the change", title=title)
        legend(ax, loc="upper right")
    axes[0].set(ylabel="the last output moves by")


def bill(axes: Sequence, lengths: Tensor, flops: Callable, state_bytes: Callable) -> None:
    """Draw operations per token and bytes of state against the length of the text.

    Args:
        axes: two axes.
        lengths: (n,) tokens.
        flops: (variant, tokens) → operations per token.
        state_bytes: (variant, tokens) → bytes.
    """
    for name, (color, ls) in BILL.items():
        for ax, cost, unit in zip(axes, (flops, state_bytes), (1e6, 2**20), strict=True):
            line(ax, [cost(name, int(N)) / unit for N in lengths], lengths, color=color, ls=ls, label=name)
    for ax, title in zip(axes, ("million operations per token", "MiB of state"), strict=True):
        ax.set(xscale="log", yscale="log", xlabel="tokens of the text", title=title)
    legend(axes[0], loc="upper left")


def twin_curves(axes: Sequence, curves: Mapping[str, Tensor], rival: str, width: int = 9) -> None:
    """Draw each arrangement's training curve beside its twin's and a rival's, one panel for each.

    Args:
        axes: as many axes as arrangements.
        curves: name → (seeds, steps) losses, of the arrangements, of "NAME, never writes" and of the rival.
        rival: its name.
        width: steps of the running mean.
    """
    smooth = {name: losses.mean(0).unfold(0, width, 1).mean(-1) for name, losses in curves.items()}
    for ax, (name, color) in zip(axes, ARRANGEMENTS.items(), strict=True):
        at = torch.arange(len(smooth[name])) + width // 2
        line(ax, smooth[rival], at, color=palette.MUTED, width=1.2, label="window")
        line(ax, smooth[TWIN.format(name)], at, color=palette.INK, ls="--", width=1.2, label="never writes")
        line(ax, smooth[name], at, color=color, width=1.6, label="writes")
        ax.set(title=name, xlabel="step", ylim=(1.7, 3.3))
    legend(axes[1], loc="lower left", fontsize=7)
    axes[0].set(ylabel="nats per character")


def twin_dots(ax, exam: Mapping[str, Tensor]) -> None:
    """Draw a dot for each seed: arrangements filled, their twins hollow; the windows in the last row.

    Args:
        ax: the axes.
        exam: name → (seeds,) losses, of the arrangements, their twins, "window + convolution" and "window".
    """
    rows = [(name, TWIN.format(name), color) for name, color in ARRANGEMENTS.items()]
    rows.append(("window + convolution", "window", palette.MUTED))
    for y, (full, hollow, color) in enumerate(rows):
        for name, shift, fill in ((full, -0.14, color), (hollow, 0.14, palette.PAPER)):
            ax.plot(exam[name], [y + shift] * len(exam[name]), "-", color=color, lw=1)
            ax.plot(exam[name], [y + shift] * len(exam[name]), "o", color=color, mfc=fill)
    ax.set(yticks=range(len(rows)), yticklabels=[*ARRANGEMENTS, "window"], ylim=(len(rows) - 0.4, -0.6))
    ax.set(xlabel="loss on unseen text, nats per character")
