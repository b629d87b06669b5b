"""The blame map of notebook 07: which write is to blame for which wrong answer, while the outer loop trains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import ipywidgets
import numpy as np

from titans_mini.viz import draw, figure, palette
from titans_mini.viz.draw import as_array
from titans_mini.viz.screen import on_cells
from titans_mini.viz.widgets.explorer import Explorer

PARTS = {"gate θ": palette.SURPRISE, "key": palette.KEY, "value": palette.VALUE}


class BlameMap(Explorer):
    """Blame of every write for every question of one evening, at every stage of training.

    Args:
        history: outer step → {"gate θ": (P, T) signed, "key": (P, T), "value": (P, T), "said": (P,) hooks answered},
            all with guest i's own hook at i.
        names: (T,) who was written; the first P of them ask.
    """

    caption = (
        "Left: row, who asks; column, whose write. For the gate, purple wants a lighter hand (+) and orange a firmer "
        "one (−). Right: the row of one guest. Below: coats found over the outer steps. Colours are full at half of "
        "the largest blame; bars show all of it."
    )

    key = (
        ("− a firmer hand", palette.SIGNED, "a lighter hand, or more blame +"),
        *((f"row: {part}", colour) for part, colour in PARTS.items()),
    )
    compared = ("before practice", "after practice", "keys")

    def __init__(self, history: Mapping[int, Mapping[str, object]], names: Sequence[str]):
        self.names, self.steps = list(names), sorted(history)
        self.runs = {step: {part: as_array(x) for part, x in run.items()} for step, run in history.items()}
        shape = self.runs[self.steps[0]]["gate θ"].shape
        if shape[1] != len(self.names):
            raise ValueError(f"got blame of shape {shape} and {len(self.names)} names, expected a name per write")
        self.people = self.names[: shape[0]]
        self.limits = {p: max(float(np.abs(run[p]).max()) for run in self.runs.values()) * 0.5 for p in PARTS}
        self.right = {s: run["said"].astype(int) == np.arange(shape[0]) for s, run in self.runs.items()}
        self.presets = {
            "before practice": {"step": self.steps[0]},
            "after practice": {"step": self.steps[-1]},
            "keys": {"part": "key"},
        }
        super().__init__()

    def controls(self):
        """Return the controls: outer step, the part of the write, and who asks."""
        return {
            "step": ipywidgets.SelectionSlider(options=self.steps, value=self.steps[0], description="outer step"),
            "part": ipywidgets.Dropdown(options=list(PARTS), value="gate θ", description="blame on the"),
            "guest": ipywidgets.Dropdown(options=self.people, value=self.people[0], description="who asks"),
        }

    def build(self):
        """Lay out the board, the chosen guest's row and the coats found."""
        fig, axes = figure(7.2, 4.2, 2, 2, width_ratios=[1.1, 1], height_ratios=[2.6, 1])
        (board, row), (rest, curve) = axes
        rest.remove()
        board.remove()
        board = fig.add_subplot(axes[0, 0].get_gridspec()[:, 0])
        self.board = draw.blame_board(board, self.runs[self.steps[0]]["gate θ"], self.names, "", signed=True, limit=1.0)
        (self.frame,) = board.plot([], [], color=palette.INK, linewidth=1.8)
        on_cells(self.frame)
        self.main = board
        self.title = board.title
        self.bars = draw.bars(row, np.zeros(len(self.names)), self.names, color=palette.SURPRISE)
        row.tick_params(axis="x", labelrotation=60, labelsize=8)
        row.axhline(0, color=palette.MUTED, linewidth=0.8)
        row.set(ylim=(-2.1, 2.1), yticks=[0])
        self.beyond = draw.edges(row)
        self.heading = row.set_title("", fontsize=9.5)
        found = [self.right[step].sum() for step in self.steps]
        draw.line(curve, found, self.steps, color=palette.MUTED, width=1.2, marker="o", markersize=3.5)
        self.now = draw.line(curve, [0], color=palette.INK, width=0, marker="o", markersize=9, mfc="none", mew=2)
        curve.set(ylim=(-0.5, len(self.people) + 0.7), yticks=[0, len(self.people)], xlabel="outer step")
        curve.set_title("coats found", fontsize=9.5)
        return fig

    def draw(self, step, part, guest):
        """Show one outer step, one part of the writes and one guest's row."""
        run, i = self.runs[step], self.people.index(guest)
        numbers = run[part] / self.limits[part]
        self.board.update(numbers)
        for text in self.board.texts.values() if part != "gate θ" else ():
            text.set_text("")  # a length has no sign
        width = len(self.names) - 0.5
        self.frame.set_data([-0.5, width, width, -0.5, -0.5], [i - 0.5, i - 0.5, i + 0.5, i + 0.5, i - 0.5])
        self.title.set_text(f"blame on the {part}, outer step {step}")
        self.bars.update(np.clip(numbers[i], -2.1, 2.1))
        self.beyond.update(numbers[i])
        for bar in self.bars.container:
            bar.set_color(PARTS[part])
        said = int(run["said"][i])
        self.heading.set_text(f"{guest}? " + ("her own coat ✓" if said == i else f"{self.people[said]}’s coat ✗"))
        self.now.update([self.right[step].sum()], [step])

    def alt(self, step, part, guest):
        """Name the write that most blame falls on, for the chosen guest."""
        run, i = self.runs[step], self.people.index(guest)
        others = np.where(np.arange(len(self.names)) == i, -np.inf, run[part][i])
        worst, said = self.names[int(others.argmax())], self.people[int(run["said"][i])]
        coat = "her own coat" if said == guest else f"{said}'s coat"
        return (
            f"Outer step {step}: {guest} is given {coat}; of the other guests' writes, {worst}'s {part} has the most "
            f"blame ({others.max():.2g}). {self.right[step].sum()} of {len(self.people)} coats are found."
        )
