"""The command: `python -m benchmarks`, from a checkout."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import torch

from benchmarks import bars, cases, coefficients, gate, report, runs
from benchmarks.peers import MISSING, titans_pytorch

STREAM = report.ROOT / "assets" / "results" / "stream_cpu.json"


def main(words: list[str] | None = None) -> int:
    """Check, then measure, then print the table; returns the exit status."""
    options = parse(words)
    if options.device == "cuda" and not torch.cuda.is_available():
        print("no GPU here: torch.cuda.is_available() is False", file=sys.stderr)
        return 2
    if options.device == "cpu":
        torch.set_num_threads(1)
    runs.say("correctness gate")
    errors = gate.run_gate(device=options.device)
    wrong = gate.failures(errors)
    if wrong:
        print("the correctness gate failed, so nothing was timed:", *wrong, sep="\n  ", file=sys.stderr)
        return 1
    if titans_pytorch() is None:
        runs.say(f"titans-pytorch is {MISSING}")
    print(report.table(collect(options, errors)))
    return 0


def collect(options: argparse.Namespace, errors: dict[str, float]) -> dict:
    """Measure sweep by sweep; each is written to the file as soon as it is done."""
    old = {} if options.quick else report.read(options.json, options.device)
    scale = cases.QUICK if options.quick else 1
    now = report.stamp(options.device, options.command)
    head = {key: old[key] for key in now} if options.memory and old else now  # the head speaks of the times
    numbers = apart(options.quick)
    for sweep in options.sweep:
        if options.memory:
            rows = runs.weigh_sweep(sweep, scale, options.device)
        else:
            rows = runs.time_sweep(sweep, scale, options.rounds, options.device)
        rows = report.merge(old, rows)
        asked = bars.Rows(rows, scale, numbers)
        verdicts = [bar.verdict(asked) for bar in bars.all_bars()]
        sweeps = report.origins(old, now, sweep, options.memory)
        old = head | {"gate": errors, "bars": verdicts, "rows": rows, "sweeps": sweeps}
        report.write(options.json, old)
    return old


def apart(quick: bool) -> dict[str, float | None]:
    """Measure what the rows do not hold: exactness of the coefficients; the decoding step is taken from its record."""
    sizes = coefficients.SIZES[:1] if quick else coefficients.SIZES
    step = json.loads(STREAM.read_text(encoding="utf-8"))["step"]["ratio"] if STREAM.exists() else None
    return {"coefficients": coefficients.worst_error(sizes), "decoding step": step}


def parse(words: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser("python -m benchmarks", description=__doc__)
    add = parser.add_argument
    add("--sweep", nargs="+", choices=[*cases.SWEEPS, "all"], help="default: main T C, which the bars need")
    add("--device", choices=["cpu", "cuda"], default="cpu")
    add("--rounds", type=int, default=5, help="of every measurement, after a warm-up (default 5)")
    add("--quick", action="store_true", help="tiny sizes, two rounds: does it run?")
    add("--memory", action="store_true", help="peak memory instead of time, a process for each measurement")
    add("--json", type=Path, help="results file; sweeps are merged into it (default: build/chunked_DEVICE.json)")
    options = parser.parse_args(words)
    given = sys.argv[1:] if words is None else words
    options.command = " ".join(["python -m benchmarks", *given])
    options.rounds = 2 if options.quick else options.rounds
    options.sweep = options.sweep or list(cases.DEFAULT)
    options.sweep = list(cases.SWEEPS) if "all" in options.sweep else options.sweep
    options.json = options.json or report.ROOT / "build" / f"chunked_{options.device}.json"
    return options


if __name__ == "__main__":
    sys.exit(main())
