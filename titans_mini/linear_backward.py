"""The derivative of `linear`, by hand: batch by batch, the last one first."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from titans_mini.decay import Gates
from titans_mini.linear import Batch, Room, batch_size, batches
from titans_mini.spans import Run, put, spans
from titans_mini.stack import Matrices, Stack, rows, twice_backward


class Memory(NamedTuple):
    """What a batch did in the forward pass."""

    Z: Tensor  # (X, 2D, D), the states at the chunks' starts
    anchor: Tensor  # (X, D, D), the memory that the errors were measured at, of the anchored rule
    errors: Tensor  # (X, c, D)
    w: Tensor  # (X, c, D)


def recall(run: Run, b: Batch, states: Tensor, errors: Tensor, at: Tensor | None, room: Room) -> Memory:
    """Compute what was not kept: the writes, and the states inside of groups; states are (groups, N, 2D, D).

    Built in: notebooks/06 · Paper: –
    """
    N, m = states.shape[1], b.here.stop - b.here.start
    w = b.g.step * errors
    w = torch.bmm(b.inverse, w) if run.online else w
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

    Built in: notebooks/06 · Paper: eq. 13–18
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
            *d_inputs, d, carry = backward_batch(run, b, memory, dy_b, carry, d_at, room)
            for out, x in zip(d_qkv, d_inputs, strict=True):
                put(out[:, here], x)
            for out, x in zip(named, d, strict=True):
                if x is not None:
                    place = out[0, b.here]
                    place.add_(x.view(place.shape))  # the table's parts overlap
        d_gates.append(span.backward(d_step, d_table))
    d_gates = [torch.cat(x[::-1], 2) for x in zip(*d_gates, strict=True)]
    ends = [x.contiguous() for x in carry.chunk(2, 1)]
    return [*d_qkv, *d_gates, *ends, *([d_at] if run.begun else [])]


def backward_batch(
    run: Run, b: Batch, r: Memory, dy: Tensor, carry: Tensor, d_at: Tensor, room: Room
) -> tuple[Tensor, Tensor, Tensor, Gates, Tensor]:
    """Differentiate one batch: its answers, its states in reverse, its errors.

    Args:
        run: how.
        b: the batch.
        r: what it did.
        dy: (X, c, D) gradient at its answers.
        carry: (N, 2D, D) gradient at the state after its last chunk.
        d_at: (N, D, D), grows by the gradient at the anchor of a begun chunk.
        room: scratch.

    Returns:
        dq, dk, dv, the gradients at the gates, and that at the state before its first chunk.

    Built in: notebooks/06 · Paper: eq. 13–18
    """
    g = b.g
    raw, dscores = torch.bmm(b.q, b.k.mT), torch.bmm(dy, r.w.mT)
    dG, dscores, scores = dscores * raw, dscores.mul_(g.G), raw.mul_(g.G)
    d_reads, d_ends = torch.empty_like(g.reads), torch.empty_like(g.ends)
    dq = twice_backward(torch.bmm(dy, r.Z.mT), b.q, g.reads, d_reads).baddbmm_(dscores, b.k)
    dk, dw = torch.bmm(dscores.mT, b.q), torch.bmm(scores.mT, dy)
    from_reads = torch.bmm(room.asks(b.q, g.reads).mT, dy)  # (X, 2D, D)
    later, d_errors, carry, d_rest = _states_backward(run, b, r, dw, from_reads, carry, d_at, room)
    twice_backward(torch.bmm(r.w, later.mT), b.k, g.ends, d_ends, dx=dk)
    inner = torch.bmm(_halves(later), _halves(r.Z).mT)  # (X, 2, 2): dM and dS with M and S
    if run.online:
        d_step, d_G_before, d_system = d_rest
        d_before = torch.empty_like(g.before)
        twice_backward(torch.bmm(d_errors, r.Z.mT).neg_(), b.k, g.before, d_before, dx=dk)
        dk.baddbmm_(d_system, b.k).baddbmm_(d_system.mT, b.k)
    else:
        d_step, d_before, d_G_before = rows(dw, r.errors), None, None
        dk.baddbmm_(d_errors, r.anchor.mT, alpha=-1)
    if run.net.residual:
        dq, dk = dq.add_(dy), dk.sub_(d_errors)
    return dq, dk, d_errors, Gates(d_step, d_reads, dG, None, None, d_ends, inner, d_before, d_G_before), carry


def _halves(Z: Tensor) -> Tensor:
    """View states (X, 2D, D) as rows (X, 2, D·D)."""
    return Z.flatten(1).unflatten(1, (2, Z.shape[2] ** 2))


def _states_backward(
    run: Run, b: Batch, r: Memory, dw: Tensor, from_reads: Tensor, carry: Tensor, d_at: Tensor, room: Room
) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor, ...] | None]:
    """Through Z_next = decay(Z) + [G_C k | n_C k]ᵀ w and the errors, the last chunk first; dw grows.

    Returns:
        The gradients at the states after each chunk (X, 2D, D), at the errors (X, c, D), at the state before the first
        chunk, and of the online rule those of `_system_backward`.
    """
    N, D, asked = carry.shape[0], carry.shape[2], room.guess(b.k, b.g.before) if run.online else b.k
    later, d_errors = [], []
    inverses = b.inverse.split(N) if run.online else [None] * (b.here.stop - b.here.start)
    tells = room.tells(b.k, b.g.ends)
    parts = [x.split(N) for x in (dw, tells, asked, b.g.step, from_reads, b.g.keep, b.g.f_end)]
    for dw_i, tells_i, asked_i, step, reads, keep, f_end, inverse in reversed(list(zip(*parts, inverses, strict=True))):
        later.append(carry)
        dw_i.baddbmm_(tells_i, carry)
        if run.online:
            dw_i.copy_(torch.bmm(inverse.mT, dw_i))  # the system, solved backwards
        d_error = step * dw_i
        d_errors.append(d_error)
        before = torch.empty_like(carry)
        torch.mul(carry.view(N, 2, D, D), keep, out=before.view(N, 2, D, D))
        before[:, D:].addcmul_(carry[:, :D], f_end)
        before.add_(reads)
        if run.online:
            before.baddbmm_(asked_i.mT, d_error, alpha=-1)
        else:
            (d_at if run.begun else before[:, :D]).sub_(torch.bmm(asked_i.mT, d_error))
        carry = before
    later, d_errors = (x[0] if len(x) == 1 else torch.cat(x[::-1]) for x in (later, d_errors))
    return later, d_errors, carry, _system_backward(b, r, dw) if run.online else None


def _system_backward(b: Batch, r: Memory, mu: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Through (I + diag(2θ) tril₋₁(K Kᵀ ∘ G₋)) w = 2θ error: gradients at 2θ, at G₋ and at K Kᵀ."""
    d_system = torch.bmm(mu, r.w.mT).neg_().tril_(-1)
    scores = torch.bmm(b.k, b.k.mT)
    d_step = rows(d_system * scores, b.g.G_before).add_(rows(mu, r.errors))
    d_system.mul_(b.g.step)
    return d_step, d_system * scores, d_system.mul_(b.g.G_before)
