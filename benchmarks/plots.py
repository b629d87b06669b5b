"""Figures of the recorded results: `python -m benchmarks.plots` draws assets/speed_*.svg from the results file.

All numbers are read from the file: after a new recording this command updates every figure.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from benchmarks.report import ROOT
from titans_mini.viz import figure, legend
from titans_mini.viz.palette import DIVERGED, FORGET, INK, KEY, MEMORY, MUTED, SURPRISE, VALUE, style

RESULTS = ROOT / "assets" / "results" / "chunked_cpu.json"
WORDS = {"forward": "forward", "both": "forward + backward"}
LINES = {  # (provider, net): label, colour, marker
    ("recurrence", "matrix"): ("loop, matrix", SURPRISE, "X"),
    ("online", "matrix"): ("exact online, matrix", KEY, "s"),
    ("chunked", "matrix"): ("chunked, matrix", MEMORY, "o"),
    ("chunked", "mlp4"): ("chunked, MLP (×4)", VALUE, "D"),
    ("sdpa", None): ("attention", FORGET, "^"),
}


def points(rows: list[dict], sweep: str, provider: str, net: str | None, which: str) -> tuple[list[int], list[float]]:
    """Return the points of a line: the swept sizes, and microseconds per token."""
    wanted = {"sweep": sweep, "provider": provider, "net": net, "pass": which}
    found = [r for r in rows if all(r[key] == value for key, value in wanted.items()) and r["seconds"]]
    pairs = sorted((r[sweep], r["seconds"] / r["T"] / r["B"] * 1e6) for r in found)
    return [x for x, _ in pairs], [y for _, y in pairs]


def draw_lines(ax: Axes, rows: list[dict], sweep: str, which: str) -> None:
    """Draw time per token of every provider of a sweep, both axes logarithmic."""
    ticks = set()
    for (provider, net), (words, colour, mark) in LINES.items():
        x, y = points(rows, sweep, provider, net, which)
        if x:
            ax.plot(x, y, color=colour, marker=mark, markersize=5, label=words, linestyle="-" if len(x) > 1 else "")
            ticks |= set(x)
    ax.set_xscale("log", base=2)
    ax.set_yscale("log", base=10)
    ticks = sorted(ticks)
    ax.set_xticks(ticks, [f"{t:,}" for t in ticks], rotation=45 if max(ticks) > 999 else 0)
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.yaxis.set_major_formatter("{x:g}")
    ax.yaxis.set_minor_formatter(NullFormatter())  # major and minor labels would overlap
    ax.grid(True, axis="y")
    ax.set_title(WORDS[which], loc="left")


def over(results: dict, sweep: str, xlabel: str) -> Figure:
    """Draw a sweep: forward on the left, forward and backward on the right, on a shared scale."""
    fig, axes = figure(8.6, 3.6, 1, 2, sharey=True)
    for ax, which in zip(axes, WORDS, strict=True):
        draw_lines(ax, results["rows"], sweep, which)
        ax.set_xlabel(xlabel)
    axes[0].set_ylabel("µs per token")
    handles, labels = axes[0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside upper left", ncols=5, frameon=False, fontsize=8.5)
    return fig


def score(bar: dict) -> float:
    """Compute how far a bar is reached, clamped to a factor of 8: 1 meets it, 2 is twice as good."""
    sense, limit = bar["bar"].split()
    found = bar["number"] / float(limit) if sense == "≥" else float(limit) / max(bar["number"], 1e-12)
    return min(max(found, 1 / 8), 8)


def bars(results: dict) -> Figure:
    """Draw every measured bar relative to its limit."""
    measured = [bar for bar in results["bars"] if bar["number"] is not None]
    fig, ax = figure(8.6, 1.0 + 0.19 * len(measured))
    scores, at = [score(bar) for bar in measured], range(len(measured))
    colours = [KEY if bar["reached"] else DIVERGED for bar in measured]
    ax.hlines(at, 1, scores, color=colours, linewidth=1.6)
    for reached, mark, words in ((True, "o", "reached"), (False, "X", "not reached")):
        where = [i for i in at if measured[i]["reached"] == reached]
        colour = KEY if reached else DIVERGED
        ax.scatter([scores[i] for i in where], where, marker=mark, s=26, color=colour, zorder=3, label=words)
    ax.axvline(1, color=INK, linewidth=0.9)
    ax.set_yticks(list(at), [f"{bar['what']}  {bar['bar']}" for bar in measured], fontsize=7)
    ax.set_ylim(len(measured) - 0.4, -0.6)
    ax.set_xscale("log", base=2)
    ax.set_xlim(1 / 10, 10)
    ax.set_xticks([1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8], ["≤ ⅛", "¼", "½", "bar", "2×", "4×", "≥ 8×"])
    ax.grid(True, axis="x")
    ax.tick_params(axis="y", length=0, labelcolor=INK)
    legend(ax, loc="upper left", bbox_to_anchor=(0.0, -0.04 if len(measured) < 20 else -0.02), ncols=2)
    return fig


def note(fig: Figure, results: dict, *sweeps: str) -> None:
    """Write the origin of some sweeps' numbers into the figure's corner."""
    h, found = results["hardware"], results["sweeps"]
    origins = dict.fromkeys(f"{found[s]['date']}, commit {found[s]['commit']}" for s in sweeps if s in found)
    words = " · ".join([h["cpu"], f"torch {h['torch']}", "one thread", *origins])
    fig.supxlabel(words, fontsize=7, color=MUTED, x=0.995, ha="right")


def save(fig: Figure, path: Path) -> None:
    """Write an SVG deterministically: the same bytes for the same numbers."""
    words = {"svg.hashsalt": "titans_mini", "svg.fonttype": "none"}  # letters as text: as outlines they take 300 KB
    with matplotlib.rc_context({**style(), **words}):
        fig.savefig(path, metadata={"Date": None, "Creator": None})


def draw(results: dict) -> dict[str, Figure]:
    """Draw all figures of a results file, by the name of their file."""
    figures = {"speed_T": over(results, "T", "T, tokens"), "speed_C": over(results, "C", "C, tokens in a chunk")}
    figures["speed_bars"] = bars(results)
    note(figures["speed_T"], results, "T")
    note(figures["speed_C"], results, "C")
    note(figures["speed_bars"], results, "main", "T", "C", "main, peak memory", "T, peak memory")
    return figures


def main() -> None:
    """Draw and save all figures."""
    parser = argparse.ArgumentParser("python -m benchmarks.plots", description=__doc__)
    parser.add_argument("--json", type=Path, default=RESULTS)
    parser.add_argument("--to", type=Path, default=ROOT / "assets", help="folder of the pictures")
    options = parser.parse_args()
    results = json.loads(options.json.read_text(encoding="utf-8"))
    for name, fig in draw(results).items():
        save(fig, options.to / f"{name}.svg")
        print(options.to / f"{name}.svg")


if __name__ == "__main__":
    main()
