"""The derivative of `linear`, by hand: batch by batch, the last one first."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from titans_mini.memory.decay import Gates
from titans_mini.memory.linear import Batch, Room, batch_size, batches
from titans_mini.memory.spans import Run, put, spans
from titans_mini.memory.stack import Matrices, Stack, rows, twice_backward


class Memory(NamedTuple):
    """What a batch did in the forward pass."""

    Z: Tensor  # (X, 2D, D), the states at the chunks' starts
    anchor: Tensor  # (X, D, D), the memory that the errors were measured at, of the anchored rule
    errors: Tensor  # (X, c, D)
    w: Tensor  # (X, c, D)


def recall(run: Run, b: Batch, states: Tensor, errors: Tensor, at: Tensor | None, room: Room) -> Memory:
    """Compute what was not kept: the writes, and the states inside of groups; states are (groups, N, 2D, D)."""
    N, m = states.shape[1], b.here.stop - b.here.start
    w = torch.bmm(b.solved, errors) if run.online else b.g.step * errors
    if len(states) == m:
        Z = states.flatten(0, 1)
    else:
        Z, stacks = room.states(states[0], m)
        parts = zip(*(x.split(N) for x in (room.tells(b.k, b.g.ends), w, b.g.keep, b.g.f_end)), strict=True)
        for i, (tells, w_i, *decay) in enumerate(parts):
            if i % run.group == 0:
                stacks[i].whole.copy_(states[i // run.group])
            if i + 1 < m:
                stacks[i].decay(*decay, stacks[i + 1]).whole.baddbmm_(tells.mT, w_i)
    return Memory(Z, at if run.begun else Stack(Z, True).W, errors, w)


def backward(
    run: Run, tensors: list[Tensor], kept: list[Tensor], at: Matrices, dy: Tensor, dM: Matrices, dS: Matrices
) -> list[Tensor]:
    """Go back through a run of chunks of a matrix memory.

    Args:
        run: how.
        tensors: as in `linear.forward`, at likewise.
        kept: what it kept.
        at: the anchor of a begun chunk.
        dy: (N, chunks, c, D) gradient at the answers.
        dM: one tensor (N, D, D), gradient at the memory at the end.
        dS: one tensor (N, D, D), gradient at the momentum there.

    Returns:
        Gradients at the tensors, M, S and the anchor of a begun chunk.

    Built in: notebooks/08 · Paper: eq. 13–18
    """
    carry, d_at, room = torch.cat((dM[0], dS[0]), 1), torch.zeros_like(dM[0]), Room()
    d_qkv, d_gates = [torch.empty_like(x) for x in tensors[:3]], []
    m = batch_size(run, dy.shape[2])
    for span in spans(run, tensors, m, kept, backwards=True):
        d_step, d_table, named = span.new_gradients(run)
        for b in reversed(list(batches(run, span, tensors, m))):
            here = slice(span.here.start + b.here.start, span.here.start + b.here.stop)
            states, errors = kept[2 * (here.start // m) :][:2]
            memory = recall(run, b, states, errors, at[0] if run.begun else None, room)
            dy_b = dy[:, here].transpose(0, 1).flatten(0, 1)
            d = Gates(*(None if x is None else x[0, b.here].view(-1, *x.shape[3:]) for x in named))
            *d_inputs, carry = backward_batch(run, b, memory, dy_b, carry, d_at, d, room)
            for out, x in zip(d_qkv, d_inputs, strict=True):
                put(out[:, here], x)
        d_gates.append(span.backward(d_step, d_table))
    d_gates = [torch.cat(x[::-1], 2) for x in zip(*d_gates, strict=True)]
    ends = [x.clone() for x in carry.chunk(2, 1)]  # a view would keep all that lies beside it
    return [*d_qkv, *d_gates, *ends, *([d_at] if run.begun else [])]


def backward_batch(
    run: Run, b: Batch, r: Memory, dy: Tensor, carry: Tensor, d_at: Tensor, d: Gates, room: Room
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Differentiate one batch: its answers, its states in reverse, its errors.

    Args:
        run: how.
        b: the batch.
        r: what it did.
        dy: (X, c, D) gradient at its answers.
        carry: (N, 2D, D) gradient at the state after its last chunk.
        d_at: (N, D, D), grows by the gradient at the anchor of a begun chunk.
        d: (X, …), where the gradients at the gates go; their parts overlap: the answers put theirs, the rest adds.
        room: scratch.

    Returns:
        dq, dk, dv, and the gradient at the state before its first chunk.

    Built in: notebooks/08 · Paper: eq. 13–18
    """
    g = b.g
    raw, dscores = torch.bmm(b.q, b.k.mT), torch.bmm(dy, r.w.mT)
    torch.mul(dscores, raw, out=d.G)
    dscores, scores = dscores.mul_(g.G), raw.mul_(g.G)
    dq = twice_backward(torch.bmm(dy, r.Z.mT), b.q, g.reads, d.reads).baddbmm_(dscores, b.k)
    dk, dw = torch.bmm(dscores.mT, b.q), torch.bmm(scores.mT, dy)
    from_reads = torch.bmm(room.asks(b.q, g.reads).mT, dy)  # (X, 2D, D)
    later, d_errors, carry = _states_backward(run, b, dw, from_reads, carry, d_at, room)
    twice_backward(torch.bmm(r.w, later.mT), b.k, g.ends, d.ends, add=True, dx=dk)
    d.corner.add_(torch.bmm(_halves(later), _halves(r.Z).mT))  # dM and dS with M and S
    if run.online:
        twice_backward(torch.bmm(d_errors, r.Z.mT).neg_(), b.k, g.before, d.before, add=True, dx=dk)
        d_system = _system_backward(b, r, torch.bmm(b.inverse.mT, dw), d)
        dk.baddbmm_(d_system, b.k).baddbmm_(d_system.mT, b.k)
    else:
        rows(dw, r.errors, d.step)
        dk.baddbmm_(d_errors, r.anchor.mT, alpha=-1)
    if run.net.residual:
        dq, dk = dq.add_(dy), dk.sub_(d_errors)
    return dq, dk, d_errors, carry


def _halves(Z: Tensor) -> Tensor:
    """View states (X, 2D, D) as rows (X, 2, D·D)."""
    return Z.flatten(1).unflatten(1, (2, Z.shape[2] ** 2))


def _states_backward(
    run: Run, b: Batch, dw: Tensor, from_reads: Tensor, carry: Tensor, d_at: Tensor, room: Room
) -> tuple[Tensor, Tensor, Tensor]:
    """Through Z_next = decay(Z) + [G_C k | n_C k]ᵀ w and the errors, the last chunk first; dw grows.

    Returns:
        The gradients at the states after each chunk (X, 2D, D), at the errors (X, c, D), and at the state before the
        first chunk.
    """
    N, D, asked = carry.shape[0], carry.shape[2], room.guess(b.k, b.g.before) if run.online else b.k
    states = carry.new_empty(b.here.stop - b.here.start + 1, *carry.shape)  # before each chunk, and after the last one
    states[-1], d_errors = carry, torch.empty_like(dw)
    scale = b.solved if run.online else b.g.step
    parts = (dw, room.tells(b.k, b.g.ends), asked, scale, from_reads, b.g.keep, b.g.f_end, d_errors)
    parts = zip(states[:-1].unbind(0), states[1:].unbind(0), *(x.split(N) for x in parts), strict=True)
    for before, after, dw_i, tells, asked_i, scale_i, reads, keep, f_end, d_error in reversed(list(parts)):
        dw_i.baddbmm_(tells, after)
        torch.bmm(scale_i.mT, dw_i, out=d_error) if run.online else torch.mul(scale_i, dw_i, out=d_error)
        torch.mul(after.view(N, 2, D, D), keep, out=before.view(N, 2, D, D))
        before[:, D:].addcmul_(after[:, :D], f_end)
        before.add_(reads)
        if run.online:
            before.baddbmm_(asked_i.mT, d_error, alpha=-1)
        else:
            (d_at if run.begun else before[:, :D]).sub_(torch.bmm(asked_i.mT, d_error))
    return states[1:].flatten(0, 1), d_errors, states[0]


def _system_backward(b: Batch, r: Memory, mu: Tensor, d: Gates) -> Tensor:
    """Through (I + diag(2θ) tril₋₁(K Kᵀ ∘ G₋)) w = 2θ error: gradients at 2θ and G₋ go to d, that at K Kᵀ returns."""
    d_system = torch.bmm(mu, r.w.mT).neg_().tril_(-1)
    scores = torch.bmm(b.k, b.k.mT)
    rows(d_system * scores, b.g.G_before, d.step)
    rows(mu, r.errors, d.step, add=True)
    d_system.mul_(b.g.step)
    d.G_before.addcmul_(d_system, scores)
    return d_system.mul_(b.g.G_before)
