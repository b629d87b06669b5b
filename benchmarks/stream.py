"""A stream of a million bytes, token by token, through a memory of constant size: `python -m benchmarks.stream`.

The bytes are Python's own source files. Each step writes (previous byte, byte) as a pair, and queries the next byte.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import sysconfig
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.cases import STREAM as TARGET
from benchmarks.measure import STATUS, resident
from benchmarks.report import stamp, write_json
from titans_mini import MemoryNet, MemoryState, neural_memory
from titans_mini.memory.gates import half_life_to_alpha

DIM, HEADS, CHUNK, HALF_LIFE, ETA = 64, 1, 16, 4096, 0.6
WINDOW = 1000  # tokens per timing sample
EARLY = 1000  # position of the early state
PREFIX, SAME = 2048, 1e-5  # tokens whose answers must agree between call sizes, and the tolerance


def standard_library(count: int) -> Tensor:
    """Return the first `count` bytes of Python's own modules, in the order of their names: (count,) int64."""
    data = bytearray()
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
        data += path.read_bytes()
        if len(data) >= count:
            return torch.frombuffer(data, dtype=torch.uint8)[:count].long()
    raise ValueError(f"bytes: got {len(data)} in the standard library, expected {count}: a Python without sources?")


class Stream:
    """A text and a memory that reads it.

    Args:
        text: (T,) bytes as integers.
    """

    def __init__(self, text: Tensor) -> None:
        self.text = text
        g = torch.Generator().manual_seed(0)
        self.table = F.normalize(torch.randn(256, HEADS, DIM, generator=g), dim=-1)  # a fixed random vector per byte
        self.net = MemoryNet(DIM, depth=1, residual=False, norm=False)
        steps = (1 - ETA) / (2 * CHUNK)  # stable even if all keys of a chunk are equal
        self.gates = [float(half_life_to_alpha(HALF_LIFE)), ETA, steps]

    def call(self, state: MemoryState | None, begin: int, end: int) -> tuple[Tensor, MemoryState]:
        """Read bytes begin … end − 1: k is the previous byte, v the byte, and q the byte again, to query the next."""
        now = self.table[self.text[begin:end]].transpose(0, 1)[None]  # (1, H, T, D)
        before = self.table[self.text[[max(begin - 1, 0), *range(begin, end - 1)]]].transpose(0, 1)[None]
        gates = [torch.full((1, HEADS, end - begin), gate) for gate in self.gates]
        return neural_memory(now, before, now, *gates, state, net=self.net, chunk_size=CHUNK)

    def advance(self, state: MemoryState | None, begin: int, end: int, size: int) -> MemoryState | None:
        """Read from `begin` to `end` in calls of `size` tokens, dropping the answers as a decoder would."""
        for at in range(begin, end, size):
            _, state = self.call(state, at, min(at + size, end))
        return state

    def answers(self, count: int, size: int) -> Tensor:
        """Return the answers to the first `count` tokens in calls of `size`: (1, H, count, D)."""
        y, state = [], None
        for at in range(0, count, size):
            part, state = self.call(state, at, min(at + size, count))
            y.append(part)
        return torch.cat(y, 2)


def marks(count: int) -> list[int]:
    """Return positions evenly spaced on a log scale, three per decade, from 100 to `count`."""
    found = [round(10 ** (i / 3)) for i in range(6, 60)]
    return [mark for mark in found if mark < count] + [count]


def record(stream: Stream, size: int, keep: tuple[int, ...] = ()) -> tuple[list[dict], dict[int, MemoryState]]:
    """Read the whole stream and record the cost per token on the way.

    Args:
        stream: text and memory.
        size: tokens per call.
        keep: positions, among the marks, whose states are returned.

    Returns:
        One record per mark, and the kept states by position.
    """
    records, kept, state, at = [], {}, None, 0
    for mark in marks(len(stream.text)):
        window = min(WINDOW, mark - at)
        state = stream.advance(state, at, mark - window, size)
        begin = time.process_time()
        state = stream.advance(state, mark - window, mark, size)
        seconds = (time.process_time() - begin) / window
        sizes = {"rss_bytes": resident("VmRSS") if STATUS.exists() else None, "state_bytes": state.nbytes}
        records.append({"position": mark, "seconds_per_token": seconds, **sizes})
        print(f"  … {mark:>9,} tokens, calls of {size}: {seconds * 1e6:.0f} µs a token", file=sys.stderr, flush=True)
        at = mark
        if mark in keep:
            kept[mark] = state
    return records, kept


def compare_steps(stream: Stream, early: tuple[int, MemoryState], late: tuple[int, MemoryState], rounds: int) -> dict:
    """Time decoding steps from two states in turn, the same bytes for both; medians of process time.

    A sample is a whole chunk of steps, so that both cross one chunk boundary, whatever their positions.
    """
    seconds = {at: [] for at, _ in (early, late)}
    for i in range(rounds + 1):
        for at, state in (early, late) if i % 2 else (late, early):
            begin = time.process_time()
            stream.advance(state, EARLY - CHUNK, EARLY, 1)
            seconds[at].append((time.process_time() - begin) / CHUNK)
    (first, last), (a, b) = seconds, (statistics.median(s[1:]) for s in seconds.values())  # the first is a warm-up
    return {"early": first, "late": last, "seconds_early": a, "seconds_late": b, "ratio": b / a}


@torch.no_grad()
def demonstrate(count: int, rounds: int = 400) -> dict:
    """Run the whole demonstration on `count` bytes.

    Raises:
        AssertionError: if calls of one token and of 64 do not give the same answers.
    """
    stream = Stream(standard_library(count))
    prefix = min(PREFIX, count)
    one, many = (stream.answers(prefix, size) for size in (1, 64))
    error = ((one - many).norm() / one.norm()).item()
    assert error <= SAME, f"calls of 1 and of 64 tokens differ by {error:.1e}"
    singles, states = record(stream, 1, keep=(EARLY, count))
    calls, _ = record(stream, 64)
    step = compare_steps(stream, *states.items(), rounds=rounds)
    settings = {"D": DIM, "H": HEADS, "C": CHUNK, "net": "matrix", "half_life": HALF_LIFE, "eta": ETA, "tokens": count}
    same = {"tokens": prefix, "error": error}
    return {"settings": settings, "prefix": same, "token_by_token": singles, "in_calls_of_64": calls, "step": step}


def main() -> None:
    """Run, print, and write the results file."""
    parser = argparse.ArgumentParser("python -m benchmarks.stream", description=__doc__)
    parser.add_argument("--tokens", type=int, default=1_000_000, help="more than 1,000 (default 1,000,000)")
    parser.add_argument("--json", type=Path, default=TARGET)
    options = parser.parse_args()
    torch.set_num_threads(1)
    command = " ".join(["python -m benchmarks.stream", *sys.argv[1:]])
    results = stamp(command) | demonstrate(options.tokens)
    write_json(options.json, results)
    print(f"{'position':>10}  µs a token  in calls of 64  process MiB  state bytes")
    for a, b in zip(results["token_by_token"], results["in_calls_of_64"], strict=True):
        times = f"{a['seconds_per_token'] * 1e6:10.0f}  {b['seconds_per_token'] * 1e6:14.1f}"
        print(f"{a['position']:>10,}  {times}  {(a['rss_bytes'] or 0) / 2**20:11.1f}  {a['state_bytes']:11,}")
    step = results["step"]
    print(f"a step after {step['late']:,} tokens over one after {step['early']:,}: {step['ratio']:.3f}")


if __name__ == "__main__":
    main()
