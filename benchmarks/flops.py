"""Floating-point operations from formulas: the count of the algorithm, not of an implementation."""

from __future__ import annotations

from benchmarks.cases import EVERY_CHUNK, Case
from titans_mini import MemoryNet

PRODUCTS, SIZE = 256, 64  # the reference workload: this many products of SIZE × SIZE × SIZE in one call


def per_token(net: MemoryNet, chunk_size: int) -> int:
    """Count the forward pass of the dual form per token and head: 12P − 2P₁ + 2CN.

    P weights, P₁ of the first layer, N the sum of all layers' inputs and outputs. Gates, activations and the norm are
    not counted.
    """
    P = sum(i * o for i, o in net.shapes)
    P1 = net.shapes[0][0] * net.shapes[0][1]
    N = sum(i + o for i, o in net.shapes)
    return 12 * P - 2 * P1 + 2 * chunk_size * N


def flops(case: Case, which: str) -> int | None:
    """Count a case's operations; None for providers whose work the formula does not describe.

    The online rule is counted as the anchored one, so that their rates compare like their times: its triangular
    systems are extra work for the same result. Attention counts the half of the scores that the mask leaves.
    """
    if case.provider == "product":
        return PRODUCTS * 2 * SIZE**3
    heads = case.B * case.H
    if case.provider == "sdpa":
        forward, factor = 2 * heads * case.T**2 * case.D, 2.5  # five products backward for two forward
    elif case.provider.removesuffix(EVERY_CHUNK) in ("chunked", "online"):
        forward, factor = heads * case.T * per_token(case.network(), case.C), 2
    else:
        return None
    return forward if which == "forward" else round(forward * (1 + factor))
