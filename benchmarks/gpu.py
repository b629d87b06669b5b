"""The kernels on a GPU beside attention, flash-linear-attention and our matrix products: `python -m benchmarks.gpu`.

A correctness gate runs first on the device; if it fails, nothing is timed. Without a GPU the command says so, and if
there is no record yet it records that nothing was measured.
"""

from __future__ import annotations

import argparse
import gc
import sys
from collections.abc import Callable, Iterator
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import torch

from benchmarks import measure, report
from benchmarks.cases import LAYER, PER_TOKEN, ROOT, Case, Question, find, flops
from benchmarks.gpu_forms import DEVICE, Missing, Work, failures, ready, run_gate
from benchmarks.measure import Times, say

RECORD = ROOT / "assets" / "results" / "kernels_gpu.json"
NOT_YET = "not yet measured: no GPU was at hand when this was recorded"
LENGTHS = (2048, 4096, 8192, 16384, 32768, 65536)
SEQUENCES = ((1, 4), (1, 16), (8, 16), (32, 16))  # batch and heads
TORCH_UP_TO = 8192  # largest T of this library's own torch path
MILLION = 2**20
SWEEPS = ("T", "heads", "chain", "million", "layers")
OURS = ("triton", "triton online")  # the exact online rule is a matrix memory with anchor="token"
HALF, SINGLE = 2, 4  # bytes of bfloat16 and of float32


def main(words: list[str] | None = None) -> int:
    """Check, then measure, then print the table; return the exit status."""
    options = parse(words)
    if not torch.cuda.is_available():
        print("no GPU here: torch.cuda.is_available() is False; nothing is measured", file=sys.stderr)
        if not options.json.exists():
            write(options.json, not_measured(options.command))
        return 2
    say("correctness gate")
    checks = run_gate()
    wrong = failures(checks)
    if wrong or not checks:
        print("the correctness gate failed, so nothing was timed:", *wrong, sep="\n  ", file=sys.stderr)
        return 1
    machine = yardsticks(options.rounds)
    head = {"status": "measured", **report.stamp(options.command, hardware())}
    rows: list[dict] = []
    for sweep in ["chain", *(name for name in options.sweep if name != "chain")]:  # the chain is part of every floor
        rows += measure_sweep(cases(sweep, options.quick and sweep != "chain"), options.rounds, machine)
        machine = machine._replace(steps=steps(rows))
        verdicts = [question.verdict(rows) for question in questions()]
        reached = {"rate": machine.rate, "bandwidth": machine.bandwidth}
        results = {**head, "machine": reached, "gate": checks, "bars": verdicts, "rows": rows}
        write(options.json, results)  # a GPU is lent for minutes: what was measured stays
    print(table(results))
    return 0


def parse(words: list[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser("python -m benchmarks.gpu", description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--sweep", nargs="+", choices=SWEEPS, default=list(SWEEPS), help="default: all; chain is always measured")
    add("--rounds", type=int, default=5, help="of every measurement, after a warm-up (default 5)")
    add("--quick", action="store_true", help="the shortest lengths only")
    add("--json", type=Path, default=RECORD, help=f"results file (default {RECORD.relative_to(ROOT)})")
    options = parser.parse_args(words)
    given = sys.argv[1:] if words is None else words
    options.command = " ".join(["python -m benchmarks.gpu", *given])
    return options


def hardware() -> dict:
    """Return the GPU and the versions of torch and triton."""
    import triton

    capability = "sm_{}{}".format(*torch.cuda.get_device_capability())
    versions = {"torch": torch.__version__, "triton": triton.__version__}
    return {"gpu": torch.cuda.get_device_name(), "sm": capability, **versions}


def not_measured(command: str) -> dict:
    """Build the record of a machine without a GPU: the questions, without any figure."""
    verdicts = [question.verdict([]) for question in questions()]
    head = {"status": NOT_YET, **report.stamp(command), "hardware": None}
    return {**head, "machine": None, "gate": {}, "bars": verdicts, "rows": []}


# -- cases and questions -----------------------------------------------------------------------------------------------


def cases(sweep: str, quick: bool = False) -> list[Case]:
    """List the cases of a sweep.

    Args:
        sweep: one of SWEEPS.
        quick: the shortest lengths only, as a smoke test.

    Raises:
        ValueError: if there is no such sweep.
    """
    lists = {"T": _over_T, "heads": _over_heads, "chain": _chain, "million": _million, "layers": _layers}
    if sweep not in lists:
        raise ValueError(f"sweep: got {sweep!r}, expected one of {list(lists)}")
    found = list(lists[sweep]())
    return [case for case in found if case.T <= 2 * LENGTHS[0]] if quick else found


def _all(sweep: str, T: int = 8192, B: int = 1, H: int = 16) -> Iterator[Case]:
    """Yield every provider of the operator at one size."""
    nets = [("triton", "matrix"), ("triton", "mlp2"), ("triton", "mlp4"), ("triton online", "matrix")]
    yield from (Case(sweep, provider, net, T=T, B=B, H=H) for provider, net in [*nets, ("fla", None), ("sdpa", None)])


def _over_T() -> Iterator[Case]:
    for T in LENGTHS:
        yield from _all("T", T=T)
        if T <= TORCH_UP_TO:
            yield from (Case("T", "chunked", net, T=T, H=16) for net in ("matrix", "mlp2"))


def _over_heads() -> Iterator[Case]:
    for B, H in SEQUENCES:
        yield from _all("heads", B=B, H=H)


def _chain() -> Iterator[Case]:
    """Yield one sequence alone: nothing but the chain from chunk to chunk."""
    yield from (Case("chain", "triton", net, T=65536, H=1) for net in ("matrix", "mlp2", "mlp4"))


def _million() -> Iterator[Case]:
    yield Case("million", "triton", "matrix", T=MILLION, H=16)


def _layers() -> Iterator[Case]:
    """Yield whole layers with one head: ours behind titans-pytorch's modules, and theirs with our semantics."""
    for net in ("matrix", "mlp2"):
        yield from (Case("layers", provider, net, T=512, B=16, H=1) for provider in (LAYER, PER_TOKEN))


def questions() -> list[Question]:
    """List what a user asks; all of a training step, forward and backward."""
    asked = [_faster("matrix", "fla", 8192, round(1 / 1.2, 3))]
    asked += [_faster(net, "sdpa", T, 1) for net, T in (("matrix", 2048), ("mlp2", 4096), ("mlp4", 8192))]
    asked += [_faster(net, "chunked", 8192, 5, net) for net in ("matrix", "mlp2")]
    asked += [_faster(net, PER_TOKEN, 512, 50, net, "layers", LAYER) for net in ("matrix", "mlp2")]
    million = {"sweep": "million", "provider": "triton", "pass": "both"}
    what = "matrix, a million tokens, 16 heads of 64: GiB at the peak"
    return [*asked, Question(what, "≤", 24, lambda rows: find(rows, "peak_bytes", **million) / 2**30)]


def _faster(
    net: str, other: str, T: int, limit: float, their_net: str | None = None, sweep: str = "T", ours: str = "triton"
) -> Question:
    """Ask how many times faster ours is."""
    same = {"sweep": sweep, "T": T, "pass": "both"}
    top, bottom = same | {"provider": other, "net": their_net}, same | {"provider": ours, "net": net}
    what = f"{net}, T {T:,}: times faster than {other}"
    return Question(what, "≥", limit, lambda rows: find(rows, **top) / find(rows, **bottom))


# -- measuring ---------------------------------------------------------------------------------------------------------


class Machine(NamedTuple):
    """Rates that a GPU reaches, measured in the same run."""

    rate: float  # operations per second of a large product in bfloat16
    bandwidth: float  # bytes per second of a large copy, read and written
    steps: dict[tuple[str, str], float]  # seconds per chunk of one sequence alone, by (net, pass)


def yardsticks(rounds: int) -> Machine:
    """Measure the GPU's rate by a bfloat16 product of 8,192 cubed, and its bandwidth by a copy of a gigabyte."""
    a, b = (torch.randn(8192, 8192, device=DEVICE, dtype=torch.bfloat16) for _ in range(2))
    source = torch.empty(2**30, device=DEVICE, dtype=torch.uint8)
    target = torch.empty_like(source)
    calls = {"product": lambda: a @ b, "copy": lambda: target.copy_(source)}
    found = measure.measure(calls, rounds, DEVICE)
    return Machine(2 * 8192**3 / found["product"].median, 2 * 2**30 / found["copy"].median, {})


def steps(rows: list[dict]) -> dict[tuple[str, str], float]:
    """Return the seconds per chunk of one sequence alone, by (network, pass)."""
    alone = [row for row in rows if row["sweep"] == "chain" and row["seconds"]]
    return {(row["net"], row["pass"]): row["seconds"] / -(-row["T"] // row["C"]) for row in alone}


def least_bytes(case: Case, which: str) -> int:
    """Count the least bytes moved: inputs and gates read once, outputs and gradients written once.

    Forward: q, k, v, y in half precision and three gates in single. Backward: q, k, v, dy in, dq, dk, dv out, the gates
    in and their gradients out. Attention has no gates; states are small beside a sequence and not counted.
    """
    gates = 0 if case.provider == "sdpa" else 3
    forward = 4 * case.D * HALF + gates * SINGLE
    backward = 7 * case.D * HALF + 2 * gates * SINGLE
    return case.B * case.H * case.T * (forward if which == "forward" else forward + backward)


def floor(case: Case, which: str, machine: Machine) -> dict[str, float | None]:
    """Compute three lower bounds in seconds: by matrix units, by bytes, and by the chain of chunks.

    The chain is the time per chunk of one sequence alone, times the number of chunks: more sequences do not make it
    shorter. Attention and other providers have no chain of ours.
    """
    work = flops(case, which)
    step = machine.steps.get((case.net, which)) if case.provider in OURS else None
    return {
        "matrix": work / machine.rate if work else None,
        "bytes": least_bytes(case, which) / machine.bandwidth,
        "chain": step * -(-case.T // case.C) if step else None,
    }


def measure_sweep(
    todo: list[Case],
    rounds: int,
    machine: Machine,
    make: Callable[[Case], Work] = ready,
    clock: Callable[..., dict] = measure.measure,
    weigh: Callable[[Work, str], int | None] | None = None,
) -> list[dict]:
    """Measure cases size by size: all cases of one size are timed in turn, then freed before the next size.

    Args:
        todo: the cases, grouped by size.
        rounds: timing rounds.
        machine: the GPU's measured rates.
        make: builds the work of a case; may raise Missing.
        clock: the timing function.
        weigh: measures the peak memory of a pass; default `peak_bytes`.

    Returns:
        One row per case and pass.
    """
    rows = []
    for _, group in groupby(todo, key=lambda case: (case.T, case.B, case.H)):
        works, why = {}, {}
        for case in group:
            try:
                works[case] = make(case)
            except Missing as reason:
                why[case] = str(reason)
        calls = {(case, which): partial(work.call, which) for case, work in works.items() for which in case.passes}
        times: dict[tuple[Case, str], Times] = clock(calls, rounds, DEVICE) if calls else {}
        for case in [*works, *why]:
            for which in case.passes:
                peak = (weigh or peak_bytes)(works[case], which) if case in works else None
                rows.append(row_of(case, which, times.get((case, which)), peak, machine, why.get(case)))
        del works, calls
        gc.collect()
    return rows


def peak_bytes(work: Work, which: str) -> int:
    """Measure the peak memory of a pass in bytes, inputs included."""
    torch.cuda.reset_peak_memory_stats()
    work.call(which)
    return torch.cuda.max_memory_allocated()


def row_of(case: Case, which: str, times: Times | None, peak: int | None, machine: Machine, why: str | None) -> dict:
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
        "missing": why,
    }


# -- the table ---------------------------------------------------------------------------------------------------------

TITLES = "provider", "net", "pass", "B", "H", "T", "ms", "spread", "Mtok/s", "TFLOP/s", "of matrix", "of floor", "ratio"
NOTES = """
ratio      how many times longer than the kernels of a matrix memory (anchored) at the same sizes
of matrix  operations by formula, over what a large bfloat16 product reached in the same run
of floor   the largest of three least times (matrix units, bytes, chain of chunks) over the time
fla        chunk_gated_delta_rule: one state, no momentum, the exact rule; less work than ours. On Hopper with Triton
           before 3.7.1 its own guard calls its backward pass wrong there; it is timed all the same
layers     whole layers in float32: ours behind the modules of titans-pytorch, and theirs at one update a token
""".strip("\n")


def write(path: Path, results: dict) -> None:
    """Write results as JSON, and the table beside them."""
    report.write_json(path, results)
    report.write_text(path.with_suffix(".txt"), table(results))


def table(results: dict) -> str:
    """Format results as text: the questions, then the rows of every sweep."""
    lines = [results["command"], f"{results['status']} · {results['date']} · commit {results['commit']}"]
    if results["hardware"]:
        lines.append(" · ".join(results["hardware"].values()))
    said = {True: "yes", False: "NO", None: "–"}
    goals = [("goal", f"{'bar':>8}", f"{'number':>9}", "reached")]
    goals += [(b["what"], b["bar"], report.show(b["number"], ".3g"), said[b["reached"]]) for b in results["bars"]]
    lines += ["", *(line.rstrip() for line in report.aligned(goals, left=1, right=3))]
    for sweep in SWEEPS:
        lines += _sweep(sweep, [row for row in results["rows"] if row["sweep"] == sweep])
    return "\n".join([*lines, "", NOTES] if results["rows"] else lines)


def _sweep(name: str, rows: list[dict]) -> list[str]:
    """Format the rows of one sweep."""
    if not rows:
        return []
    notes = sorted({f"{r['provider']} {r['net'] or ''}: {r['missing']}" for r in rows if r["missing"]})
    return ["", f"sweep {name}", *report.aligned([TITLES, *(_cells(row, rows) for row in rows)]), *notes]


def _cells(row: dict, rows: list[dict]) -> tuple[str, ...]:
    """Format one row."""
    seconds, show = row["seconds"], report.show
    same = {key: row[key] for key in ("pass", "B", "H", "T")}
    try:
        ratio = seconds and seconds / find(rows, provider="triton", net="matrix", **same)
    except LookupError:
        ratio = None
    tokens = seconds and row["B"] * row["T"] / seconds
    rate = seconds and row["flops"] and row["flops"] / seconds
    numbers = show(seconds, ".3f", 1e3), show(row["spread"], ".2f"), show(tokens, ".2f", 1e-6), show(rate, ".1f", 1e-12)
    shares = show(row["of_matrix"], ".0%"), show(row["of_floor"], ".0%"), show(ratio, ".2f")
    sizes = (str(row[key]) for key in ("B", "H", "T"))
    return row["provider"], row["net"] or "–", row["pass"], *sizes, *numbers, *shares


if __name__ == "__main__":
    sys.exit(main())
