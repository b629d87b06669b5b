"""The cases measured on a GPU and their lower bounds: operations, bytes, and the chain of chunks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from benchmarks import cases as cpu
from benchmarks.flops import per_token
from titans_mini import MemoryNet

PASSES = cpu.PASSES
LENGTHS = (2048, 4096, 8192, 16384, 32768, 65536)
SEQUENCES = ((1, 4), (1, 16), (8, 16), (32, 16))  # batch and heads
TORCH_UP_TO = 8192  # largest T of this library's own torch path; titans-pytorch runs at 512 only
MILLION = 2**20
SWEEPS = ("T", "heads", "chain", "million", "layers")
OURS = ("triton", "triton online")  # the exact online rule is a matrix memory with anchor="token"
HALF, SINGLE = 2, 4  # bytes of bfloat16 and of float32


@dataclass(frozen=True)
class Case:
    """One provider at one size; its forward pass and its forward and backward pass are two rows."""

    sweep: str
    provider: str
    net: str | None = None
    T: int = 8192
    B: int = 1
    H: int = 16
    D: int = 64
    C: int = 64

    @property
    def chunks(self) -> int:
        """Return the number of chunks per sequence."""
        return -(-self.T // self.C)

    def network(self) -> MemoryNet | None:
        """Build the memory's network; None for attention and the gated delta rule."""
        return cpu.Case(self.sweep, self.provider, self.net, D=self.D).network()

    def row(self) -> dict:
        """Return the case's fields in the results file."""
        sizes = {"B": self.B, "H": self.H, "T": self.T, "D": self.D, "C": self.C if self.net else None}
        return {"sweep": self.sweep, "provider": self.provider, "net": self.net, **sizes}


def cases(sweep: str, quick: bool = False) -> list[Case]:
    """List the cases of a sweep.

    Args:
        sweep: one of SWEEPS.
        quick: the shortest lengths only, as a smoke test.

    Raises:
        ValueError: if there is no such sweep.
    """
    lists = {"T": _over_T, "heads": _over_heads, "chain": _chain, "million": _million, "layers": _layers}
    if sweep not in lists:
        raise ValueError(f"sweep: got {sweep!r}, expected one of {list(lists)}")
    found = list(lists[sweep]())
    return [case for case in found if case.T <= 2 * LENGTHS[0]] if quick else found


def _all(sweep: str, **sizes: int) -> Iterator[Case]:
    """Yield every provider of the operator at one size."""
    yield from (Case(sweep, "triton", net, **sizes) for net in ("matrix", "mlp2", "mlp4"))
    yield Case(sweep, "triton online", "matrix", **sizes)
    yield from (Case(sweep, provider, **sizes) for provider in ("fla", "sdpa"))


def _over_T() -> Iterator[Case]:
    for T in LENGTHS:
        yield from _all("T", T=T)
        if T <= TORCH_UP_TO:
            yield from (Case("T", "chunked", net, T=T) for net in ("matrix", "mlp2"))


def _over_heads() -> Iterator[Case]:
    for B, H in SEQUENCES:
        yield from _all("heads", B=B, H=H)


def _chain() -> Iterator[Case]:
    """Yield one sequence alone: nothing but the chain from chunk to chunk."""
    yield from (Case("chain", "triton", net, T=65536, H=1) for net in ("matrix", "mlp2", "mlp4"))


def _million() -> Iterator[Case]:
    yield Case("million", "triton", "matrix", T=MILLION)


def _layers() -> Iterator[Case]:
    """Yield whole layers with one head: ours behind titans-pytorch's modules, and theirs with our semantics."""
    for net in ("matrix", "mlp2"):
        yield from (Case("layers", provider, net, T=512, B=16, H=1) for provider in (cpu.LAYER, cpu.PER_TOKEN))


# -- lower bounds of a case --------------------------------------------------------------------------------------------


def flops(case: Case, which: str) -> int | None:
    """Count a case's operations by formula; None for providers that our formulas do not describe.

    Ours: 12P − 2P₁ + 2CN per token and head forward, twice that backward. Attention: the half of the scores that the
    mask leaves, five products backward for two forward.
    """
    if case.provider == "sdpa":
        forward, factor = 2 * case.B * case.H * case.T**2 * case.D, 2.5
    elif case.provider in (*OURS, "chunked"):
        forward, factor = case.B * case.H * case.T * per_token(case.network(), case.C), 2
    else:
        return None
    return forward if which == "forward" else round(forward * (1 + factor))


def least_bytes(case: Case, which: str) -> int:
    """Count the least bytes moved: inputs and gates read once, outputs and gradients written once.

    Forward: q, k, v, y in half precision and three gates in single. Backward: q, k, v, dy in, dq, dk, dv out, the gates
    in and their gradients out. Attention has no gates; states are small beside a sequence and not counted.
    """
    gates = 0 if case.provider == "sdpa" else 3
    forward = 4 * case.D * HALF + gates * SINGLE
    backward = 7 * case.D * HALF + 2 * gates * SINGLE
    return case.B * case.H * case.T * (forward if which == "forward" else forward + backward)


class Machine(NamedTuple):
    """Rates that a GPU reaches, measured in the same run."""

    rate: float  # operations per second of a large product in bfloat16
    bandwidth: float  # bytes per second of a large copy, read and written
    steps: dict[tuple[str, str], float]  # seconds per chunk of one sequence alone, by (net, pass)


def floor(case: Case, which: str, machine: Machine) -> dict[str, float | None]:
    """Compute three lower bounds in seconds: by matrix units, by bytes, and by the chain of chunks.

    The chain is the time per chunk of one sequence alone, times the number of chunks: more sequences do not make it
    shorter. Attention and other providers have no chain of ours.
    """
    work = flops(case, which)
    step = machine.steps.get((case.net, which)) if case.provider in OURS else None
    return {
        "matrix": work / machine.rate if work else None,
        "bytes": least_bytes(case, which) / machine.bandwidth,
        "chain": step * case.chunks if step else None,
    }
