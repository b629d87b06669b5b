"""One chunk of tokens as matrix products: write, read, end. Then the backward pass of each, by hand.

Inside a chunk all gradients are taken at one anchor, so they are known before the first token is written. The gradient
of a layer is rank one per token: token j adds a_jᵀ w_j to the layer, where a_j is the layer's input at the anchor and
w_j = −θ_j δ_j, with δ_j = ∂ℓ/∂(the layer's output). So nobody needs the weights after each token. A query reads the
memory at the chunk's start, decayed, and the writes up to its own token, weighed by how much its own way through the
layer resembles theirs. That is masked linear attention, once in each layer:

    write   a_j and w_j of every token
    read    z_t = b_t h M + f_t h S + Σ_{j≤t} G_tj (h·a_j) w_j,  h ← σ(z_t),  from h = q_t;  y_t = finish(z_t, q_t)
    end     M ← b_C M + f_C S + aᵀ(G_C ∘ w),   S ← m_C S + aᵀ(n_C ∘ w)

M and S are a layer's weights and momentum at the chunk's start, σ the activation, and `finish` adds norm and residual.
The coefficients come from the gates alone, see `gates`: b and f are the shares of M and S at the start that are left in
the memory at token t, G the shares of each write; m and n are the same for the momentum. Only `write` and `end` wait
for the chunk before; many chunks can be read at once. Batch and heads are one axis N here.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from titans_mini.memory.derivatives import ACTIVATIONS, layer_norm_vjp, layer_norm_vjp_backward
from titans_mini.memory.gates import End, Rows
from titans_mini.memory.network import MemoryNet

Layers = list[Tensor]  # one tensor for each layer of the memory's network
bmm = torch.bmm


class Writes(NamedTuple):
    """The writes of a chunk, and the tensors that their backward pass uses."""

    a: Layers  # (N, c, in), the layer's input at the anchor
    w: Layers  # (N, c, out), 2θ delta: token j adds a_jᵀ w_j to the layer
    z: Layers  # (N, c, out), the layer's output before its activation
    slope: Layers  # (N, c, out), σ′(z); none for the last layer
    delta: Layers  # (N, c, out), −½ ∂ℓ/∂z = −½ δ
    pulled: Layers  # (N, c, out), delta of the next layer times Wᵀ, before ∘ σ′(z); none for the last layer
    error: Tensor  # (N, c, D), v − M(k)


class Factored(NamedTuple):
    """The memory within a chunk: M and S at its start, and the factors of its writes; or the gradients at all four."""

    a: Layers  # (N, c, in), see `Writes`
    w: Layers  # (N, c, out), see `Writes`
    M: Layers  # (N, in, out), the memory at the chunk's start
    S: Layers  # (N, in, out), the momentum there

    def split(self, count: int) -> list[Factored]:
        """Split joined chunks, (count·N, …), into views of each."""
        each = (list(zip(*(x.chunk(count) for x in layers), strict=True)) for layers in self)
        return [Factored(*map(list, parts)) for parts in zip(*each, strict=True)]


def outputs_at_keys(net: MemoryNet, k: Tensor, anchor: Layers) -> Layers:
    """Run the anchor on the keys (N, c, D): each layer's output before its activation, (N, c, out)."""
    sigma, z = ACTIVATIONS[net.activation].sigma, [bmm(k, anchor[0])]
    for W in anchor[1:]:
        z.append(bmm(sigma(z[-1]), W))
    return z


def write(net: MemoryNet, k: Tensor, v: Tensor, step: Layers, anchor: Layers, z: Layers) -> Writes:
    """Compute the writes of all tokens of a chunk, with every gradient taken at the anchor.

    Args:
        net: the memory's network.
        k: (N, c, D) keys.
        v: (N, c, D) values.
        step: (N, c, 1), 2θ: the 2 is that of the square.
        anchor: (N, in, out), the memory at the chunk's start; in the rest of a chunk that an earlier call began, the
            memory at the start of the whole chunk.
        z: (N, c, out), from `outputs_at_keys`.

    Returns:
        The rank-one factors of the writes.

    Built in: notebooks/08 · Paper: eq. 16–17
    """
    act = ACTIVATIONS[net.activation]
    a, slope = [k, *map(act.sigma, z[:-1])], [act.derivative(x) for x in z[:-1]]
    error = v - net.finish(z[-1], k)  # −½ ∂ℓ/∂M(k); `deltas` is linear, so −½ ∂ℓ/∂z comes out
    delta, pulled = net.deltas(error, z, anchor, slope)
    w = [s * d for s, d in zip(step, delta, strict=True)]
    return Writes(a, w, z, slope, delta, pulled, error)


def read(net: MemoryNet, q: Tensor, rows: list[Rows], memory: Factored) -> tuple[Tensor, Layers]:
    """Answer the queries of a chunk, each from the memory of its own token.

    Args:
        net: the memory's network.
        q: (N, c, D) queries.
        rows: the coefficients of each token.
        memory: the memory within the chunk.

    Returns:
        y (N, c, D), and each layer's output before its activation, (N, c, out).

    Built in: notebooks/08 · Paper: eq. 15
    """
    a, w, M, S = memory
    sigma, z = ACTIVATIONS[net.activation].sigma, []
    for i, (b, f, G) in enumerate(rows):
        h = sigma(z[-1]) if i else q
        scores = bmm(h, a[i].mT).mul_(G)  # (N, c, c), causal through G
        from_start = bmm(h, M[i]).mul_(b).addcmul_(bmm(h, S[i]), f)
        z.append(from_start.baddbmm_(scores, w[i]))
    return net.finish(z[-1], q), z


def end(ends: list[End], memory: Factored) -> tuple[Layers, Layers]:
    """Sum the writes of a chunk into the memory and the momentum.

    Args:
        ends: the coefficients at the end of the chunk.
        memory: the memory within the chunk.

    Returns:
        M and S after the chunk, (N, in, out).

    Built in: notebooks/08 · Paper: eq. 16–18
    """
    a, w, M, S = memory
    M_next, S_next = [], []
    for i, (b, f, m, G, n) in enumerate(ends):
        M_next.append((b * M[i]).addcmul_(f, S[i]).baddbmm_((G * a[i]).mT, w[i]))
        S_next.append((m * S[i]).baddbmm_((n * a[i]).mT, w[i]))
    return M_next, S_next


# -- the backward pass: d… is the gradient of the outer loss with respect to … -----------------------------------------


def read_backward(
    net: MemoryNet,
    q: Tensor,
    rows: list[Rows],
    memory: Factored,
    z: Layers,
    dy: Tensor,
    d_rows: list[Rows],
    d_norm: Layers,
) -> tuple[Tensor, Factored]:
    """Backpropagate through `read`, the last layer first.

    `net` to `memory` are as given to `read`, `z` are the outputs of the layers that it returned, `dy` (N, c, D) is the
    gradient at the answers. The gradients at the coefficients, `d_rows`, and at the norm's gain and bias, `d_norm`,
    are accumulated in place. Returns the gradients at q (N, c, D) and at the memory.
    """
    a, w, M, S = memory
    act, dz, grads = ACTIVATIONS[net.activation], dy, []
    if net.norm:
        dz, *d_affine = layer_norm_vjp(dy, z[-1], net.norm_weight.to(dy.dtype), net.eps, affine=True)
        add(d_norm, d_affine)
    h = [q, *map(act.sigma, z[: net.depth - 1])]
    for i in reversed(range(net.depth)):
        (b, f, G), (db, df, dG) = rows[i], d_rows[i]
        scores, d_scores = bmm(h[i], a[i].mT), bmm(dz, w[i].mT)
        dG.addcmul_(d_scores, scores)
        scores, d_scores = scores.mul_(G), d_scores.mul_(G)
        to_M, to_S = bmm(dz, M[i].mT), bmm(dz, S[i].mT)
        db.add_(row_dot(to_M, h[i]))
        df.add_(row_dot(to_S, h[i]))
        dM, dS = bmm((b * h[i]).mT, dz), bmm((f * h[i]).mT, dz)
        grads.append((bmm(d_scores.mT, h[i]), bmm(scores.mT, dz), dM, dS))
        dh = to_M.mul_(b).addcmul_(to_S, f).baddbmm_(d_scores, a[i])
        dz = act.vjp(dh, z[i - 1]) if i else dh
    return dz + dy if net.residual else dz, Factored(*(list(x) for x in zip(*reversed(grads), strict=True)))


def end_backward(
    ends: list[End], memory: Factored, dM_next: Layers, dS_next: Layers, d_ends: list[End], d_memory: Factored
) -> None:
    """Backpropagate through `end`, adding to the gradients of the reads.

    `ends` and `memory` are as given to `end`; `dM_next` and `dS_next` (N, in, out) are the gradients at what it
    returned. The gradients at the coefficients, `d_ends`, and at the memory, `d_memory`, are accumulated in place.
    """
    a, w, M, S = memory
    for i, ((b, f, m, G, n), (db, df, dm, dG, dn)) in enumerate(zip(ends, d_ends, strict=True)):
        dM, dS = dM_next[i], dS_next[i]
        to_M, to_S = bmm(w[i], dM.mT), bmm(w[i], dS.mT)
        dG.add_(row_dot(to_M, a[i]))
        dn.add_(row_dot(to_S, a[i]))
        d_memory.a[i].addcmul_(to_M, G).addcmul_(to_S, n)
        d_memory.w[i].baddbmm_(G * a[i], dM).baddbmm_(n * a[i], dS)
        db.add_(inner(dM, M[i]))
        df.add_(inner(dM, S[i]))
        dm.add_(inner(dS, S[i]))
        d_memory.M[i].addcmul_(b, dM)
        d_memory.S[i].addcmul_(m, dS).addcmul_(f, dM)


def write_backward(
    net: MemoryNet,
    step: Layers,
    anchor: Layers,
    x: Writes,
    da: Layers,
    dw: Layers,
    d_step: Layers,
    d_anchor: Layers,
    d_norm: Layers,
) -> tuple[Tensor, Tensor]:
    """Backpropagate through `write`: the second derivative of the loss that the memory minimises.

    `net`, `step` and `anchor` are as given to `write`, `x` is its result. `da` and `dw`, the gradients at `x.a` and
    `x.w`, are overwritten. The gradients at step, anchor and the norm's gain and bias are accumulated in place in
    `d_step`, `d_anchor` and `d_norm`. Returns the gradients at k and v, (N, c, D) each.
    """
    dz, up = [], None
    for i in range(net.depth):  # delta went from the last layer to the first, so its gradient goes back to the last
        d_step[i].add_(row_dot(dw[i], x.delta[i]))
        d_delta = dw[i].mul_(step[i])
        if up is not None:  # delta of layer i − 1 is (delta of layer i Wᵀ) ∘ σ′(z)
            d_delta.baddbmm_(up, anchor[i])
            d_anchor[i].baddbmm_(up.mT, x.delta[i])
        if i < net.depth - 1:
            up = d_delta * x.slope[i]
            dz.append(ACTIVATIONS[net.activation].second_derivative(x.z[i]).mul_(x.pulled[i]).mul_(d_delta))
    if net.norm:
        gain = net.norm_weight.to(d_delta.dtype)
        dv, dz_last, *d_affine = layer_norm_vjp_backward(d_delta, x.delta[-1], x.error, x.z[-1], gain, net.eps)
        add(d_norm, d_affine)
    else:
        dv, dz_last = d_delta, -d_delta
    dz.append(dz_last)
    for i in reversed(range(net.depth)):  # then through the network itself; da[i] becomes the gradient at σ(z)
        d_anchor[i].baddbmm_(x.a[i].mT, dz[i])
        da[i].baddbmm_(dz[i], anchor[i].mT)
        if i:
            dz[i - 1].addcmul_(da[i], x.slope[i - 1])
    return (da[0] - dv if net.residual else da[0]), dv


def row_dot(x: Tensor, y: Tensor) -> Tensor:
    """Inner products of rows: (…, D) and (…, D) to (…, 1)."""
    return (x * y).sum(-1, keepdim=True)


def inner(x: Tensor, y: Tensor) -> Tensor:
    """Inner products of matrices: (N, in, out) and (N, in, out) to (N, 1, 1)."""
    return bmm(x.flatten(1).unsqueeze(1), y.flatten(1).unsqueeze(2))


def add(sums: Layers, more: Layers) -> None:
    """Add tensors to running sums, one by one."""
    for x, y in zip(sums, more, strict=True):
        x.add_(y)
