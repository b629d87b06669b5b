"""Benchmark the kernels on a GPU beside their competitors: `python -m benchmarks.gpu`.

A correctness gate runs first on the device; if it fails, nothing is timed. Without a GPU the command says so, and if
there is no record yet it records that nothing was measured.
"""

from __future__ import annotations

import argparse
import gc
import sys
from collections.abc import Callable
from itertools import groupby
from pathlib import Path

import torch

from benchmarks import gpu_report, report, runs, timing
from benchmarks.gpu_cases import PASSES, SWEEPS, Case, Machine, cases
from benchmarks.gpu_providers import DEVICE, Missing, Work, failures, ready, run_gate
from benchmarks.timing import Times

RECORD = report.ROOT / "assets" / "results" / "kernels_gpu.json"


def main(words: list[str] | None = None) -> int:
    """Check, then measure, then print the table; return the exit status."""
    options = parse(words)
    if not torch.cuda.is_available():
        print("no GPU here: torch.cuda.is_available() is False; nothing is measured", file=sys.stderr)
        if not options.json.exists():
            write(options.json, gpu_report.not_measured(options.command))
        return 2
    runs.say("correctness gate")
    checks = run_gate()
    wrong = failures(checks)
    if wrong or not checks:
        print("the correctness gate failed, so nothing was timed:", *wrong, sep="\n  ", file=sys.stderr)
        return 1
    machine = yardsticks(options.rounds)
    head = {"status": "measured", **gpu_report.head(options.command, gpu_report.hardware())}
    rows: list[dict] = []
    for sweep in ["chain", *(name for name in options.sweep if name != "chain")]:  # the chain is part of every floor
        rows += measure_sweep(cases(sweep, options.quick and sweep != "chain"), options.rounds, machine)
        machine = machine._replace(steps=steps(rows))
        verdicts = [bar.verdict(gpu_report.Rows(rows)) for bar in gpu_report.all_bars()]
        reached = {"rate": machine.rate, "bandwidth": machine.bandwidth}
        results = {**head, "machine": reached, "gate": checks, "bars": verdicts, "rows": rows}
        write(options.json, results)
    print(gpu_report.table(results))
    return 0


def write(path: Path, results: dict) -> None:
    """Write results as JSON, and the table beside them."""
    report.write_json(path, results)
    report.write_text(path.with_suffix(".txt"), gpu_report.table(results))


def yardsticks(rounds: int) -> Machine:
    """Measure the GPU's rate by a bfloat16 product of 8,192 cubed, and its bandwidth by a copy of a gigabyte."""
    a, b = (torch.randn(8192, 8192, device=DEVICE, dtype=torch.bfloat16) for _ in range(2))
    source = torch.empty(2**30, device=DEVICE, dtype=torch.uint8)
    target = torch.empty_like(source)
    calls = {"product": lambda: a @ b, "copy": lambda: target.copy_(source)}
    found = timing.measure(calls, rounds, DEVICE, runs.say)
    return Machine(2 * 8192**3 / found["product"].median, 2 * 2**30 / found["copy"].median, {})


def steps(rows: list[dict]) -> dict[tuple[str, str], float]:
    """Return the seconds per chunk of one sequence alone, by (network, pass)."""
    alone = [row for row in rows if row["sweep"] == "chain" and row["seconds"]]
    return {(row["net"], row["pass"]): row["seconds"] / -(-row["T"] // row["C"]) for row in alone}


def measure_sweep(
    todo: list[Case],
    rounds: int,
    machine: Machine,
    make: Callable[[Case], Work] = ready,
    measure: Callable[..., dict] = timing.measure,
    weigh: Callable[[Work, str], int | None] | None = None,
) -> list[dict]:
    """Measure cases size by size: all cases of one size are timed in turn, then freed before the next size.

    Args:
        todo: the cases, grouped by size.
        rounds: timing rounds.
        machine: the GPU's measured rates.
        make: builds the work of a case; may raise Missing.
        measure: the timing function.
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
        calls = {(c, w): (lambda work=work, w=w: work.call(w)) for c, work in works.items() for w in PASSES}
        times: dict[tuple[Case, str], Times] = measure(calls, rounds, DEVICE, runs.say) if calls else {}
        for case in [*works, *why]:
            for which in PASSES:
                peak = (weigh or peak_bytes)(works[case], which) if case in works else None
                row = gpu_report.rows_of(case, which, times.get((case, which)), peak, machine, why.get(case, ""))
                rows.append(row)
        del works, calls
        gc.collect()
    return rows


def peak_bytes(work: Work, which: str) -> int:
    """Measure the peak memory of a pass in bytes, inputs included."""
    torch.cuda.reset_peak_memory_stats()
    work.call(which)
    return torch.cuda.max_memory_allocated()


def parse(words: list[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser("python -m benchmarks.gpu", description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--sweep", nargs="+", choices=SWEEPS, default=list(SWEEPS), help="default: all; chain is always measured")
    add("--rounds", type=int, default=5, help="of every measurement, after a warm-up (default 5)")
    add("--quick", action="store_true", help="the shortest lengths only")
    add("--json", type=Path, default=RECORD, help=f"results file (default {RECORD.relative_to(report.ROOT)})")
    options = parser.parse_args(words)
    given = sys.argv[1:] if words is None else words
    options.command = " ".join(["python -m benchmarks.gpu", *given])
    return options


if __name__ == "__main__":
    sys.exit(main())
