"""Runs of chunks of a matrix memory, a batch of chunks at a time.

For a matrix the states alone go one after the other; everything else is done for a batch of chunks at once:
    states   error = v − k M,  w = 2θ error;   Z_next = decay(Z) + [G_C k | n_C k]ᵀ w       in sequence
    answers  y = [b q | f q] Z + (q kᵀ ∘ G) w                                               together
where Z is the memory on top of its momentum. The exact online rule asks M_{t−1}: error = v − [b₋ k | f₋ k] Z, and the
triangular systems that make w of it are inverted ahead. The chunks of a batch and the heads are one axis X, chunk
before head. `linear_backward` goes the same way back.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from titans_mini.memory.decay import Gates
from titans_mini.memory.spans import Run, Span, join_chunks, places, put, spans
from titans_mini.memory.stack import Matrices, Stack, Twice

BATCH, MOST = 256, 16  # tokens and chunks of a batch: what they need fits the processor's cache
SHORT = 64  # chunks from this length on fill the cache by themselves: `deep` runs them one by one, which is faster


class Batch(NamedTuple):
    """The inputs of m chunks: X = m·N, chunk before head."""

    here: slice  # its chunks, in the span
    q: Tensor  # (X, c, D), k and v likewise
    k: Tensor
    v: Tensor
    g: Gates  # (X, …)
    inverse: Tensor | None  # (X, c, c), of the online rule
    solved: Tensor | None  # (X, c, c), its inverse ∘ 2θ, which makes writes of errors


def batch_size(run: Run, c: int) -> int:
    """Choose how many chunks of c tokens make a batch: whole groups, or a part of one."""
    m = max(1, min(MOST, BATCH // c))
    return run.group if m < run.group else m // run.group * run.group


def batches(run: Run, span: Span, tensors: list[Tensor], m: int) -> Iterator[Batch]:
    """Cut a span into batches of m chunks."""
    chunks = range(span.here.start, span.here.stop)
    here = (slice(i, min(i + m, len(chunks))) for i in range(0, len(chunks), m))
    qkv = [join_chunks(x[:, span.here], m) for x in tensors[:3]]
    for place, q, k, v, (g,) in zip(here, *qkv, span.gates.chunks(m), strict=True):
        inverse = online_inverse(k, g.step, g.G_before) if run.online else None
        yield Batch(place, q, k, v, g, inverse, inverse * g.step.mT if run.online else None)


def online_inverse(k: Tensor, step: Tensor, G_before: Tensor) -> Tensor:
    """Invert the triangular systems of chunks: (I + diag(2θ) tril₋₁(K Kᵀ ∘ G₋)) w = 2θ ∘ error.

    Each error depends on the writes before it, linearly, and none of this on the memory.

    Args:
        k: (X, c, D) keys.
        step: (X, c, 1), 2θ.
        G_before: (X, c, c) coefficients one token earlier.

    Returns:
        (X, c, c) inverses, unit lower triangular.

    Built in: notebooks/08 · Paper: eq. 13–14
    """
    system = torch.bmm(k, k.mT).mul_(G_before).mul_(step)  # only what is below its diagonal is looked at
    unit = torch.eye(system.shape[-1], dtype=k.dtype, device=k.device).expand_as(system)
    # X A = I and not A X = I: the same inverse, without turning the rows around for LAPACK
    return torch.linalg.solve_triangular(system, unit, upper=False, left=False, unitriangular=True)


def write_batch(run: Run, b: Batch, Z: list[Stack], anchor: Tensor | None, room: Room) -> tuple[Tensor, Tensor]:
    """Go through the chunks of a batch in sequence.

    Args:
        run: how.
        b: the batch.
        Z: m + 1 stacks, the first one with the state at the start; the others are filled.
        anchor: (N, D, D), where a begun chunk takes its gradients.
        room: scratch.

    Returns:
        The errors and the writes w, (X, c, D).

    Built in: notebooks/08 · Paper: eq. 13–14, 16
    """
    N = Z[0].whole.shape[0]
    asked = room.guess(b.k, b.g.before) if run.online else b.k
    v = b.v - b.k if run.net.residual else b.v
    errors, writes = v.new_empty(v.shape), v.new_empty(v.shape)  # each chunk fills its part
    scale = b.solved if run.online else b.g.step
    parts = (asked, v, scale, room.tells(b.k, b.g.ends), b.g.keep, b.g.f_end, errors, writes)
    parts = (x.split(N) for x in parts)
    for old, new, asked_i, v_i, scale_i, tells, keep, f_end, error, w in zip(Z[:-1], Z[1:], *parts, strict=True):
        at = old.whole if run.online else old.W if anchor is None else anchor
        torch.baddbmm(v_i, asked_i, at, alpha=-1, out=error)
        torch.bmm(scale_i, error, out=w) if run.online else torch.mul(scale_i, error, out=w)
        old.decay(keep, f_end, new).whole.baddbmm_(tells.mT, w)
    return errors, writes


def read_batch(run: Run, b: Batch, Z: Tensor, w: Tensor, room: Room) -> Tensor:
    """Answer every query of a batch.

    Args:
        run: how.
        b: the batch.
        Z: (X, 2D, D), the states at the chunks' starts.
        w: (X, c, D), the writes.
        room: scratch.

    Returns:
        y (X, c, D).

    Built in: notebooks/08 · Paper: eq. 15
    """
    scores = torch.bmm(b.q, b.k.mT).mul_(b.g.G)  # causal through G
    y = torch.bmm(room.asks(b.q, b.g.reads), Z).baddbmm_(scores, w)
    return y.add_(b.q) if run.net.residual else y


class Room:
    """Scratch of a run, and the states of the batch at hand."""

    def __init__(self) -> None:
        """Begin with none."""
        self.asks, self.tells, self.guess = Twice(), Twice(), Twice()

    def states(self, start: Tensor, m: int) -> tuple[Tensor, list[Stack]]:
        """Make room for m chunks from a state (N, 2D, D): the states at their starts (m·N, 2D, D), and m + 1 stacks."""
        if m == 1:
            return start, [Stack(start, True), Stack(torch.empty_like(start), True)]
        room = start.new_empty(m + 1, *start.shape)
        room[0] = start
        return room[:-1].flatten(0, 1), [Stack(x, True) for x in room.unbind(0)]


def forward(
    run: Run, tensors: list[Tensor], M: Matrices, S: Matrices, at: Matrices, kept: list[Tensor] | None = None
) -> tuple[Tensor, Matrices, Matrices]:
    """Run equal chunks of a matrix memory.

    Args:
        run: how.
        tensors: q, k, v (N, chunks, c, D) and alpha, eta, theta (1, N, chunks, c).
        M: one tensor (N, D, D), the memory at the start.
        S: one tensor (N, D, D), the momentum there.
        at: one tensor (N, D, D), the anchor of a begun chunk.
        kept: filled with what `linear_backward` needs: of each batch the states at the starts of its groups and the
            errors.

    Returns:
        y (N, chunks, c, D), M and S at the end.

    Built in: notebooks/08 · Paper: eq. 13–18
    """
    y, state, room = torch.empty_like(tensors[2]), torch.cat((M[0], S[0]), 1), Room()
    m = batch_size(run, y.shape[2])
    for span in spans(run, tensors, m, kept):
        for b, place in zip(batches(run, span, tensors, m), places(y[:, span.here], m), strict=True):
            starts, Z = room.states(state, b.here.stop - b.here.start)
            errors, w = write_batch(run, b, Z, at[0] if run.begun else None, room)
            put(place, read_batch(run, b, starts, w, room))
            state = Z[-1].whole
            if kept is not None:
                kept += [torch.stack([z.whole for z in Z[: -1 : run.group]]) if len(Z) > 2 else starts[None], errors]
    return y, *([x.contiguous()] for x in state.chunk(2, 1))
