"""One chunk as matrix products: what each token writes, what each query reads, where the memory ends.

Heads and batch are one axis N here: every product is a `bmm`, small enough to stay in the processor's cache.
A chunk has three parts, and `chunk_backward` holds the derivative of each:
  steps   the writes of all tokens as rank-one factors: token j writes −a_jᵀ s_j, with s = θδ
  read    z_t = b_t h W + f_t h P − Σ_{j≤t} G_tj (h·a_j) s_j, layer by layer
  finish  W = b_C W + f_C P − aᵀ(G_C ∘ s),  P = m_C P − aᵀ(n_C ∘ s)
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from titans_mini.decay import Gates
from titans_mini.derivatives import ACTIVATIONS
from titans_mini.network import MemoryNet

Matrices = list[Tensor]  # one (N, in, out) for each layer


class Chunk(NamedTuple):
    """The inputs of one chunk. With `inverse` it follows the exact online rule, without it the anchored one."""

    q: Tensor  # (N, c, D), k and v likewise
    k: Tensor
    v: Tensor
    gates: list[Gates]  # one, or one for each layer
    inverse: Tensor | None = None  # (N, c, c), see online_inverse

    def of_layer(self, layer: int) -> Gates:
        """Choose a layer's gates; one set serves all layers."""
        return self.gates[min(layer, len(self.gates) - 1)]


class Steps(NamedTuple):
    """The writes of a chunk, and what their derivative needs again.

    `a` are L tensors (N, c, in), what each layer sees; `s` are L tensors (N, c, out), θδ.
    """

    a: list[Tensor]
    s: list[Tensor]
    z: list[Tensor]  # anchored rule: each layer's output at the anchor; online rule: the wrong guesses
    delta: list[Tensor]  # anchored rule only, like pulled: see MemoryNet.deltas
    pulled: list[Tensor]
    slopes: list[Tensor]  # σ′(z) below the last layer, where the derivative was announced


def anchored_steps(
    net: MemoryNet, c: Chunk, at: Matrices, z: list[Tensor] | None = None, slopes: bool = False
) -> Steps:
    """Find what every token writes when all gradients are taken at the anchor.

    Args:
        net: the memory's network.
        c: the chunk.
        at: L tensors (N, in, out), the anchor.
        z: each layer's output at the anchor where it is known already.
        slopes: whether the derivative follows, which uses each σ′ three times.

    Returns:
        The rank-one factors of all writes.

    Built in: notebooks/06 · Paper: eq. 16–17
    """
    act = ACTIVATIONS[net.activation]
    a, known, z = [c.k], z, []
    for layer, W in enumerate(at):
        z.append(known[layer] if known else torch.bmm(a[layer], W))
        if layer < net.depth - 1:
            a.append(act.sigma(z[layer]))
    slope = [act.slope(x) for x in z[:-1]] if slopes else []
    delta, pulled = net.deltas(z, c.k, c.v, at, slope)
    s = [c.of_layer(layer).theta * d for layer, d in enumerate(delta)]
    return Steps(a, s, z, delta, pulled, slope)


def online_steps(net: MemoryNet, c: Chunk, M: Matrices, S: Matrices, z: list[Tensor] | None = None) -> Steps:
    """Find what every token writes when each gradient is taken at M_{t−1}: a matrix memory's exact online rule.

    Each error depends on the errors before it, linearly: (I + diag(2θ) tril₋₁(K Kᵀ ∘ G₋)) s = 2θ ∘ (guess − v), where
    guess = b₋ ∘ K W + f₋ ∘ K P ignores the writes of this chunk. The inverse does not depend on the memory.

    Args:
        net: the memory's network, linear in its input.
        c: the chunk, with its inverse.
        M: one tensor (N, D, D), the memory at the chunk's start.
        S: one tensor (N, D, D), the momentum there.
        z: the wrong guesses where they are known already.

    Returns:
        The rank-one factors of all writes.

    Built in: notebooks/06 · Paper: eq. 13–14
    """
    g = c.gates[0]
    if z is None:
        wrong = torch.baddbmm(c.v, g.b_before * c.k, M[0], beta=-1).baddbmm_(g.f_before * c.k, S[0])
        z = [wrong + c.k if net.residual else wrong]
    return Steps([c.k], [torch.bmm(c.inverse, 2 * g.theta * z[0])], z, [], [], [])


def online_inverse(k: Tensor, theta: Tensor, G_before: Tensor) -> Tensor:
    """Invert the triangular systems of many chunks at once, before the sequential pass.

    Args:
        k: (…, c, D) keys.
        theta: (…, c, 1) step sizes.
        G_before: (…, c, c) coefficients one token earlier.

    Returns:
        (…, c, c) inverses, unit lower triangular.

    Built in: notebooks/06 · Paper: eq. 13–14
    """
    system = (2 * theta) * ((k @ k.mT) * G_before).tril_(-1)
    unit = torch.eye(system.shape[-1], dtype=k.dtype, device=k.device).expand_as(system)
    return torch.linalg.solve_triangular(system, unit, upper=False, unitriangular=True)


def read_chunk(net: MemoryNet, c: Chunk, steps: Steps, M: Matrices, S: Matrices) -> tuple[Tensor, list[Tensor]]:
    """Answer the queries of a chunk, each from the memory of its own token.

    Args:
        net: the memory's network.
        c: the chunk.
        steps: its writes.
        M: L tensors (N, in, out), the memory at the chunk's start.
        S: L tensors (N, in, out), the momentum there.

    Returns:
        y (N, c, D), and each layer's output before its activation.

    Built in: notebooks/06 · Paper: eq. 15
    """
    sigma = ACTIVATIONS[net.activation].sigma
    h, out = c.q, []
    for layer, (W, P) in enumerate(zip(M, S, strict=True)):
        g = c.of_layer(layer)
        scores = torch.bmm(h, steps.a[layer].mT).mul_(g.G)  # causal through G
        z = torch.bmm(g.b * h, W).baddbmm_(g.f * h, P).baddbmm_(scores, steps.s[layer], alpha=-1)
        out.append(z)
        h = sigma(z) if layer < net.depth - 1 else z
    return net.finish(h, c.q), out


def _scaled(a: Tensor, weight: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
    """Weigh each token's write on its narrower side: (N, c, in), (N, c, 1), (N, c, out)."""
    return (weight * a, s) if a.shape[-1] <= s.shape[-1] else (a, weight * s)


def end_chunk(c: Chunk, steps: Steps, M: Matrices, S: Matrices) -> tuple[Matrices, Matrices]:
    """Sum the rank-one writes of a chunk into the memory and the momentum.

    Args:
        c: the chunk.
        steps: its writes.
        M: L tensors (N, in, out), the memory at the chunk's start.
        S: L tensors (N, in, out), the momentum there.

    Returns:
        Both at the chunk's end.

    Built in: notebooks/06 · Paper: eq. 16–18
    """
    M_next, S_next = [], []
    for layer, (W, P) in enumerate(zip(M, S, strict=True)):
        g, a, s = c.of_layer(layer), steps.a[layer], steps.s[layer]
        (a_G, s_G), (a_n, s_n) = (_scaled(a, x, s) for x in (g.G_end, g.n_end))
        M_next.append((g.b_end * W).addcmul_(g.f_end, P).baddbmm_(a_G.mT, s_G, alpha=-1))
        S_next.append((g.m_end * P).baddbmm_(a_n.mT, s_n, alpha=-1))
    return M_next, S_next


class Record(NamedTuple):
    """What the derivative of a chunk needs of its forward pass."""

    M: Matrices  # at the chunk's start
    S: Matrices
    at: Matrices  # the anchor
    steps: Steps
    z: list[Tensor]  # of the reads; the last one is needed under a norm only


def run_chunk(
    net: MemoryNet,
    c: Chunk,
    M: Matrices,
    S: Matrices,
    at: Matrices,
    known: tuple | None = None,
    slopes: bool = False,
) -> tuple[Tensor, Record]:
    """Read and write one chunk, short of its end.

    Args:
        net: the memory's network.
        c: the chunk.
        M: L tensors (N, in, out), the memory at the chunk's start.
        S: L tensors (N, in, out), the momentum there.
        at: L tensors (N, in, out), the anchor.
        known: the layers' outputs of an earlier run of the same chunk, of its steps and of its reads.
        slopes: whether `backward_chunk` follows.

    Returns:
        y (N, c, D), or None where the reads are known, and the record.

    Built in: notebooks/06 · Paper: eq. 15–17
    """
    z_steps, z_read = known or (None, None)
    if c.inverse is None:
        steps = anchored_steps(net, c, at, z_steps, slopes)
    else:
        steps = online_steps(net, c, M, S, z_steps)
    y, z_read = read_chunk(net, c, steps, M, S) if z_read is None else (None, z_read)
    return y, Record(M, S, at, steps, z_read)
