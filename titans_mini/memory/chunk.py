"""One chunk as matrix products: what each token writes, what each query reads, where the memory ends.

Heads and batch are one axis N here: every product is a `bmm`, small enough to stay in the processor's cache.
A chunk has three parts, and `chunk_backward` holds the derivative of each:
  steps   the writes of all tokens as rank-one factors: token j writes a_jᵀ w_j, with w = −θδ
  read    z_t = b_t h W + f_t h P + Σ_{j≤t} G_tj (h·a_j) w_j, layer by layer
  end     W = b_C W₀ + f_C P₀ + aᵀ(G_C ∘ w),  P = m_C P₀ + aᵀ(n_C ∘ w)
The weights W and the momentum P of a layer are one `Stack`. The next chunk waits for steps and end, and for no read:
where chunks are small, `deep` joins several along N, chunk before head, and reads them at once.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from titans_mini.memory.decay import Gates
from titans_mini.memory.derivatives import ACTIVATIONS, Normed
from titans_mini.memory.network import MemoryNet
from titans_mini.memory.stack import Matrices, Stack, Twice


class Chunk(NamedTuple):
    """The inputs of one chunk."""

    q: Tensor  # (N, c, D), k and v likewise
    k: Tensor
    v: Tensor
    gates: list[Gates]  # one, or one for each layer
    twice: Twice  # shared by all chunks of a run

    def of_layer(self, layer: int) -> Gates:
        """Choose a layer's gates; one set serves all layers."""
        return self.gates[min(layer, len(self.gates) - 1)]

    def split(self, N: int) -> list[Chunk]:
        """Take joined chunks apart."""
        qkv, gates = (x.split(N) for x in self[:3]), zip(*(g.split(N) for g in self.gates), strict=True)
        return [Chunk(*x, list(g), self.twice) for *x, g in zip(*qkv, gates, strict=True)]


class Steps(NamedTuple):
    """The writes of a chunk: token j adds a_jᵀ w_j to each layer. The rest is for their derivative, where announced."""

    a: list[Tensor]  # L tensors (N, c, in), what each layer sees
    w: list[Tensor]  # L tensors (N, c, out), −θδ
    z: list[Tensor]  # each layer's output at the anchor, but without a norm the last one is `error`
    error: Tensor | None  # (N, c, D), v − M(k)
    top: Tensor | None  # −½ ∂ℓ/∂z of the last layer
    delta: list[Tensor]  # the same for all layers; where they share their gates, 2θ is in it already
    slopes: list[Tensor]  # σ′(z) below the last layer, where the derivative was announced
    bent: list[Tensor]  # σ″(z) times what σ′ multiplied, likewise
    norm: list[Tensor]  # what the norm found, a `Normed`, likewise

    def factors(self) -> Steps:
        """Drop what only the derivative needs."""
        return Steps(self.a, self.w, [], None, None, [], [], [], [])

    @classmethod
    def join(cls, k: Tensor, each: list[Steps], keep: bool) -> Steps:
        """Join the writes of chunks, whose joined keys are k; `keep` asks for the layers' outputs too."""
        if len(each) == 1:
            return each[0] if keep else each[0].factors()
        a, w = [s.a[1:] for s in each], [s.w for s in each]
        a, w, z = ([torch.cat(x) for x in zip(*y, strict=True)] for y in (a, w, [s.z for s in each] if keep else []))
        return cls([k, *a], w, z, None, None, [], [], [], [])

    def split(self, N: int) -> list[Steps]:
        """Take the writes of joined chunks apart."""
        count = self.a[0].shape[0] // N
        if count == 1:
            return [self]

        def apart(x: Tensor | list[Tensor] | None) -> list[Tensor | list[Tensor] | None]:
            if isinstance(x, list):
                return [list(of_chunk) for of_chunk in zip(*(y.split(N) for y in x), strict=True)] or [[]] * count
            return [None] * count if x is None else x.split(N)

        return [Steps(*fields) for fields in zip(*map(apart, self), strict=True)]


def anchored_steps(
    net: MemoryNet, c: Chunk, at: Matrices, z: list[Tensor] | None = None, slopes: bool = False
) -> Steps:
    """Find what every token writes when all gradients are taken at the anchor.

    Args:
        net: the memory's network.
        c: the chunk.
        at: L tensors (N, in, out), the anchor.
        z: `z` of an earlier run of the same chunk.
        slopes: whether the derivative follows, which uses each σ′ three times and wants more.

    Returns:
        The rank-one factors of all writes.

    Built in: notebooks/08 · Paper: eq. 16–17
    """
    act = ACTIVATIONS[net.activation]
    a, known, z = [c.k], z, []
    for W in at[:-1]:
        z.append(known[len(z)] if known else torch.bmm(a[-1], W))
        a.append(act.sigma(z[-1]))
    z.append(known[-1] if known else _last(net, c, a[-1], at[-1]))
    error, found = _error(net, c, z[-1])
    top, shared = net.last_delta(error, z[-1], found), len(c.gates) == 1
    slope = [act.slope(x) for x in z[:-1]] if slopes else []
    delta, pulled = net.pull_down(c.gates[0].step * top if shared else top, z, at, slope)
    w = delta if shared else [g.step * d for g, d in zip(c.gates, delta, strict=True)]
    if not slopes:
        return Steps(a, w, z, error, top, delta, [], [], [])
    bent = [act.bend(x).mul_(p) for x, p in zip(z, pulled, strict=False)]
    norm = [*Normed.of(z[-1], found, error, net.norm_weight.to(error.dtype))] if net.norm else []
    return Steps(a, w, z, error, top, delta, slope, bent, norm)


def _error(net: MemoryNet, c: Chunk, z: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
    """Compute v − M(k) from the last layer's output, and what the norm found in it; without one `_last` did that."""
    if not net.norm:
        return z, None
    said, *found = net.normalize(z)
    error = c.v - said
    return error.sub_(c.k) if net.residual else error, found


def _last(net: MemoryNet, c: Chunk, a: Tensor, W: Tensor) -> Tensor:
    """Compute the last layer's output; without a norm the error, in the same product."""
    if net.norm:
        return torch.bmm(a, W)
    error = torch.baddbmm(c.v, a, W, alpha=-1)
    return error.sub_(c.k) if net.residual else error


def read_chunk(
    net: MemoryNet, c: Chunk, steps: Steps, Z: list[Stack], keep: bool = True
) -> tuple[Tensor, list[Tensor]]:
    """Answer the queries of a chunk, each from the memory of its own token.

    Args:
        net: the memory's network.
        c: the chunk.
        steps: its writes.
        Z: L stacks, memory and momentum at the chunk's start.
        keep: whether the layers' outputs are wanted too; what is dropped early leaves its place in the cache.

    Returns:
        y (N, c, D), and each layer's output before its activation.

    Built in: notebooks/08 · Paper: eq. 15
    """
    sigma = ACTIVATIONS[net.activation].sigma
    h, out = c.q, []
    for layer, stack in enumerate(Z):
        g = c.of_layer(layer)
        scores = torch.bmm(h, steps.a[layer].mT).mul_(g.G)  # causal through G
        if stack.upright:
            z = torch.bmm(c.twice(h, g.reads), stack.whole)
        else:
            of_W, of_P = torch.bmm(h, stack.whole.mT).chunk(2, 2)
            b, f = g.reads.unbind(2)
            z = (of_W * b).addcmul_(of_P, f)
        z.baddbmm_(scores, steps.w[layer])
        out += [z] if keep else []
        h = sigma(z) if layer < net.depth - 1 else z
    return net.finish(h, c.q), out


def end_chunk(c: Chunk, steps: Steps, Z: list[Stack], out: list[Stack] | None = None) -> list[Stack]:
    """Sum the rank-one writes of a chunk into the memory and the momentum.

    Args:
        c: the chunk.
        steps: its writes.
        Z: L stacks, memory and momentum at the chunk's start.
        out: L stacks to be written over; new ones by default.

    Returns:
        Both at the chunk's end.

    Built in: notebooks/08 · Paper: eq. 16–18
    """
    out = out or [stack.like() for stack in Z]
    for layer, (old, new) in enumerate(zip(Z, out, strict=True)):
        g, a, w = c.of_layer(layer), steps.a[layer], steps.w[layer]
        narrow, wide = (a, w) if old.upright else (w, a)
        old.decay(g.keep, g.f_end, new).whole.baddbmm_(c.twice(narrow, g.ends).mT, wide)
    return out
