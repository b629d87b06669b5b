"""The derivative of chunks, by hand: what `chunk` does, backwards, in the same matrix products.

`backward_reads` goes through the answers, and waits for nothing: chunks may be joined. `backward_writes` goes through a
chunk's end and its steps, and needs the gradient at the memory after it. The gradients at everything that a chunk
shares with its parts or its neighbours grow in place, in one `Grads`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from titans_mini.memory.chunk import Chunk, Steps
from titans_mini.memory.decay import Gates
from titans_mini.memory.derivatives import ACTIVATIONS, Normed, norm_pull, norm_pull_backward
from titans_mini.memory.network import MemoryNet
from titans_mini.memory.stack import Matrices, Stack, rows, twice_backward


class Record(NamedTuple):
    """What the derivative of a chunk, or of joined ones, needs of the forward pass."""

    Z: list[Stack]  # at the chunk's start
    at: Matrices  # the anchor
    steps: Steps  # of `backward_reads` a and w alone
    z: list[Tensor]  # of the reads, L tensors (N, c, out); the last one is needed under a norm only


class FromReads(NamedTuple):
    """Gradients that the reads of a chunk send to its writes, where they grow in `backward_writes`."""

    a: list[Tensor]  # L tensors (N, c, in)
    w: list[Tensor]  # L tensors (N, c, out)

    def split(self, N: int) -> list[FromReads]:
        """Take those of joined chunks apart."""
        if len(self.a[0]) == N:
            return [self]
        each = ([list(of_chunk) for of_chunk in zip(*(x.split(N) for x in field), strict=True)] for field in self)
        return [FromReads(*x) for x in zip(*each, strict=True)]


@dataclass
class Grads:
    """Gradients that grow while chunks are gone through, the last one first."""

    gates: list[Gates]  # like the chunk's
    Z: list[Stack]  # at the memory and the momentum
    starts: Matrices  # what reads send to the stacks that they begin with, as those lie; other memory than Z is in
    at: Matrices | None  # at the anchor, where it is not the chunk's start
    gain: Tensor | None  # (D,), of the norm; bias likewise
    bias: Tensor | None

    def of_layer(self, layer: int) -> Gates:
        """Choose a layer's gates; one set serves all layers."""
        return self.gates[min(layer, len(self.gates) - 1)]

    def add_to_anchor(self, layer: int, pairs: list[tuple[Tensor, Tensor]]) -> None:
        """Add Σ aᵀ d to the gradient at the weights that the gradients of the chunk were taken at, as those lie."""
        upright, dW = self.at is not None or self.Z[layer].upright, None
        for a, d in pairs:
            left, right = (a, d) if upright else (d, a)
            dW = torch.bmm(left.mT, right) if dW is None else dW.baddbmm_(left.mT, right)
        (self.Z[layer].W if self.at is None else self.at[layer]).add_(dW if upright else dW.mT)


def backward_reads(net: MemoryNet, c: Chunk, r: Record, dy: Tensor, out: Grads) -> tuple[Tensor, FromReads]:
    """Differentiate `read_chunk`, last layer first: z = b∘(h W) + f∘(h P) + ((h aᵀ)∘G) w.

    Args:
        net: the memory's network.
        c: the chunk, or joined ones.
        r: its record.
        dy: (N, c, D) gradient at its answers.
        out: the gradients at its gates and the norm grow.

    Returns:
        dq (N, c, D), and what goes on to `backward_writes`.

    Built in: notebooks/08 · Paper: eq. 15
    """
    act = ACTIVATIONS[net.activation]
    h, dz = [c.q, *(act.sigma(x) for x in r.z[: net.depth - 1])], dy
    if net.norm:
        dz, dgain, dbias = norm_pull(dy, r.z[-1], net.norm_weight.to(dy.dtype), net.eps, slow=True)
        out.gain.add_(dgain)
        out.bias.add_(dbias)
    da, dw = [], []
    for layer in range(net.depth - 1, -1, -1):
        g, d, a, w = c.of_layer(layer), out.of_layer(layer), r.steps.a[layer], r.steps.w[layer]
        add = layer < net.depth - 1 and len(c.gates) == 1  # to what the layers above found; else nothing is there yet
        scores, dscores = torch.bmm(h[layer], a.mT), torch.bmm(dz, w.mT)
        d.G.addcmul_(dscores, scores) if add else torch.mul(dscores, scores, out=d.G)
        scores.mul_(g.G)
        dscores.mul_(g.G)
        dw.append(torch.bmm(scores.mT, dz))
        da.append(torch.bmm(dscores.mT, h[layer]))
        dh = _start(c, g, d.reads, add, h[layer], dz, r.Z[layer], out.starts[layer][: len(dz)])
        dh.baddbmm_(dscores, a)
        dz = act.pull(dh, r.z[layer - 1]) if layer else dh
    return dz + dy if net.residual else dz, FromReads(da[::-1], dw[::-1])


def backward_writes(
    net: MemoryNet, c: Chunk, r: Record, reads: FromReads, starts: list[Stack], out: Grads
) -> tuple[Tensor, Tensor]:
    """Differentiate one chunk but for its reads: `anchored_steps`, then `end_chunk`.

    Args:
        net: the memory's network.
        c: the chunk.
        r: its record.
        reads: what its reads send; overwritten.
        starts: what they send to the stacks at its start; becomes the gradient there.
        out: comes with the gradient at the chunk's *end* in Z, leaves with that at its start; all else grows.

    Returns:
        dk and dv, (N, c, D) each.

    Built in: notebooks/08 · Paper: eq. 16–18
    """
    _end(c, r, reads, starts, out)
    return _steps(net, c, r, reads.a, reads.w, out)


def _end(c: Chunk, r: Record, reads: FromReads, starts: list[Stack], out: Grads) -> None:
    """From the chunk's end to its start: W = b_C W₀ + f_C P₀ + aᵀ(G_C ∘ w), P = m_C P₀ + aᵀ(n_C ∘ w)."""
    for layer, (Z, dZ, start) in enumerate(zip(r.Z, out.Z, starts, strict=True)):
        g, d, a, w = c.of_layer(layer), out.of_layer(layer), r.steps.a[layer], r.steps.w[layer]
        da, dw = reads.a[layer], reads.w[layer]
        narrow, wide, d_narrow, d_wide = (a, w, da, dw) if Z.upright else (w, a, dw, da)
        twice_backward(torch.bmm(wide, dZ.whole.mT), narrow, g.ends, d.ends, add=True, dx=d_narrow)
        d_wide.baddbmm_(c.twice(narrow, g.ends), dZ.whole)
        _decay_backward(Z, dZ, g, d, start)
    out.Z = starts


def _decay_backward(Z: Stack, dZ: Stack, g: Gates, d: Gates, out: Stack) -> None:
    """Through `Stack.decay`, W = b_C W₀ + f_C P₀ and P = m_C P₀: the gradient at the start grows."""
    inner = torch.bmm(dZ.halves.flatten(2), Z.halves.flatten(2).mT)  # (N, 2, 2): dW and dP with W₀ and P₀
    d.corner.add_(inner)  # dP with W₀ means nothing: n is 0 there, and `fill_table_backward` multiplies it by that
    out.halves.addcmul_(dZ.halves, g.keep)
    out.P.addcmul_(dZ.W, g.f_end)


def _start(c: Chunk, g: Gates, d_reads: Tensor, add: bool, h: Tensor, dz: Tensor, Z: Stack, dZ: Tensor) -> Tensor:
    """Through what a layer reads of the chunk's start, b∘(h W) + f∘(h P). Fills dZ; returns the gradient at h."""
    if Z.upright:
        dZ.baddbmm_(c.twice(h, g.reads).mT, dz, beta=0)
        return twice_backward(torch.bmm(dz, Z.whole.mT), h, g.reads, d_reads, add)
    dZ.baddbmm_(c.twice(dz, g.reads).mT, h, beta=0)
    from_W, from_P = torch.bmm(dz, Z.W.mT), torch.bmm(dz, Z.P.mT)  # two products: each meets h alone as well
    (b, f), (d_b, d_f) = g.reads.unbind(2), d_reads.unbind(2)
    rows(from_W, h, d_b, add)
    rows(from_P, h, d_f, add)
    return from_W.mul_(b).addcmul_(from_P, f)


def _steps(
    net: MemoryNet, c: Chunk, r: Record, da: list[Tensor], dw: list[Tensor], out: Grads
) -> tuple[Tensor, Tensor]:
    """Through the gradients at the anchor: the second derivative of the loss. Returns dk and dv."""
    s, at, shared = r.steps, r.at, len(c.gates) == 1
    dz, carried, pairs = [], None, [[] for _ in range(net.depth)]  # carried: gradient at what σ′ multiplied, going up
    for layer in range(net.depth):
        d_delta = dw[layer]
        if not shared:
            rows(d_delta, s.delta[layer], out.of_layer(layer).step)
            d_delta = d_delta.mul_(c.gates[layer].step)
        if carried is not None:
            d_delta.baddbmm_(carried, at[layer])
            pairs[layer].append((carried, s.delta[layer]))
        if layer < net.depth - 1:
            dz.append(s.bent[layer].mul_(d_delta))
            carried = d_delta.mul_(s.slopes[layer])
    if shared:
        rows(d_delta, s.top, out.gates[0].step)
        d_delta = d_delta.mul_(c.gates[0].step)
    dz_last, dv = _error(net, s, d_delta, out)
    dz.append(dz_last)
    for layer in range(net.depth - 1, -1, -1):
        out.add_to_anchor(layer, [*pairs[layer], (s.a[layer], dz[layer])])
        da[layer].baddbmm_(dz[layer], at[layer].mT)
        if layer:
            dz[layer - 1].addcmul_(da[layer], s.slopes[layer - 1])
    return (da[0].sub_(dv) if net.residual else da[0]), dv


def _error(net: MemoryNet, s: Steps, u: Tensor, out: Grads) -> tuple[Tensor, Tensor]:
    """Through the last layer's part of the gradient, from u at `Steps.top`: gradients at its output and at v."""
    if not net.norm:
        return -u, u
    dv, dz, d_gain, d_bias = norm_pull_backward(u, s.top, s.error, Normed(*s.norm), net.norm_weight.to(u.dtype))
    out.gain.add_(d_gain)
    out.bias.add_(d_bias)
    return dz, dv
