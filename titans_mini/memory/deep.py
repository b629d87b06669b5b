"""Runs of chunks of a deep memory: chunk after chunk through `chunk`, and back through `chunk_backward`.

Only writes wait for the chunk before. Where chunks are so small that the number of products costs more than what is in
them, a batch of chunks is read at once, forward and backward; else a batch is one chunk, and stays in the cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from titans_mini.memory.chunk import Chunk, Steps, anchored_steps, end_chunk, read_chunk
from titans_mini.memory.chunk_backward import Grads, Record, backward_reads, backward_writes
from titans_mini.memory.network import MemoryNet
from titans_mini.memory.spans import Run, Span, join_chunks, places, put, spans
from titans_mini.memory.stack import Matrices, Stack, Twice

LEAST, MOST = 4, 8  # chunks of a batch of more than one: with fewer, joining them costs what it saves
WORK = 2**20  # multiplications of one product in a batch: with fewer, the call costs more than what is computed


class Batch(NamedTuple):
    """Some chunks of a run, joined and each."""

    here: slice  # in the span
    all: Chunk  # (X = m·N, …), chunk before head
    each: list[Chunk]  # (N, …)


def batch_size(run: Run, N: int, count: int, c: int) -> int:
    """Choose how many chunks make a batch: whole groups, or an equal part of one.

    Args:
        run: how.
        N: sequences times heads.
        count: chunks of the run.
        c: tokens of each.
    """
    product = max(1, N) * c * max(i * o for i, o in run.net.shapes)  # an empty batch has chunks too
    m = min(MOST, WORK // product, count)
    m = m if m >= LEAST else 1
    if m >= run.group:
        return m // run.group * run.group
    return max(part for part in range(1, m + 1) if run.group % part == 0)


def _batches(span: Span, tensors: list[Tensor], m: int) -> list[Batch]:
    """Cut a span into batches of m chunks."""
    qkv, twice, N = [join_chunks(x[:, span.here], m) for x in tensors[:3]], Twice(), tensors[0].shape[0]
    out = []
    for i, (*x, gates) in enumerate(zip(*qkv, span.gates.chunks(m), strict=True)):
        both = Chunk(*x, gates, twice)
        each = [both] if m == 1 else both.split(N)
        out.append(Batch(slice(i * m, i * m + len(each)), both, each))
    return out


class _Starts(NamedTuple):
    """Room for gradients at the stacks that the chunks of a batch start with."""

    all: Matrices  # L tensors, m·N stacks each
    each: list[list[Stack]]  # of each chunk, L stacks

    @classmethod
    def like(cls, Z: list[Stack], m: int) -> _Starts:
        """Make room for m chunks."""
        wholes = [z.whole.new_empty(m, *z.whole.shape) for z in Z]
        return cls([whole.flatten(0, 1) for whole in wholes], _of_chunks(wholes, Z))


def _of_chunks(wholes: Matrices, Z: list[Stack]) -> list[list[Stack]]:
    """View L tensors (chunks, N, …) as the stacks of each chunk, which lie like Z."""
    each = zip(*(whole.unbind(0) for whole in wholes), strict=True)
    return [[Stack(x, z.upright) for x, z in zip(of_chunk, Z, strict=True)] for of_chunk in each]


def _room(Z: list[Stack], m: int) -> tuple[list[Stack], list[list[Stack] | None]]:
    """Make room for the states of m chunks and the next one: those at their starts joined, and m + 1 of them each.

    After a single chunk there is None: `end_chunk` makes it, when all else that is kept is there.
    """
    if m == 1:
        return Z, [Z, None]
    wholes = [z.whole.new_empty(m + 1, *z.whole.shape) for z in Z]
    for whole, z in zip(wholes, Z, strict=True):
        whole[0] = z.whole
    starts = [Stack(whole[:-1].flatten(0, 1), z.upright) for whole, z in zip(wholes, Z, strict=True)]
    return starts, _of_chunks(wholes, Z)


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
        kept: filled with what `backward` needs. Of each group the L states at its start; where groups are of one
            chunk, of each batch the L states at its chunks' starts, and each layer's output at keys and queries.

    Returns:
        y (N, chunks, c, D), M and S at the end.

    Built in: notebooks/08 · Paper: eq. 13–18
    """
    y = torch.empty_like(tensors[2])  # filled in place: a list of parts would hold it twice
    Z, spare = [Stack.of(*pair) for pair in zip(M, S, strict=True)], None
    m = batch_size(run, *y.shape[:3])
    keep = kept is not None and run.group == 1
    for span in spans(run, tensors, max(m, run.group), kept):
        for b, place in zip(_batches(span, tensors, m), places(y[:, span.here], m), strict=True):
            starts, each = (Z, [Z, spare]) if spare else _room(Z, len(b.each))
            steps, last = [], None
            for i, (c, old, new) in enumerate(zip(b.each, each[:-1], each[1:], strict=True), b.here.start):
                if last:
                    end_chunk(*last)
                if kept is not None and not keep and i % run.group == 0:
                    kept += [z.whole.clone() if len(b.each) > 1 else z.whole for z in old]  # a view keeps all
                steps.append(anchored_steps(run.net, c, at if run.begun else [z.W for z in old]))
                last = c, steps[-1], old, new
            steps = Steps.join(b.all.k, steps, keep)
            y_b, z = read_chunk(run.net, b.all, steps, starts, keep)
            _freed_late = steps, y_b  # those of the batch before give their places to the next state, not to scraps
            put(place, y_b)
            if keep:
                kept += [*(z.whole for z in starts), *steps.z, *_wanted(run.net, z)]
            after = end_chunk(*last)
            Z, spare = after, Z if kept is None and m == 1 else None  # nobody looks back: two stacks take turns
    return y, [z.W.contiguous() for z in Z], [z.P.contiguous() for z in Z]


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
        at: the anchor of a begun chunk.
        dy: (N, chunks, c, D) gradient at the answers.
        dM: L tensors (N, in, out), gradient at the memory at the end.
        dS: L tensors (N, in, out), gradient at the momentum there.

    Returns:
        Gradients at the tensors, M, S, the anchor of a begun chunk and the slow weights.

    Built in: notebooks/08 · Paper: eq. 13–18
    """
    d_at = [torch.zeros_like(x) for x in dM] if run.begun else []
    slow = [torch.zeros_like(dy[0, 0, 0]) for _ in run.net.parameters()]
    dZ = [Stack.of(*pair) for pair in zip(dM, dS, strict=True)]
    m = batch_size(run, *dy.shape[:3])
    rooms = [_Starts.like(dZ, m) for _ in range(min(2, -(-tensors[0].shape[1] // m)))]  # they take turns
    out = Grads([], dZ, [], d_at or None, *(slow or (None, None)))
    d_qkv, d_gates = [torch.empty_like(x) for x in tensors[:3]], []
    for span in spans(run, tensors, max(m, run.group), kept, backwards=True):
        d_step, d_table, named = span.new_gradients(run)
        of_batches = named.chunks(m)
        dy_parts, dq = join_chunks(dy[:, span.here], m), places(d_qkv[0][:, span.here], m)
        dk_dv = list(zip(*(x[:, span.here].unbind(1) for x in d_qkv[1:]), strict=True))
        for b, r, each in _records(run, span, tensors, kept, at, m):
            i = b.here.start // m
            rooms, out.gates = rooms[::-1], of_batches[i]
            out.starts = rooms[0].all
            of_chunks = [out.gates] if m == 1 else zip(*(g.split(len(dy)) for g in out.gates), strict=True)  # views too
            d, reads = backward_reads(run.net, b.all, r, dy_parts[i], out)
            put(dq[i], d)
            starts = rooms[0].each[: len(b.each)]
            in_order = zip(b.each, each, reads.split(len(dy)), starts, of_chunks, dk_dv[b.here], strict=True)
            for c, r_c, reads_c, starts_c, out.gates, ends in reversed(list(in_order)):
                for place, x in zip(ends, backward_writes(run.net, c, r_c, reads_c, starts_c, out), strict=True):
                    place.copy_(x)
        d_gates.append(span.backward(d_step, d_table))
    d_gates = [torch.cat(x[::-1], 2) for x in zip(*d_gates, strict=True)]
    ends = [z.W.contiguous() for z in out.Z], [z.P.contiguous() for z in out.Z]
    return [*d_qkv, *d_gates, *ends[0], *ends[1], *d_at, *slow]


def _records(
    run: Run, span: Span, tensors: list[Tensor], kept: list[Tensor], first_at: Matrices, m: int
) -> Iterator[tuple[Batch, Record, list[Record]]]:
    """Recall the forward pass of a span's batches, the last one first: each batch joined, and its chunks."""
    batches, L = _batches(span, tensors, m), run.net.depth
    if run.group == 1:
        per_batch = len(kept) // -(-tensors[0].shape[1] // m)
        for b in reversed(batches):
            place = (span.here.start + b.here.start) // m * per_batch
            yield b, *_recall_known(run, b, kept[place : place + per_batch], first_at)
        return
    per_unit = max(1, run.group // m)  # batches that begin with a kept state and end before the next one
    for first in reversed(range(0, len(batches), per_unit)):
        Z, recalled = None, []
        for b in batches[first : first + per_unit]:
            i = span.here.start + b.here.start
            states = kept[i // run.group * L : -(-(i + len(b.each)) // run.group) * L]
            *record, Z = _recall_group(run, b, i, Z, states, first_at)
            recalled.append((b, *record))
        yield from reversed(recalled)


def _stacks(net: MemoryNet, wholes: list[Tensor]) -> list[Stack]:
    return [Stack(whole, i <= o) for whole, (i, o) in zip(wholes, net.shapes, strict=True)]


def _recall_known(run: Run, b: Batch, kept: list[Tensor], first_at: Matrices) -> tuple[Record, list[Record]]:
    """Recall a batch whose layers' outputs were kept."""
    net, L, N = run.net, run.net.depth, len(b.each[0].k)
    Z, z = _stacks(net, kept[:L]), kept[L:]
    at = first_at if run.begun else [x.W for x in Z]
    r = Record(Z, at, anchored_steps(net, b.all, at, z[:L], slopes=True), z[L:])
    if len(b.each) == 1:
        return r, [r]
    own = [_stacks(net, wholes) for wholes in zip(*(x.split(N) for x in kept[:L]), strict=True)]
    return r, [Record(x, [y.W for y in x], s, []) for x, s in zip(own, r.steps.split(N), strict=True)]


def _recall_group(
    run: Run, b: Batch, first: int, Z: list[Stack] | None, kept: list[Tensor], first_at: Matrices
) -> tuple[Record, list[Record], list[Stack] | None]:
    """Run a batch again, from the states at the starts of its groups, or on from Z; also returns the state after it."""
    net, L, each = run.net, run.net.depth, []
    starts, room = _room(Z or _stacks(net, kept[:L]), len(b.each))
    for j, (c, old, new) in enumerate(zip(b.each, room[:-1], room[1:], strict=True)):
        if j and (first + j) % run.group == 0:
            place = (first + j) // run.group - first // run.group
            for x, whole in zip(old, kept[place * L : (place + 1) * L], strict=True):
                x.whole.copy_(whole)
        at = first_at if run.begun else [x.W for x in old]
        each.append(Record(old, at, anchored_steps(net, c, at, slopes=True), []))
        after = end_chunk(c, each[-1].steps, old, new) if (first + j + 1) % run.group else new
    steps = Steps.join(b.all.k, [r.steps for r in each], keep=False)
    _, z = read_chunk(net, b.all, steps, starts)
    return Record(starts, each[0].at, steps, z), each, after
