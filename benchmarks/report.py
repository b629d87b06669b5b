"""The results file, and the table that is drawn from it."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
from datetime import date
from pathlib import Path

import torch

from benchmarks.cases import EVERY_CHUNK, LAYER, PEERS, PER_TOKEN, SWEEPS, cases
from benchmarks.memory import ROOT

KEY = ("sweep", "provider", "net", "B", "H", "T", "D", "C", "depth", "pass")  # what makes a row the same row
NOTES = f"""
bars      number is ours. Ratios are within one sweep: one process, all providers in turn. Chunk sizes are compared at
          the group size that is the faster one.
ratio     how many times longer than ours at the same sizes: than `chunked`, for whole layers than `{LAYER}`.
ms        process time in one thread of the fastest round: what else runs on a machine only ever adds to it. The
          median over the rounds is beside it, and the spread, slowest over fastest. On a GPU: the median, of events.
share     of the rate of the yardstick in the same sweep, 256 products of 64×64×64 in a call. Operations by formula:
          12P − 2P₁ + 2CN per token and head forward, three times that with backward; attention: half of the scores,
          as the mask leaves them.
peak      bytes above the inputs, each in a process of its own (`--memory`).
groups    training keeps a state every 64 tokens, or every chunk where those are longer, and computes what lies between
          again. Those with `{EVERY_CHUNK.strip(", ")}` keep one for every chunk: less time, more memory.
layers    titans-pytorch is a whole layer: RMSNorm, linear q, k, v and gates, memory. `{LAYER}` is our operator
          behind the same modules, with one head and a batch of four sequences as there. Gradients reach parameters
          and input. `{PER_TOKEN}` computes what ours does. `per chunk` updates once a chunk, and
          `default` never refreshes the weights at which it takes gradients: both do less.
""".strip("\n")

SIZES = ("B", "H", "T", "D", "C", "depth")
TITLES = ("provider", "net", "pass", "ratio", "ms", "median", "spread", "GFLOP/s", "share", "peak MiB", " ".join(SIZES))


def hardware(device: str) -> dict:
    """Name the processor, PyTorch's version and the number of threads.

    With the vector instructions that PyTorch uses: a lent machine often says no more than the processor's maker, and
    the widths of its vectors change every ratio.
    """
    if device == "cuda":
        return {"cpu": torch.cuda.get_device_name(), "torch": torch.__version__, "threads": torch.get_num_threads()}
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


def commit(*also: str) -> str:
    """Return the last commit that changed what is measured; a plus sign says that files were changed since.

    A copy on a lent machine is told by TITANS_COMMIT what it is a copy of: its history may be missing, or old.
    """
    if os.environ.get("TITANS_COMMIT"):
        return os.environ["TITANS_COMMIT"]
    code = ("--", ":(glob)titans_mini/**/*.py", ":(glob)benchmarks/*.py", *also)  # code only, no results
    try:
        return git("log", "-1", "--format=%h", *code) + ("+" if git("status", "--porcelain", *code) else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown: no git history here"


def stamp(device: str, command: str) -> dict:
    """Say where, when, from what and how: the head of every results file."""
    return {"hardware": hardware(device), "date": date.today().isoformat(), "commit": commit(), "command": command}


def origins(old: dict, head: dict, sweep: str, memory: bool) -> dict[str, dict]:
    """Say for every sweep in a file when, from what and how it was measured: they may come from different days."""
    keys = ("date", "commit", "command")
    found = {row["sweep"]: {key: old[key] for key in keys} for row in old.get("rows", [])}  # a file of before this rule
    now = {f"{sweep}, peak memory" if memory else sweep: {key: head[key] for key in keys}}
    return old.get("sweeps", found) | now


def merge(old: dict, rows: list[dict]) -> list[dict]:
    """Put new rows in the place of old ones; a peak survives a new timing, and a timing a new peak.

    Args:
        old: the results so far, {} if there are none.
        rows: new rows.

    Returns:
        All rows, in the order of the sweeps.
    """
    found = {tuple(row[key] for key in KEY): row for row in old.get("rows", [])}
    for row in rows:
        before = found.get(tuple(row[key] for key in KEY), {})
        fresh = {key: value for key, value in row.items() if value is not None or key not in before}
        found[tuple(row[key] for key in KEY)] = before | fresh
    return sorted(found.values(), key=lambda row: SWEEPS.index(row["sweep"]))


def read(path: Path, device: str) -> dict:
    """Read the results that a run goes on from; {} if there are none. Rows that no sweep has any more are left out.

    Raises:
        ValueError: if they are from another machine, for ratios of two machines mean nothing.
    """
    if not path.exists():
        return {}
    old, here = json.loads(path.read_text(encoding="utf-8")), hardware(device)
    if old["hardware"] != here:
        raise ValueError(f"{path}: got results of {old['hardware']}, expected {here}: give --json another file")
    every = (case.row() | {"pass": which} for s in SWEEPS for case in cases(s) for which in case.passes)
    known = {tuple(row[key] for key in KEY) for row in every}
    return old | {"rows": [row for row in old["rows"] if tuple(row[key] for key in KEY) in known]}


def write(path: Path, results: dict) -> None:
    """Write the results and the table beside them."""
    write_json(path, results)
    write_text(path.with_suffix(".txt"), table(results))


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
    """Lay the results out as text: bars first, then the rows of every sweep."""
    h = results["hardware"]
    head = f"{h['cpu']} · torch {h['torch']} · {h['threads']} thread · {results['date']} · commit {results['commit']}"
    worst = max(results["gate"].values())
    gate = f"gate: {len(results['gate'])} checks of equality passed, largest relative error {worst:.1e}"
    parts = [f"{results['command']}\n{head}\n{gate}", _bars(results["bars"])]
    for name in SWEEPS:
        of_sweep = {what: o for what, o in results.get("sweeps", {}).items() if what.split(",")[0] == name}
        title = "; ".join(f"{what}: {o['date']}, commit {o['commit']}" for what, o in of_sweep.items())
        parts.append(_sweep(f"sweep {title}", [r for r in results["rows"] if r["sweep"] == name]))
    return "\n\n".join([*filter(None, parts), NOTES])


def _bars(bars: list[dict]) -> str:
    """Lay the verdicts out, of the bars whose rows were measured."""
    measured = [bar for bar in bars if bar["number"] is not None]
    width = max((len(bar["what"]) for bar in measured), default=4)
    lines = [f"{'what':{width}}  {'bar':>9}  {'number':>9}  reached"]
    for bar in measured:
        reached = "yes" if bar["reached"] else "NO"
        lines.append(f"{bar['what']:{width}}  {bar['bar']:>9}  {bar['number']:>9.3g}  {reached}")
    if len(measured) < len(bars):
        lines.append(f"and {len(bars) - len(measured)} bars whose rows are not in this file")
    return "\n".join(lines)


def _sweep(title: str, rows: list[dict]) -> str:
    """Lay the rows of a sweep out; empty without rows."""
    if not rows:
        return ""
    cells = [TITLES, *(_cells(row, rows) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [title]
    for row in cells:
        aligned = [f"{c:{w}}" if i < 3 else f"{c:>{w}}" for i, (c, w) in enumerate(zip(row, widths, strict=True))]
        lines.append("  ".join(aligned))
    return "\n".join(lines)


def _cells(row: dict, rows: list[dict]) -> tuple[str, ...]:
    """Format one row; the time of a package that is not there says so."""
    seconds, work = row["seconds"], row["flops"]
    ratio = _show(_ratio(row, rows), ".2f") if seconds or row["provider"] not in PEERS else "not installed"
    times = _show(seconds, ".2f", 1e3), _show(row["median"], ".2f", 1e3), _show(row["spread"], ".2f")
    rate = _show(work / seconds if work and seconds else None, ".1f", 1e-9)
    peak = _show(row["peak_bytes"], ".1f", 2**-20)
    sizes = " ".join(_show(row[key], "d") for key in SIZES)
    return row["provider"], row["net"] or "–", row["pass"], ratio, *times, rate, _show(row["share"], ".0%"), peak, sizes


def _show(value: float | None, form: str, factor: float = 1) -> str:
    """Format a number; – where there is none."""
    return "–" if value is None else format(value * factor, form)


def _ratio(row: dict, rows: list[dict]) -> float | None:
    """Divide by the time of ours with the same network and sizes; attention is divided by a matrix memory's."""
    ours = LAYER if row["provider"] in (*PEERS, LAYER) else "chunked"
    same = {"provider": ours, "net": row["net"] or "matrix"} | {key: row[key] for key in ("B", "H", "T", "D", "pass")}
    if row["C"]:
        same |= {"C": row["C"], "depth": row["depth"]}
    found = [r["seconds"] for r in rows if all(r[key] == value for key, value in same.items())]
    compared = row["provider"] != "product" and row["seconds"] and found and found[0]
    return row["seconds"] / found[0] if compared else None
