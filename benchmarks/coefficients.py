"""Accuracy of a chunk's cumulative gate products in float32, read off `neural_memory` itself.

A matrix memory that starts at zero, with keys and values the unit vectors e_j, queries all ones and θ = ½, returns
y_t = Σ_j G_tj e_j: token t's output *is* row t of G, without further rounding. A memory of size two that writes nothing
shows b and f in its outputs, and m in its final momentum.
"""

from __future__ import annotations

import torch
from torch import Tensor

from titans_mini import MemoryNet, MemoryState, neural_memory
from titans_mini.memory.gates import TINY

SIZES = (16, 64, 256, 1024)


def read_rows(alpha: Tensor, eta: Tensor) -> tuple[Tensor, Tensor]:
    """Read G off the answers of a memory, and the last row of n off its momentum.

    Args:
        alpha: (C,) forget gates.
        eta: (C,) momentum gates.

    Returns:
        G (C, C) and n_C (C,).
    """
    C, kind = len(alpha), {"dtype": alpha.dtype}
    net = MemoryNet(C, depth=1, residual=False, norm=False)
    unit = torch.eye(C, **kind)[None, None]
    gates = [z[None, None] for z in (alpha, eta, torch.full((C,), 0.5, **kind))]
    y, state = neural_memory(torch.ones_like(unit), unit, unit, *gates, net=net, chunk_size=C)
    return y[0, 0], state.momentum[0][0, 0].diagonal()


def read_starts(alpha: Tensor, eta: Tensor) -> Tensor:
    """Read b, f and the last m off a memory that starts with M₀ = e₁e₁ᵀ, S₀ = e₂e₂ᵀ and writes nothing.

    Args:
        alpha: (C,) forget gates.
        eta: (C,) momentum gates.

    Returns:
        (2C + 1,): all b, all f, and m_C.
    """
    C, kind = len(alpha), {"dtype": alpha.dtype}
    net = MemoryNet(2, depth=1, residual=False, norm=False)
    M0, S0 = (torch.diag(torch.tensor(d, **kind))[None, None] for d in ([1.0, 0.0], [0.0, 1.0]))
    ones = torch.ones(1, 1, C, 2, **kind)
    gates = [z[None, None] for z in (alpha, eta, torch.zeros_like(alpha))]
    y, state = neural_memory(ones, ones, ones, *gates, MemoryState((M0,), (S0,), (M0,)), net=net, chunk_size=C)
    return torch.cat([y[0, 0].mT.flatten(), state.momentum[0][0, 0, 1, 1:]])


def gate_pairs(C: int) -> dict[str, tuple[Tensor, Tensor]]:
    """Draw pairs of α and η (C,) in float32, by name: ordinary, slow, fast, and at both ends of [0, 1]."""
    g = torch.Generator().manual_seed(7)

    def rand() -> Tensor:
        return torch.rand(C, generator=g)

    def ends() -> Tensor:
        return (rand() < 0.5).float()

    zero, one = torch.zeros(C), torch.ones(C)
    return {
        "random": (rand(), rand()),
        "slow": (1e-6 * rand(), 1 - 1e-6 * rand()),
        "fast": (1 - 1e-6 * rand(), 1e-6 * rand()),
        "0 and 1 at random": (ends(), ends()),
        "0 and 1 among others": (torch.where(rand() < 0.1, ends(), 0.05 * rand()), 1 - rand() * ends()),
        "all 0": (zero, zero),
        "all 1": (one, one),
        "keep all": (zero, one),
        "erase, carry nothing": (one, zero),
    }


def worst_error(sizes: tuple[int, ...] = SIZES) -> float:
    """Return the largest relative error of float32 against float64 over all gates and sizes; NaN if not finite."""
    errors = []
    for C in sizes:
        for alpha, eta in gate_pairs(C).values():
            single = [*read_rows(alpha, eta), read_starts(alpha, eta)]
            double = [*read_rows(alpha.double(), eta.double()), read_starts(alpha.double(), eta.double())]
            double = [x.where(x >= TINY, 0) for x in double]  # in float32 smaller ones are 0 on purpose
            errors += [((a - b).abs() / b.abs().clamp(min=TINY)).max() for a, b in zip(single, double, strict=True)]
    return torch.stack(errors).max().item()
