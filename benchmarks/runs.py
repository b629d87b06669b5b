"""Sweeps: build every case, time all of them in turn, and make rows of the times."""

from __future__ import annotations

import math
import sys

from benchmarks.cases import PEERS, Case, cases
from benchmarks.flops import flops
from benchmarks.memory import peak_apart
from benchmarks.peers import titans_pytorch
from benchmarks.providers import Work, build, forget
from benchmarks.timing import Times, measure


def say(text: str) -> None:
    """Print progress to stderr, apart from the table."""
    print(f"  … {text}", file=sys.stderr, flush=True)


def installed(case: Case) -> bool:
    """Return whether a case's package is installed."""
    return case.provider not in PEERS or titans_pytorch() is not None


def time_sweep(sweep: str, scale: int, rounds: int, device: str) -> list[dict]:
    """Time a sweep.

    Args:
        sweep: one of SWEEPS.
        scale: divisor of all lengths.
        rounds: timing rounds per call, after a warm-up.
        device: "cpu" or "cuda".

    Returns:
        The rows of the sweep; rows of a package that is not installed have no time.
    """
    every = cases(sweep, scale)
    calls = {}
    for case in filter(installed, every):
        work = build(case, device)
        for which in case.passes:
            calls[case, which] = work.forward if which == "forward" else work.both
            check_finite(case, which, work)
    times = measure(calls, rounds, device, lambda text: say(f"sweep {sweep}: {text}"))
    forget()  # free the inputs before the next sweep
    times = {key: (t, t.median if device == "cuda" else t.fastest) for key, t in times.items()}
    yardstick = next(flops(case, "forward") / s for (case, _), (_, s) in times.items() if case.provider == "product")
    return [_row(case, which, times.get((case, which)), yardstick) for case in every for which in case.passes]


def check_finite(case: Case, which: str, work: Work) -> None:
    """Raise ValueError if a memory diverges: NaN may be faster or slower than numbers."""
    if which == "forward" and not math.isfinite(work.forward().sum().item()):
        raise ValueError(f"{case}: its output is not finite")


def _row(case: Case, which: str, measured: tuple[Times, float] | None, yardstick: float) -> dict:
    """Build a row of the results file; `yardstick` is the product's rate in operations per second.

    On a CPU the seconds are those of the fastest round: other programs only ever add process time, by sharing caches
    and clock. On a GPU they are the median.
    """
    work = flops(case, which)
    times, seconds = measured or (None, None)
    share = work / seconds / yardstick if seconds and work and which == "forward" else None
    median, spread = (times.median, times.spread) if times else (None, None)
    measured = {"seconds": seconds, "median": median, "spread": spread, "flops": work, "share": share}
    return case.row() | {"pass": which} | measured | {"peak_bytes": None}


def weigh_sweep(sweep: str, scale: int, device: str) -> list[dict]:
    """Measure the peak memory of a sweep's cases, each in its own process; return rows without times."""
    rows = []
    for case in filter(installed, cases(sweep, scale)):
        if case.provider == "product":  # the yardstick keeps nothing
            continue
        for which in case.passes if sweep == "main" else ("both",):  # elsewhere the larger of the two will do
            say(f"sweep {sweep}: memory of {case.provider} {case.net or ''} T {case.T} {which}")
            rows.append(_row(case, which, None, 1.0) | {"peak_bytes": peak_apart(case, which, device)})
    return rows
