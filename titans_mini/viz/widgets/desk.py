"""Forgetting desk: one evening at the cloakroom, and a half-life to choose."""

from __future__ import annotations

import math

import ipywidgets
import numpy as np
from matplotlib.figure import Figure

from titans_mini.data.evening import Evening, answers, attend
from titans_mini.memory.gates import half_life_to_alpha
from titans_mini.viz import draw, palette
from titans_mini.viz.picture import figure
from titans_mini.viz.widgets.explorer import Explorer

HALF_LIVES = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 128, 256, math.inf)


class ForgettingDesk(Explorer):
    """Choose a half-life and a step; see who is still in the book, and how often the desk is right.

    Args:
        evening: one evening.
        start: visits before the first question is counted.
    """

    caption = (
        "Above: one row per guest, framed while the coat is here; the bluer, the louder the book answers. Ink behind "
        "a frame is a ghost. Below: questions about guests who are here (right hook, loud enough) and about guests "
        "who went home (silence)."
    )
    key = (
        ("silent", draw.desk.INKS, "loud"),
        ("right about guests who are here", palette.MEMORY),
        ("right about those who went home", palette.FORGET),
    )
    compared = ("never", "24 visits", "too short")
    presets = {
        "never": {"half_life": math.inf, "step": 0.6, "level": 0.9},
        "24 visits": {"half_life": 24, "step": 0.5, "level": 0.65},
        "too short": {"half_life": 4, "step": 0.5, "level": 0.65},
        "too short, lower level": {"half_life": 4, "step": 0.5, "level": 0.2},
    }

    def __init__(self, evening: Evening, start: int = 60):
        self.evening, self.start, self._kept = evening, start, {}
        super().__init__()

    def controls(self):
        """Return the controls: half-life, step, and how loud an answer must be to be believed."""
        names = [("never" if h == math.inf else str(h), h) for h in HALF_LIVES]
        return {
            "half_life": ipywidgets.SelectionSlider(options=names, value=24, description="half-life"),
            "step": ipywidgets.FloatSlider(0.5, min=0.05, max=0.8, step=0.05, description="step θ"),
            "level": ipywidgets.FloatSlider(0.65, min=0.05, max=1.0, step=0.05, description="believe above"),
        }

    def build(self) -> Figure:
        """Draw the evening with its frames, and the two bars."""
        fig, (top, bottom) = figure(7.2, 4.4, 2, 1, height_ratios=[4, 1])
        self.map = draw.ghosts(top, self.measure(24, 0.5, 0.65)[0], self.evening.stays, self.evening.names)
        self.title = top.set_title("")
        self.bars = bottom.barh([1, 0], [1, 1], color=[palette.MEMORY, palette.FORGET], height=0.7)
        self.words = [bottom.text(0, y, "", va="center", fontsize=9) for y in (1, 0)]
        bottom.set(xlim=(0, 1.0), ylim=(-0.5, 1.5), yticks=[1, 0], yticklabels=["here", "went home"])
        bottom.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "25 %", "50 %", "75 %", "100 %"])
        bottom.tick_params(axis="y", length=0)
        return fig

    def measure(self, half_life, step, level) -> tuple[np.ndarray, float, float]:
        """Compute the loudness (N, T), and the shares of right answers about guests here and gone."""
        if (half_life, step, level) in self._kept:
            return self._kept[half_life, step, level]
        alpha = 0.0 if half_life == math.inf else half_life_to_alpha(half_life).item()
        e = self.evening
        books = attend(*e.visits, alpha, 0.0, step)
        loud = (e.keys @ books).amax(-1).T
        here, gone = (answers(asked, e.keys, books)[self.start :] for asked in (e.here, e.gone))
        hook = here.argmax(-1) == here.new_tensor(range(here.shape[-1]))
        found = (hook & (here.amax(-1) > level)).double().mean().item()
        ghost = gone.amax(-1)
        silent = (ghost <= level)[~ghost.isnan()].double().mean().item()
        self._kept = {(half_life, step, level): (loud.numpy(), found, silent)}  # the sentence needs them again
        return loud.numpy(), found, silent

    def draw(self, half_life, step, level):
        """Show the evening as this memory keeps it."""
        loud, *shares = self.measure(half_life, step, level)
        self.map.update(loud)
        for bar, word, share in zip(self.bars, self.words, shares, strict=True):
            bar.set_width(share)
            inside = share > 0.2
            word.set(x=share - 0.01 if inside else share + 0.01, text=f"{share:.0%} right")
            word.set(ha="right" if inside else "left", color=palette.PAPER if inside else palette.INK)
        name = "no forgetting" if half_life == math.inf else f"half-life {half_life} visits"
        self.title.set_text(f"{name}: {sum(shares) / 2:.0%} of the questions answered well")

    def alt(self, half_life, step, level):
        """Describe the memory and its two shares."""
        _, found, silent = self.measure(half_life, step, level)
        name = "no forgetting" if half_life == math.inf else f"a half-life of {half_life} visits"
        return (
            f"An evening at the desk with {name}, θ = {step:.2g}, answers believed above {level:.2g}: "
            f"{found:.0%} right about guests who are here, {silent:.0%} about guests who went home."
        )
