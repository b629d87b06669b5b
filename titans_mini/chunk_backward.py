"""The derivative of one chunk, by hand: what `chunk` does, backwards, in the same matrix products.

`backward_chunk` goes through the parts of `chunk` in reverse: end, reads, steps. The gradients at everything that a
chunk shares with its parts or its neighbours grow in place, in one `Grads`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from titans_mini.chunk import Chunk, Matrices, Record
from titans_mini.decay import Gates
from titans_mini.derivatives import ACTIVATIONS, norm_pull, norm_pull_backward
from titans_mini.network import MemoryNet


@dataclass
class Grads:
    """Gradients that grow while the parts of a chunk are gone through."""

    gates: list[Gates]  # like the chunk's
    M: Matrices  # at the chunk's start
    S: Matrices
    at: Matrices  # at the anchor; the very tensors of M where the anchor is the start
    gain: Tensor | None  # (D,), of the norm; bias likewise
    bias: Tensor | None

    def of_layer(self, layer: int) -> Gates:
        """Choose a layer's gates; one set serves all layers."""
        return self.gates[min(layer, len(self.gates) - 1)]


def backward_chunk(net: MemoryNet, c: Chunk, r: Record, dy: Tensor, out: Grads) -> tuple[Tensor, Tensor, Tensor]:
    """Differentiate one chunk: `run_chunk`, then `end_chunk`.

    Args:
        net: the memory's network.
        c: the chunk.
        r: its record.
        dy: (N, c, D) gradient at its answers.
        out: comes with the gradients at the memory and momentum at the chunk's *end* in M and S, leaves with those at
            its start; all else grows.

    Returns:
        dq, dk, dv, (N, c, D) each.

    Built in: notebooks/06 · Paper: eq. 15–18
    """
    da, ds = _end(c, r, out)
    dq = _reads(net, c, r, dy, da, ds, out)
    steps = _anchored_steps if c.inverse is None else _online_steps
    return dq, *steps(net, c, r, da, ds, out)


def _rows(x: Tensor, y: Tensor) -> Tensor:
    """Inner products of rows: (N, c, D) and (N, c, D) to (N, c, 1)."""
    return (x * y).sum(-1, keepdim=True)


def _inner(x: Tensor, y: Tensor) -> Tensor:
    """Inner products of matrices: (N, in, out) twice to (N, 1, 1)."""
    return (x * y).sum((1, 2), keepdim=True)


def _end(c: Chunk, r: Record, out: Grads) -> tuple[list[Tensor], list[Tensor]]:
    """From the chunk's end to its start: W = b_C W₀ + f_C P₀ − aᵀ(G_C ∘ s), P = m_C P₀ − aᵀ(n_C ∘ s)."""
    da, ds = [], []
    for layer, (W, P, dW, dP) in enumerate(zip(r.M, r.S, out.M, out.S, strict=True)):
        g, d, a, s = c.of_layer(layer), out.of_layer(layer), r.steps.a[layer], r.steps.s[layer]
        if a.shape[-1] <= s.shape[-1]:
            d_a, d_s = _writes(a, s, g, d, dW, dP)
        else:
            d_s, d_a = _writes(s, a, g, d, dW.mT, dP.mT)
        da.append(d_a)
        ds.append(d_s)
        d.b_end.add_(_inner(dW, W))
        d.f_end.add_(_inner(dW, P))
        d.m_end.add_(_inner(dP, P))
        out.S[layer] = (g.m_end * dP).addcmul_(g.f_end, dW)
        out.M[layer] = g.b_end * dW
    return da, ds


def _writes(narrow: Tensor, wide: Tensor, g: Gates, d: Gates, dW: Tensor, dP: Tensor) -> tuple[Tensor, Tensor]:
    """Through −narrowᵀ(G_C ∘ wide) and −narrowᵀ(n_C ∘ wide); whatever is done per entry is done on the narrow side."""
    from_W, from_P = torch.bmm(wide, dW.mT), torch.bmm(wide, dP.mT)  # (N, c, narrow)
    d.G_end.sub_(_rows(narrow, from_W))
    d.n_end.sub_(_rows(narrow, from_P))
    d_wide = torch.bmm(g.G_end * narrow, dW).baddbmm_(g.n_end * narrow, dP, beta=-1, alpha=-1)
    return from_W.mul_(g.G_end).addcmul_(g.n_end, from_P).neg_(), d_wide


def _reads(
    net: MemoryNet, c: Chunk, r: Record, dy: Tensor, da: list[Tensor], ds: list[Tensor], out: Grads
) -> Tensor:
    """Through the reads, last layer first: z = b∘(h W) + f∘(h P) − ((h aᵀ)∘G) s; da and ds grow. Returns dq."""
    act = ACTIVATIONS[net.activation]
    h = [c.q, *(act.sigma(x) for x in r.z[: net.depth - 1])]
    dz = dy
    if net.norm:
        dz, dgain, dbias = norm_pull(dy, r.z[-1], net.norm_weight.to(dy.dtype), net.eps, slow=True)
        out.gain.add_(dgain)
        out.bias.add_(dbias)
    for layer in range(net.depth - 1, -1, -1):
        g, d, a, s = c.of_layer(layer), out.of_layer(layer), r.steps.a[layer], r.steps.s[layer]
        scores = torch.bmm(h[layer], a.mT)
        dscores = torch.bmm(dz, s.mT)  # with the opposite sign
        d.G.addcmul_(dscores, scores, value=-1)
        dscores *= g.G
        scores *= g.G
        ds[layer].baddbmm_(scores.mT, dz, alpha=-1)
        da[layer].baddbmm_(dscores.mT, h[layer], alpha=-1)
        from_W, from_P = torch.bmm(dz, r.M[layer].mT), torch.bmm(dz, r.S[layer].mT)  # (N, c, in)
        d.b.add_(_rows(from_W, h[layer]))
        d.f.add_(_rows(from_P, h[layer]))
        out.M[layer].baddbmm_(h[layer].mT, g.b * dz)
        out.S[layer].baddbmm_(h[layer].mT, g.f * dz)
        dh = from_W.mul_(g.b).addcmul_(from_P, g.f).baddbmm_(dscores, a, alpha=-1)
        dz = act.pull(dh, r.z[layer - 1]) if layer else dh
    return dz + dy if net.residual else dz


def _anchored_steps(
    net: MemoryNet, c: Chunk, r: Record, da: list[Tensor], ds: list[Tensor], out: Grads
) -> tuple[Tensor, Tensor]:
    """Through the gradients at the anchor: the second derivative of the loss. Returns dk and dv."""
    act, (a, _, z, delta, pulled, slopes), at = ACTIVATIONS[net.activation], r.steps, r.at
    d_at, dz, carried = out.at, [], None  # carried: gradient at what σ′ multiplied, on its way up the layers
    for layer in range(net.depth):
        out.of_layer(layer).theta.add_(_rows(ds[layer], delta[layer]))
        d_delta = ds[layer].mul_(c.of_layer(layer).theta)
        if carried is not None:
            d_delta.baddbmm_(carried, at[layer])
            d_at[layer].baddbmm_(carried.mT, delta[layer])
        if layer < net.depth - 1:
            dz.append(act.bend(z[layer]).mul_(pulled[layer]).mul_(d_delta))
            carried = d_delta.mul_(slopes[layer])
    dz_last, d_error = _error(net, z[-1], c.k, c.v, d_delta, out)
    dz.append(dz_last)
    for layer in range(net.depth - 1, -1, -1):
        d_at[layer].baddbmm_(a[layer].mT, dz[layer])
        da[layer].baddbmm_(dz[layer], at[layer].mT)
        if layer:
            dz[layer - 1].addcmul_(da[layer], slopes[layer - 1])
    return (da[0] + d_error if net.residual else da[0]), -d_error


def _error(net: MemoryNet, z: Tensor, k: Tensor, v: Tensor, u: Tensor, out: Grads) -> tuple[Tensor, Tensor]:
    """Through δ = ∂ℓ/∂z of the last layer: gradients at z and at the error y − v."""
    if not net.norm:
        u = 2 * u
        return u, u
    gain = net.norm_weight.to(z.dtype)
    d_error, dz, dgain = norm_pull_backward(u, 2 * (net.finish(z, k) - v), z, gain, net.eps)
    d_error *= 2
    through, dgain_y, dbias_y = norm_pull(d_error, z, gain, net.eps, slow=True)
    out.gain.add_(dgain.sum((0, 1))).add_(dgain_y)
    out.bias.add_(dbias_y)
    return dz.add_(through), d_error


def _online_steps(
    net: MemoryNet, c: Chunk, r: Record, da: list[Tensor], ds: list[Tensor], out: Grads
) -> tuple[Tensor, Tensor]:
    """Through the triangular system of the exact online rule. Returns dk and dv."""
    g, d, k, wrong = c.gates[0], out.gates[0], c.k, r.steps.z[0]
    mu = torch.bmm(c.inverse.mT, ds[0])  # the system, solved backwards
    d_system = torch.bmm(mu, r.steps.s[0].mT).neg_().tril_(-1)
    scores = torch.bmm(k, k.mT)
    d.theta.add_(2 * _rows(d_system * scores, g.G_before)).add_(2 * _rows(mu, wrong))
    d_system *= 2 * g.theta
    d.G_before.addcmul_(d_system, scores)
    d_scores = d_system * g.G_before
    d_wrong = mu.mul_(2 * g.theta)
    from_W, from_P = torch.bmm(d_wrong, r.M[0].mT), torch.bmm(d_wrong, r.S[0].mT)
    d.b_before.add_(_rows(from_W, k))
    d.f_before.add_(_rows(from_P, k))
    out.M[0].baddbmm_(k.mT, g.b_before * d_wrong)
    out.S[0].baddbmm_(k.mT, g.f_before * d_wrong)
    dk = da[0].addcmul_(from_W, g.b_before).addcmul_(from_P, g.f_before).baddbmm_(d_scores + d_scores.mT, k)
    return (dk + d_wrong if net.residual else dk), -d_wrong
