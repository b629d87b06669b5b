"""Speed bars: the recorded time per token of every form of the memory, beside attention."""

from __future__ import annotations

import ipywidgets
import numpy as np

from titans_mini.notebook import load_results
from titans_mini.viz import figure, palette
from titans_mini.viz.widgets.explorer import Explorer

FORMS = {  # name → provider and network of the recorded rows, colour
    "the loop": ("recurrence", "matrix", palette.MEMORY),
    "attention": ("sdpa", None, palette.MUTED),
    "chunks, MLP": ("chunked", "mlp4", palette.MEMORY),
    "exact rule": ("online", "matrix", palette.MEMORY),
    "chunks": ("chunked", "matrix", palette.MEMORY),
}
PASSES = {"forward": "forward", "forward and backward": "both"}
OURS = "chunks"  # the form that the others are compared with


def recorded(results: dict, which: str) -> dict[str, dict[int, float]]:
    """Collect form → tokens T → microseconds per token and four heads, of chunks of 64 and heads of 64.

    Args:
        results: what `load_results("speed_cpu")` returns.
        which: "forward" or "both".
    """
    found: dict[str, dict[int, float]] = {name: {} for name in FORMS}
    for row in results["rows"]:
        for name, (provider, net, _) in FORMS.items():
            same = (row["provider"], row["net"], row["pass"], row["B"]) == (provider, net, which, 1)
            if same and row["sweep"] in ("T", "main") and row["seconds"]:
                least = found[name].get(row["T"], np.inf)
                found[name][row["T"]] = min(least, row["seconds"] / row["T"] * 1e6)
    return found


class SpeedBars(Explorer):
    """Bars of the recorded times: every form of the memory beside attention, as multiples of chunks of a matrix."""

    caption = (
        "Shorter is faster; the axis is logarithmic. Recorded in one process on one thread, all forms in turns. The "
        "number behind a bar is its ratio to the lowest bar. The loop was measured at 512 tokens only, and its time "
        "per token does not depend on the length."
    )
    key = tuple((name, colour) for name, (_, _, colour) in FORMS.items())
    compared = ("short", "long", "a training step")
    presets = {
        "short": {"T": 2048},
        "long": {"T": 16384},
        "a training step": {"T": 4096, "which": "forward and backward"},
    }

    def __init__(self):
        results = load_results("speed_cpu")
        self.times = {name: recorded(results, which) for name, which in PASSES.items()}
        self.rows = results["rows"]
        self.hardware, self.date = results["hardware"], results["date"]
        self.lengths = sorted(T for T in self.times["forward"][OURS] if T >= 2048)
        super().__init__()

    def controls(self):
        """Return the controls: the pass and the number of tokens."""
        lengths = [(f"{T:,}", T) for T in self.lengths]
        return {
            "which": ipywidgets.Dropdown(options=list(PASSES), value="forward", description="pass"),
            "T": ipywidgets.SelectionSlider(options=lengths, value=4096, description="tokens T"),
        }

    def time_of(self, name: str, which: str, T: int) -> float:
        """Return microseconds per token; NaN where none was recorded. The loop's are of the one length it has."""
        times = self.times[which][name]
        return times.get(T, min(times.values(), default=np.nan) if name == "the loop" else np.nan)

    def sizes_of(self, name: str) -> dict[int, float]:
        """Return chunk size C → forward microseconds per token, of a form that was measured over C."""
        provider, net, _ = FORMS[name]
        key = ("C", provider, net, "forward")
        return {
            row["C"]: row["seconds"] / row["T"] * 1e6
            for row in self.rows
            if (row["sweep"], row["provider"], row["net"], row["pass"]) == key
        }

    def operations(self, name: str) -> dict[int, int]:
        """Return tokens T → counted operations of a forward pass."""
        provider, net, _ = FORMS[name]
        key = ("T", provider, net, "forward")
        return {
            row["T"]: row["flops"]
            for row in self.rows
            if (row["sweep"], row["provider"], row["net"], row["pass"]) == key
        }

    def ratios(self, which: str, T: int) -> dict[str, float]:
        """Return how many times as long as chunks of a matrix each form takes."""
        ours = self.time_of(OURS, which, T)
        return {name: self.time_of(name, which, T) / ours for name in FORMS}

    def build(self):
        """Draw one bar for each form, with its ratio behind it."""
        fig, ax = figure(7.2, 2.7)
        names, place = list(FORMS), np.arange(len(FORMS))[::-1]
        colours = [FORMS[name][2] for name in names]
        self.bars = ax.barh(place, np.ones(len(names)), 0.66, left=1, color=colours, edgecolor=palette.INK, lw=0.5)
        self.words = [ax.text(1, y, "", va="center", fontsize=9.5) for y in place]
        ax.set_yticks(place, names)
        ax.tick_params(axis="y", length=0)
        ax.set(xscale="log", xlim=(1, 2500), xlabel="microseconds per token, four heads of 64")
        ax.set_xticks([1, 10, 100, 1000], ["1", "10", "100", "1,000"])
        ax.minorticks_off()
        self.title = ax.set_title("", loc="left")
        return fig

    def draw(self, which, T):
        """Move the bars to another pass and length."""
        ratios = self.ratios(which, T)
        for bar, text, name in zip(self.bars, self.words, FORMS, strict=True):
            micro = self.time_of(name, which, T)
            bar.set_width(max(micro - 1, 0) if np.isfinite(micro) else 0)
            text.set_x(1.1 * (micro if np.isfinite(micro) else 1))
            text.set_text(_times(ratios[name]) if name != OURS else f"{micro:.3g} µs")
        self.title.set_text(f"{which}, T = {T:,}")

    def alt(self, which, T):
        """Name the ratios, the machine and the day."""
        each = ", ".join(f"{name} {_times(x)}" for name, x in self.ratios(which, T).items() if name != OURS)
        cpu = self.hardware["cpu"].split(",")[0]
        return (
            f"Recorded {which} times at {T:,} tokens against chunks of a matrix, {self.time_of(OURS, which, T):.3g} µs "
            f"per token: {each}. One thread of {cpu}, {self.date}."
        )


def _times(ratio: float) -> str:
    """Write a ratio with two or three digits, or that it was not measured."""
    return "not measured" if np.isnan(ratio) else f"{ratio:.0f} ×" if ratio >= 10 else f"{ratio:.1f} ×"
