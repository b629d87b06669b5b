"""The recall matrix: query a memory with every stored key, compare with every stored value."""

from __future__ import annotations

import ipywidgets
import numpy as np

from titans_mini.viz import draw, figure, legend, palette
from titans_mini.viz.draw import as_array
from titans_mini.viz.screen import on_cells
from titans_mini.viz.widgets.explorer import Explorer

STYLES = ("--", "-.", "-", ":")
COLOURS = (palette.MUTED, palette.KEY, palette.MEMORY, palette.MEMORY)  # a matrix, a wider key, then networks


class RecallMatrix(Explorer):
    """Cosine similarities of all answers to all values, after each pass over the pairs, for several memories.

    Args:
        answers: number of pairs N → name of a memory → (passes+1, N, D), its answers to all keys after 0, 1, … passes.
        values: number of pairs N → (N, D), the correct answers. Every N divides the largest.
    """

    caption = (
        "Left: row i asks with key i, column j is value j; purple is similar, orange opposite. A good memory is a "
        "purple diagonal on white; dots mark the nearest value of each answer, a dark red × where it is the wrong "
        "one. Right: the share of right ones by pass, for every memory."
    )

    key = (
        ("opposite", palette.SIGNED, "similar"),
        ("nearest value, right", palette.INK),
        ("nearest value, wrong: ×", palette.DIVERGED),
    )
    key_on_cells = True
    compared = ("full matrix", "too many", "deep, all passes")

    def __init__(self, answers: dict[int, dict], values: dict[int, object]):
        self.cells = max(answers)
        if any(self.cells % n for n in answers) or set(answers) != set(values):
            got = sorted(answers), sorted(values)
            raise ValueError(f"got pairs {got[0]} and values for {got[1]}, expected the same, divisors of the largest")
        self.names = list(answers[self.cells])
        self.similar = {
            (n, name): _cosines(as_array(asked), as_array(values[n]))
            for n, memories in answers.items() for name, asked in memories.items()
        }  # fmt: skip
        self.passes = len(self.similar[self.cells, self.names[0]]) - 1
        # (passes+1, N): the nearest value of each answer; −1 where the answer is zero
        self.nearest = {key: np.where(s.any(-1), s.argmax(-1), -1) for key, s in self.similar.items()}
        self.share = {key: (near == np.arange(key[0])).mean(-1) for key, near in self.nearest.items()}
        first, deep, few = self.names[0], self.names[min(2, len(self.names) - 1)], sorted(answers)[1:2] or [self.cells]
        self.presets = {
            "full matrix": {"memory": first, "pairs": few[0]},
            "too many": {"memory": first},
            "deep, one pass": {"memory": deep, "after": 1},
            "deep, all passes": {"memory": deep},
        }
        if "wide key" in self.names:
            self.presets |= {"wide key, 3 passes": {"memory": "wide key", "after": min(3, self.passes)}}
        super().__init__()

    def controls(self):
        """Return the controls: memory, number of pairs and passes."""
        counts = sorted({n for n, _ in self.similar})
        return {
            "memory": ipywidgets.Dropdown(options=self.names, value=self.names[0], description="memory"),
            "pairs": ipywidgets.SelectionSlider(options=counts, value=self.cells, description="pairs N"),
            "after": ipywidgets.IntSlider(self.passes, 0, self.passes, description="after passes"),
        }

    def build(self):
        """Draw one matrix of the largest size, in which smaller ones have larger cells, and one curve per memory."""
        fig, (left, right) = figure(7.2, 3.5, 1, 2, width_ratios=[1.12, 1])
        n = self.cells
        self.map = draw.heatmap(left, np.zeros((n, n)), limit=1.0)
        left.set(xticks=[], yticks=[], xlabel="value j", ylabel="asked with key i", xlim=(-0.5, n - 0.5))
        (self.hit,) = left.plot([], [], "o", color=palette.INK, ls="none")
        (self.miss,) = left.plot([], [], "x", color=palette.DIVERGED, ls="none")
        for dots in (self.hit, self.miss):
            on_cells(dots)
        self.title = left.set_title("")
        self.curves = {}
        for i, name in enumerate(self.names):
            look = {"color": COLOURS[i % len(COLOURS)], "linestyle": STYLES[i % len(STYLES)]}
            self.curves[name] = draw.line(right, np.zeros(self.passes + 1), label=name, **look)
        (self.dot,) = right.plot([0], [0], "o", ms=8, mfc="white", mec=palette.INK, mew=1.8, zorder=4)
        right.set(xlim=(-0.4, self.passes + 0.4), ylim=(-0.02, 1.04), xlabel="passes", ylabel="share recalled")
        self.verdict = right.set_title("")
        legend(right, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2)
        return fig

    def draw(self, memory, pairs, after):
        """Show the similarities of one memory after `after` passes, and all curves for `pairs` pairs."""
        scale, similar = self.cells // pairs, self.similar[pairs, memory][after]
        self.map.update(np.kron(similar, np.ones((scale, scale))))
        rows, near = np.arange(pairs), self.nearest[pairs, memory][after]
        centre = (scale - 1) / 2
        for dots, chosen in ((self.hit, near == rows), (self.miss, (near != rows) & (near >= 0))):
            dots.set_data(near[chosen] * scale + centre, rows[chosen] * scale + centre)
            dots.set_markersize(1.2 + 0.9 * np.sqrt(scale))
        for name, curve in self.curves.items():
            curve.update(self.share[pairs, name])
            curve.artist.set_linewidth(2.6 if name == memory else 1.3)
        self.dot.set_data([after], [self.share[pairs, memory][after]])
        self.title.set_text(f"{memory}, {pairs} pairs")
        right = int((near == rows).sum())
        self.verdict.set_text(f"{right} of {pairs} after {_passes(after)}")

    def alt(self, memory, pairs, after):
        """Describe the number of recalled pairs and the similarity on the diagonal."""
        similar = self.similar[pairs, memory][after]
        off = np.abs(similar[~np.eye(pairs, dtype=bool)]).mean()
        right = round(self.share[pairs, memory][after] * pairs)
        others = ", ".join(f"{name} {self.share[pairs, name][after]:.0%}" for name in self.names if name != memory)
        return (
            f"Recall matrix of “{memory}”, {pairs} pairs after {_passes(after)}: {right} right; similarity "
            f"{np.diag(similar).mean():.2f} on the diagonal, {off:.2f} beside it. Others: {others or 'none'}."
        )


def _passes(n: int) -> str:
    return f"{n} pass{'' if n == 1 else 'es'}"


def _cosines(answers: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Compute the cosines (passes+1, N, N) of answers (passes+1, N, D) and values (N, D); 0 for a zero answer."""
    length = np.linalg.norm(answers, axis=-1, keepdims=True)
    unit = np.divide(answers, length, out=np.zeros_like(answers), where=length > 0)
    return unit @ (values / np.linalg.norm(values, axis=-1, keepdims=True)).T
