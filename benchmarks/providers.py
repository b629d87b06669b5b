"""Everything that can be timed, behind one shape: a function without arguments, and what it is differentiated by."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.cases import EVERY_CHUNK, LAYER, PEERS, Case
from benchmarks.flops import PRODUCTS, SIZE
from benchmarks.materialised import materialised
from benchmarks.peers import EqualLayer, their_layer
from titans_mini import MemoryNet, MemoryState, neural_memory

Operator = Callable[[list[Tensor], MemoryState, MemoryNet, int], Tensor]


def _ours(**options: object) -> Operator:
    return lambda x, state, net, C: neural_memory(*x, state, net=net, chunk_size=C, **options)[0]


OPERATORS: dict[str, Operator] = {
    "chunked": _ours(backend="chunked"),
    "chunked" + EVERY_CHUNK: _ours(backend="chunked", group_size=1),
    "online": _ours(backend="chunked", anchor="token"),
    "online" + EVERY_CHUNK: _ours(backend="chunked", anchor="token", group_size=1),
    "recurrence": _ours(backend="recurrence"),
    "materialised": materialised,
}


class Work(NamedTuple):
    """A provider, ready to run.

    Attributes:
        run: makes the output.
        leaves: what the backward pass differentiates by.
    """

    run: Callable[[], Tensor]
    leaves: list[Tensor]

    def forward(self) -> Tensor:
        """Run without a graph."""
        with torch.no_grad():
            return self.run()

    def both(self) -> Tensor:
        """Run, and differentiate with an upstream gradient of ordinary size."""
        y = self.run()
        torch.autograd.grad(y, self.leaves, upstream(y.shape, y.device), allow_unused=True)
        return y


@cache
def upstream(shape: torch.Size, device: torch.device) -> Tensor:
    """Draw the gradient that arrives at an output, once for all providers of that size."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(device)


@cache
def vectors(B: int, H: int, T: int, D: int, device: str) -> tuple[Tensor, ...]:
    """Draw q, k, v of unit length, once for all providers of that size."""
    g = torch.Generator().manual_seed(0)
    return tuple(
        F.normalize(torch.randn(B, H, T, D, generator=g), dim=-1).to(device).requires_grad_() for _ in range(3)
    )


@cache
def gates(B: int, H: int, T: int, C: int, device: str) -> tuple[Tensor, ...]:
    """Draw α, η, θ; θ up to 0.5/C keeps a chunk's steps along one key within what the loss allows."""
    g = torch.Generator().manual_seed(2)
    tops = (0.02, 0.9, 0.5 / C)
    return tuple((torch.rand(B, H, T, generator=g) * top).to(device).requires_grad_() for top in tops)


def forget() -> None:
    """Drop the inputs that were drawn so far."""
    for drawn in (upstream, vectors, gates):
        drawn.cache_clear()


def build(case: Case, device: str = "cpu") -> Work:
    """Make a case ready to run.

    Args:
        case: provider, network and sizes.
        device: "cpu" or "cuda".

    Raises:
        ModuleNotFoundError: if the provider is a package that is not installed.
    """
    torch.manual_seed(0)
    if case.provider == "product":
        a, b = torch.randn(2, PRODUCTS, SIZE, SIZE, device=device)
        return Work(lambda: torch.bmm(a, b), [])
    if case.provider == LAYER or case.provider in PEERS:
        return _layer(case, device)
    x = list(vectors(case.B, case.H, case.T, case.D, device))
    if case.provider == "sdpa":
        return Work(lambda: F.scaled_dot_product_attention(*x, is_causal=True), x)
    x += gates(case.B, case.H, case.T, case.C, device)
    net, run = case.network().to(device), OPERATORS[case.provider]
    state = net.init_state(case.B, case.H, device=device)
    return Work(lambda: run(x, state, net, case.C), [*x, *net.parameters()])


def _layer(case: Case, device: str) -> Work:
    """Make a whole layer ready to run: gradients reach its parameters and its input."""
    layer = EqualLayer(case.network(), case.C) if case.provider == LAYER else their_layer(case)
    layer.to(device)
    x = torch.randn(case.B, case.T, case.D, device=device, requires_grad=True)

    def run() -> Tensor:
        y = layer(x)
        return y if torch.is_tensor(y) else y[0]  # theirs returns its state as well

    return Work(run, [x, *layer.parameters()])
