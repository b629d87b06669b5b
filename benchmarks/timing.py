"""Reproducible timing: process time of one thread on a CPU, events on a GPU, all providers in turn, by rounds."""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable, Hashable
from typing import NamedTuple

import torch

SAMPLE = 0.02  # seconds; quicker calls are repeated until they take this long


class Times(NamedTuple):
    """Seconds per call, over the rounds."""

    median: float
    fastest: float
    spread: float  # slowest over fastest


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
    calls: dict[Hashable, Callable[[], object]], rounds: int, device: str = "cpu", say: Callable[[str], None] = print
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
