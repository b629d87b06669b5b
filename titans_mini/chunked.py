"""The same memory as matrix products: a chunk at a time, no weight matrix per token.

Inside a chunk every gradient is taken at one anchor, so it is a rank-one matrix a_jᵀ δ_j known in advance. A query
then meets all writes before it as masked linear attention: (h·a_j) weighs δ_j, layer by layer. The rank-one matrices
are summed once, at the end of the chunk. `deep` runs the chunks of a network, `linear` those of a matrix.
"""

from __future__ import annotations

from dataclasses import replace
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from titans_mini import deep, linear, linear_backward
from titans_mini.network import MemoryNet
from titans_mini.precision import no_autocast
from titans_mini.spans import Run
from titans_mini.stack import Matrices
from titans_mini.state import MemoryState


def keep_freed_memory() -> None:
    """Let the C library keep up to 64 MiB of what is freed, instead of giving it back to the system.

    glibc's malloc gives back whatever is twice as large as the largest block that it once fetched by itself and freed,
    128 KiB at first and 32 MiB at most. A run makes many tensors of some hundred KiB and frees them all, step after
    step; fetching them anew, page by page, costs time. So one large block is taken and freed. It is never touched,
    takes no memory, and where malloc is another nothing happens. tests/test_cost.py counts the pages.

    Built in: notebooks/06 · Paper: –
    """
    torch.empty(2**25 - 2**16, dtype=torch.uint8, device="cpu")


keep_freed_memory()  # once, when this module is loaded: later calls would change nothing


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
    if not B * H:  # nobody to remember for; every input stays in the graph
        ended = 0 if online else (position + T) % chunk_size
        y = q + k + v + (alpha + eta + theta).sum(-1, keepdim=True)
        return y, MemoryState(weights=state.weights, momentum=state.momentum, anchor=state.anchor, position=ended)
    flat = [x.flatten(0, 1) for x in (q, k, v)]  # (N, T, D): batch and heads are one axis inside
    gates = torch.broadcast_tensors(alpha, eta, theta)  # one of them per layer makes all of them so
    flat += [x.flatten(0, 1).movedim(-1, 0) for x in gates]  # (1 or L, N, T)
    M, S, at = ([w.flatten(0, 1) for w in x] for x in (state.weights, state.momentum, state.anchor))
    y = []
    for size, count, part in _split(flat, T, chunk_size, position):
        at = at if position else M
        y_part, M, S = _run(Run(net, online, read, min(group, count), position > 0), part, M, S, at)
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


def _run(run: Run, tensors: list[Tensor], M: Matrices, S: Matrices, at: Matrices) -> tuple[Tensor, Matrices, Matrices]:
    """Run equal chunks, by way of `_Chunks` when gradients are wanted."""
    everything = [*tensors, *M, *S, *at, *run.net.parameters()]
    if not (torch.is_grad_enabled() and any(x.requires_grad for x in everything)):
        return _engine(run, tensors[0].shape[2]).forward(run, tensors, M, S, at)
    y, *ends = _Chunks.apply(run, _Kept(), *everything)
    return y, ends[: run.net.depth], ends[run.net.depth :]


def _engine(run: Run, size: int) -> ModuleType:
    """Choose how chunks of a size are run: those of a matrix in batches, where they are short or the rule is exact."""
    return linear if run.net.is_matrix and (run.online or size < linear.SHORT) else deep


class _Kept(list):
    """What `forward` keeps for `backward`: of a plain list torch.func would pass on a copy."""


class _Chunks(torch.autograd.Function):
    """A run of equal chunks with the backward pass of `chunk_backward`.

    Gradients of gradients are refused: the backward pass works in place and keeps no graph.
    """

    @staticmethod
    def forward(run: Run, kept: _Kept, *everything: Tensor) -> tuple[Tensor, ...]:
        L, tensors = run.net.depth, list(everything[:6])
        M, S, at = (list(everything[6 + i * L : 6 + (i + 1) * L]) for i in range(3))
        y, M, S = _engine(run, tensors[0].shape[2]).forward(run, tensors, M, S, at, kept)
        return y, *M, *S

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:  # apart from `forward` for torch.func.grad
        ctx.run, kept, *everything = inputs
        ctx.inputs = len(everything)
        # all by way of save_for_backward: it is freed after use, and hooks see it (offloading, checkpointing)
        ctx.save_for_backward(*everything, *kept)

    @staticmethod
    def backward(ctx: Any, dy: Tensor, *ends: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors  # asked for once: checkpointing recomputes at this moment
        L, everything, kept = ctx.run.net.depth, saved[: ctx.inputs], list(saved[ctx.inputs :])
        run = replace(ctx.run, net=ctx.run.net.with_parameters(everything[6 + 3 * L :]))
        at = list(everything[6 + 2 * L : 6 + 3 * L])
        with torch.no_grad(), no_autocast(dy.device):
            backward = linear_backward if _engine(run, everything[0].shape[2]) is linear else deep
            grads = backward.backward(run, list(everything[:6]), kept, at, dy, list(ends[:L]), list(ends[L:]))
        if torch.is_grad_enabled():  # create_graph=True
            grads = _FirstOrder.apply(len(grads), *grads, dy, *ends, *everything)
        return None, None, *grads


class _FirstOrder(torch.autograd.Function):
    """Gradients that refuse to be differentiated, by whatever path: without it some paths would say 0, or nothing."""

    @staticmethod
    def forward(count: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(x.clone() for x in tensors[:count])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> None:
        raise RuntimeError(
            "neural_memory: got a second derivative through the chunked form, expected a first one: its backward pass "
            "is written by hand and keeps no graph. backend='recurrence' can be differentiated again"
        )
