"""Where the time of a call goes on a GPU, kernel by kernel: `python -m benchmarks.gpu_kernels`.

Times come from PyTorch's profiler, so launch gaps are not in them. Kernels that walk from chunk to chunk, one after the
other, are summed apart from those that work on all chunks at once: the first are a chain that no GPU makes shorter.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterator

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from benchmarks.cases import Case
from benchmarks.gpu_forms import Missing, Work, build

CHAIN = ("advance", "retreat", "mlp_states", "mlp_chain_backward")  # these walk over the chunks
MEMORIES = (("triton", "matrix"), ("triton online", "matrix"), ("triton", "mlp2"), ("triton", "mlp4"))


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


def lines(case: Case) -> Iterator[str]:
    """Time every kernel of a call; yield lines of text."""
    work = build(case)
    for which in case.passes:
        found = times(work, which)
        chain = sum(s for name, (_, s) in found.items() if name in CHAIN)
        every = sum(s for _, s in found.values())
        per_chunk = 1e6 * chain * case.C / case.T
        yield f"  {which}: {1e6 * every:.0f} µs in kernels, {1e6 * chain:.0f} in the chain ({per_chunk:.2f} a chunk)"
        yield from (f"  {1e6 * s:10.1f} µs {n:5} × {name[:70]}" for name, (n, s) in found.items())


def main(words: list[str] | None = None) -> int:
    """Print the lists; return the exit status."""
    parser = argparse.ArgumentParser("python -m benchmarks.gpu_kernels", description=__doc__.split("\n")[0])
    for name, default, what in (("T", 8192, "tokens"), ("B", 1, "sequences"), ("H", 16, "heads")):
        parser.add_argument(f"-{name}", type=int, default=default, help=f"{what} (default {default:,})")
    options = parser.parse_args(words)
    if not torch.cuda.is_available():
        print("no GPU here: torch.cuda.is_available() is False; nothing is measured", file=sys.stderr)
        return 2
    T, B, H = options.T, options.B, options.H
    print(f"{torch.cuda.get_device_name()} · torch {torch.__version__} · T {T:,}, B {B}, H {H}, D 64, C 64, bfloat16")
    for provider, net in MEMORIES:
        print(f"{provider}, {net}", flush=True)
        try:
            for line in lines(Case("kernels", provider, net, T=T, B=B, H=H)):
                print(line, flush=True)
        except Missing as reason:
            print(f"  {reason}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
