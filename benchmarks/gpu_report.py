"""GPU results as rows, bars and a table, and the record that states that nothing was measured yet."""

from __future__ import annotations

import operator
from collections.abc import Callable
from datetime import date
from typing import NamedTuple

import torch

from benchmarks import cases as cpu
from benchmarks import report
from benchmarks.gpu_cases import MILLION, SWEEPS, Case, Machine, floor, flops, least_bytes
from benchmarks.timing import Times

NOT_YET = "not yet measured: no GPU was at hand when this was recorded"
KERNELS = ":(glob)kernels/*.py"  # also part of the measured code
TITLES = "provider", "net", "pass", "B", "H", "T", "ms", "spread", "Mtok/s", "TFLOP/s", "of matrix", "of floor", "ratio"
NOTES = """
ratio      how many times longer than the kernels of a matrix memory (anchored) at the same sizes
of matrix  operations by formula, over what a large bfloat16 product reached in the same run
of floor   the largest of three least times (matrix units, bytes, chain of chunks) over the time
fla        chunk_gated_delta_rule: one state, no momentum, the exact rule; less work than ours. On Hopper with Triton
           before 3.7.1 its own guard calls its backward pass wrong there; it is timed all the same
layers     whole layers in float32: ours behind the modules of titans-pytorch, and theirs at one update a token
""".strip("\n")


def rows_of(case: Case, which: str, times: Times | None, peak: int | None, machine: Machine, why: str = "") -> dict:
    """Build one row: a time and the figures derived from it by formulas, or the reason of a missing time."""
    work, least = flops(case, which), floor(case, which, machine)
    seconds = times.median if times else None
    longest = max(x for x in least.values() if x)
    return {
        **case.row(),
        "pass": which,
        "seconds": seconds,
        "min": times.fastest if times else None,
        "spread": times.spread if times else None,
        "flops": work,
        "bytes": least_bytes(case, which),
        "of_matrix": work / seconds / machine.rate if work and seconds else None,
        "floor": least,
        "of_floor": longest / seconds if seconds else None,
        "peak_bytes": peak,
        "missing": why or None,
    }


# -- bars -----------------------------------------------------------------------------------------------------------


class Rows:
    """The rows of a results file, looked up by their fields; None if a row is missing."""

    def __init__(self, rows: list[dict]) -> None:
        keys = "sweep", "provider", "net", "pass", "T", "B", "H"
        self.found = {tuple(row[key] for key in keys): row for row in rows}

    def get(self, sweep: str, provider: str, net: str | None, which: str, T: int, **sizes: int) -> float | None:
        """Return the seconds of a row, or another field."""
        field = sizes.pop("field", "seconds")
        key = sweep, provider, net, which, T, sizes.get("B", 1), sizes.get("H", 16)
        return self.found.get(key, {}).get(field)

    def ratio(self, top: tuple, bottom: tuple, **sizes: int) -> float | None:
        """Return the ratio of two times; None if one is missing."""
        a, b = self.get(*top, **sizes), self.get(*bottom, **sizes)
        return a / b if a and b else None


class Bar(NamedTuple):
    """One goal: description, direction, limit, and the function that reads our number off the rows."""

    what: str
    sense: str
    limit: float
    measure: Callable[[Rows], float | None]

    def verdict(self, rows: Rows) -> dict:
        """Compare our number with the limit; `reached` is None if a row is missing."""
        number = self.measure(rows)
        compare = operator.ge if self.sense == "≥" else operator.le
        reached = None if number is None else bool(compare(number, self.limit))
        return {"what": self.what, "bar": f"{self.sense} {self.limit:g}", "number": number, "reached": reached}


def against(other: str, net: str, which: str, T: int, limit: float, their_net: str | None = None) -> Bar:
    """Build the bar on the kernels' speed-up over another provider."""
    words = {"forward": "forward", "both": "forward+backward"}[which]
    what = f"{net}, T {T:,}: times faster than {other}, {words}"
    ours, theirs = ("T", "triton", net, which, T), ("T", other, their_net, which, T)
    return Bar(what, "≥", limit, lambda rows: rows.ratio(theirs, ours))


def all_bars() -> list[Bar]:
    """List every goal of the kernels."""
    bars = [against("fla", "matrix", "forward", 8192, 1.0), against("fla", "matrix", "both", 8192, round(1 / 1.2, 3))]
    bars += [against("sdpa", net, "both", T, 1.0) for net, T in (("matrix", 2048), ("mlp2", 4096), ("mlp4", 8192))]
    bars += [against("chunked", net, which, 8192, 5.0, net) for net in ("matrix", "mlp2") for which in cpu.PASSES]
    for net, limit in (("matrix", 2.0), ("mlp2", 4.0)):
        bars.append(Bar(f"{net}: microseconds a chunk, one sequence alone, forward", "≤", limit, _step(net)))
    for net in ("matrix", "mlp2"):
        ours, theirs = (("layers", provider, net, "both", 512) for provider in (cpu.LAYER, cpu.PER_TOKEN))
        what = f"{net} layer, T 512: times faster than titans-pytorch per token, forward+backward"
        bars.append(Bar(what, "≥", 50, lambda rows, a=theirs, b=ours: rows.ratio(a, b, B=16, H=1)))
    bars.append(Bar("matrix, 1M tokens, 16 heads of 64: GiB at the peak, forward+backward", "≤", 24, _gigabytes))
    return bars


def _step(net: str) -> Callable[[Rows], float | None]:
    def microseconds(rows: Rows) -> float | None:
        seconds = rows.get("chain", "triton", net, "forward", 65536, H=1)
        return seconds and 1e6 * seconds * 64 / 65536

    return microseconds


def _gigabytes(rows: Rows) -> float | None:
    peak = rows.get("million", "triton", "matrix", "both", MILLION, field="peak_bytes")
    return peak and peak / 2**30


# -- records ---------------------------------------------------------------------------------------------------------


def hardware() -> dict:
    """Return the GPU and the versions of torch and triton."""
    import triton

    capability = "sm_{}{}".format(*torch.cuda.get_device_capability())
    versions = {"torch": torch.__version__, "triton": triton.__version__}
    return {"gpu": torch.cuda.get_device_name(), "sm": capability, **versions}


def head(command: str, machine: dict | None) -> dict:
    """Return the hardware, date, commit and command of a record."""
    return {"hardware": machine, "date": date.today().isoformat(), "commit": report.commit(KERNELS), "command": command}


def not_measured(command: str) -> dict:
    """Build the record of a machine without a GPU: the goals, without any figure."""
    verdicts = [bar.verdict(Rows([])) for bar in all_bars()]
    return {"status": NOT_YET, **head(command, None), "machine": None, "gate": {}, "bars": verdicts, "rows": []}


def table(results: dict) -> str:
    """Format results as text: the goals, then the rows of every sweep."""
    lines = [results["command"], f"{results['status']} · {results['date']} · commit {results['commit']}"]
    if results["hardware"]:
        lines.append(" · ".join(results["hardware"].values()))
    said = {True: "yes", False: "NO", None: "–"}
    width = max(len(bar["what"]) for bar in results["bars"])
    lines += ["", f"{'goal':{width}}  {'bar':>8}  {'number':>9}  reached"]
    for bar in results["bars"]:
        number = "–" if bar["number"] is None else f"{bar['number']:.3g}"
        lines.append(f"{bar['what']:{width}}  {bar['bar']:>8}  {number:>9}  {said[bar['reached']]}")
    for sweep in SWEEPS:
        lines += _sweep(sweep, [row for row in results["rows"] if row["sweep"] == sweep])
    return "\n".join([*lines, "", NOTES] if results["rows"] else lines)


def _sweep(name: str, rows: list[dict]) -> list[str]:
    """Format the rows of one sweep."""
    if not rows:
        return []
    cells = [TITLES, *(_cells(row, rows) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    laid = ["  ".join(f"{c:>{w}}" for c, w in zip(row, widths, strict=True)) for row in cells]
    notes = sorted({f"{r['provider']} {r['net'] or ''}: {r['missing']}" for r in rows if r["missing"]})
    return ["", f"sweep {name}", *laid, *notes]


def _cells(row: dict, rows: list[dict]) -> list[str]:
    """Format one row."""
    seconds, same = row["seconds"], ("pass", "B", "H", "T")
    ours = [r["seconds"] for r in rows if (r["provider"], r["net"]) == ("triton", "matrix")
            and all(r[key] == row[key] for key in same)]  # fmt: skip
    tokens = row["B"] * row["T"] / seconds / 1e6 if seconds else None
    rate = row["flops"] / seconds / 1e12 if row["flops"] and seconds else None
    ratio = seconds / ours[0] if seconds and ours and ours[0] else None
    numbers = (seconds and seconds * 1e3, ".3f"), (row["spread"], ".2f"), (tokens, ".2f"), (rate, ".1f")
    numbers += (row["of_matrix"], ".0%"), (row["of_floor"], ".0%"), (ratio, ".2f")
    shown = ["–" if x is None else f"{x:{form}}" for x, form in numbers]
    return [row["provider"], row["net"] or "–", row["pass"], *(str(row[key]) for key in ("B", "H", "T")), *shown]
