"""A memory that is a matrix, run by kernels over a whole sequence, one span after another.

Only the state at the start of each span is kept for the backward pass, which recomputes the span.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from titans_mini.kernels import Job, launch
from titans_mini.kernels.matrix_span import Span, bytes_per_chunk, chunk_size
from titans_mini.memory.network import MemoryNet
from titans_mini.memory.state import MemoryState

LARGEST_D, LARGEST_C = 128, 64


def unsupported_reason(net: MemoryNet, v: Tensor, chunk_size: int, anchor: str) -> str | None:
    """Return the reason why these kernels cannot run a memory of depth 1, or None."""
    if net.norm:
        return "the kernels of depth 1 are for a matrix, and this memory has a norm behind it"
    if net.dim > LARGEST_D:
        return f"the kernels hold D up to {LARGEST_D}, and this memory has {net.dim}"
    if anchor == "chunk" and chunk_size > LARGEST_C:
        return f"the kernels of depth 1 hold chunks of up to {LARGEST_C} tokens, and chunk_size is {chunk_size}"
    return None


def run(
    job: Job, q: Tensor, k: Tensor, v: Tensor, alpha: Tensor, eta: Tensor, theta: Tensor, state: MemoryState
) -> tuple[Tensor, MemoryState]:
    """Run a sequence from the start of a chunk; see `titans_mini.kernels.run`."""
    B, H, T, _ = v.shape
    gates = [x.flatten(0, 1).squeeze(-1).contiguous() for x in (alpha, eta, theta)]  # (N, T)
    M, S = (x[0].flatten(0, 1).contiguous() for x in (state.weights, state.momentum))  # (N, D, D)
    if job.net.residual:  # ‖k + k M − v‖² is the loss of a plain matrix with values v − k
        v = v - k
    y, *ends = _Matrix.apply(job, *launch.same_layout(q, k, v), *gates, M, S)
    if job.net.residual:
        y = y + q
    M, S, at = (x.unflatten(0, (B, H)) for x in ends)
    return y, MemoryState((M,), (S,), (at,), T % job.chunk_size)


def _spans(job: Job, tensors: Sequence[Tensor], backwards: bool = False) -> list[tuple[Any, ...]]:
    """Split a sequence into spans: the arguments of every `Span`, in order."""
    B, H, T, D = tensors[0].shape
    C = chunk_size(job, T)
    cuts = launch.spans(T, C, bytes_per_chunk(job, B * H, D, C, tensors[0].element_size()), job.group)
    return [(job, C, tensors, start, end, backwards) for start, end in cuts]


class _Matrix(torch.autograd.Function):
    """A whole sequence as an autograd function; second derivatives raise, as with `chunked`."""

    @staticmethod
    def forward(ctx: Any, job: Job, *tensors: Tensor) -> tuple[Tensor, ...]:
        *_, M, S = tensors
        y, kept = torch.empty_like(tensors[2]), []
        for parts in _spans(job, tensors[:6]):
            kept += [M, S]
            span = Span(*parts)
            E, M_chunks, S_chunks, M, S, last = span.advance(M, S)
            span.answer(E, M_chunks, S_chunks, y)
        ctx.job = job
        ctx.save_for_backward(*tensors[:6], *kept)
        return y, M, S, last

    @staticmethod
    def backward(ctx: Any, dy: Tensor, dM: Tensor, dS: Tensor, d_last: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors  # read once: under checkpointing the access recomputes
        with torch.no_grad():
            grads = _backward(ctx.job, saved[:6], saved[6:], dy, dM, dS, d_last)
        if torch.is_grad_enabled():  # create_graph=True
            grads = launch.first_order(grads, dy, dM, dS, d_last, *saved)
        return None, *grads


def _backward(
    job: Job, tensors: Sequence[Tensor], kept: Sequence[Tensor], dy: Tensor, dM: Tensor, dS: Tensor, d_last: Tensor
) -> list[Tensor]:
    """Backpropagate span by span: gradients of q, k, v, the gates, and the initial M and S."""
    dy = dy if dy.stride() == tensors[0].stride() else torch.empty_like(tensors[0]).copy_(dy)
    grads = [torch.empty_like(x) for x in tensors]
    dM, dS, d_last = (x.contiguous() for x in (dM, dS, d_last))
    for i, parts in reversed(list(enumerate(_spans(job, tensors, backwards=True)))):
        dM, dS = Span(*parts).go_back(kept[2 * i], kept[2 * i + 1], dy, dM, dS, d_last, grads)
        d_last = torch.zeros_like(d_last)  # only the sequence's last anchor was returned
    return [*grads, dM, dS]
