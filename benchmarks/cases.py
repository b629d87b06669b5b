"""What is measured, as data: every provider, network and size of every sweep."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

from torch import nn

from titans_mini import MemoryNet

SWEEPS = ("main", "T", "C", "depth", "D")
DEFAULT = ("main", "T", "C")  # the sweeps that the bars need
PASSES = ("forward", "both")
QUICK = 32  # a smoke run divides every length by this

PER_TOKEN, PER_CHUNK, AT_START = "titans-pytorch per token", "titans-pytorch per chunk", "titans-pytorch default"
PEERS = (PER_TOKEN, PER_CHUNK, AT_START)
LAYER = "chunked layer"  # ours behind the same projections: the partner of the PEERS
EVERY_CHUNK = ", group 1"  # of ours: training keeps the state of every chunk, which is faster where chunks are short


class Shape(NamedTuple):
    """The memory network that a name stands for."""

    depth: int
    expansion: float
    extras: bool  # residual and norm


NETS = {
    "matrix": Shape(1, 1, False),
    "mlp2": Shape(2, 2, False),
    "mlp4": Shape(2, 4, False),
    "mlp4 norm": Shape(2, 4, True),
}


@dataclass(frozen=True)
class Case:
    """One provider at one size; its forward pass and its forward and backward pass are two rows of the table."""

    sweep: str
    provider: str
    net: str | None = None
    T: int = 4096
    C: int = 64
    D: int = 64
    B: int = 1
    H: int = 4
    depth: int | None = None

    def network(self) -> MemoryNet | None:
        """Build the memory's network; attention and the yardstick have none."""
        if self.net is None:
            return None
        shape = NETS[self.net]
        depth = self.depth or shape.depth
        net = MemoryNet(self.D, depth, shape.expansion, residual=shape.extras, norm=shape.extras)
        if net.norm:  # as in `NeuralMemory`: answers as long as unit keys, a calm memory
            nn.init.constant_(net.norm_weight, self.D**-0.5)
        return net

    @property
    def passes(self) -> tuple[str, ...]:
        """The passes that are measured: the yardstick's product has one."""
        return PASSES[:1] if self.provider == "product" else PASSES

    def row(self) -> dict:
        """Name the case in the words of the results file; attention and the product have no chunks."""
        depth = (self.depth or NETS[self.net].depth) if self.net else None
        C = self.C if self.net else None
        names = {"sweep": self.sweep, "provider": self.provider, "net": self.net}
        return {**names, "B": self.B, "H": self.H, "T": self.T, "D": self.D, "C": C, "depth": depth}


def cases(sweep: str, scale: int = 1) -> list[Case]:
    """List the cases of a sweep.

    Args:
        sweep: one of SWEEPS.
        scale: lengths are divided by it; QUICK for a smoke run.

    Raises:
        ValueError: for a sweep that does not exist.
    """
    lists = {"main": _main, "T": _over_T, "C": _over_C, "depth": _over_depth, "D": _over_D}
    if sweep not in lists:
        raise ValueError(f"sweep: got {sweep!r}, expected one of {list(lists)}")
    yardstick = Case(sweep, "product", B=256, H=1, T=64)  # in every sweep: shares belong to the same run
    return [yardstick, *(replace(case, T=case.T // scale) for case in lists[sweep]())]


def _main() -> Iterator[Case]:
    """Every provider, each at a length that fits into memory with ours at the same length beside it."""
    yield Case("main", "sdpa")
    yield from (Case("main", "chunked", net) for net in NETS)
    yield Case("main", "online", "matrix")
    for net in ("matrix", "mlp4"):
        # a graph through every token's weights: 512 tokens of expansion 4 already take a gigabyte
        short = 512 if net == "matrix" else 256
        yield from (Case("main", p, net, T=short) for p in ("chunked", "materialised", "recurrence"))
        # one head and four sequences: with several heads this package's parameters are not contiguous
        yield from (Case("main", p, net, T=short, B=4, H=1) for p in (LAYER, PER_TOKEN))
        yield from (Case("main", p, net, B=4, H=1) for p in (LAYER, PER_CHUNK, AT_START))


def _over_T() -> Iterator[Case]:
    for T in (2048, 4096, 8192, 16384, 32768, 65536):
        yield from (Case("T", p, "matrix", T=T) for p in ("chunked", "online"))
        if T not in (8192, 32768):  # expansion 4 takes most of the time, and two points more would show nothing new
            yield Case("T", "chunked", "mlp4", T=T)
        if T <= 16384:  # quadratic: at 65,536 five rounds would take a quarter of an hour
            yield Case("T", "sdpa", T=T)
    yield Case("T", "recurrence", "matrix", T=512)


def _over_C() -> Iterator[Case]:
    for C in (8, 16, 32, 64, 128, 256):
        for provider, net in (("chunked", "matrix"), ("chunked", "mlp4"), ("online", "matrix")):
            yield Case("C", provider, net, C=C)
            if C < 64:  # from there on the default is the same
                yield Case("C", provider + EVERY_CHUNK, net, C=C)


def _over_depth() -> Iterator[Case]:
    yield Case("depth", "chunked", "matrix", T=2048)
    yield from (Case("depth", "chunked", "mlp4", T=2048, depth=depth) for depth in (2, 3, 4))


def _over_D() -> Iterator[Case]:
    for D in (16, 32, 64, 128):
        yield from (Case("D", "chunked", net, T=2048, D=D) for net in ("matrix", "mlp4"))
        yield from (Case("D", p, net, T=2048, D=D) for p, net in (("online", "matrix"), ("sdpa", None)))
