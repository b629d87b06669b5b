"""The same memory as matrix products: a chunk at a time, no weight matrix per token.

Inside a chunk every gradient is taken at one anchor, so it is a rank-one matrix a_jᵀ δ_j known in advance. A query
then meets all writes before it as masked linear attention: (h·a_j) weighs δ_j, layer by layer. The rank-one matrices
are summed once, at the end of the chunk. `deep` runs the chunks of a network, `linear` those of a matrix.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from titans_mini.memory import deep, linear, linear_backward
from titans_mini.memory.network import MemoryNet, Weights
from titans_mini.memory.spans import Run
from titans_mini.memory.state import MemoryState
from titans_mini.memory.torch_modes import no_autocast


def keep_freed_memory() -> None:
    """Let the C library keep up to 64 MiB of what is freed, instead of giving it back to the system.

    glibc's malloc gives back whatever is twice as large as the largest block that it once fetched by itself and freed,
    128 KiB at first and 32 MiB at most. A run makes many tensors of some hundred KiB and frees them all, step after
    step; fetching them anew, page by page, costs time. So one large block is taken and freed. It is never touched,
    takes no memory, and where malloc is another nothing happens. tests/test_cost.py counts the pages.
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

    Built in: notebooks/08 · Paper: eq. 16–18
    """
    online = anchor == "token"
    position = 0 if online else state.position
    group = group_size or max(1, 64 // chunk_size)
    B, H, T, _ = v.shape
    if not B * H:  # nobody to remember for; every input stays in the graph
        ended = 0 if online else (position + T) % chunk_size
        y = q + k + v + (alpha + eta + theta).sum(-1, keepdim=True)
        return y, MemoryState(weights=state.weights, momentum=state.momentum, anchor=state.anchor, position=ended)
    gates = torch.broadcast_tensors(alpha, eta, theta)  # one of them per layer makes all of them so
    M, S, at = state.weights, state.momentum, state.anchor
    y = []
    for size, count, part in _split([q, k, v, *gates], T, chunk_size, position):
        at = at if position else M
        y_part, M, S = _run(Run(net, online, read, size, min(group, count), position > 0), part, M, S, at)
        y.append(y_part)
        position = 0 if online else (position + size * count) % chunk_size
    at = at if position else M
    out = torch.cat(y, 2) if len(y) > 1 else y[0] if y else torch.zeros_like(v)
    return out, MemoryState(weights=tuple(M), momentum=tuple(S), anchor=tuple(at), position=position)


def _split(tensors: list[Tensor], T: int, C: int, position: int) -> list[tuple[int, int, list[Tensor]]]:
    """Cut the sequence into the rest of a begun chunk, whole chunks, and a tail: (size, count, tensors).

    One `split`: slicing inside a loop would make the backward pass quadratic in T, because the gradient of every
    slice is a tensor of length T.
    """
    first = min(T, C - position) if position else 0
    parts = [(first, 1), (C, (T - first) // C), ((T - first) % C, 1)]
    parts = [(size, count) for size, count in parts if size * count]
    if len(parts) == 1:
        return [(*parts[0], tensors)]
    cuts = zip(*(x.split([size * count for size, count in parts], 2) for x in tensors), strict=True)
    return [(*part, list(cut)) for part, cut in zip(parts, cuts, strict=False)]


def _run(run: Run, tensors: list[Tensor], M: Weights, S: Weights, at: Weights) -> tuple[Tensor, Weights, Weights]:
    """Run equal chunks, by way of `_Chunks` when gradients are wanted."""
    everything = [*tensors, *M, *S, *(at if run.begun else ()), *run.net.parameters()]
    wanted = torch.is_grad_enabled() and any(x.requires_grad for x in everything)
    y, *ends = _Chunks.apply(run, _Kept(), *everything) if wanted else _forward(run, None, everything)
    return y, tuple(ends[: run.net.depth]), tuple(ends[run.net.depth :])


def _in_chunks(run: Run, tensors: Sequence[Tensor]) -> list[Tensor]:
    """Lay q, k, v and the gates out as the engines want them: batch and heads are one axis N, a sequence its chunks."""
    flat = [x.flatten(0, 1) for x in tensors]
    qkv = [x.unflatten(1, (-1, run.size)) for x in flat[:3]]  # (N, chunks, c, D)
    return qkv + [x.movedim(-1, 0).unflatten(2, (-1, run.size)) for x in flat[3:]]  # (1 or L, N, chunks, c)


def _out_of_chunks(grads: list[Tensor], heads: torch.Size) -> list[Tensor]:
    """Lay gradients at q, k, v, the gates and states out as those came, (B, H, …)."""
    flat = [x.flatten(1, 2) for x in grads[:3]] + [x.flatten(2, 3).movedim(0, -1) for x in grads[3:6]] + grads[6:]
    return [x.unflatten(0, heads) for x in flat]


def _forward(run: Run, kept: _Kept | None, everything: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Run equal chunks: y (B, H, T, D), then memory and momentum at the end, L tensors (B, H, in, out) each."""
    L, states = run.net.depth, [x.flatten(0, 1) for x in everything[6 : _count(run)]]
    y, M, S = _engine(run).forward(
        run, _in_chunks(run, everything[:6]), states[:L], states[L : 2 * L], states[2 * L :], kept
    )
    return tuple(x.unflatten(0, everything[0].shape[:2]) for x in (y.flatten(1, 2), *M, *S))


def _count(run: Run) -> int:
    """Count the inputs before the slow weights: q, k, v, three gates, M, S, and of a begun chunk its anchor."""
    return 6 + (3 if run.begun else 2) * run.net.depth


def _engine(run: Run) -> ModuleType:
    """Choose how chunks of a size are run: those of a matrix in batches, where they are short or the rule is exact."""
    return linear if run.net.is_matrix and (run.online or run.size < linear.SHORT) else deep


class _Kept(list):
    """What `forward` keeps for `backward`: of a plain list torch.func would pass on a copy."""


class _Chunks(torch.autograd.Function):
    """A run of equal chunks with the backward pass of `chunk_backward`.

    Gradients of gradients are refused: the backward pass works in place and keeps no graph.
    """

    @staticmethod
    def forward(run: Run, kept: _Kept, *everything: Tensor) -> tuple[Tensor, ...]:
        return _forward(run, kept, everything)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:  # apart from `forward` for torch.func.grad
        ctx.run, kept, *everything = inputs
        ctx.inputs = len(everything)
        # all by way of save_for_backward: it is freed after use, and hooks see it (offloading, checkpointing)
        ctx.save_for_backward(*everything, *kept)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors  # asked for once: checkpointing recomputes at this moment
        everything, kept = saved[: ctx.inputs], list(saved[ctx.inputs :])
        L, states = ctx.run.net.depth, _count(ctx.run)
        run = replace(ctx.run, net=ctx.run.net.with_parameters(everything[states:]))
        with torch.no_grad(), no_autocast(upstream[0].device):
            at = [x.flatten(0, 1) for x in everything[6 + 2 * L : states]]
            dy, *ends = (x.flatten(0, 1) for x in upstream)
            backward = linear_backward.backward if _engine(run) is linear else deep.backward
            dy, tensors = dy.unflatten(1, (-1, run.size)), _in_chunks(run, everything[:6])
            grads = backward(run, tensors, kept, at, dy, ends[:L], ends[L:])
            grads = _out_of_chunks(grads[:states], everything[0].shape[:2]) + grads[states:]
        if torch.is_grad_enabled():  # create_graph=True
            grads = _FirstOrder.apply(len(grads), *grads, *upstream, *everything)
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
