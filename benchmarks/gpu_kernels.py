"""Time per kernel of a call on a GPU, and the sequential kernels with other tiles.

    python -m benchmarks.gpu_kernels              each kernel's time, forward and backward, of every memory
    python -m benchmarks.gpu_kernels --variants   one sequence alone, with other columns, units, warps and stages

Times come from PyTorch's profiler, so launch gaps are not in them. A variant counts only if its answers are those of
the unchanged kernels.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from typing import Any
from unittest import mock

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu_cases import PASSES, Case
from benchmarks.gpu_providers import Missing, Work, build, in_one_line

# sequential walks over the chunks per forward and backward pass, by kernel; all other kernels are parallel
CHAIN = {"advance": 2, "retreat": 1, "mlp_states": 2, "mlp_chain_backward": 1}
MEMORIES = (("triton", "matrix"), ("triton online", "matrix"), ("triton", "mlp2"), ("triton", "mlp4"))
SAME = 0.01  # relative RMS between the answers of two variants in bfloat16
OPTIONS = {  # arguments of `variant`, by the depth of the memory
    "matrix": {"columns": (16, 32), "warps": (2, 4), "stages": (1, 2, 3)},
    "mlp": {"units": (16, 32), "warps": (4, 8), "stages": (1, 2)},
}


@contextmanager
def variant(
    columns: int | None = None, units: int | None = None, warps: int | None = None, stages: int | None = None
) -> Iterator[None]:
    """Launch the kernels of the chain with other settings inside this context.

    Args:
        columns: columns of the states that one program carries, for a matrix memory.
        units: hidden units that one program handles at a time, for an MLP.
        warps: warps per program.
        stages: depth of the software pipeline of loads.
    """
    from titans_mini.kernels import launch, matrix_span

    right = launch.launch

    def other(kernel: Any, grid: tuple[int, ...], *args: Any, **sizes: Any) -> None:
        if kernel.__name__ in CHAIN:
            sizes |= {"num_warps": warps} if warps else {}
            sizes |= {"num_stages": stages} if stages else {}
            sizes |= {"BE": units} if units and "BE" in sizes else {}
        right(kernel, grid, *args, **sizes)

    with (
        mock.patch.multiple(launch, launch=other),
        mock.patch.multiple(matrix_span, COLUMNS=columns or matrix_span.COLUMNS),
    ):
        yield


def times(work: Work, which: str) -> dict[str, tuple[int, float]]:
    """Return (launches, seconds) of every kernel in one call, the longest first."""
    for _ in range(2):  # warm-up: compiling and loading on first use
        work.call(which)
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as found:
        work.call(which)
        torch.cuda.synchronize()
    count, seconds = Counter(), Counter()
    for event in found.events():
        if event.device_type == DeviceType.CUDA:
            count[event.name] += 1
            seconds[event.name] += event.time_range.elapsed_us() * 1e-6
    return {name: (count[name], s) for name, s in seconds.most_common()}


def variants(net: str) -> list[dict[str, int]]:
    """List the settings to try for a memory: the defaults, then every combination."""
    options = OPTIONS["matrix" if net == "matrix" else "mlp"]
    return [{}, *(dict(zip(options, values, strict=True)) for values in product(*options.values()))]


def compare(provider: str, net: str, T: int) -> Iterator[str]:
    """Time the chain of one sequence alone in all variants; yield lines of text."""
    work, right = build(Case("kernels", provider, net, T=T, H=1)), None
    for options in variants(net):
        name = ", ".join(f"{key} {value}" for key, value in options.items()) or "as it is"
        with variant(**options):
            try:
                y = work.run().detach().float()
                right = y if right is None else right
                error = ((y - right).norm() / right.norm()).item()
                found = times(work, "both")
            except Exception as reason:  # a tile that does not fit is a result, too
                yield f"  {name:34}{in_one_line(reason)}"
                continue
        chain = (f"{key} {1e6 * found[key][1] * 64 / T / walks:7.2f}" for key, walks in CHAIN.items() if key in found)
        yield f"  {name:34}{'  '.join(chain)}" + ("" if error <= SAME else f"  WRONG: off by {error:.1e}")


def kernels_of(provider: str, net: str, T: int) -> Iterator[str]:
    """Time every kernel of a call; yield lines of text."""
    work = build(Case("kernels", provider, net, T=T))
    for which in PASSES:
        found = times(work, which)
        yield f"  {which}: {1e6 * sum(s for _, s in found.values()):.0f} µs in kernels"
        yield from (f"  {1e6 * s:10.1f} µs {n:5} × {name[:70]}" for name, (n, s) in found.items())


def main(words: list[str] | None = None) -> int:
    """Print the lists; return the exit status."""
    parser = argparse.ArgumentParser("python -m benchmarks.gpu_kernels", description=__doc__.split("\n")[0])
    parser.add_argument("--variants", action="store_true", help="µs a chunk of the chain, with other tiles")
    parser.add_argument("-T", type=int, help="tokens (default 8,192; one sequence alone 65,536)")
    options = parser.parse_args(words)
    if not torch.cuda.is_available():
        print("no GPU here: torch.cuda.is_available() is False; nothing is measured", file=sys.stderr)
        return 2
    T = options.T or (65536 if options.variants else 8192)
    print(f"{torch.cuda.get_device_name()} · torch {torch.__version__} · T {T:,}, D 64, C 64, bfloat16")
    for provider, net in MEMORIES:
        print(f"{provider}, {net}", flush=True)
        try:
            for line in (compare if options.variants else kernels_of)(provider, net, T):
                print(line, flush=True)
        except Missing as reason:
            print(f"  {reason}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
