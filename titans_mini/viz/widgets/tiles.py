"""The tile viewer: the cells that a kernel's program holds at each event, and the bytes moved so far."""

from __future__ import annotations

import ipywidgets
import matplotlib
import numpy as np
from matplotlib.colors import to_rgb

from titans_mini.kernels.interpret import Tape
from titans_mini.viz import draw, figure, palette
from titans_mini.viz.draw.board import HELD, MOVED
from titans_mini.viz.widgets.explorer import Explorer

COLOURS = {"q": palette.QUERY, "k": palette.KEY, "v": palette.VALUE, "M": palette.MEMORY, "y": palette.QUERY}
COLOURS |= {"s": palette.SURPRISE, "G": palette.FORGET, "b": palette.FORGET, "M_next": palette.MEMORY}
MOST_PRODUCTS = 5


class TileViewer(Explorer):
    """Recorded runs of kernels over the same tensors, one event at a time.

    Args:
        tapes: kernel → Tape, all with the same tensor names and shapes; "M_next" may be missing in some.
    """

    caption = (
        "Full colour: held by the program that runs now. Pale: moved earlier, and gone. White: not touched yet. Orange "
        "products: results that never leave the program. Right: bytes moved so far, by tensor; dashed: in all, by the "
        "kernel that moves most."
    )

    key = (
        ("held now (each tensor in its colour)", palette.KEY),
        ("moved earlier", tuple(0.68 + 0.32 * c for c in to_rgb(palette.KEY))),
        ("not touched", palette.PAPER),
        ("product", palette.SURPRISE),
    )
    key_on_cells = True

    def __init__(self, tapes: dict[str, Tape]):
        if not tapes or any(not tape.events for tape in tapes.values()):
            raise ValueError("got a tape without events, expected recorded runs: start the kernels inside recording(…)")
        self.tapes = tapes
        self.shapes = {}
        for tape in tapes.values():
            for name, x in tape.names.items():
                shape = (1, *x.shape)[-2:] if x.ndim == 1 else tuple(x.shape)
                if self.shapes.setdefault(name, shape) != shape:
                    raise ValueError(f"got {name} as {shape} and {self.shapes[name]}, expected one shape in all tapes")
        self.longest = max(len(tape.events) for tape in tapes.values())
        self.most = max(tape.bytes(name=name) for tape in tapes.values() for name in tape.names)
        last = {name: {"kernel": name, "event": self.longest} for name in tapes}
        self.presets = {f"{name}: all of it": values for name, values in last.items()}
        self.compared = tuple(self.presets)[:3]
        super().__init__()

    def controls(self):
        """Return the controls: kernel and event."""
        names = list(self.tapes)
        start = round(0.8 * len(self.tapes[names[-1]].events))
        return {
            "kernel": ipywidgets.Dropdown(options=names, value=names[-1], description="kernel"),
            "event": ipywidgets.IntSlider(start, 1, self.longest, description="event"),
        }

    def build(self):
        """Draw one sheet per tensor, boxes for products, and bars of bytes."""
        names = list(self.shapes)
        half = -(-len(names) // 2)
        fig, axes = figure(7.2, 3.9, 3, half + 1, width_ratios=[*[1] * half, 2.0], height_ratios=[1, 1, 0.42])
        for ax in axes.flat:
            ax.set_axis_off()
        self.sheets = {}
        for ax, name in zip(axes[:2, :half].flat, names, strict=False):
            ax.set_axis_on()
            title = f"{name}  {self.shapes[name][0]} × {self.shapes[name][1]}"
            self.sheets[name] = draw.sheet(ax, self.shapes[name], COLOURS.get(name, palette.MUTED), title)
        strip = axes[2, 0]
        grid = strip.get_gridspec()
        for ax in axes[2]:
            ax.remove()
        with matplotlib.rc_context(palette.style()):
            strip = fig.add_subplot(grid[2, :])
        strip.set(xlim=(0, MOST_PRODUCTS), ylim=(0, 1))
        strip.set_axis_off()
        middle = {"ha": "center", "va": "center", "fontsize": 8}
        self.products = [strip.text(i + 0.5, 0.4, "", **middle) for i in range(MOST_PRODUCTS)]
        for ax in axes[:2, half]:
            ax.remove()
        with matplotlib.rc_context(palette.style()):
            right = fig.add_subplot(grid[:2, half])
        self.main = right
        colours = [COLOURS.get(name, palette.MUTED) for name in names]
        most = [max(tape.bytes(name=name) for tape in self.tapes.values()) for name in names]
        right.barh(range(len(names)), most, color="none", edgecolor=palette.MUTED, linewidth=0.8, linestyle="--")
        self.bars = right.barh(range(len(names)), [0] * len(names), color=colours)
        blank = {"fc": palette.PAPER, "ec": "none", "pad": 0.6}
        self.numbers = [right.text(0, i, "", va="center", fontsize=8, bbox=blank) for i in range(len(names))]
        right.set_yticks(range(len(names)), names)
        right.set(xlim=(0, 1.35 * self.most), ylim=(len(names) - 0.5, -0.5), xticks=[])
        right.tick_params(length=0)
        right.spines["bottom"].set_visible(False)
        self.title = right.set_title("", fontsize=9)
        return fig

    def board(self, kernel: str, event: int) -> dict[str, np.ndarray]:
        """Return the state of each tensor's cells (held, moved, untouched) after `event` events of a kernel."""
        tape = self.tapes[kernel]
        done = tape.events[: min(event, len(tape.events))]
        state = {name: np.zeros(shape, int) for name, shape in self.shapes.items()}
        latest = {e.name: e.places for e in done if e.program == done[-1].program and e.what != "dot"}
        for e in done:
            if e.name in state:
                state[e.name].flat[e.places] = MOVED
        for name, places in latest.items():
            state[name].flat[places] = HELD
        return state

    def draw(self, kernel, event):
        """Show the sheets, the products of this program, and the bytes."""
        tape = self.tapes[kernel]
        done = tape.events[: min(event, len(tape.events))]
        for name, state in self.board(kernel, event).items():
            self.sheets[name].update(state)
        made = [e.name for e in done if e.what == "dot" and e.program == done[-1].program]
        for i, text in enumerate(self.products):
            text.set_text(made[i] if i < len(made) else "")
            box = {"boxstyle": "round,pad=0.45", "fc": palette.PAPER, "ec": palette.SURPRISE, "lw": 1.5}
            text.set_bbox(box if i < len(made) else {"fc": "none", "ec": "none"})
        moved = [sum(e.bytes for e in done if e.name == name) for name in self.shapes]
        for bar, number, count in zip(self.bars, self.numbers, moved, strict=True):
            bar.set_width(count)
            number.set_x(count + 0.02 * self.most)
            number.set_text(f"{count:,}" if count else "")
        program = f"program {done[-1].program + 1} of {len(tape.programs)}"
        self.title.set_text(f"{program}\n{sum(moved):,} bytes moved so far")

    def alt(self, kernel, event):
        """Describe the held cells and the moved bytes."""
        tape = self.tapes[kernel]
        done = tape.events[: min(event, len(tape.events))]
        held = [f"{int((state == HELD).sum())} numbers of {n}" for n, state in self.board(kernel, event).items()]
        held = ", ".join(text for text in held if not text.startswith("0 "))
        made = sum(e.what == "dot" and e.program == done[-1].program for e in done)
        return (
            f"{kernel}, event {len(done)} of {len(tape.events)}, program {done[-1].program + 1} of "
            f"{len(tape.programs)}: it has touched {held}, and made {made} products. Moved so far: "
            f"{sum(e.bytes for e in done):,} of {tape.bytes():,} bytes."
        )
