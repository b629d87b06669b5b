"""The two-loop stepper of notebook 06: one slider for the outer loop, one for the inner loop."""

from __future__ import annotations

import copy

import ipywidgets
import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from titans_mini.viz import draw, palette
from titans_mini.viz.picture import figure
from titans_mini.viz.widgets.explorer import Explorer


class TwoLoopStepper(Explorer):
    """One story, read by a layer at every stage of its training: its writes, its memory, its answers.

    Args:
        model: has `embed`, `memory` (a `NeuralMemory` with one head and a matrix), and maps (tokens, state) to
            (logits, state); it is not modified.
        history: outer step → (accuracy, the model's state_dict).
        tokens: (2·P,) the story: key, value, key, value, …
        words: (2·P,) labels below the tokens.
        first_value: token id of value 0.
    """

    caption = (
        "Top: how hard each token pushes on the memory. Left: what the memory has written since the evening began. "
        "Bars: the chance given to the right hook if that guest asked now; blue is a right answer, grey a wrong one, "
        "pale not told yet. Dots: the outer loop."
    )

    key = (
        ("−", palette.SIGNED, "+ written"),
        ("push", palette.SURPRISE),
        ("right answer", palette.MEMORY),
        ("wrong answer, hatched", palette.MUTED),
    )
    compared = ("untrained", "half way", "trained")

    def __init__(self, model: nn.Module, history: dict[int, tuple], tokens: Tensor, words: list[str], first_value: int):
        self.words, self.steps = list(words), sorted(history)
        if len(words) != len(tokens) or len(tokens) % 2:
            raise ValueError(f"got {len(tokens)} tokens and {len(words)} words, expected pairs and a word for each")
        self.right = np.array([history[step][0] for step in self.steps], dtype=float)
        self.runs, model = {}, copy.deepcopy(model)
        cap = model.memory.max_theta
        for step in self.steps:
            model.load_state_dict(history[step][1])
            for write in (True, False):
                model.memory.max_theta = cap if write else 0.0  # θ = 0: nothing is written
                self.runs[step, write] = _record(model, tokens, first_value)
        last = self.runs[self.steps[-1], True]
        self.limit = 0.6 * float(np.abs(last["written"][-1]).max())
        self.tallest = max(float(run["push"].max()) for run in self.runs.values())
        half = self.steps[int(np.abs(self.right - 0.5).argmin())]
        end = {"t": len(tokens)}
        self.presets = {
            "untrained": end | {"step": self.steps[0]},
            "half way": end | {"step": half},
            "trained": end | {"step": self.steps[-1]},
            "trained, first guest": {"step": self.steps[-1], "t": 2},
            "trained, not writing": end | {"step": self.steps[-1], "write": False},
        }
        super().__init__()

    def controls(self):
        """Return the controls: outer step, token of the inner loop, and whether the inner loop runs."""
        T = len(self.words)
        return {
            "step": ipywidgets.SelectionSlider(options=self.steps, value=self.steps[-1], description="outer step"),
            "t": ipywidgets.IntSlider(T, 0, T, description="token t"),
            "write": ipywidgets.Checkbox(True, description="inner loop on", indent=False),
        }

    def build(self) -> Figure:
        """Lay out the story, the memory, the guests and the training curve."""
        fig, whole = figure(7.2, 4.7)
        whole.remove()
        with matplotlib.rc_context(palette.style()):
            layout = [["story", "story"], ["memory", "guests"], ["memory", "curve"]]
            ax = fig.subplot_mosaic(layout, width_ratios=[1, 1.15], height_ratios=[1, 1.15, 0.95])
        fig.get_layout_engine().set(rect=(0.03, 0, 0.97, 1))  # the layout ignores the tick labels left of the story
        T, first = len(self.words), self.runs[self.steps[0], True]
        self.push = draw.bars(ax["story"], np.zeros(T), self.words, color=palette.SURPRISE)
        self.here = draw.marker(ax["story"], -0.5)
        ax["story"].set(ylim=(0, 1.05 * self.tallest), xlim=(-0.7, T - 0.3))
        self.heading = ax["story"].set_title("")
        self.main = ax["memory"]
        self.memory = draw.heatmap(ax["memory"], first["written"][0], limit=self.limit)
        ax["memory"].set(xticks=[], yticks=[], xlabel="value components", ylabel="key components")
        self.title = ax["memory"].set_title("")
        self.guests = draw.bars(ax["guests"], np.zeros(T // 2), self.words[::2], color=palette.MEMORY)
        ax["guests"].set(ylim=(0, 1.05), yticks=[0, 1])
        self.served = ax["guests"].set_title("")
        dots = {"marker": "o", "markersize": 3.5}
        draw.line(ax["curve"], self.right, self.steps, color=palette.MUTED, width=1.2, **dots)
        self.now = draw.line(ax["curve"], [0], color=palette.INK, width=0, marker="o", markersize=9, mfc="none", mew=2)
        ax["curve"].set(ylim=(-0.08, 1.12), yticks=[0, 1], xlabel="outer step")
        ax["curve"].set_title("right answers, other evenings")
        return fig

    def draw(self, step, t, write):
        """Show one recorded outer step and token."""
        run = self.runs[step, write]
        seen = np.arange(len(self.words)) < t
        self.push.update(np.where(seen, run["push"], 0))
        self.here.update(t - 0.5)
        self.memory.update(run["written"][t])
        self.guests.update(run["chance"][t])
        for i, (bar, right) in enumerate(zip(self.guests.container, run["right"][t], strict=True)):
            bar.set_color(palette.MEMORY if right else palette.MUTED)
            bar.set_hatch(None if right else "////")  # blue and grey are alike in a grey print
            bar.set_edgecolor(palette.MEMORY if right else palette.PAPER)
            bar.set_alpha(1.0 if 2 * i + 1 < t else 0.35)
        self.now.update([self.right[self.steps.index(step)]], [step])
        off = "" if write else ": θ = 0"
        self.heading.set_text(f"push ‖θ∇ℓ‖ of each token, after {t} of {len(self.words)}{off}")
        self.title.set_text(f"written: $M_{{{t}}} - M_0$, outer step {step}")
        self.served.set_text(f"asked now: {self._served(run, t)} of {t // 2} told guests right")

    def _served(self, run, t) -> int:
        return int(run["right"][t][: t // 2].sum())

    def alt(self, step, t, write):
        """Describe the number of guests who would get the right hook now."""
        run = self.runs[step, write]
        loop = "" if write else " with the inner loop switched off (θ = 0)"
        told = run["chance"][t][: t // 2]
        sure = f", mean chance of the right hook {told.mean():.2f}" if len(told) else ""
        size = np.linalg.norm(run["written"][t])
        return (
            f"Outer step {step}, after token {t} of {len(self.words)}{loop}: {self._served(run, t)} of {t // 2} told "
            f"guests would get their hook{sure}; what was written has norm {size:.2g}."
        )


@torch.no_grad()
def _record(model: nn.Module, tokens: Tensor, first_value: int) -> dict[str, np.ndarray]:
    """Record the story: M_t − M_0 (T+1, D, D), ‖θ_t ∇ℓ‖ (T,), probability and correctness of answers (T+1, P)."""
    names, values = tokens[::2, None], tokens[1::2] - first_value  # (P, 1), (P,)
    state = model.memory.init_state(1)
    _, eta, _ = model.memory.gates(model.embed(tokens[None]))  # (1, 1, T, 1)
    written, push, chance, right = [], [], [], []
    start = state.memory.weights[0][0, 0]
    for t in range(len(tokens) + 1):
        written.append(state.memory.weights[0][0, 0] - start)
        logits, _ = model(names, state[[0] * len(names)])  # all names are queried; the state stays unchanged
        chance.append(logits[:, 0].softmax(-1).gather(1, values[:, None])[:, 0])
        right.append(logits[:, 0].argmax(-1) == values)
        if t < len(tokens):
            S = state.memory.momentum[0]
            _, state = model(tokens[None, t : t + 1], state)
            push.append((state.memory.momentum[0] - eta[:, :, t, :, None] * S).norm())  # ‖θ_t ∇ℓ‖
    run = {"written": written, "push": push, "chance": chance, "right": right}
    return {name: torch.stack(x).numpy() for name, x in run.items()}
