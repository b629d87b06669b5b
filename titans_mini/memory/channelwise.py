"""Channel-wise forgetting: a vector α_t instead of a number, D rates per layer, as in the paper's second version.

⚠ The paper does not say which axis of a weight matrix α multiplies. Here, with h ↦ h W, it is the *output* axis: column
o of W decays by 1 − α_o. Eq. 32 has diag(1−α) on the value side, where each component of a value has its own
rate, the same for all keys; on the key side the rates of one key would act on its neighbours. In a layer with r·D
outputs, r neighbouring outputs share a rate.

Cost: a scalar gate has one C × C matrix G per chunk; here each of the D channels has its own, and the masked product of
C × C with C × out splits into D products of C × C with C × r. Per token, head and layer that is C·D entries of G,
computed row by row and used once: hardly more arithmetic, but memory-bound. Small chunks pay less. Gradients come from
autograd; the backward pass recomputes each chunk, so that only the states are kept.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from titans_mini.memory.derivatives import ACTIVATIONS
from titans_mini.memory.gates import coefficients, shift_by_one
from titans_mini.memory.network import MemoryNet
from titans_mini.memory.state import MemoryState


def channelwise(
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
    group_size: int | None = None,
) -> tuple[Tensor, MemoryState]:
    """Run the memory chunk by chunk with one forget gate per channel; equal by algebra to `recurrence`.

    Args:
        q: (B, H, T, D) queries.
        k: (B, H, T, D) keys.
        v: (B, H, T, D) values.
        alpha: (B, H, T, 1 or L, D) forget gates.
        eta: (B, H, T, 1 or L) momentum gates.
        theta: (B, H, T, 1 or L) step sizes.
        state: the state to continue from, possibly inside a chunk.
        net: the memory's network; the width of its hidden layers is a multiple of D.
        chunk_size: C.
        anchor: "chunk".
        read: "after" or "before" the write.
        group_size: ignored; an argument of the chunked form.

    Returns:
        y (B, H, T, D) and the state after the last token.

    Built in: notebooks/11 · Paper: eq. 13–18, 32
    """
    B, H, T, _ = v.shape
    L, position = net.depth, state.position
    tokens = [x.flatten(0, 1) for x in (q, k, v)]  # (N, T, D)
    rates = alpha.expand(-1, -1, -1, L, -1).flatten(0, 1)  # (N, T, L, D)
    steps = [x.expand(-1, -1, -1, L).flatten(0, 1) for x in (eta, theta)]  # (N, T, L)
    M, S, at = ([w.flatten(0, 1) for w in x] for x in (state.weights, state.momentum, state.anchor))
    y = []
    for part in zip(*(x.split(_sizes(T, chunk_size, position), 1) for x in (*tokens, rates, *steps)), strict=True):
        at = at if position else M
        y_part, M, S = _checkpointed_chunk(net, read, part, M, S, at)
        y.append(y_part)
        position = (position + part[0].shape[1]) % chunk_size
    at = at if position else M
    out = torch.cat(y, 1) if y else torch.zeros_like(tokens[2])
    M, S, at = (tuple(w.unflatten(0, (B, H)).clone() for w in x) for x in (M, S, at))  # no views, as in `scan`
    return out.unflatten(0, (B, H)), MemoryState(weights=M, momentum=S, anchor=at, position=position)


def _sizes(T: int, C: int, position: int) -> list[int]:
    """Chunk lengths of one call: the rest of an unfinished chunk, whole chunks, a tail."""
    first = min(T, C - position)
    sizes = [first] + [C] * ((T - first) // C) + [(T - first) % C]
    return [size for size in sizes if size]


def _checkpointed_chunk(
    net: MemoryNet, read: str, part: tuple[Tensor, ...], M: list[Tensor], S: list[Tensor], at: list[Tensor]
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Run a chunk; if gradients are needed, keep only its inputs and recompute it in the backward pass."""
    L, same = net.depth, at is M

    def run(*x: Tensor) -> tuple[Tensor, ...]:
        states = [list(x[6 + i * L : 6 + (i + 1) * L]) for i in range(2 if same else 3)]
        y, M_next, S_next = channel_chunk(net, read, x[:6], *states[:2], states[0 if same else 2])
        return y, *M_next, *S_next

    inputs = (*part, *M, *S, *(() if same else at))
    if torch.is_grad_enabled() and any(x.requires_grad for x in (*inputs, *net.parameters())):
        y, *ends = checkpoint(run, *inputs, use_reentrant=False)
    else:
        y, *ends = run(*inputs)
    return y, ends[:L], ends[L:]


def channel_chunk(
    net: MemoryNet, read: str, part: tuple[Tensor, ...], M: list[Tensor], S: list[Tensor], at: list[Tensor]
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Run one chunk: all writes at the anchor, the reads layer by layer, and the state at the chunk's end.

    Args:
        net: the memory's network.
        read: "after" or "before" the write.
        part: q, k, v (N, c, D), alpha (N, c, L, D), eta and theta (N, c, L).
        M: L tensors (N, in, out), the memory at the chunk's start.
        S: L tensors (N, in, out), the momentum there.
        at: L tensors (N, in, out), the anchor.

    Returns:
        y (N, c, D), and M and S at the end.

    Built in: notebooks/11 · Paper: eq. 16–18, 32
    """
    q, k, v, alpha, eta, theta = part
    a, z, sigma = [k], [], ACTIVATIONS[net.activation].sigma
    for layer, W in enumerate(at):
        z.append(a[layer] @ W)
        a.append(sigma(z[layer]))
    error = 2 * (net.finish(z[-1], k) - v)
    deltas, _ = net.deltas(error, z, at, [_differentiable_derivative(net.activation, x) for x in z[:-1]])
    h, M_next, S_next = q, [], []
    for layer, (W, P) in enumerate(zip(M, S, strict=True)):
        s = theta[..., layer, None] * deltas[layer]  # (N, c, out)
        rates = alpha[..., layer, :].mT  # (N, D, c)
        c = coefficients(rates, eta[..., layer].unsqueeze(-2).expand_as(rates))
        end = _end(c, a[layer], s, W, P)
        z_read = _read(c if read == "after" else shift_by_one(c), h, a[layer], s, W, P)
        h = sigma(z_read) if layer < net.depth - 1 else z_read
        M_next.append(end[0])
        S_next.append(end[1])
    return net.finish(h, q), M_next, S_next


def _differentiable_derivative(activation: str, z: Tensor) -> Tensor:
    """Compute σ′(z) in operations that autograd can differentiate, unlike PyTorch's silu_backward."""
    if activation == "silu":
        x = torch.sigmoid(z)
        return x * (1 + z * (1 - x))
    return ACTIVATIONS[activation].derivative(z)


def _repeat_channels(x: Tensor, outputs: int) -> Tensor:
    """Repeat each channel's rate for the outputs that share it: (N, D, …) to (N, outputs, …)."""
    return x.repeat_interleave(outputs // x.shape[1], 1)


def _read(c, h: Tensor, a: Tensor, s: Tensor, W: Tensor, P: Tensor) -> Tensor:
    """z_to = b_to (h W)_o + f_to (h P)_o − Σ_{j≤t} (h_t·a_j) G_otj s_jo: (N, c, out)."""
    D, outputs = c.b.shape[1], s.shape[-1]
    scores = (h @ a.mT).unsqueeze(1) * c.G  # (N, D, c, c): causal through G
    written = scores @ s.unflatten(-1, (D, -1)).transpose(1, 2)  # (N, D, c, r)
    b, f = (_repeat_channels(x, outputs).mT for x in (c.b, c.f))  # (N, c, out)
    return b * (h @ W) + f * (h @ P) - written.transpose(1, 2).flatten(2)


def _end(c, a: Tensor, s: Tensor, W: Tensor, P: Tensor) -> tuple[Tensor, Tensor]:
    """Memory and momentum after the chunk, (N, in, out) each. η has no channels, so one row of n serves all."""
    outputs = s.shape[-1]
    b, f = (_repeat_channels(x, outputs)[:, None, :, -1] for x in (c.b, c.f))  # (N, 1, out)
    G = _repeat_channels(c.G[..., -1, :], outputs).mT  # (N, c, out)
    n, m = c.n[:, 0, -1, :, None], c.m[:, 0, -1, None, None]
    return b * W + f * P - a.mT @ (G * s), m * P - a.mT @ (n * s)
