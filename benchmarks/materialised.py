"""The same mathematics done naively: every token's own weight matrices are materialised, chunk by chunk.

It shares no code with the library's fast form, so it also verifies it. A chunk needs only two decay masks: n of η, and
A of 1−α; their product G = A n is the share of each write that remains in each M_t.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.func import grad, vmap

from titans_mini import MemoryNet, MemoryState

Weights = tuple[Tensor, ...]


def decay_mask(gate: Tensor) -> Tensor:
    """Compute the gate products between any two tokens: entry (t, j) is Π_{j<i≤t} gate_i, and 0 for j > t.

    Args:
        gate: (…, c).

    Returns:
        (…, c, c), lower triangular with ones on the diagonal.
    """
    c = gate.shape[-1]
    after = torch.ones(c, c, dtype=torch.bool, device=gate.device).tril(-1)  # i > j
    factors = torch.where(after, gate.unsqueeze(-1), 1)
    return factors.cumprod(-2).tril()


def token_gradients(net: MemoryNet, weights: Weights, k: Tensor, v: Tensor) -> Weights:
    """Compute the gradient of ‖M(k) − v‖² of every token separately, all at the same weights.

    Args:
        net: the memory's network.
        weights: L tensors (B, H, in, out), the anchor.
        k: (B, H, c, D) keys.
        v: (B, H, c, D) values.

    Returns:
        L tensors (B, H, c, in, out).
    """

    def loss(weights: Weights, k: Tensor, v: Tensor) -> Tensor:
        return (net(weights, k.unsqueeze(0)).squeeze(0) - v).square().sum()

    per_token = vmap(grad(loss), in_dims=(None, 0, 0))
    return vmap(vmap(per_token))(weights, k, v)


def materialised_chunk(net: MemoryNet, chunk: list[Tensor], M: Weights, S: Weights) -> tuple[Tensor, Weights, Weights]:
    """Run one chunk; return its outputs (B, H, c, D), and the memory and momentum at its end."""
    q, k, v, alpha, eta, theta = chunk
    n, A = decay_mask(eta), decay_mask(1 - alpha)  # (B, H, c, c)
    m, b = eta.cumprod(-1), (1 - alpha).cumprod(-1)  # (B, H, c)
    f = (A @ m.unsqueeze(-1)).squeeze(-1)
    G, n_end = (A @ n) * theta.unsqueeze(-2), n[..., -1, :] * theta  # θ scales each write
    at, S_end = [], []
    for M0, S0, u in zip(M, S, token_gradients(net, M, k, v), strict=True):
        kept = torch.einsum("bht,bhio->bhtio", b, M0) + torch.einsum("bht,bhio->bhtio", f, S0)
        at.append(kept - torch.einsum("bhtj,bhjio->bhtio", G, u))  # M_t of every token
        S_end.append(m[..., -1, None, None] * S0 - torch.einsum("bhj,bhjio->bhio", n_end, u))
    y = net(tuple(at), q.unsqueeze(-2)).squeeze(-2)
    return y, tuple(w[:, :, -1] for w in at), tuple(S_end)


def materialised(x: list[Tensor], state: MemoryState, net: MemoryNet, chunk_size: int) -> Tensor:
    """Run a sequence from the start of a chunk.

    Args:
        x: q, k, v (B, H, T, D) and α, η, θ (B, H, T).
        state: initial state.
        net: the memory's network.
        chunk_size: C.

    Returns:
        y (B, H, T, D).
    """
    M, S, y = state.weights, state.momentum, []
    for chunk in zip(*(z.split(chunk_size, 2) for z in x), strict=True):
        y_chunk, M, S = materialised_chunk(net, list(chunk), M, S)
        y.append(y_chunk)
    return torch.cat(y, 2)
