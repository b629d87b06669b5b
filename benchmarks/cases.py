"""What is timed and what is asked, as data: providers, networks and sizes; the questions with their bars."""

from __future__ import annotations

import json
import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from torch import nn

from titans_mini import MemoryNet

ROOT = Path(__file__).parent.parent
STREAM = ROOT / "assets" / "results" / "stream_cpu.json"
SWEEPS = ("main", "T", "C", "D")  # everything side by side; over tokens, chunk size and width
QUICK = 32  # a smoke run divides every length by this
CHUNK_SIZES = (8, 16, 32, 64, 128, 256)

PER_TOKEN, AT_START = "titans-pytorch per token", "titans-pytorch default"
LAYER = "chunked layer"  # ours behind the same projections: the partner of these two
LAYERS = (LAYER, PER_TOKEN, AT_START)
DUAL = ("chunked", "online", "triton", "triton online")  # whose operations the formula counts

NETS = {  # depth, expansion, and whether with residual and norm
    "matrix": (1, 1, False),
    "mlp2": (2, 2, False),
    "mlp4": (2, 4, False),
    "mlp4 norm": (2, 4, True),  # what `NeuralMemory` takes by default
}


def network(name: str, dim: int, kind: type[MemoryNet] = MemoryNet) -> MemoryNet:
    """Build the memory network of a name.

    Its norm starts as in `NeuralMemory`, with answers as long as unit keys. With a gain of 1 they are √D long, and the
    memory amplifies rounding until float32 differs from float64 in any form: the problem would be tested, not the code.
    """
    depth, expansion, extras = NETS[name]
    net = kind(dim, depth, expansion, residual=extras, norm=extras)
    if extras:
        nn.init.constant_(net.norm_weight, dim**-0.5)
    return net


@dataclass(frozen=True)
class Case:
    """One provider at one size; attention has neither a network nor chunks."""

    sweep: str
    provider: str
    net: str | None = None
    T: int = 4096
    C: int = 64
    D: int = 64
    B: int = 1
    H: int = 4

    def network(self) -> MemoryNet | None:
        """Build the memory's network, if there is one."""
        return network(self.net, self.D) if self.net else None

    @property
    def passes(self) -> tuple[str, ...]:
        """The passes that are timed; of narrow and wide memories, forward is enough."""
        return ("forward",) if self.sweep == "D" else ("forward", "both")

    def row(self) -> dict:
        """Name the case as the results file does."""
        sizes = {"B": self.B, "H": self.H, "T": self.T, "D": self.D, "C": self.C if self.net else None}
        return {"sweep": self.sweep, "provider": self.provider, "net": self.net, **sizes}


def cases(scale: int = 1) -> list[Case]:
    """List all cases, sweep by sweep; lengths are divided by `scale`."""
    return [replace(case, T=case.T // scale) for sweep in (_main, _over_T, _over_C, _over_D) for case in sweep()]


def _main() -> Iterator[Case]:
    """Every provider, each with ours at the same size."""
    yield Case("main", "sdpa")
    yield from (Case("main", "chunked", net) for net in NETS)
    yield Case("main", "online", "matrix")
    for net, short in (("matrix", 512), ("mlp4", 256)):  # what keeps every token's weights takes a gigabyte at once
        yield from (Case("main", provider, net, T=short) for provider in ("chunked", "recurrence"))
        # one head and four sequences: with several heads the parameters of titans-pytorch are not contiguous
        yield from (Case("main", provider, net, T=short, B=4, H=1) for provider in (LAYER, PER_TOKEN))
        yield from (Case("main", provider, net, B=4, H=1) for provider in (LAYER, AT_START))


def _over_T() -> Iterator[Case]:
    for T in (2048, 4096, 8192, 16384, 32768, 65536):
        yield from (Case("T", provider, "matrix", T=T) for provider in ("chunked", "online"))
        if T not in (8192, 32768):  # an MLP takes most of the time, and these points would show nothing new
            yield Case("T", "chunked", "mlp4", T=T)
        if T <= 16384:  # quadratic: at 65,536 one step takes nearly two minutes
            yield Case("T", "sdpa", T=T)
    yield Case("T", "recurrence", "matrix", T=512)


def _over_C() -> Iterator[Case]:
    for C in CHUNK_SIZES:
        yield from (Case("C", "chunked", net, C=C) for net in ("matrix", "mlp4"))
        yield Case("C", "online", "matrix", C=C)


def _over_D() -> Iterator[Case]:
    for D in (16, 32, 64, 128):
        yield from (Case("D", "chunked", net, T=2048, D=D) for net in ("matrix", "mlp4"))


def weighed(case: Case, which: str, scale: int = 1) -> bool:
    """Say whether the peak memory of a pass is measured: only where a question asks for it."""
    return case.sweep == "T" and case.provider == "chunked" and case.T * scale in (4096, 16384) and which == "both"


# -- operations -----------------------------------------------------------------------------------------------------


def per_token(net: MemoryNet, chunk_size: int) -> int:
    """Count the operations of the dual form forward, per token and head: 12P − 2P₁ + 2CN.

    P weights, P₁ of the first layer, N the sum of all layers' inputs and outputs. Gates, activations and the norm are
    not counted.
    """
    P = sum(i * o for i, o in net.shapes)
    P1 = net.shapes[0][0] * net.shapes[0][1]
    N = sum(i + o for i, o in net.shapes)
    return 12 * P - 2 * P1 + 2 * chunk_size * N


def flops(case: Case, which: str) -> int | None:
    """Count the operations of the algorithm, not of an implementation; None where no formula describes them.

    The exact online rule counts as the anchored one: its triangular systems are extra work for the same result.
    Attention: the half of the scores that the mask leaves, and five products backward for two forward.
    """
    heads = case.B * case.H
    if case.provider == "sdpa":
        forward, factor = 2 * heads * case.T**2 * case.D, 3.5
    elif case.provider in DUAL:
        forward, factor = heads * case.T * per_token(case.network(), case.C), 3
    else:
        return None
    return forward if which == "forward" else round(forward * factor)


# -- questions ------------------------------------------------------------------------------------------------------


class Question(NamedTuple):
    """One question with its bar.

    Attributes:
        what: in words, with the sizes.
        sense: "≥" or "≤".
        limit: the bar.
        number: reads our number off the rows of a results file; raises LookupError where a row is missing.
    """

    what: str
    sense: str
    limit: float
    number: Callable[[list[dict]], float]

    def verdict(self, rows: list[dict]) -> dict:
        """Compare: {"what", "bar", "number", "reached"}, the last two None where a row is missing."""
        try:
            number = self.number(rows)
        except LookupError:
            number = None
        compare = operator.ge if self.sense == "≥" else operator.le
        reached = None if number is None else bool(compare(number, self.limit))  # NaN reaches nothing
        return {"what": self.what, "bar": f"{self.sense} {self.limit:.3g}", "number": number, "reached": reached}


def find(rows: list[dict], field: str = "seconds", **wanted: str | int | None) -> float:
    """Return a field of the row whose other fields are as wanted.

    Raises:
        LookupError: if there is no such row, or nothing in its field.
    """
    for row in rows:
        if row[field] is not None and all(row[key] == value for key, value in wanted.items()):
            return row[field]
    raise LookupError(f"{field} of {wanted}")


def questions(scale: int = 1) -> list[Question]:
    """List what a user asks, in the order of the table; all but the last of a training step, forward and backward.

    Args:
        scale: as for `cases`.
    """
    return [
        _faster("matrix", "sdpa", 4096, 5, scale),
        _faster("matrix", "sdpa", 16384, 16, scale),  # new: four fifths of what the first engine reached
        _faster("mlp4", "sdpa", 4096, 1, scale),
        _faster("mlp4", "sdpa", 16384, 3.7, scale),
        _faster("matrix", PER_TOKEN, 512, 25, scale),
        _faster("mlp4", PER_TOKEN, 256, 80, scale),
        _faster("mlp4", AT_START, 4096, 1.5, scale),
        _faster("matrix", "recurrence", 512, 40, scale),
        _faster("mlp4", "recurrence", 256, 20, scale),
        _growth("matrix", 1.1, scale),
        _growth("mlp4", 1.1, scale),
        _kept("matrix", 4, scale),
        _kept("mlp4", 8, scale),
        Question("matrix: exact online rule over the anchored one, each at its best C", "≤", 1.4, _exactness),
        Question("one decoding step after 1,000,000 tokens over one after 1,000", "≤", 1.05, _decoding),
    ]


def _step(provider: str, net: str | None, T: int, scale: int, sweep: str = "T") -> dict:
    """Name the row of a training step."""
    return {"sweep": sweep, "provider": provider, "net": net, "pass": "both", "T": T // scale}


def _faster(net: str, other: str, T: int, limit: float, scale: int) -> Question:
    """Ask how many times faster ours is; whole layers meet our layer."""
    sweep = "main" if T <= 4096 else "T"
    theirs = _step(other, None if other == "sdpa" else net, T, scale, sweep)
    ours = _step(LAYER if other in LAYERS else "chunked", net, T, scale, sweep)
    name = {"sdpa": "attention", "recurrence": "our loop over tokens"}.get(other, other)
    what = f"{net}, T {T:,}: times faster than {name}"
    return Question(what, "≥", limit, lambda rows: find(rows, **theirs) / find(rows, **ours))


def _growth(net: str, limit: float, scale: int) -> Question:
    """Ask whether a token costs the same in a long sequence."""
    few, many = (_step("chunked", net, T, scale) for T in (4096, 65536))
    what = f"{net}: time per token, T 65,536 over T 4,096"
    return Question(what, "≤", limit, lambda rows: find(rows, **many) / find(rows, **few) * 4096 / 65536)


def _kept(net: str, limit: float, scale: int) -> Question:
    """Ask for the KiB that training keeps: what 12,288 more tokens add to the peak, so that what stays cancels.

    The tables of gates grow up to 4,096 tokens and no further.
    """
    few, many = (_step("chunked", net, T, scale) for T in (4096, 16384))
    tokens = (16384 - 4096) / scale * 4  # four heads

    def kilobytes(rows: list[dict]) -> float:
        return (find(rows, "peak_bytes", **many) - find(rows, "peak_bytes", **few)) / tokens / 1024

    return Question(f"{net}: KiB kept for training, per token and head", "≤", limit, kilobytes)


def _exactness(rows: list[dict]) -> float:
    """Divide the least time of the exact rule over all chunk sizes by that of the anchored one."""
    same = {"sweep": "C", "net": "matrix", "pass": "both"}
    best = [min(find(rows, provider=p, C=C, **same) for C in CHUNK_SIZES) for p in ("online", "chunked")]
    return best[0] / best[1]


def _decoding(rows: list[dict]) -> float:
    """Read the record of `python -m benchmarks.stream`, which takes longer than all of the rows."""
    if not STREAM.exists():
        raise LookupError(STREAM)
    return json.loads(STREAM.read_text(encoding="utf-8"))["step"]["ratio"]
