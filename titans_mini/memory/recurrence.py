"""The definition: one token at a time, gradients by autograd. Slow, obvious, and the oracle for every faster path."""

from __future__ import annotations

import torch
from torch import Tensor

from titans_mini.memory.network import MemoryNet, Weights
from titans_mini.memory.state import MemoryState


def recurrence(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    alpha: Tensor,
    eta: Tensor,
    theta: Tensor,
    state: MemoryState,
    net: MemoryNet,
    chunk_size: int,
    anchor: str,
    read: str,
) -> tuple[Tensor, MemoryState]:
    """Run the memory token by token.

    Args:
        q: (B, H, T, D) queries.
        k: (B, H, T, D) keys.
        v: (B, H, T, D) values.
        alpha: (B, H, T, 1 or L) forget gates, or (B, H, T, 1 or L, D), one per channel.
        eta: (B, H, T, 1 or L) momentum gates.
        theta: (B, H, T, 1 or L) step sizes.
        state: the state to continue from.
        net: the memory's network.
        chunk_size: C; gradients are taken at the memory at the start of the chunk.
        anchor: "chunk", or "token" for gradients at M_{t−1} (the same as C = 1).
        read: "after" the write, M_t(q_t), or "before" it, M_{t−1}(q_t).

    Returns:
        y (B, H, T, D) and the state after the last token.

    Built in: notebooks/03 · Paper: eq. 13–16
    """
    C = 1 if anchor == "token" else chunk_size
    M, S, M_anchor, position = state.weights, state.momentum, state.anchor, state.position
    if anchor == "token" or position == 0:
        M_anchor, position = M, 0  # a new chunk starts
    y = []
    for t in range(q.shape[2]):
        alpha_t = rates_of_token(alpha, t, net) if alpha.dim() == 5 else gates_of_token(alpha, t, net.depth)
        eta_t, theta_t = (gates_of_token(gate, t, net.depth) for gate in (eta, theta))
        u = surprise(net, M_anchor, k[:, :, t], v[:, :, t])
        M_next, S = write(M, S, u, alpha_t, eta_t, theta_t)
        y.append(net(M_next if read == "after" else M, q[:, :, t : t + 1]))
        M, position = M_next, (position + 1) % C
        if position == 0:
            M_anchor = M  # the next chunk takes its gradients here
    out = torch.cat(y, 2) if y else torch.zeros_like(v)
    return out, MemoryState(weights=M, momentum=S, anchor=M_anchor, position=position)


def loss(net: MemoryNet, weights: Weights, k: Tensor, v: Tensor) -> Tensor:
    """Compute the associative loss of one token: ℓ(M; k, v) = ‖M(k) − v‖².

    Args:
        net: the memory's network.
        weights: L tensors (B, H, in, out).
        k: (B, H, D) keys of one token.
        v: (B, H, D) values of one token.

    Returns:
        (B, H), the squared error summed over components, without ½.

    Built in: notebooks/01 · Paper: eq. 12
    """
    y = net(weights, k.unsqueeze(-2)).squeeze(-2)  # (B, H, D)
    return (y - v).square().sum(-1)


def surprise(net: MemoryNet, weights: Weights, k: Tensor, v: Tensor) -> Weights:
    """Differentiate the loss with respect to the memory's weights: the momentary surprise ∇ℓ(M; k, v).

    Args:
        net: the memory's network.
        weights: L tensors (B, H, in, out).
        k: (B, H, D) keys of one token.
        v: (B, H, D) values of one token.

    Returns:
        L tensors (B, H, in, out). They are differentiable if grad mode is on and an input requires gradients.

    Built in: notebooks/02 · Paper: eq. 8
    """
    differentiable = torch.is_grad_enabled() and any(x.requires_grad for x in (*weights, k, v, *net.parameters()))
    with torch.enable_grad():  # the inner gradient is part of the forward pass, also under no_grad
        # k and v may depend on the memory, as in MAC. A view of it is a variable that only this loss depends on.
        M = tuple(w.view_as(w) if differentiable and w.requires_grad else w.detach().requires_grad_() for w in weights)
        return torch.autograd.grad(loss(net, M, k, v).sum(), M, create_graph=differentiable)


def write(
    weights: Weights, momentum: Weights, gradients: Weights, alpha: list[Tensor], eta: list[Tensor], theta: list[Tensor]
) -> tuple[Weights, Weights]:
    """Write one token: S_t = η_t S_{t−1} − θ_t ∇ℓ, then M_t = (1−α_t) M_{t−1} + S_t.

    Args:
        weights: M_{t−1}, L tensors (B, H, in, out).
        momentum: S_{t−1}, same shapes.
        gradients: ∇ℓ, same shapes.
        alpha: L forget gates that broadcast against the weights, such as (B, H, 1, 1).
        eta: L momentum gates.
        theta: L step sizes.

    Returns:
        M_t and S_t. Forgetting decays M, not S.

    Built in: notebooks/03 · Paper: eq. 13–14
    """
    S = tuple(e * s - th * u for s, u, e, th in zip(momentum, gradients, eta, theta, strict=True))
    M = tuple((1 - al) * w + s for w, s, al in zip(weights, S, alpha, strict=True))
    return M, S


def gates_of_token(gates: Tensor, t: int, depth: int) -> list[Tensor]:
    """Select the gates of token t, one per layer, shaped to multiply weights.

    Args:
        gates: (B, H, T, 1) or (B, H, T, L).
        t: token index.
        depth: number of layers L.

    Returns:
        L tensors (B, H, 1, 1).

    Built in: notebooks/08 · Paper: section 3.1
    """
    return [g[..., None, None] for g in gates[:, :, t].expand(-1, -1, depth).unbind(-1)]


def rates_of_token(alpha: Tensor, t: int, net: MemoryNet) -> list[Tensor]:
    """Select the channel-wise forget gates of token t, one per output of each layer.

    Args:
        alpha: (B, H, T, 1 or L, D).
        t: token index.
        net: the memory's network; in a layer with r·D outputs, r neighbouring outputs share a rate.

    Returns:
        L tensors (B, H, 1, out), which decay the columns of (B, H, in, out).

    Built in: notebooks/11 · Paper: eq. 32
    """
    rates = alpha[:, :, t].expand(-1, -1, net.depth, -1).unbind(2)
    return [
        x.repeat_interleave(out // net.dim, -1).unsqueeze(-2) for x, (_, out) in zip(rates, net.shapes, strict=True)
    ]
