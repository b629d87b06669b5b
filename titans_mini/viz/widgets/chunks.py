"""The chunk explorer: a query's weights from its own chunk and from the state, and the distance to the online rule."""

from __future__ import annotations

import math

import ipywidgets
import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from titans_mini.memory.functional import neural_memory
from titans_mini.memory.gates import coefficients, half_life_to_alpha
from titans_mini.memory.network import MemoryNet
from titans_mini.viz import draw, palette
from titans_mini.viz.picture import figure
from titans_mini.viz.widgets.explorer import Explorer

# name → (half-life in tokens, η)
GATES = {
    "no forgetting, η = 0": (math.inf, 0.0),
    "no forgetting, η = 0.8": (math.inf, 0.8),
    "half-life 16, η = 0": (16.0, 0.0),
    "half-life 16, η = 0.8": (16.0, 0.8),
    "half-life 4, η = 0.8": (4.0, 0.8),
}
FLOOR, CEILING = 1e-3, 10.0  # limits of the distance axis


@torch.no_grad()
def distances(
    q: Tensor, k: Tensor, v: Tensor, half_life: float, eta: float, theta: float, sizes: list[int]
) -> dict[int, np.ndarray]:
    """Measure the distance of a matrix memory in chunks to the online rule, per token.

    Args:
        q: (T, D) queries.
        k: (T, D) keys.
        v: (T, D) values.
        half_life: half-life in tokens; infinite for no forgetting.
        eta: momentum gate.
        theta: step size.
        sizes: the chunk sizes C.

    Returns:
        C → (T,) ‖y_t − y_t online‖, divided by the root mean square of ‖y_t online‖.
    """
    T, D = k.shape
    alpha = 0.0 if math.isinf(half_life) else half_life_to_alpha(half_life).item()
    gates = [torch.full((1, 1, T), g, dtype=torch.float64) for g in (alpha, eta, theta)]
    x = [z.double().expand(1, 1, T, D) for z in (q, k, v)]
    net = MemoryNet(D, depth=1, residual=False, norm=False)
    y = {C: neural_memory(*x, *gates, net=net, chunk_size=C)[0][0, 0] for C in {1, *sizes}}
    scale = y[1].square().sum(-1).mean().sqrt()
    return {C: ((y[C] - y[1]).norm(dim=-1) / scale).numpy() for C in sizes}


class ChunkExplorer(Explorer):
    """One sequence in chunks: the weights G of all writes, one query's row, the distance to the online rule.

    Args:
        q: (T, D) queries; T is a power of two.
        k: (T, D) keys.
        v: (T, D) values.
        theta: step size of every token.
    """

    caption = (
        "Left: row t is the memory after token t, column j the write of token j; the brighter, the more of it is "
        "there. White squares are chunks. Right, top: the chosen row. Light blue comes by masked attention from the "
        "token's own chunk, dark blue from the state at the anchor (line). Right, below: how far the answers are from "
        "the online rule, token by token; grey lines are the chunks' starts."
    )
    key = (
        ("nothing of it", palette.MAGNITUDE, "most of it"),
        ("own chunk", palette.QUERY),
        ("through the state", palette.MEMORY),
        ("token t", palette.SURPRISE),
        ("distance", palette.INK),
    )
    compared = ("online", "the paper's C", "one chunk")

    def __init__(self, q: Tensor, k: Tensor, v: Tensor, theta: float = 0.05):
        T = self.tokens = len(k)
        self.sizes = [2**i for i in range(T.bit_length())]
        if self.sizes[-1] != T:
            raise ValueError(f"got {T} tokens, expected a power of two: then every chunk size fits")
        self.weight, self.far = {}, {}
        for name, (half_life, eta) in GATES.items():
            alpha = 0.0 if math.isinf(half_life) else half_life_to_alpha(half_life).item()
            gates = (torch.full((T,), g, dtype=torch.float64) for g in (alpha, eta))
            self.weight[name] = coefficients(*gates).G.numpy()
            self.far[name] = distances(q, k, v, half_life, eta, theta, self.sizes)
        plain, heavy = "no forgetting, η = 0", "no forgetting, η = 0.8"
        self.presets = {
            "online": {"size": 1},
            "the paper's C": {"size": min(16, T)},
            "one chunk": {"size": T},
            "small steps add up": {"gates": plain, "size": min(16, T)},
            "momentum piles up": {"gates": heavy, "size": min(16, T)},
        }
        super().__init__()

    def controls(self):
        """Return the controls: gates, chunk size and query token."""
        last = self.tokens - 1
        return {
            "gates": ipywidgets.Dropdown(options=list(GATES), value="half-life 16, η = 0.8", description="gates"),
            "size": ipywidgets.SelectionSlider(options=self.sizes, value=min(8, last + 1), description="chunk size C"),
            "t": ipywidgets.IntSlider(round(0.7 * last), 0, last, description="token t"),
        }

    def build(self) -> Figure:
        """Draw the map with its chunks, the bars of one row, and the curve of distances."""
        fig, whole = figure(7.2, 3.9)
        whole.remove()
        with matplotlib.rc_context(palette.style()):
            layout = [["map", "row"], ["map", "far"]]
            ax = fig.subplot_mosaic(layout, width_ratios=[1.18, 1], height_ratios=[1, 1])
        T = self.tokens
        self.main = ax["map"]
        self.map = draw.heatmap(ax["map"], np.zeros((T, T)), signed=False, limit=1.0)
        self.boxes = draw.chunk_boxes(ax["map"], T, 1)
        self.here = draw.line(ax["map"], [0, 0], [-0.5, 0], color=palette.SURPRISE, width=2.2)
        ax["map"].set(xlabel="write of token j", ylabel="memory $M_t$", xlim=(-0.5, T - 0.5), ylim=(T - 0.5, -0.5))
        quarters = [i * T // 4 for i in range(4)] if T >= 8 else list(range(T))
        ax["map"].set(xticks=quarters, yticks=quarters)
        self.title = ax["map"].set_title("")
        stroke = {"linewidth": 2.6}
        self.state = ax["row"].vlines(np.arange(T), 0, 0, color=palette.MEMORY, **stroke)
        self.own = ax["row"].vlines(np.arange(T), 0, 0, color=palette.QUERY, **stroke)
        self.anchor = draw.marker(ax["row"], 0, width=1.4)
        ax["row"].set(xlim=(-1, T), xticks=[], ylabel="$G_{tj}$")
        self.row_axes, self.row = ax["row"], ax["row"].set_title("")
        self.curve = draw.line(ax["far"], np.full(T, FLOOR), color=palette.INK, width=1.4)
        self.starts = ax["far"].vlines([], 0, 1, color=palette.GRID, linewidth=0.8, zorder=0.5)
        (self.dot,) = ax["far"].plot([0], [FLOOR], "o", ms=7, mfc="white", mec=palette.SURPRISE, mew=2, zorder=4)
        ax["far"].set(yscale="log", ylim=(0.7 * FLOOR, 1.4 * CEILING), xlim=(-1, T), xticks=quarters, xlabel="token")
        ax["far"].set_yticks([1e-3, 1e-2, 0.1, 1, 10], ["0.1 %", "1 %", "10 %", "100 %", ""])
        ax["far"].minorticks_off()
        self.limits, self.beyond = ax["far"].get_ylim(), draw.edges(ax["far"])
        self.verdict = ax["far"].set_title("")
        return fig

    def draw(self, gates, size, t):
        """Show other gates, another chunk size, another row."""
        G, far, start = self.weight[gates], self.far[gates][size], t // size * size
        self.map.update(G / G.max())
        self.boxes.update(size)
        self.boxes.lines.set_visible(size > 1)
        self.here.update([t, t], [-0.5, t + 0.5])
        self.state.set_segments([((j, 0), (j, G[t, j])) for j in range(start)])
        self.own.set_segments([((j, 0), (j, G[t, j])) for j in range(start, t + 1)])
        self.anchor.update(start - 0.5)
        self.row_axes.set_ylim(0, 1.08 * G.max())
        self.curve.update(np.clip(far, *self.limits))
        self.beyond.update(far)
        cuts = np.arange(size, self.tokens, size) - 0.5 if size > 1 else []
        self.starts.set_segments([((x, FLOOR / 2), (x, 2 * CEILING)) for x in cuts])
        self.dot.set_data([t], [np.clip(far[t], *self.limits)])
        self.title.set_text(f"weights $G$, brightest {G.max():.2g}")
        self.row.set_text(f"{t - start + 1} in its chunk, {start} before")
        self.verdict.set_text(f"C = {size}: off by {_percent(self.overall(gates, size))}")

    def overall(self, gates: str, size: int) -> float:
        """Compute the relative distance over all tokens."""
        return float(np.sqrt(np.square(self.far[gates][size]).mean()))

    def alt(self, gates, size, t):
        """Describe the sources of the query's weights and the distance to the online rule."""
        G, start = self.weight[gates][t], t // size * size
        share = G[:start].sum() / G.sum()
        return (
            f"Weights of all writes with {gates}, in chunks of {size}. Token {t} meets {t - start + 1} writes in its "
            f"own chunk by masked attention and {start} through the state at its anchor, which hold {share:.0%} of the "
            f"weight; its answer is {_percent(self.far[gates][size][t])} off the online rule, all answers "
            f"{_percent(self.overall(gates, size))}."
        )


def _percent(x: float) -> str:
    return "0 %" if x == 0 else f"{100 * x:.2g} %" if x < 1 else f"{100 * x:,.0f} %"
