"""The results file: its head, the table drawn from it, and the picture of time per token against length."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
from datetime import date
from pathlib import Path

import torch

from benchmarks.cases import AT_START, LAYER, LAYERS, PER_TOKEN, ROOT, SWEEPS

NOTES = f"""
ratio   how many times longer than `chunked` of the same sizes; attention: than a matrix; whole layers: than `{LAYER}`
ms      process time in one thread of the fastest round: what else runs on a machine only ever adds to it. The median
        over the rounds is beside it, and the spread, slowest over fastest
GFLOP/s operations by formula, 12P − 2P₁ + 2CN per token and head forward and three times that with backward; attention:
        half of the scores, as the mask leaves them
peak    of one training step above its inputs, in a process of its own, where a question asks for it
layers  titans-pytorch is a whole layer: RMSNorm, linear q, k, v and gates, memory. `{LAYER}` is our operator behind the
        same modules, with one head and four sequences as there. `{PER_TOKEN}` computes what ours does;
        `{AT_START}` updates once a chunk and takes every gradient at the initial weights, so it does less
""".strip("\n")
SIZES = ("B", "H", "T", "D", "C")
TITLES = ("provider", "net", "pass", "ratio", "ms", "median", "spread", "GFLOP/s", "peak MiB", " ".join(SIZES))


# -- the head -------------------------------------------------------------------------------------------------------


def hardware() -> dict:
    """Name the processor, PyTorch's version and the number of threads.

    With the vector instructions that PyTorch uses: a lent machine often says no more than the processor's maker, and
    the widths of its vectors change every ratio.
    """
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        named = re.search(r"^model name\s*: (.+)$", info.read_text(), re.M)
        cpu = f"{named[1]}, {os.cpu_count()} cores" if named else cpu
    cpu += f", {torch.backends.cpu.get_cpu_capability()}"
    return {"cpu": cpu, "torch": torch.__version__, "threads": torch.get_num_threads()}


def git(*words: str) -> str:
    """Return the answer of git to a command, asked in this checkout."""
    return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


def commit() -> str:
    """Return the last commit that changed what is measured; a plus sign says that files were changed since.

    A copy on a lent machine is told by TITANS_COMMIT what it is a copy of: its history may be missing, or old.
    """
    if os.environ.get("TITANS_COMMIT"):
        return os.environ["TITANS_COMMIT"]
    code = ("--", *(f":(glob){folder}/**/*.py" for folder in ("titans_mini", "kernels", "benchmarks")))  # no results
    try:
        return git("log", "-1", "--format=%h", *code) + ("+" if git("status", "--porcelain", *code) else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown: no git history here"


def stamp(command: str, machine: dict | None = None) -> dict:
    """Say where, when, from what and how: the head of every results file."""
    machine = machine or hardware()
    return {"hardware": machine, "date": date.today().isoformat(), "commit": commit(), "command": command}


def origin(results: dict) -> str:
    """Return the head of a results file in one line."""
    h = results["hardware"]
    return f"{h['cpu']} · torch {h['torch']} · {h['threads']} thread · {results['date']} · commit {results['commit']}"


def write_json(path: Path, results: dict) -> None:
    """Write results as JSON, readable in a diff."""
    write_text(path, json.dumps(results, indent=1, ensure_ascii=False))


def write_text(path: Path, text: str) -> None:
    """Write a file at once: a reader never meets half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(text + "\n", encoding="utf-8")
    os.replace(part, path)


# -- the table ------------------------------------------------------------------------------------------------------


def table(results: dict) -> str:
    """Lay the results out as text: answers first, then the rows of every sweep."""
    worst = max(results["gate"].values())
    gate = f"gate: {len(results['gate'])} checks of equality passed, largest relative error {worst:.1e}"
    parts = [f"{results['command']}\n{origin(results)}\n{gate}", answers(results["bars"])]
    for name in SWEEPS:
        rows = [row for row in results["rows"] if row["sweep"] == name]
        parts.append("\n".join([f"sweep {name}", *aligned([TITLES, *(_cells(row, rows) for row in rows)], left=3)]))
    return "\n\n".join([*parts, NOTES])


def answers(bars: list[dict]) -> str:
    """Lay the questions out with their numbers; one whose rows are missing says so."""
    cells = [("question, of forward and backward", "bar", "number", "")]
    for bar in bars:
        said = {True: "reached", False: "NOT reached", None: "not measured"}[bar["reached"]]
        cells.append((bar["what"], bar["bar"], show(bar["number"], ".3g"), said))
    return "\n".join(line.rstrip() for line in aligned(cells, left=1, right=3))


def aligned(cells: list[tuple[str, ...]], left: int = 0, right: int | None = None) -> list[str]:
    """Align columns; the first `left` ones and those from `right` on begin together, the others end together."""
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    flush = ["<" if i < left or (right is not None and i >= right) else ">" for i in range(len(widths))]
    return ["  ".join(f"{c:{f}{w}}" for c, f, w in zip(row, flush, widths, strict=True)) for row in cells]


def show(value: float | None, form: str, factor: float = 1) -> str:
    """Format a number; – where there is none."""
    return "–" if value is None else format(value * factor, form)


def _cells(row: dict, rows: list[dict]) -> tuple[str, ...]:
    """Format one row."""
    seconds, work = row["seconds"], row["flops"]
    times = show(seconds, ".2f", 1e3), show(row["median"], ".2f", 1e3), show(row["spread"], ".2f")
    rate, peak = show(work and work / seconds, ".1f", 1e-9), show(row["peak_bytes"], ".1f", 2**-20)
    sizes = " ".join(show(row[key], "d") for key in SIZES)
    return row["provider"], row["net"] or "–", row["pass"], show(_ratio(row, rows), ".2f"), *times, rate, peak, sizes


def _ratio(row: dict, rows: list[dict]) -> float | None:
    """Divide by the time of ours with the same network and sizes; attention is divided by a matrix memory's."""
    ours = {"provider": LAYER if row["provider"] in LAYERS else "chunked", "net": row["net"] or "matrix"}
    same = ours | {key: row[key] for key in ("B", "H", "T", "D", "pass", *(["C"] if row["C"] else []))}
    found = [r["seconds"] for r in rows if all(r[key] == value for key, value in same.items())]
    return row["seconds"] / found[0] if found else None


# -- the picture ----------------------------------------------------------------------------------------------------


def picture(results: dict, path: Path) -> None:
    """Draw time per token against the length of the sequence as an SVG: the same bytes for the same numbers."""
    import matplotlib

    from titans_mini.viz import figure, palette

    lines = {
        "our loop, matrix": ("recurrence", "matrix", palette.SURPRISE, "X"),
        "exact online, matrix": ("online", "matrix", palette.KEY, "s"),
        "chunked, matrix": ("chunked", "matrix", palette.MEMORY, "o"),
        "chunked, MLP (×4)": ("chunked", "mlp4", palette.VALUE, "D"),
        "attention": ("sdpa", None, palette.FORGET, "^"),
    }
    rows = [row for row in results["rows"] if row["sweep"] == "T" and row["pass"] == "both"]
    fig, ax = figure(8.6, 3.8)
    for label, (provider, net, colour, mark) in lines.items():
        found = [(r["T"], r["seconds"] / r["T"] * 1e6) for r in rows if (r["provider"], r["net"]) == (provider, net)]
        ax.loglog(*zip(*found, strict=True), color=colour, marker=mark, markersize=5, label=label)
    ticks = sorted({row["T"] for row in rows})
    ax.set_xticks(ticks, [f"{T:,}" for T in ticks])
    ax.set_yticks([20, 50, 100, 200, 500], [20, 50, 100, 200, 500])
    ax.minorticks_off()
    ax.grid(True, axis="y")
    ax.set(xlabel="T, tokens", ylabel="µs per token, forward + backward")
    fig.legend(loc="outside upper left", ncols=5, frameon=False, fontsize=8.5)
    fig.supxlabel(origin(results), fontsize=7, color=palette.MUTED, x=0.995, ha="right")
    words = {"svg.hashsalt": "titans_mini", "svg.fonttype": "none"}  # letters as text: as outlines they take 300 KB
    with matplotlib.rc_context({**palette.style(), **words}):
        fig.savefig(path, metadata={"Date": None, "Creator": None})
