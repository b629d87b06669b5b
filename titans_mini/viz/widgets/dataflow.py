"""The dataflow explorer: the paths that end in one output, side by side, and the tokens whose change moves it."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import ipywidgets
import numpy as np
import torch
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from titans_mini.models.attention import window_mask
from titans_mini.models.config import TitansConfig
from titans_mini.models.titans import TitansLM
from titans_mini.viz import draw, palette
from titans_mini.viz.draw.grammar import tint
from titans_mini.viz.picture import figure
from titans_mini.viz.widgets.explorer import Explorer

VARIANTS = ("mac", "mac literal", "mag", "mal", "lmm", "swa", "transformer")
GROUPS = {"P": palette.TRAINED, "h": tint(palette.MEMORY, 0.45), "S": palette.KEY, "M": palette.MEMORY}
TITLES = {"mac": "MAC", "mac literal": "MAC as printed", "mag": "MAG", "mal": "MAL", "lmm": "LMM", "swa": "window",
          "transformer": "transformer"}  # fmt: skip
LANES = {"M": 2.0, "h": 1.0, "S": 0.0}  # height of a lane's cells; the output stands above them
LANE_NAMES = {"M": "written in the\nmemory it reads", "h": "answers h", "S": "tokens"}
TOP, HALF = 3.1, 0.26  # height of the output, and half of that of a cell
SIZES = (4, 8)
PERSISTENT = 2
FLOOR, CEILING = 1e-3, 20.0  # limits of the influence axis
ROUNDING = 1e-12  # rows of one batch differ by this much


def visible(variant: str, tokens: int, size: int, persistent: int = PERSISTENT) -> dict[str, np.ndarray]:
    """Compute the masks of the keys and tokens that each query of one block may use.

    Args:
        variant: one of `VARIANTS`.
        tokens: T.
        size: window length, or segment length of mac.
        persistent: P, number of persistent tokens.

    Returns:
        "P" (T, P), "h" and "S" (T, T): the keys it attends to; "M" (T, T): the tokens that are written into the
        memory it reads. Groups that the variant lacks are absent.
    """
    if variant not in VARIANTS:
        raise ValueError(f"got the variant {variant!r}, expected one of {', '.join(VARIANTS)}")
    at = np.arange(tokens)
    causal = at[:, None] >= at
    if variant.startswith("mac"):
        own = at[:, None] // size == at // size  # the same segment
        printed = variant == "mac literal"
        written = at // size <= at[:, None] // size
        groups = {"h": own if printed else own & causal, "S": own & causal, "M": written if printed else causal}
    elif variant == "lmm":
        return {"M": causal}
    else:
        groups = {"S": window_mask(tokens, 0, None if variant == "transformer" else size).numpy()}
        if variant in ("mag", "mal"):
            groups["M"] = causal
    if variant == "transformer":
        return groups
    return {"P": np.ones((tokens, persistent), bool)} | groups


@functools.cache
def influence(variant: str, tokens: int, size: int, persistent: int = PERSISTENT) -> np.ndarray:
    """Measure the change of every output when one token is replaced, in a small random one-block float64 model.

    Args:
        variant: one of `VARIANTS`.
        tokens: T.
        size: window length, or segment length of mac.
        persistent: P.

    Returns:
        (T, T): row i, column j is the largest change of output i when token j is replaced; rounding counts as 0.
    """
    name, _, literal = variant.partition(" ")
    sizes = {"window": size, "segment": size, "chunk_size": min(SIZES), "persistent": persistent}
    config = TitansConfig(name, 20, 16, 1, memory_expansion=2, literal=bool(literal), **sizes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = TitansLM(config).double()
    text = torch.randint(20, (1, tokens), generator=torch.Generator().manual_seed(1))
    others = text.repeat(tokens + 1, 1)  # row j: token j is replaced; the last row is the original
    others.diagonal().copy_((text[0] + 7) % 20)
    with torch.no_grad():
        model.embedding.weight.mul_(20)  # make the tokens differ clearly
        logits = model(others)[0]
        moved = (logits[:-1] - logits[-1]).abs().amax(-1).T.numpy()
    return np.where(moved > ROUNDING, moved, 0.0)


class DataflowExplorer(Explorer):
    """The paths from tokens to one output, several architectures side by side, and what moves that output.

    Args:
        variants: one to four of `VARIANTS`, drawn from left to right.
        tokens: T, a multiple of the sizes.
        sizes: window lengths, or segment lengths of mac.
    """

    caption = (
        "Above: what ends in the black output i, and from where the memory answers. Below, measured: change token j, "
        "see how far the output moves."
    )
    key = (
        ("tokens, by attention", GROUPS["S"]),
        ("persistent", GROUPS["P"]),
        ("answers h", GROUPS["h"]),
        ("in the memory read last", GROUPS["M"]),
        ("from the future", palette.DIVERGED),
    )
    sentence_lines = 5

    def __init__(self, variants: Sequence[str] = ("mac", "mac literal", "swa"), tokens: int = 16,
                 sizes: Sequence[int] = SIZES):  # fmt: skip
        unknown = [name for name in variants if name not in VARIANTS]
        if unknown or not 1 <= len(variants) <= 4:
            raise ValueError(f"got variants {list(variants)}, expected one to four of {', '.join(VARIANTS)}")
        if any(tokens % size or size % min(SIZES) for size in sizes):
            raise ValueError(f"got {tokens} tokens and sizes {list(sizes)}, expected multiples of {min(SIZES)}")
        self.variants, self.tokens, self.sizes = list(variants), tokens, list(sizes)
        both = [(name, size) for name in self.variants for size in self.sizes]
        self.sees = {key: visible(key[0], tokens, key[1]) for key in both}
        self.moves = {key: influence(key[0], tokens, key[1]) for key in both}
        largest = max(sizes)
        self.presets = {
            "a segment begins": {"output": tokens - largest, "size": largest},
            "inside a segment": {"output": tokens - largest + 2, "size": largest},
            "the last token": {"output": tokens - 1, "size": largest},
        }
        there = [entry for entry, name in zip(self.key, "SPhM", strict=False) if self._shown(name)]
        self.key = (*there, self.key[-1])
        super().__init__()

    def controls(self):
        """Return the controls: the output, and the length of a window or segment."""
        last = self.tokens - 1
        return {
            "output": ipywidgets.IntSlider(round(0.7 * last), 0, last, description="output i"),
            "size": ipywidgets.SelectionSlider(
                options=self.sizes, value=max(self.sizes), description="window or segment"
            ),
        }

    def build(self) -> Figure:
        """Draw the lanes and the bars of every variant, once."""
        n, T = len(self.variants), self.tokens
        fig, axes = figure(7.2, 3.6, 2, n, sharex=True, height_ratios=[2.2, 1])
        axes = np.reshape(axes, (2, n))
        self.panels = {}
        for column, variant in enumerate(self.variants):
            lanes, moves = axes[:, column]
            cells = {name: self._cells(lanes, y) for name, y in LANES.items() if self._has(variant, name)}
            if self._has(variant, "P"):
                for j in range(PERSISTENT):
                    lanes.add_patch(Rectangle((j - 3.4, -HALF), 0.8, 2 * HALF, fc=palette.TRAINED, ec=palette.PAPER))
            lines = lanes.add_collection(LineCollection([], linewidths=0.9, alpha=0.85, zorder=1))
            arrow = {"arrowstyle": "-|>", "color": palette.MEMORY, "linewidth": 2.4, "shrinkA": 0, "shrinkB": 1}
            read = lanes.annotate("", (0, TOP - HALF), (0, 0), arrowprops=arrow) if self._has(variant, "M") else None
            recall = lanes.annotate("", (0, 0), (0, 0), arrowprops=arrow | {"linewidth": 1.4, "color": GROUPS["h"]})
            recall.set_visible(False)
            output = lanes.add_patch(Rectangle((0, TOP - HALF), 0.8, 2 * HALF, fc=palette.INK, ec=palette.INK))
            lanes.set(xlim=(-3.8, T - 0.3), ylim=(-0.6, TOP + 0.6), yticks=[], title=TITLES[variant])
            lanes.spines[:].set_visible(False)
            lanes.tick_params(length=0, labelbottom=False)
            if not column:
                there = [name for name in LANES if any(self._has(v, name) for v in self.variants)]
                names = [LANE_NAMES[name] for name in there]
                lanes.set_yticks([*(LANES[name] for name in there), TOP], [*names, "output i"])
            bars = moves.bar(np.arange(T), np.ones(T), 0.8, color=palette.GRID)
            moves.set(yscale="log", ylim=(FLOOR, CEILING), xticks=range(0, T, 4), xlabel="changed token j")
            moves.set_yticks([0.01, 1], ["0.01", "1"])
            moves.minorticks_off()
            moves.tick_params(labelleft=not column)
            if not column:
                moves.set_ylabel("output i\nmoves by")
            beyond = draw.edges(moves)
            marker = moves.axvline(0, color=palette.MUTED, lw=1.8, zorder=0.5)
            self.panels[variant] = {"cells": cells, "lines": lines, "read": read, "recall": recall, "output": output,
                                    "bars": bars, "beyond": beyond, "marker": marker}  # fmt: skip
        return fig

    def draw(self, output, size):
        """Show the paths that end in one output, and the measured influences."""
        for variant, panel in self.panels.items():
            sees, moved = self.sees[variant, size], self.moves[variant, size][output]
            lines, colours = [], []
            for name, cells in panel["cells"].items():
                for j, cell in enumerate(cells):
                    used = name in sees and sees[name][output, j]
                    colour = self.colour(name, j, output) if used else palette.GRID
                    cell.set_facecolor(colour if used else palette.PAPER)
                    cell.set_edgecolor(colour)
                    if used and name != "M":
                        lines.append([(j, LANES[name] + HALF), (output, TOP - HALF)])
                        colours.append(colour)
            if self._has(variant, "P"):
                lines += [[(j - 3, HALF), (output, TOP - HALF)] for j in range(PERSISTENT)]
                colours += [palette.TRAINED] * PERSISTENT
            panel["lines"].set_segments(lines)
            panel["lines"].set_colors(colours)
            self._arrows(panel, sees, output, size)
            panel["output"].set_x(output - 0.4)
            for j, (bar, height) in enumerate(zip(panel["bars"], moved, strict=True)):
                bar.set_height(np.clip(height, 2 * FLOOR, CEILING) if height else FLOOR)  # nothing moved: no bar
                bar.set_color(palette.DIVERGED if j > output else palette.INK)
            panel["beyond"].update(np.where(moved > 0, moved, np.nan))
            panel["marker"].set_xdata([output, output])

    def colour(self, name: str, j: int, output: int) -> str:
        """Return the colour of token j in a lane: the lane's, or dark red if it lies in the output's future."""
        return palette.DIVERGED if j > output else GROUPS[name]

    def _arrows(self, panel, sees, output, size):
        """Let the memory's read start where its last token was written, and h where the segment begins."""
        if panel["read"] is not None:
            last = int(np.flatnonzero(sees["M"][output]).max())
            panel["read"].set_position((last, LANES["M"] + HALF))
            panel["read"].xy = (output, TOP - HALF - 0.02)
            panel["read"].arrow_patch.set_color(self.colour("M", last, output))
        if "h" in panel["cells"]:
            start = output // size * size
            panel["recall"].set_visible(start > 0)
            panel["recall"].set_position((start - 1, LANES["M"] - HALF))
            panel["recall"].xy = (start, LANES["h"] + HALF + 0.02)

    def _cells(self, ax, y):
        """Draw a lane of T cells at height y."""
        style = {"fc": palette.PAPER, "ec": palette.GRID, "linewidth": 0.6, "zorder": 2}
        return [ax.add_patch(Rectangle((j - 0.4, y - HALF), 0.8, 2 * HALF, **style)) for j in range(self.tokens)]

    def _shown(self, name: str) -> bool:
        return any(name in self.sees[variant, self.sizes[0]] for variant in self.variants)

    def _has(self, variant: str, name: str) -> bool:
        return name in self.sees[variant, self.sizes[0]] or name == "S"

    def count(self, variant: str, output: int, size: int) -> tuple[int, int]:
        """Count the tokens up to the output, and the later ones, that move it."""
        moved = self.moves[variant, size][output] > 0
        return int(moved[: output + 1].sum()), int(moved[output + 1 :].sum())

    def alt(self, output, size):
        """Describe the paths to the output, and the tokens that move it, one variant after the other."""
        parts = []
        for variant in self.variants:
            sees = {name: int(mask[output].sum()) for name, mask in self.sees[variant, size].items()}
            keys = ", ".join(f"{n} {name}" for name, n in sees.items() if name != "M") or "nothing"
            memory = f", reads a memory that holds {sees['M']} tokens" if "M" in sees else ""
            before, after = self.count(variant, output, size)
            leak = f" and {after} later ones, a leak" if after else ""
            parts.append(f"{variant} attends to {keys}{memory}, moved by {before} of {output + 1} tokens so far{leak}")
        return f"Output {output}, window or segment {size}: {'; '.join(parts)}."
