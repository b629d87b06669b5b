"""Time that repeats: process time of one thread on a CPU, events on a GPU, all providers in turn, round by round."""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable, Hashable
from typing import NamedTuple

import torch

SAMPLE = 0.02  # seconds; what is quicker is repeated until it takes this long


class Times(NamedTuple):
    """Seconds of one call, over the rounds."""

    median: float
    fastest: float
    spread: float  # slowest over fastest


def clock(call: Callable[[], object], number: int, device: str) -> float:
    """Time `number` calls: seconds of one."""
    if device == "cuda":
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for _ in range(number):
            call()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / 1000 / number
    begin = time.process_time()  # not wall time: what others do on this machine is not ours
    for _ in range(number):
        call()
    return (time.process_time() - begin) / number


def measure(
    calls: dict[Hashable, Callable[[], object]], rounds: int, device: str = "cpu", say: Callable[[str], None] = print
) -> dict[Hashable, Times]:
    """Time every call in every round, one after another: a slow moment of the machine hits all of them alike.

    On a CPU, calls that fill a sample by themselves run twice in a row, and the faster one counts: the first may have
    to fetch anew, page by page, what the C library gave back to the system after another call.

    Args:
        calls: what to time.
        rounds: how often, after one round of warm-up that also finds how many calls fill a sample.
        device: "cpu" or "cuda".
        say: told which round begins.
    """
    number = {}
    say(f"warm-up of {len(calls)} calls")
    for name, call in calls.items():
        first = clock(call, 1, device)  # pays for what is loaded or compiled on first use
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
