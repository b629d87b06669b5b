"""Runs of chunks of a deep memory: chunk after chunk through `chunk`, and back through `chunk_backward`."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from titans_mini.chunk import Chunk, Record, end_chunk, run_chunk
from titans_mini.chunk_backward import Grads, backward_chunk
from titans_mini.network import MemoryNet
from titans_mini.spans import Run, Span, spans
from titans_mini.stack import Matrices, Stack, Twice


def forward(
    run: Run, tensors: list[Tensor], M: Matrices, S: Matrices, at: Matrices, kept: list[Tensor] | None = None
) -> tuple[Tensor, Matrices, Matrices]:
    """Run equal chunks one after the other.

    Args:
        run: how.
        tensors: q, k, v (N, chunks, c, D) and alpha, eta, theta (1 or L, N, chunks, c).
        M: L tensors (N, in, out), the memory at the start.
        S: L tensors (N, in, out), the momentum there.
        at: L tensors (N, in, out), the first chunk's anchor, of a begun chunk.
        kept: filled with what `backward` needs: for each group the L states at its start and, of a group of one
            chunk, each layer's output at the keys, then at the queries.

    Returns:
        y (N, chunks, c, D), M and S at the end.

    Built in: notebooks/06 · Paper: eq. 13–18
    """
    y = torch.empty_like(tensors[2])  # filled in place: a list of parts would hold it twice
    Z, spare = [Stack.of(*pair) for pair in zip(M, S, strict=True)], None
    keep, places = kept is not None and run.group == 1, iter(y.unbind(1))
    for span in spans(run, tensors, run.group):
        for i, c in enumerate(_chunks(span, tensors), span.here.start):
            at = at if run.begun else [z.W for z in Z]
            y_c, r = run_chunk(run.net, c, Z, at, keep=keep)
            next(places).copy_(y_c)
            if kept is None:  # nobody looks back: two sets of stacks take turns
                Z, spare = end_chunk(c, r.steps, Z, spare), Z
                continue
            if i % run.group == 0:
                kept += [*(z.whole for z in Z), *((*r.steps.z, *_wanted(run.net, r.z)) if keep else ())]
            Z = end_chunk(c, r.steps, Z)
    return y, [z.W.contiguous() for z in Z], [z.P.contiguous() for z in Z]


def _chunks(span: Span, tensors: list[Tensor]) -> list[Chunk]:
    """Cut a span into its chunks."""
    qkv, twice = (x[:, span.here].unbind(1) for x in tensors[:3]), Twice()
    return [Chunk(*row, twice) for row in zip(*qkv, span.gates.chunks(), strict=True)]


def _wanted(net: MemoryNet, z: list[Tensor]) -> list[Tensor]:
    """Choose the layers' outputs that the derivative of the reads looks at: the last one only under a norm."""
    return z if net.norm else z[:-1]


def backward(
    run: Run, tensors: list[Tensor], kept: list[Tensor], at: Matrices, dy: Tensor, dM: Matrices, dS: Matrices
) -> list[Tensor]:
    """Go back through a run of chunks.

    Args:
        run: how.
        tensors: as in `forward`, at and kept likewise.
        kept: what it kept.
        at: the first anchor.
        dy: (N, chunks, c, D) gradient at the answers.
        dM: L tensors (N, in, out), gradient at the memory at the end.
        dS: L tensors (N, in, out), gradient at the momentum there.

    Returns:
        Gradients at the tensors, M, S, the first anchor and the slow weights.

    Built in: notebooks/06 · Paper: eq. 13–18
    """
    d_at = [torch.zeros_like(x) for x in dM]
    slow = [torch.zeros_like(dy[0, 0, 0]) for _ in run.net.parameters()]
    dZ = [Stack.of(*pair) for pair in zip(dM, dS, strict=True)]
    out = Grads([], dZ, [z.like() for z in dZ], d_at if run.begun else None, *(slow or (None, None)))
    d_qkv, d_gates = [torch.empty_like(x) for x in tensors[:3]], []
    places = [x.unbind(1) for x in d_qkv]
    for span in spans(run, tensors, run.group, backwards=True):
        d_step, d_table, named = span.new_gradients(run)
        of_chunks, start = named.chunks(), span.here.start
        for i, c, r in _records(run, span, tensors, kept, at):
            out.gates = of_chunks[i]
            for place, x in zip(places, backward_chunk(run.net, c, r, dy[:, start + i], out), strict=True):
                place[start + i].copy_(x)
        d_gates.append(span.backward(d_step, d_table))
    d_gates = [torch.cat(x[::-1], 2) for x in zip(*d_gates, strict=True)]
    ends = [z.W.contiguous() for z in out.Z], [z.P.contiguous() for z in out.Z]
    return [*d_qkv, *d_gates, *ends[0], *ends[1], *d_at, *slow]


def _records(
    run: Run, span: Span, tensors: list[Tensor], kept: list[Tensor], first_at: Matrices
) -> Iterator[tuple[int, Chunk, Record]]:
    """Recall the forward pass of a span's chunks, the last chunk first, group by group."""
    chunks, L = _chunks(span, tensors), run.net.depth
    per_group = len(kept) // -(-tensors[0].shape[1] // run.group)
    for first in reversed(range(0, len(chunks), run.group)):
        place = (span.here.start + first) // run.group * per_group
        states, z = kept[place : place + L], kept[place + L : place + per_group]
        Z = [Stack(whole, i <= o) for whole, (i, o) in zip(states, run.net.shapes, strict=True)]
        records = []
        for c in chunks[first : first + run.group]:
            at = first_at if run.begun else [x.W for x in Z]
            _, r = run_chunk(run.net, c, Z, at, (z[:L], z[L:]) if z else None, slopes=True)
            records.append((first + len(records), c, r))
            if len(records) < run.group:
                Z = end_chunk(c, r.steps, Z)
        yield from reversed(records)
