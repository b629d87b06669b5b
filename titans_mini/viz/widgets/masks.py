"""The mask explorer: each query's mask, and the tokens whose change moves its output."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import ipywidgets
import matplotlib
import numpy as np
import torch
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from titans_mini.models.attention import window_mask
from titans_mini.models.config import TitansConfig
from titans_mini.models.titans import TitansLM
from titans_mini.viz import palette
from titans_mini.viz.picture import figure
from titans_mini.viz.widgets.explorer import Explorer

VARIANTS = ("mac", "mac literal", "mag", "mal", "lmm", "swa", "transformer")
GROUPS = {"P": palette.MUTED, "h": palette.QUERY, "S": palette.KEY, "M": palette.MEMORY}
NAMES = {"P": "P", "h": "h, recalled", "S": "S, the tokens", "M": "in the memory read last"}
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


class MaskExplorer(Explorer):
    """Masks of the architectures, one query's row, and the tokens that move that query's output.

    Args:
        variants: variants to offer, the first one shown first; `VARIANTS` lists all.
        tokens: T, a multiple of the sizes.
        sizes: window lengths, or segment lengths of mac.
    """

    caption = (
        "Top: row i is what query i may use. Grey: persistent tokens. Light blue: the h that the memory recalled. "
        "Green: tokens, by attention. Dark blue: tokens written into the memory that is read last. Middle: the chosen "
        "row. Below, measured: change token j, see how far output i moves. Dark red comes from the future."
    )

    def __init__(self, variants: Sequence[str] = VARIANTS, tokens: int = 16, sizes: Sequence[int] = SIZES):
        unknown = [name for name in variants if name not in VARIANTS]
        if unknown or not variants:
            raise ValueError(f"got variants {list(variants)}, expected some of {', '.join(VARIANTS)}")
        if any(tokens % size or size % min(SIZES) for size in sizes):
            raise ValueError(f"got {tokens} tokens and sizes {list(sizes)}, expected multiples of {min(SIZES)}")
        self.variants, self.tokens, self.sizes = list(variants), tokens, list(sizes)
        both = [(name, size) for name in self.variants for size in self.sizes]
        self.sees = {key: visible(key[0], tokens, key[1]) for key in both}
        self.moves = {key: influence(key[0], tokens, key[1]) for key in both}
        self.first, at = {}, 0  # group → its first column; one empty column between groups
        for name in GROUPS:
            self.first[name] = at
            at += (PERSISTENT if name == "P" else tokens) + 1
        self.columns = at - 1
        last, begin = tokens - 1, tokens // 2
        offered = {
            "a segment begins": {"variant": "mac", "query": begin},
            "as printed": {"variant": "mac literal", "query": begin},
            "a window": {"variant": "swa", "query": last},
            "a window and a memory": {"variant": "mag", "query": last},
            "memory alone": {"variant": "lmm", "query": last},
        }
        self.presets = {name: p | {"size": max(sizes)} for name, p in offered.items() if p["variant"] in variants}
        super().__init__()

    def controls(self):
        """Return the controls: variant, query, and window or segment."""
        last = self.tokens - 1
        return {
            "variant": ipywidgets.Dropdown(options=self.variants, value=self.variants[0], description="variant"),
            "query": ipywidgets.IntSlider(round(0.7 * last), 0, last, description="query token i"),
            "size": ipywidgets.SelectionSlider(
                options=self.sizes, value=max(self.sizes), description="window or segment"
            ),
        }

    def build(self) -> Figure:
        """Draw the matrix, the row, and the bars, once."""
        fig, whole = figure(7.2, 4.5)
        whole.remove()
        with matplotlib.rc_context(palette.style()):
            ax = fig.subplot_mosaic([["mask"], ["row"], ["moves"]], height_ratios=[3.4, 0.42, 1.5])
        T, N = self.tokens, self.columns
        self.map = ax["mask"].imshow(np.ones((T, N, 3)), aspect="auto", interpolation="nearest")
        self.strip = ax["row"].imshow(np.ones((1, N, 3)), aspect="auto", interpolation="nearest")
        for name in ("mask", "row"):
            ax[name].spines[:].set_visible(False)
            ax[name].tick_params(length=0)
            ax[name].vlines(np.arange(1, N) - 0.5, -0.5, T - 0.5, color=palette.PAPER, linewidth=0.8)
        ax["mask"].hlines(np.arange(1, T) - 0.5, -0.5, N - 0.5, color=palette.PAPER, linewidth=0.8)
        self.frame = Rectangle((-0.5, 0), N, 1, fill=False, ec=palette.SURPRISE, lw=1.8, clip_on=False)
        self.frame.set_zorder(4)
        ax["mask"].add_patch(self.frame)
        ax["mask"].set(ylabel="query i", yticks=range(0, T, 4), xlim=(-0.5, N - 0.5), ylim=(T - 0.5, -0.5))
        middle = [at + ((PERSISTENT if name == "P" else T) - 1) / 2 for name, at in self.first.items()]
        ax["mask"].xaxis.tick_top()
        ax["mask"].set_xticks(middle, list(NAMES.values()))
        ax["row"].set(yticks=[], xlim=(-0.5, N - 0.5), ylim=(0.5, -0.5))
        ticks = [(at + j, j) for name, at in self.first.items() if name != "P" for j in range(0, T, 4)]
        ax["row"].set_xticks([x for x, _ in ticks], [str(j) for _, j in ticks])
        self.row_label = ax["row"].set_ylabel("", rotation=0, ha="right", va="center")
        self.bars = ax["moves"].bar(np.arange(T), np.ones(T), 0.8, color=palette.GRID)
        ax["moves"].set(yscale="log", ylim=(FLOOR, CEILING), xlim=(-0.6, T - 0.4), xlabel="changed token j")
        ax["moves"].set_yticks([0.01, 0.1, 1, 10], ["0.01", "0.1", "1", "10"])
        ax["moves"].minorticks_off()
        ax["moves"].set(xticks=range(T), ylabel="output i\nmoves by")
        self.marker = ax["moves"].axvline(0, color=palette.SURPRISE, lw=1.8, zorder=0.5)
        self.title = ax["moves"].set_title("", fontsize=10.5)
        return fig

    def colours(self, variant: str, size: int, query: int) -> np.ndarray:
        """Return RGB (T, columns, 3): visible cells in their group's colour, future ones dark red, other rows pale."""
        T, sees = self.tokens, self.sees[variant, size]
        picture = np.ones((T, self.columns, 3))
        for name, at in self.first.items():
            width = PERSISTENT if name == "P" else T
            cells = np.ones((T, width, 3)) * np.array(to_rgb(palette.GRID)) * 0.35 + 0.65
            mask = sees.get(name)
            if mask is None:
                cells[:] = 1.0
            else:
                cells[mask] = to_rgb(GROUPS[name])
                if name != "P":
                    cells[mask & ~np.tri(T, dtype=bool)] = to_rgb(palette.DIVERGED)
                others = np.arange(T) != query
                cells[others] = 0.55 * cells[others] + 0.45
            picture[:, at : at + width] = cells
        return picture

    def draw(self, variant, query, size):
        """Show one variant's mask, with the row and the measured influences of one query."""
        picture, moved = self.colours(variant, size, query), self.moves[variant, size][query]
        self.map.set_data(picture)
        self.strip.set_data(picture[query : query + 1])
        self.frame.set_y(query - 0.5)
        self.row_label.set_text(f"i = {query}")
        for j, (bar, height) in enumerate(zip(self.bars, moved, strict=True)):
            bar.set_height(np.clip(height, 2 * FLOOR, CEILING) if height else FLOOR)  # nothing moved: no bar
            bar.set_color(palette.DIVERGED if j > query else palette.INK)
        self.marker.set_xdata([query, query])
        before, after = self.count(variant, query, size)
        self.title.set_text(f"{variant}: {before} of {query + 1} tokens so far move output {query}, {after} later ones")

    def count(self, variant: str, query: int, size: int) -> tuple[int, int]:
        """Count the tokens up to the query, and the later ones, that move its output."""
        moved = self.moves[variant, size][query] > 0
        return int(moved[: query + 1].sum()), int(moved[query + 1 :].sum())

    def alt(self, variant, query, size):
        """Describe the keys of the query's row and the tokens that move its output."""
        sees = {name: int(mask[query].sum()) for name, mask in self.sees[variant, size].items()}
        keys = ", ".join(f"{n} {name}" for name, n in sees.items() if name != "M") or "nothing"
        memory = f" and reads a memory that holds {sees['M']} tokens" if "M" in sees else ""
        before, after = self.count(variant, query, size)
        unit = "segment" if variant.startswith("mac") else "window"
        return (
            f"Mask of {variant}, {unit} {size}: query {query} attends to {keys}{memory}. Measured: {before} of "
            f"{query + 1} tokens so far move its output, and {after} later ones{': a leak' if after else ''}."
        )
