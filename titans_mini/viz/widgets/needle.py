"""The needle map: accuracy of each model by the length of the haystack and the depth of the needle."""

from __future__ import annotations

import textwrap

import ipywidgets
import matplotlib
import numpy as np
from matplotlib.patches import Rectangle

from titans_mini.viz import draw, figure, palette
from titans_mini.viz.draw import as_array
from titans_mini.viz.screen import STILL
from titans_mini.viz.widgets.explorer import Explorer


class NeedleMap(Explorer):
    """Accuracy over depth and length: small maps of all models, one of them large, and the curves of all.

    Args:
        right: model → (seeds, lengths, bins) correct answers; depth bins from the start of the haystack to its end.
        asked: model → (seeds, lengths, bins) questions asked.
        lengths: haystack lengths in tokens, increasing.
        trained: training length in tokens.
        chance: accuracy of guessing.
    """

    caption = (
        "Each cell is the share of needles found, for one length (column) and depth (row, the start of the haystack "
        "on top), dark for none and yellow for all. Above: every model; below, the framed one with its numbers, and "
        "every model by length, the framed one with all its seeds. Dotted: guessing. White line: the length of "
        "training; everything to the right of it the model has never seen."
    )

    key = (
        ("none found", palette.MAGNITUDE, "all found"),
        ("framed model, its seeds", palette.MEMORY),
        ("other models", palette.GRID),
        ("this length", palette.SURPRISE),
    )
    sentence_lines = 4

    def __init__(self, right: dict[str, object], asked: dict[str, object], lengths, trained: int, chance: float):
        self.lengths, self.trained, self.chance = [int(n) for n in lengths], trained, chance
        self.right, self.asked = ({name: as_array(x) for name, x in part.items()} for part in (right, asked))
        shapes = {x.shape[1:] for part in (self.right, self.asked) for x in part.values()}
        if not right or set(right) != set(asked) or len(shapes) != 1 or next(iter(shapes))[0] != len(self.lengths):
            raise ValueError(
                f"got models {sorted(right)} and {sorted(asked)} with (lengths, bins) of {sorted(shapes)} and "
                f"{len(self.lengths)} lengths, expected the same models and one shape (seeds, lengths, bins)"
            )
        self.names = list(right)
        self.by_seed = {name: self.right[name].sum(-1) / self.asked[name].sum(-1) for name in self.names}
        self.grid = {name: self._grid(name) for name in self.names}
        longest = self.lengths[-1]
        ends = sorted(self.names, key=lambda name: self.by_seed[name][:, -1].mean())
        self.presets = {
            "as trained": {"length": min(self.lengths, key=lambda n: abs(n - trained))},
            "the best, longest": {"model": ends[-1], "length": longest},
            "the worst, longest": {"model": ends[0], "length": longest},
        }
        super().__init__()

    def _grid(self, name: str) -> np.ndarray:
        """Return the accuracy (bins, lengths) over all seeds; NaN where nothing was asked."""
        right, asked = self.right[name].sum(0).T, self.asked[name].sum(0).T
        return np.divide(right, asked, out=np.full(right.shape, np.nan), where=asked > 0)

    def controls(self):
        """Return the controls: model and length."""
        return {
            "model": ipywidgets.Dropdown(options=self.names, value=self.names[0], description="model"),
            "length": ipywidgets.SelectionSlider(
                options=self.lengths, value=self.lengths[-1], description="length of the haystack"
            ),
        }

    def build(self):
        """Draw the small maps, the large one, and one curve per model over a log scale of length."""
        small = [f"small {i}" for i in range(len(self.names))]
        half = -(-len(small) // 2)
        layout = [small, ["map"] * half + ["curves"] * (len(small) - half)] if len(small) > 1 else [["map", "curves"]]
        fig, whole = figure(7.2, 4.6 if len(small) > 1 else 3.3)
        whole.remove()
        with matplotlib.rc_context(palette.style()):
            ax = fig.subplot_mosaic(layout, height_ratios=[1, 3.2][-len(layout) :])
        self.tiles = {}
        for name, key in zip(self.names, small, strict=True):
            if key in ax:
                draw.heatmap(ax[key], self.grid[name], signed=False, limit=1.0, aspect="auto")
                ax[key].set(xticks=(), yticks=())
                ax[key].set_title("\n".join(textwrap.wrap(name, 11, break_long_words=False)), fontsize=7.5)
                ax[key].set_gid(STILL)
                self.tiles[name] = ax[key]
        self.chosen = fig.add_artist(Rectangle((0, 0), 1, 1, fill=False, ec=palette.SURPRISE, lw=2, zorder=6))
        self.main = left = ax["map"]
        right = ax["curves"]
        self.map = draw.needle_map(left, self.grid[self.names[0]], self.lengths, self.trained)
        self.title = left.set_title("", fontsize=9.5)
        (self.frame,) = left.plot([], [], color=palette.SURPRISE, lw=2, clip_on=False)
        self.curves = {}
        for name in self.names:
            self.curves[name] = draw.line(
                right, self.by_seed[name].mean(0), self.lengths, color=palette.GRID, width=1.3
            )
        self.seeds = [
            right.plot([], [], "o", ms=3.5, color=palette.MEMORY, alpha=0.7, ls="none", zorder=4)[0]
            for _ in range(max(len(x) for x in self.by_seed.values()))
        ]
        right.axhline(self.chance, color=palette.MUTED, ls=":", lw=1)
        right.axvline(self.trained, color=palette.GRID, lw=1, zorder=0.5)
        self.here = draw.marker(right, self.lengths[-1], color=palette.SURPRISE)
        right.set(xscale="log", ylim=(-0.02, 1.04), xlabel="length of the haystack")
        right.set_xticks(self.lengths, [_short(n) for n in self.lengths])
        right.minorticks_off()
        self.verdict = right.set_title("", fontsize=9.5)
        return fig

    def draw(self, model, length):
        """Show one model's map and curve, and frame the model and one length."""
        if self.tiles:
            self.chosen.set_transform(self.tiles[model].transAxes)
        self.chosen.set_visible(bool(self.tiles))
        self.map.update(self.grid[model])
        column, bins = self.lengths.index(length), len(self.grid[model])
        x, y = column - 0.5, bins - 0.5
        self.frame.set_data([x, x + 1, x + 1, x, x], [-0.5, -0.5, y, y, -0.5])
        for name, curve in self.curves.items():
            chosen = name == model
            curve.artist.set(color=palette.MEMORY if chosen else palette.GRID, linewidth=2.4 if chosen else 1.3)
            curve.artist.set_zorder(3 if chosen else 2)
        for i, dots in enumerate(self.seeds):
            runs = self.by_seed[model]
            dots.set_data((self.lengths, runs[i]) if i < len(runs) else ([], []))
        self.here.update(length)
        mean, low, high = self._mean_and_range(model, column)
        self.title.set_text(model)
        self.verdict.set_text(f"{_short(length)}: {mean:.0%} found ({low:.0%} to {high:.0%})")

    def _mean_and_range(self, model: str, column: int) -> tuple[float, float, float]:
        runs = self.by_seed[model][:, column]
        return runs.mean(), runs.min(), runs.max()

    def alt(self, model, length):
        """Describe the accuracy at this length, the worst depth, and the other models."""
        column = self.lengths.index(length)
        mean, low, high = self._mean_and_range(model, column)
        depth = self.grid[model][:, column]
        worst = int(np.nanargmin(depth))
        others = ", ".join(f"{name} {self.by_seed[name][:, column].mean():.0%}" for name in self.names if name != model)
        return (
            f"Needle map of {model}: {mean:.0%} found in {length} tokens ({low:.0%} to {high:.0%} over "
            f"{len(self.by_seed[model])} seeds), least, {depth[worst]:.0%}, at depth {worst / len(depth):.0%} to "
            f"{(worst + 1) / len(depth):.0%}. Others: {others or 'none'}. Guessing: {self.chance:.0%}."
        )


def _short(n: int) -> str:
    return f"{n // 1024}k" if n >= 1024 and n % 1024 == 0 else str(n)
