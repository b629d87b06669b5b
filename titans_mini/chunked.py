"""The same memory as matrix products: a chunk at a time, no weight matrix per token.

Inside a chunk every gradient is taken at one anchor, so it is a rank-one matrix a_jᵀ δ_j known in advance. A query
then meets all writes before it as masked linear attention: (h·a_j) weighs δ_j, layer by layer. The rank-one matrices
are summed once, at the end of the chunk. `chunk` holds one chunk, `chunk_backward` its derivative; here they are run.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch import Tensor

from titans_mini.chunk import Chunk, Matrices, Record, end_chunk, online_inverse, run_chunk
from titans_mini.chunk_backward import Grads, backward_chunk
from titans_mini.decay import fill_table_backward, multiply_gates, slice_gates
from titans_mini.network import MemoryNet
from titans_mini.stack import Stack, Twice
from titans_mini.state import MemoryState

SPAN = 4096  # tokens whose gates are multiplied up at once: enough to be fast, few enough to stay small


def chunked(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    alpha: Tensor,
    eta: Tensor,
    theta: Tensor,
    state: MemoryState,
    net: MemoryNet,
    chunk_size: int,
    anchor: str,
    read: str,
    group_size: int | None = None,
) -> tuple[Tensor, MemoryState]:
    """Run the memory chunk by chunk; equal by algebra to `recurrence`, with the same arguments and results.

    Args:
        q: (B, H, T, D) queries.
        k: (B, H, T, D) keys.
        v: (B, H, T, D) values.
        alpha: (B, H, T, 1 or L) forget gates.
        eta: (B, H, T, 1 or L) momentum gates.
        theta: (B, H, T, 1 or L) step sizes.
        state: where to go on from, also in the middle of a chunk.
        net: the memory's network.
        chunk_size: C.
        anchor: "chunk", or "token" for the exact online rule of a matrix memory (any C gives the same result).
        read: "after" or "before" the write.
        group_size: chunks between two states that the backward pass keeps. 1 keeps what it needs of every chunk and
            recomputes little; g keeps a state every g chunks and runs each group again. Default: about 64 tokens.

    Returns:
        y (B, H, T, D) and the state after the last token.

    Built in: notebooks/06 · Paper: eq. 16–18
    """
    online = anchor == "token"
    position = 0 if online else state.position
    group = group_size or max(1, 64 // chunk_size)
    B, H, T, _ = v.shape
    flat = [x.flatten(0, 1) for x in (q, k, v)]  # (N, T, D): batch and heads are one axis inside
    gates = torch.broadcast_tensors(alpha, eta, theta)  # one of them per layer makes all of them so
    flat += [x.flatten(0, 1).movedim(-1, 0) for x in gates]  # (1 or L, N, T)
    M, S, at = ([w.flatten(0, 1) for w in x] for x in (state.weights, state.momentum, state.anchor))
    y = []
    for size, count, part in _split(flat, T, chunk_size, position):
        at = at if position else M
        y_part, M, S = _run(_Run(net, online, read, min(group, count), position > 0), part, M, S, at)
        y.append(y_part.flatten(1, 2))
        position = 0 if online else (position + size * count) % chunk_size
    at = at if position else M
    out = torch.cat(y, 1) if len(y) > 1 else y[0] if y else torch.zeros_like(flat[2])
    M, S, at = (tuple(w.unflatten(0, (B, H)) for w in x) for x in (M, S, at))
    return out.unflatten(0, (B, H)), MemoryState(weights=M, momentum=S, anchor=at, position=position)


def _split(flat: list[Tensor], T: int, C: int, position: int) -> list[tuple[int, int, list[Tensor]]]:
    """Cut the sequence into the rest of a begun chunk, whole chunks, and a tail: (size, count, tensors).

    One `split`: slicing inside a loop would make the backward pass quadratic in T, because the gradient of every
    slice is a tensor of length T.
    """
    first = min(T, C - position) if position else 0
    parts = [(first, 1), (C, (T - first) // C), ((T - first) % C, 1)]
    parts = [(size, count) for size, count in parts if size * count]
    cuts = [x.split([size * count for size, count in parts], 1) for x in flat[:3]]
    cuts += [x.split([size * count for size, count in parts], 2) for x in flat[3:]]
    out = []
    for (size, count), part in zip(parts, zip(*cuts, strict=True), strict=True):
        shaped = [x.unflatten(1, (count, size)) for x in part[:3]] + [x.unflatten(2, (count, size)) for x in part[3:]]
        out.append((size, count, shaped))
    return out


@dataclass(frozen=True)
class _Run:
    """How a run of equal chunks is done."""

    net: MemoryNet
    online: bool  # the exact online rule instead of anchored gradients
    read: str  # "after" or "before"
    group: int  # chunks between two kept states
    separate_anchor: bool  # the first chunk goes on from the middle: its anchor is not its start


class _Kept(NamedTuple):
    """What the backward pass keeps of a group: the state at its start and, of a group of one chunk, its products."""

    Z: list[Tensor]  # stacked
    z: list[Tensor]  # each layer's output at the keys, then at the queries


class _Span(NamedTuple):
    """Some thousand tokens of the sequence, their gates multiplied up together."""

    start: int  # its first chunk
    gates: list[Tensor]  # alpha, eta, theta: (1 or L, N, chunks, c)
    table: Tensor  # and the rows of n, where the backward pass asked for them: see `decay`
    n: Tensor | None
    chunks: list[Chunk]


def _spans(run: _Run, tensors: list[Tensor], backwards: bool = False) -> Iterator[_Span]:
    """Go through the sequence span by span."""
    q, k, v, *gates = tensors
    (count, size), twice = q.shape[1:3], Twice()
    span = max(1, SPAN // size // run.group) * run.group
    starts = range(0, count, span)
    for start in reversed(starts) if backwards else starts:
        here = slice(start, min(start + span, count))
        raw = [x[:, :, here] for x in gates]
        g, table, n = multiply_gates(*raw, run.read, run.online, keep_n=backwards)
        inverse: list[Tensor | None] = [None] * (here.stop - start)
        if run.online:
            inverse = list(online_inverse(k[:, here], g.step[0], g.G_before[0]).unbind(1))
        qkv = (x[:, here].unbind(1) for x in (q, k, v))
        rows = zip(*qkv, g.chunks(), inverse, strict=True)
        chunks = [Chunk(*row, twice, inv) for *row, inv in rows]
        yield _Span(start, raw, table, n, chunks)


def _forward(
    run: _Run, tensors: list[Tensor], M: Matrices, S: Matrices, at: Matrices, kept: list[_Kept] | None = None
) -> tuple[Tensor, Matrices, Matrices]:
    """Run equal chunks one after the other; fill `kept` when a backward pass will follow."""
    y = torch.empty_like(tensors[2])  # (N, chunks, c, D), filled in place: a list of parts would hold it twice
    Z, spare = [Stack.of(*pair) for pair in zip(M, S, strict=True)], None
    keep = kept is not None and run.group == 1
    places = iter(y.unbind(1))
    for span in _spans(run, tensors):
        for i, c in enumerate(span.chunks, span.start):
            at = [z.W for z in Z] if i or not run.separate_anchor else at
            y_c, r = run_chunk(run.net, c, Z, at, keep=keep)
            next(places).copy_(y_c)
            if kept is not None and i % run.group == 0:
                kept.append(_Kept([z.whole for z in Z], [*r.steps.z, *_wanted(run.net, r.z)] if keep else []))
            if kept is None:  # nobody looks back: two sets of stacks take turns
                Z, spare = end_chunk(c, r.steps, Z, spare), Z
            else:
                Z = end_chunk(c, r.steps, Z)
    return y, [z.W.contiguous() for z in Z], [z.P.contiguous() for z in Z]


def _wanted(net: MemoryNet, z: list[Tensor]) -> list[Tensor]:
    """Choose the layers' outputs that the derivative of the reads looks at: the last one only under a norm."""
    return z if net.norm else z[:-1]


def _run(run: _Run, tensors: list[Tensor], M: Matrices, S: Matrices, at: Matrices) -> tuple[Tensor, Matrices, Matrices]:
    """Run equal chunks, by way of `_Chunks` when gradients are wanted."""
    everything = [*tensors, *M, *S, *at, *run.net.parameters()]
    if not (torch.is_grad_enabled() and any(x.requires_grad for x in everything)):
        return _forward(run, tensors, M, S, at)
    y, *ends = _Chunks.apply(run, *everything)
    return y, ends[: run.net.depth], ends[run.net.depth :]


class _Chunks(torch.autograd.Function):
    """A run of equal chunks with the backward pass of `chunk_backward`.

    Gradients of gradients are refused: the backward pass works in place and keeps no graph.
    """

    @staticmethod
    def forward(ctx: Any, run: _Run, *everything: Tensor) -> tuple[Tensor, ...]:
        L, kept = run.net.depth, []
        tensors, M, S, at = list(everything[:6]), *(list(everything[6 + i * L : 6 + (i + 1) * L]) for i in range(3))
        y, M, S = _forward(run, tensors, M, S, at, kept)
        ctx.run, ctx.inputs, ctx.size = run, len(everything), [len(x) for x in kept[0]]
        # all by way of save_for_backward: it is freed after use, and hooks see it (offloading, checkpointing)
        ctx.save_for_backward(*everything, *(x for group in kept for part in group for x in part))
        return y, *M, *S

    @staticmethod
    def backward(ctx: Any, dy: Tensor, *ends: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors  # asked for once: checkpointing recomputes at this moment
        L, everything, rest = ctx.run.net.depth, saved[: ctx.inputs], iter(saved[ctx.inputs :])
        groups = (len(saved) - ctx.inputs) // sum(ctx.size)
        kept = [_Kept(*(list(islice(rest, size)) for size in ctx.size)) for _ in range(groups)]
        run = replace(ctx.run, net=ctx.run.net.with_parameters(everything[6 + 3 * L :]))
        at = list(everything[6 + 2 * L : 6 + 3 * L])
        with torch.no_grad(), torch.autocast(dy.device.type, enabled=False):
            grads = _backward(run, list(everything[:6]), kept, at, dy, list(ends[:L]), list(ends[L:]))
        if torch.is_grad_enabled():  # create_graph=True
            grads = _FirstOrder.apply(len(grads), *grads, dy, *ends, *everything)
        return None, *grads


class _FirstOrder(torch.autograd.Function):
    """Gradients that refuse to be differentiated, by whatever path: without it some paths would say 0, or nothing."""

    @staticmethod
    def forward(ctx: Any, count: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(x.clone() for x in tensors[:count])

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> None:
        raise RuntimeError(
            "neural_memory: got a second derivative through the chunked form, expected a first one: its backward pass "
            "is written by hand and keeps no graph. backend='recurrence' can be differentiated again"
        )


def _backward(
    run: _Run, tensors: list[Tensor], kept: list[_Kept], at: Matrices, dy: Tensor, dM: Matrices, dS: Matrices
) -> list[Tensor]:
    """Go back through a run of chunks: gradients at its tensors, M, S, the first anchor and the slow weights."""
    d_at = [torch.zeros_like(x) for x in dM]
    slow = [torch.zeros_like(dy[0, 0, 0]) for _ in run.net.parameters()]
    dZ = [Stack.of(*pair) for pair in zip(dM, dS, strict=True)]
    out = Grads([], dZ, [z.like() for z in dZ], d_at if run.separate_anchor else None, *(slow or (None, None)))
    d_qkv, d_gates = [torch.empty_like(x) for x in tensors[:3]], []
    places = [x.unbind(1) for x in d_qkv]
    for span in _spans(run, tensors, backwards=True):
        d_step, d_table = torch.zeros_like(span.gates[2]), torch.zeros_like(span.table)
        of_chunks = slice_gates(d_step, d_table, run.read, run.online).chunks()
        for i, c, r in _records(run, span, kept, at):
            out.gates = of_chunks[i]
            for place, x in zip(places, backward_chunk(run.net, c, r, dy[:, span.start + i], out), strict=True):
                place[span.start + i].copy_(x)
        d_gates.append((*fill_table_backward(*span.gates[:2], span.table, span.n, d_table), d_step.mul_(2)))
    d_gates = [torch.cat(x[::-1], 2) for x in zip(*d_gates, strict=True)]
    ends = [z.W.contiguous() for z in out.Z], [z.P.contiguous() for z in out.Z]
    return [*d_qkv, *d_gates, *ends[0], *ends[1], *d_at, *slow]


def _records(run: _Run, span: _Span, kept: list[_Kept], first_at: Matrices) -> Iterator[tuple[int, Chunk, Record]]:
    """Recall the forward pass of a span's chunks, the last chunk first, group by group."""
    for first in reversed(range(0, len(span.chunks), run.group)):
        Z, z = kept[(span.start + first) // run.group]
        Z = [Stack(whole, i <= o) for whole, (i, o) in zip(Z, run.net.shapes, strict=True)]
        known = (z[: run.net.depth], z[run.net.depth :]) if z else None
        at = [z.W for z in Z] if span.start + first or not run.separate_anchor else first_at
        records = []
        for c in span.chunks[first : first + run.group]:
            _, r = run_chunk(run.net, c, Z, at, known, slopes=True)
            records.append((first + len(records), c, r))
            if len(records) < run.group:
                Z = end_chunk(c, r.steps, Z)
                at = [z.W for z in Z]
        yield from reversed(records)
