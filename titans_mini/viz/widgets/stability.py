"""Stability map over step size and momentum: where a memory that reads real digits learns, and where it diverges."""

from __future__ import annotations

import ipywidgets
import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.patheffects import withStroke
from torch import Tensor

from titans_mini.memory.functional import neural_memory
from titans_mini.memory.gates import coefficients
from titans_mini.memory.network import MemoryNet
from titans_mini.viz import draw, figure, palette
from titans_mini.viz.screen import on_cells
from titans_mini.viz.widgets.explorer import Explorer

# name → (repeat one digit?, chunk size, α); chunk size 1 is the online rule
MEMORIES = {
    "one digit, C = 1": (True, 1, 0.0),
    "stream, C = 1": (False, 1, 0.0),
    "stream, C = 1, α = 0.3": (False, 1, 0.3),
    "one digit, C = 16": (True, 16, 0.0),
    "stream, C = 4": (False, 4, 0.0),
    "stream, C = 16": (False, 16, 0.0),
    "stream, C = 64": (False, 64, 0.0),
    "stream, C = 16, α = 0.3": (False, 16, 0.3),
}
LOW, OCTAVES, COLUMNS = -9, 11, 3  # θκ from 2⁻⁹ to 2², columns per doubling
WORDS = {"learns": (8, 14), "explodes": (8, 32)}  # written into the cell (row, column) where that is true
SHOWN = 1e38  # the largest power of ten in float32


def edge(eta: float, alpha: float, chunk_size: int = 1) -> float:
    """Compute the stability limit of θκ for one key that fills every chunk; below it the error shrinks.

    Args:
        eta: momentum gate, the same for all tokens.
        alpha: forget gate, the same for all tokens.
        chunk_size: C equal keys whose gradients are all taken at the chunk's start; 1 is the online rule.

    Returns:
        The smaller of the two limits set by the trace and the determinant of the chunk's 2×2 map.
    """
    c = coefficients(*(torch.full((chunk_size,), g, dtype=torch.float64) for g in (alpha, eta)))
    b, m, f, g, n = (x.item() for x in (c.b[-1], c.m[-1], c.f[-1], c.G[-1].sum(), c.n[-1].sum()))
    turning = (1 - b * m) / (n * f - g * m) if n * f - g * m > 1e-12 else np.inf
    return min((1 + b) * (1 + m) / (g * (1 + m) - n * f), turning) / 2


@torch.no_grad()
def losses(keys: Tensor, values: Tensor, step: Tensor, eta: Tensor, alpha: float, chunk_size: int) -> Tensor:
    """Run one memory per pair of step size and momentum over the same tokens.

    Args:
        keys: (T, D) keys of unit length.
        values: (T, D) values.
        step: (N,) θκ, up to 4: keys are doubled in length, so that θ stays at most 1.
        eta: (N,) momentum gates.
        alpha: forget gate.
        chunk_size: C; 1 runs the closed form of the online rule.

    Returns:
        (N, T) loss of each memory before it writes the token.
    """
    N, (T, D) = len(step), keys.shape
    k, v = (x.expand(1, N, T, D) for x in (2 * keys, values))
    gates = [g.reshape(1, -1, 1).expand(1, N, T) for g in (torch.full_like(eta, alpha), eta, step / 4)]
    options = {"chunk_size": chunk_size} if chunk_size > 1 else {"chunk_size": 64, "anchor": "token"}
    net = MemoryNet(D, depth=1, residual=False, norm=False)
    y, _ = neural_memory(k, k, v, *gates, net=net, read="before", **options)
    return (y - v).square().sum(-1)[0]


class StabilityMap(Explorer):
    """Several memories, each with every θ and η; a dot selects one run, whose loss is drawn beside the map."""

    caption = (
        "Left: each cell is one run. Purple has learned, white has not, orange is worse than an empty memory, dark red "
        "overflowed. Solid line: the formula for one key that fills every chunk; dashed: for a key that comes back "
        "after a long pause. Right: the run under the white dot."
    )
    key = (
        ("100 times worse than empty, or more", palette.SIGNED, "100 times better, or more"),
        ("overflowed", palette.DIVERGED),
        ("loss", palette.SURPRISE),
    )
    key_on_cells = True
    presets = {
        "NaN": {"memory": "stream, C = 1", "step": 1.59, "eta": 0.9},
        "on the edge": {"memory": "one digit, C = 1", "step": 1.0, "eta": 0.0},
        "safe": {"memory": "stream, C = 1", "step": 0.125, "eta": 0.5},
        "same gates, C = 16": {"memory": "stream, C = 16", "step": 0.125, "eta": 0.5},
        "repaired": {"memory": "stream, C = 16", "step": 0.0156, "eta": 0.5},
    }

    def __init__(self, images: Tensor, values: Tensor, online: bool = False):
        """Run all memories once.

        Args:
            images: (T, D) keys, normalised here.
            values: (T, D) the value of each key.
            online: only the memories of the online rule, C = 1, which their names then leave out.
        """
        self.memories, short = MEMORIES, ", C = 1" if online else ""
        if online:
            self.memories = {name.replace(short, ""): m for name, m in MEMORIES.items() if m[1] == 1}
            presets = {name: p | {"memory": p["memory"].replace(short, "")} for name, p in self.presets.items()}
            self.presets = {name: p for name, p in presets.items() if p["memory"] in self.memories}
            self.presets["forget more"] = {"memory": "stream, α = 0.3", "step": 1.59, "eta": 0.9}
            self.caption = self.caption.replace("one key that fills every chunk", "one key at every token")
        other = "forget more" if online else "same gates, C = 16"
        self.compared = ("on the edge", "safe", other)
        self.step = 2.0 ** (LOW + np.arange(OCTAVES * COLUMNS + 1) / COLUMNS)
        self.eta = np.linspace(0, 0.95, 20)
        self.tokens = len(images)
        step, eta = (torch.from_numpy(x).float().flatten() for x in np.meshgrid(self.step, self.eta))
        keys = F.normalize(images.float(), dim=-1)
        self.empty = empty = values.square().sum(-1).mean().item()
        self.loss, self.learned, self.limits = {}, {}, {}
        for name, (same, chunk_size, alpha) in self.memories.items():
            k, v = (x[:1].expand_as(x) if same else x for x in (keys, values.float()))
            run = losses(k, v, step, eta, alpha, chunk_size).reshape(len(self.eta), len(self.step), -1)
            end = run[..., -self.tokens // 4 :].mean(-1).double().numpy()
            self.loss[name] = run.numpy()
            self.limits[name] = np.array([edge(float(e), alpha, chunk_size) for e in self.eta])
            with np.errstate(divide="ignore", invalid="ignore"):
                gained = np.clip(np.log10(empty / end), -2, 2)
            self.learned[name] = np.where(np.isfinite(end), gained, np.nan)
        super().__init__()

    def controls(self):
        """Return the controls: memory, and step and momentum of the dot."""
        return {
            "memory": ipywidgets.Dropdown(
                options=list(self.memories), value=list(self.memories)[1], description="memory"
            ),
            "step": ipywidgets.SelectionSlider(
                options=[(f"{x:.3g}", float(f"{x:.3g}")) for x in self.step], value=1.59, description="step θκ"
            ),
            "eta": ipywidgets.SelectionSlider(
                options=[(f"{x:.2f}", round(float(x), 2)) for x in self.eta], value=0.9, description="momentum η"
            ),
        }

    def _cell(self, step: float, eta: float) -> tuple[int, int]:
        return int(np.abs(self.eta - eta).argmin()), int(np.abs(np.log(self.step / step)).argmin())

    def _column(self, step) -> np.ndarray:
        return (np.log2(step) - LOW) * COLUMNS

    def build(self):
        """Draw the map with its stability limit, and the loss curve."""
        fig, (left, right) = figure(7.2, 3.3, 1, 2, width_ratios=[1.25, 1])
        self.map = draw.heatmap(left, self.learned[next(iter(self.memories))], limit=2.0, aspect="auto")
        left.invert_yaxis()
        octaves = np.arange(LOW, LOW + OCTAVES + 1, 2)
        left.set_xticks(self._column(2.0**octaves), [str(2**o) if o >= 0 else f"1/{2**-o}" for o in octaves.tolist()])
        shown = [0, 5, 10, 15, 19]
        left.set_yticks(shown, [f"{self.eta[i]:.2g}" for i in shown])
        left.set(xlabel="step θκ (log scale)", ylabel="momentum η", xlim=(-0.5, len(self.step) - 0.5))
        self.title = left.set_title("")
        self.edge = draw.line(left, [0.0], color=palette.INK, width=2.2)
        self.pause = draw.line(left, np.arange(20), self._column(1 - self.eta), color=palette.INK, ls="--")
        halo = [withStroke(linewidth=3, foreground=palette.PAPER)]  # a grey print cannot tell purple from red
        self.edge.artist.set_path_effects([withStroke(linewidth=4.5, foreground=palette.PAPER)])
        self.words = [
            left.text(column, row, word, ha="center", va="center", rotation=90, fontsize=9.5, path_effects=halo)
            for word, (row, column) in WORDS.items()
        ]
        (self.dot,) = left.plot([0], [0], "o", ms=9, mfc="white", mec=palette.INK, mew=2)
        for artist in (self.edge.artist, self.pause.artist, self.dot):
            on_cells(artist)
        self.curve = draw.line(right, np.ones(self.tokens), color=palette.SURPRISE, width=1.2)
        right.axhline(SHOWN, color=palette.DIVERGED, lw=1.2, ls="--")
        right.text(
            self.tokens, SHOWN / 30, "float32 ends here", color=palette.DIVERGED, ha="right", va="top", fontsize=8.5
        )
        right.set(yscale="log", ylim=(1e-6, 1e41), xlim=(0, self.tokens), xlabel="token t", ylabel="loss ℓ (log scale)")
        right.set_yticks([1, 1e10, 1e20, 1e30])
        right.minorticks_off()
        self.beyond = draw.edges(right, color=palette.SURPRISE)
        self.verdict = right.set_title("")
        return fig

    def draw(self, memory, step, eta):
        """Show one memory's map, its stability limit, and the run under the dot."""
        row, column = self._cell(step, eta)
        same, chunk_size, alpha = self.memories[memory]
        self.map.update(self.learned[memory])
        self.edge.update(np.arange(len(self.eta)), self._column(self.limits[memory]))
        self.pause.artist.set_visible((same, chunk_size, alpha) == (False, 1, 0.0))
        self.dot.set_data([column], [row])
        for text, cell in zip(self.words, WORDS.values(), strict=True):
            learned = self.learned[memory][cell]
            text.set_visible(learned > 0.1 if text.get_text() == "learns" else not learned > -1)
        loss = self.loss[memory][row, column].astype(float)
        self.curve.update(np.where(loss < SHOWN, np.maximum(loss, 1e-6), np.nan))
        self.beyond.update(np.where(np.isnan(loss), np.inf, loss))
        self.title.set_text(memory)
        self.verdict.set_text(self._verdict(memory, row, column))

    def _verdict(self, memory: str, row: int, column: int) -> str:
        loss = self.loss[memory][row, column]
        if not np.isfinite(loss).all():
            return f"infinite at token {int((~np.isfinite(loss)).argmax())}"
        end = loss[-self.tokens // 4 :].mean()
        return f"loss {end:.2g} (empty: {self.empty:.2g})" if end > 1e-6 else "loss below 1e-6"

    def alt(self, memory, step, eta):
        """Describe the dot's position, the limit by formula there and the measured result."""
        row, column = self._cell(step, eta)
        limit = self.limits[memory][row]
        side = "below" if self.step[column] < limit else "at or above"
        return (
            f"Stability map of “{memory}” over step and momentum. At θκ = {self.step[column]:.3g} and "
            f"η = {self.eta[row]:.2f} the step is {side} the one-key limit {limit:.3g}; "
            f"{self._verdict(memory, row, column)}."
        )
