"""How fast, beside attention, titans-pytorch and our own loop: `python -m benchmarks`, from a checkout.

One process, one thread. A gate of equality checks comes first; if it fails, nothing is timed.
"""

from __future__ import annotations

import argparse
import math
import sys
from functools import partial
from pathlib import Path

import torch

from benchmarks import gate, report
from benchmarks.cases import LAYER, LAYERS, QUICK, ROOT, SWEEPS, Case, cases, flops, questions, weighed
from benchmarks.forms import MISSING, Work, build, titans_pytorch
from benchmarks.measure import measure, peak_apart, say


def main(words: list[str] | None = None) -> int:
    """Check, measure, answer, and print the table; returns the exit status."""
    options = parse(words)
    torch.set_num_threads(1)
    say("correctness gate")
    errors = gate.run_gate()
    if wrong := gate.failures(errors):
        print("the correctness gate failed, so nothing was timed:", *wrong, sep="\n  ", file=sys.stderr)
        return 1
    if titans_pytorch() is None:
        say(MISSING)
    scale = QUICK if options.quick else 1
    rows = [row for sweep in SWEEPS for row in measure_sweep(sweep, scale, options.rounds)]
    bars = [question.verdict(rows) for question in questions(scale)]
    results = report.stamp(options.command) | {"gate": errors, "bars": bars, "rows": rows}
    report.write_json(options.json, results)
    report.write_text(options.json.with_suffix(".txt"), report.table(results))
    report.picture(results, options.picture)
    print(report.table(results))
    return 0


def measure_sweep(sweep: str, scale: int, rounds: int) -> list[dict]:
    """Time the cases of a sweep in turn, and weigh those that a question asks for.

    Args:
        sweep: one of SWEEPS.
        scale: divisor of all lengths.
        rounds: timing rounds of every call, after a warm-up.

    Returns:
        A row for each case and pass; none for a package that is not installed.
    """
    works = {case: build(case) for case in cases(scale) if case.sweep == sweep and installed(case)}
    for case, work in works.items():
        check_finite(case, work)
    calls = {(case, which): partial(work.call, which) for case, work in works.items() for which in case.passes}
    times = measure(calls, rounds, say=lambda text: say(f"sweep {sweep}: {text}"))
    del works, calls  # frees the inputs
    rows = []
    for (case, which), t in times.items():
        # other programs only ever add process time, by sharing caches and clock: the fastest round counts
        measured = {"seconds": t.fastest, "median": t.median, "spread": t.spread, "flops": flops(case, which)}
        peak = peak_apart(case) if weighed(case, which, scale) else None
        rows.append(case.row() | {"pass": which} | measured | {"peak_bytes": peak})
    return rows


def installed(case: Case) -> bool:
    """Return whether a case's package is installed."""
    return case.provider not in LAYERS or case.provider == LAYER or titans_pytorch() is not None


def check_finite(case: Case, work: Work) -> None:
    """Raise ValueError if a memory diverges: NaN may be faster or slower than numbers."""
    with torch.no_grad():
        if not math.isfinite(work.run().sum().item()):
            raise ValueError(f"{case}: its output is not finite")


def parse(words: list[str] | None) -> argparse.Namespace:
    """Read the command line; the picture of a record goes to assets/, that of a trial beside its table."""
    parser = argparse.ArgumentParser("python -m benchmarks", description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--rounds", type=int, default=5, help="of every measurement, after a warm-up (default 5)")
    add("--quick", action="store_true", help="tiny sizes, one round: does it run?")
    add("--json", type=Path, default=ROOT / "build" / "speed_cpu.json", help="results file (default build/…)")
    options = parser.parse_args(words)
    given = sys.argv[1:] if words is None else words
    options.command = " ".join(["python -m benchmarks", *given])
    options.rounds = 1 if options.quick else options.rounds
    recorded = options.json.resolve().parent == ROOT / "assets" / "results"
    options.picture = ROOT / "assets" / "speed_T.svg" if recorded else options.json.with_name("speed_T.svg")
    return options


if __name__ == "__main__":
    sys.exit(main())
