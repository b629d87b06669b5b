"""How time and memory are measured.

Time: process time of one thread on a CPU, events on a GPU, all providers in turn, by rounds. Memory: each measurement
in a process of its own, because a peak can be raised but never lowered; `python -m benchmarks.measure CASE` prints the
peak bytes of one training step above the level before it.
"""

from __future__ import annotations

import ctypes
import gc
import json
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Hashable
from dataclasses import asdict, replace
from pathlib import Path
from typing import NamedTuple

import torch

from benchmarks.cases import ROOT, Case
from benchmarks.forms import build

SAMPLE = 0.02  # seconds; quicker calls are repeated until they take this long
STATUS = Path("/proc/self/status")


class Times(NamedTuple):
    """Seconds per call, over the rounds."""

    median: float
    fastest: float
    spread: float  # slowest over fastest


def say(text: str) -> None:
    """Print progress to stderr, apart from the table."""
    print(f"  … {text}", file=sys.stderr, flush=True)


def clock(call: Callable[[], object], number: int, device: str) -> float:
    """Time `number` calls; return the seconds per call."""
    if device == "cuda":
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for _ in range(number):
            call()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / 1000 / number
    begin = time.process_time()  # not wall time, which includes other programs on this machine
    for _ in range(number):
        call()
    return (time.process_time() - begin) / number


def measure(
    calls: dict[Hashable, Callable[[], object]], rounds: int, device: str = "cpu", say: Callable[[str], None] = say
) -> dict[Hashable, Times]:
    """Time every call in every round, one after another: a slow moment of the machine hits all of them alike.

    On a CPU, calls that fill a sample by themselves run twice in a row, and the faster one counts: the first may have
    to page in again the memory that the C library returned to the system after another call.

    Args:
        calls: the calls by name.
        rounds: timing rounds, after a warm-up that also determines how many calls fill a sample.
        device: "cpu" or "cuda".
        say: callback for progress messages.
    """
    number = {}
    say(f"warm-up of {len(calls)} calls")
    for name, call in calls.items():
        first = clock(call, 1, device)  # includes loading and compiling on first use
        once = clock(call, 1, device) if first < 10 * SAMPLE else first
        number[name] = min(200, max(1, math.ceil(SAMPLE / max(once, 1e-7))))
    seconds = {name: [] for name in calls}
    for i in range(rounds):
        say(f"round {i + 1} of {rounds}")
        gc.collect()
        for name, call in calls.items():
            again = 2 if device == "cpu" and number[name] == 1 else 1
            seconds[name].append(min(clock(call, number[name], device) for _ in range(again)))
    return {name: Times(statistics.median(s), min(s), max(s) / min(s)) for name, s in seconds.items()}


# -- memory ---------------------------------------------------------------------------------------------------------


def resident(field: str) -> int:
    """Read VmHWM (the peak so far) or VmRSS (now) of this process, in bytes. Linux only."""
    with STATUS.open() as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(field))


def forget_peak() -> None:
    """Return freed memory to the system and reset VmHWM, where the C library and the kernel allow it.

    Otherwise the preparation of the inputs would hide a part of the call's memory: by its peak, and by the freed blocks
    that the allocator keeps and reuses.
    """
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    except (OSError, AttributeError):  # not glibc
        pass
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pass


def peak(case: Case) -> int:
    """Measure a training step in this process: peak bytes above its inputs and what torch loads on first use."""
    build(replace(case, T=min(case.T, 2 * case.C))).call("both")
    work = build(case)
    forget_peak()
    before = resident("VmHWM")
    work.call("both")
    return resident("VmHWM") - before


def peak_apart(case: Case) -> int | None:
    """Measure a training step in a fresh process; None if the system does not report it."""
    if not STATUS.exists():
        return None
    command = [sys.executable, "-m", "benchmarks.measure", json.dumps(asdict(case))]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"memory of {case} failed:\n{done.stderr}")
    return int(done.stdout)


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(peak(Case(**json.loads(sys.argv[1]))))
