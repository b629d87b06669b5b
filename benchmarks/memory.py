"""Peak memory: on a CPU every measurement runs in its own process, because a peak can be raised but never lowered.

`python -m benchmarks.memory CASE PASS DEVICE` prints the peak bytes of one call above the level before it.
"""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import torch

from benchmarks.cases import Case
from benchmarks.providers import Work, build

ROOT = Path(__file__).parent.parent
STATUS = Path("/proc/self/status")


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


def peak(case: Case, which: str, device: str) -> int:
    """Measure a case in this process: peak bytes above the inputs and above libraries loaded on first use."""
    few = replace(case, T=min(case.T, 2 * case.C))
    run(build(few, device), which)  # warm-up: torch loads libraries on first use
    work = build(case, device)
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run(work, which)
        return torch.cuda.max_memory_allocated() - before
    forget_peak()
    before = resident("VmHWM")
    run(work, which)
    return resident("VmHWM") - before


def run(work: Work, which: str) -> None:
    """Make one call and drop its results."""
    (work.forward if which == "forward" else work.both)()


def peak_apart(case: Case, which: str, device: str) -> int | None:
    """Measure a case in a fresh process; None if the system does not report it."""
    if device == "cpu" and not STATUS.exists():
        return None
    command = [sys.executable, "-m", "benchmarks.memory", json.dumps(asdict(case)), which, device]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"memory of {case} failed:\n{done.stderr}")
    return int(done.stdout)


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(peak(Case(**json.loads(sys.argv[1])), sys.argv[2], sys.argv[3]))
