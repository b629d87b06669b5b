"""A sequence, chunk after chunk, forward and backward: the backend named "chunked".

Writes and ends are sequential: the next chunk starts where this one ended. Reads are not, so the chunks of a group
write first, one after the other (`chain`), and are then read together (`chunk.read`). Training keeps the state at the
start of each group, and the outputs of the memory's layers where they are small; the backward pass recomputes the rest
of a group from it, from the last group to the first.

    sequence   ────────────────────────────────────────────   a call; its first and last chunk may be incomplete
    span       ──────────────────────┊─────────────────────   4,096 tokens, whose coefficients are computed at once
    group      ───────────┊──────────┊──────────┊──────────   chunks that are read together, one kept state for each
    chunk      ───┊───┊───┊───┊──┊───┊──┊───┊───┊──┊───┊───   C tokens with one anchor
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from titans_mini.memory import chunk, online
from titans_mini.memory.chunk import Factored, Layers, Writes
from titans_mini.memory.gates import End, Rows, coefficient_table, coefficient_table_backward, end_of, rows_of
from titans_mini.memory.network import MemoryNet
from titans_mini.memory.state import MemoryState
from titans_mini.memory.torch_modes import no_autocast

SPAN = 4096  # tokens whose coefficients are computed at once: enough to be fast, few enough to stay small


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
        group_size: chunks that are read together, with one state kept for the backward pass; more of them take less
            memory and more time. Default: see `default_group`.

    Returns:
        y (B, H, T, D) and the state after the last token.

    Built in: notebooks/08 · Paper: eq. 16–18
    """
    exact, T, L = anchor == "token", v.shape[2], net.depth
    position = 0 if exact else state.position
    M, S, at = state.weights, state.momentum, state.anchor
    if not v.shape[:2].numel():  # no sequence at all; every input stays in the graph
        ended = 0 if exact else (position + T) % chunk_size
        y = q + k + v + (alpha + eta + theta).sum(-1, keepdim=True)
        return y, MemoryState(weights=M, momentum=S, anchor=at, position=ended)
    tensors = q, k, v, *torch.broadcast_tensors(alpha, eta, theta)  # one gate per layer: then all of them
    y, stretches = [], equal_chunks(T, chunk_size, position)
    # one split: the gradient of each slice would be a tensor of length T
    parts = zip(*(x.split([size * count for size, count in stretches], 2) for x in tensors), strict=True)
    for (size, count), part in zip(stretches, parts, strict=True):
        group = min(count, group_size or default_group(chunk_size))
        plan = Plan(net, exact, read, size, count, group, begun=position > 0)
        at = at if plan.begun else M
        y_part, *ends = _apply(plan, [*part, *M, *S, *(at if plan.begun else ()), *net.parameters()])
        M, S = tuple(ends[:L]), tuple(ends[L:])
        y.append(y_part)
        position = 0 if exact else (position + size * count) % chunk_size
    at = at if position else M
    out = torch.cat(y, 2) if len(y) > 1 else y[0] if y else torch.zeros_like(v)
    return out, MemoryState(weights=M, momentum=S, anchor=at, position=position)


def default_group(chunk_size: int) -> int:
    """Choose how many chunks are read together: one long one, or short ones of 128 tokens in all, 16 at most."""
    return 1 if chunk_size >= 64 else min(16, 128 // chunk_size)


def equal_chunks(T: int, C: int, position: int) -> list[tuple[int, int]]:
    """Cut T tokens into the rest of a begun chunk, whole chunks, and a tail: (tokens of a chunk, chunks) of each."""
    begun = min(T, C - position) if position else 0
    stretches = [(begun, 1), (C, (T - begun) // C), ((T - begun) % C, 1)]
    return [(size, count) for size, count in stretches if size * count]


@dataclass(frozen=True)
class Plan:
    """The options and sizes of one pass over equal chunks."""

    net: MemoryNet
    exact: bool  # the exact online rule instead of gradients at the anchor
    read: str  # "after" or "before"
    size: int  # c, tokens of a chunk
    count: int  # number of chunks
    group: int  # chunks that are read together
    begun: bool  # the only chunk is the rest of one that an earlier call began; its anchor is not its start

    @property
    def tensors(self) -> int:
        """Count the inputs before the norm's gain and bias: q, k, v, gates, M, S, for a begun chunk its anchor."""
        return 6 + (3 if self.begun else 2) * self.net.depth

    @property
    def spans(self) -> list[slice]:
        """Cut the chunks into spans of whole groups, whose coefficients are computed at once."""
        length = max(1, SPAN // self.size // self.group) * self.group
        return [slice(i, min(i + length, self.count)) for i in range(0, self.count, length)]


# -- forward -----------------------------------------------------------------------------------------------------------


def forward(plan: Plan, kept: list[Layers] | None, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Run equal chunks, group by group: the writes of a group in sequence, then all its reads at once.

    Args:
        plan: its options and sizes.
        kept: for `backward`, a list for each group is appended: memory and momentum at its start, and `_kept_outputs`.
        inputs: q, k, v (B, H, T, D); alpha, eta, theta (B, H, T, 1 or L); M, S and, of a begun chunk, its anchor,
            L tensors (B, H, in, out) each; and the norm's gain and bias.

    Returns:
        y (B, H, T, D), then M and S after the last token.
    """
    heads, L, inputs = inputs[0].shape[:2], plan.net.depth, [x.flatten(0, 1) for x in inputs[: plan.tensors]]
    M, S, anchor = (inputs[i : i + L] for i in (6, 6 + L, 6 + 2 * L))
    y = torch.empty_like(inputs[2])
    for where in plan.spans:
        span, _ = Span.of(plan, inputs, where)
        y_span = tokens_of(y, plan, where)  # a view: writing to it fills y
        for group in span.groups:
            chunks, q = span.chunks[group], span.q[group]
            writes, memories = chain(plan, chunks, M, S, anchor)
            answers, z = chunk.read(plan.net, q.flatten(0, 1), span.rows(plan, group), join(memories))
            y_span[group] = answers.view_as(q)
            if kept is not None:
                kept.append([*M, *S, *_kept_outputs(plan, writes, z)])
            M, S = chunk.end(chunks[-1].end, memories[-1])
    # a state is no view: FSDP2 hooks the tensors that a block returns, and loses its hook if a view is changed in place
    return y.unflatten(0, heads), *(x.unflatten(0, heads).clone() for x in (*M, *S))


def chain(
    plan: Plan, chunks: list[Chunk], M: Layers, S: Layers, anchor: Layers, known: Sequence[Tensor] = ()
) -> tuple[list[Writes], list[Factored]]:
    """Compute the writes of a group of chunks, one chunk after the other.

    Args:
        plan: its options and sizes.
        chunks: the group.
        M: (N, in, out), the memory at its start.
        S: (N, in, out), the momentum there.
        anchor: (N, in, out), of a begun chunk; else empty.
        known: `Writes.z` of all chunks in a row, where the forward pass kept them; else empty.

    Returns:
        The writes of each chunk, and the memory within it.
    """
    writes, memories, L = [], [], plan.net.depth
    for i, c in enumerate(chunks):
        if i:
            M, S = chunk.end(chunks[i - 1].end, memories[-1])
        z = known[i * L : (i + 1) * L]
        if plan.exact:
            error = z[0] if z else online.errors(c.k, c.v, c.before, M[0], S[0], plan.net.residual)
            writes.append(online.write(c.k, c.step[0], c.inverse, error))
        else:
            z = z or chunk.outputs_at_keys(plan.net, c.k, anchor or M)
            writes.append(chunk.write(plan.net, c.k, c.v, c.step, anchor or M, z))
        memories.append(Factored(writes[-1].a, writes[-1].w, M, S))
    return writes, memories


def join(memories: list[Factored]) -> Factored:
    """Concatenate the memories within the chunks of a group along N, for its reads."""
    if len(memories) == 1:
        return memories[0]
    return Factored(*([torch.cat(x) for x in zip(*layers, strict=True)] for layers in zip(*memories, strict=True)))


def _kept_outputs(plan: Plan, writes: list[Writes], z: Layers) -> Layers:
    """List the layers' outputs that are kept, not recomputed: at the keys of each chunk, at the group's queries."""
    return [*(x for w in writes for x in w.z), *(z if plan.net.norm else z[:-1])]  # without a norm z[-1] is not needed


# -- backward ----------------------------------------------------------------------------------------------------------


def backward(plan: Plan, kept: list[Layers], inputs: Sequence[Tensor], d_out: Sequence[Tensor]) -> list[Tensor]:
    """Backpropagate through `forward`, the last group first: through all its reads at once, then chunk by chunk.

    Args:
        plan: its options and sizes.
        kept: by `forward`.
        inputs: of `forward`.
        d_out: gradients at what it returned.

    Returns:
        The gradients at its inputs.
    """
    heads, L, net = inputs[0].shape[:2], plan.net.depth, plan.net
    inputs, (dy, *d_states) = [x.flatten(0, 1) for x in inputs[: plan.tensors]], [x.flatten(0, 1) for x in d_out]
    anchor, dM, dS = inputs[6 + 2 * L :], d_states[:L], d_states[L:]
    grads, d_anchor = [torch.empty_like(x) for x in inputs[:6]], [torch.zeros_like(x) for x in anchor]
    d_norm = [torch.zeros_like(p) for p in net.parameters()]
    for where in reversed(plan.spans):
        span, (alpha, eta, table, n) = Span.of(plan, inputs, where, keep_n=True)
        dy_span, *dqkv = (tokens_of(x, plan, where) for x in (dy, *grads[:3]))  # views: writing to dqkv fills grads
        d_span = Span(plan, *dqkv, torch.zeros_like(span.step), torch.zeros_like(table), None)
        for group in reversed(span.groups):
            chunks, q, of_group = span.chunks[group], span.q[group], kept[(where.start + group.start) // plan.group]
            M, S, z = of_group[:L], of_group[L : 2 * L], of_group[2 * L :]
            writes, memories = chain(plan, chunks, M, S, anchor, z)
            memory, count = join(memories), len(writes)

            read = q.flatten(0, 1), span.rows(plan, group), memory, z[count * L :]
            d_read = dy_span[group].flatten(0, 1), d_span.rows(plan, group), d_norm
            dq, d_memory = chunk.read_backward(net, *read, *d_read)
            d_span.q[group] = dq.view_as(q)
            of_chunks = chunks, d_span.chunks[group], writes, memory.split(count), d_memory.split(count)
            for args in reversed(list(zip(*of_chunks, strict=True))):
                dM, dS = writes_backward(plan, *args, dM, dS, anchor, d_anchor, d_norm)
        d_gates = *coefficient_table_backward(alpha, eta, table, n, d_span.table), 2 * d_span.step.squeeze(-1)
        for whole, part in zip(grads[3:], d_gates, strict=True):
            gates_of(whole, plan, where).copy_(part)
    d_states = [x.clone() for x in (*dM, *dS, *d_anchor)]  # a view would keep the gradients of a whole group
    return [*(x.unflatten(0, heads) for x in (*grads, *d_states)), *d_norm]


def writes_backward(
    plan: Plan,
    c: Chunk,
    d: Chunk,
    x: Writes,
    memory: Factored,
    d_memory: Factored,
    dM: Layers,
    dS: Layers,
    anchor: Layers,
    d_anchor: Layers,
    d_norm: Layers,
) -> tuple[Layers, Layers]:
    """Backpropagate through the end of a chunk and its writes.

    `c` is the chunk, `x` its writes, `memory` the memory within it, and `d_memory` the gradient of its reads at that;
    `dM` and `dS` are the gradients at memory and momentum after the chunk. The gradients at the chunk are filled in
    `d`, those at the anchor of a begun chunk and at the norm accumulated in `d_anchor` and `d_norm`. Returns the
    gradients at memory and momentum at the chunk's start.
    """
    chunk.end_backward(c.end, memory, dM, dS, d.end, d_memory)
    (M, S), (da, dw, dM, dS) = memory[2:], d_memory
    if plan.exact:
        factors = x, c.step[0], c.inverse, c.before, M[0], S[0], plan.net.residual
        dk, dv = online.write_backward(*factors, da[0], dw[0], d.step[0], d.before, dM[0], dS[0])
    else:
        at, d_at = (anchor, d_anchor) if plan.begun else (M, dM)
        dk, dv = chunk.write_backward(plan.net, c.step, at, x, da, dw, d.step, d_at, d_norm)
    d.k.copy_(dk)
    d.v.copy_(dv)
    return dM, dS


# -- layout: chunk before head, batch and heads as one axis N ----------------------------------------------------------


class Chunk(NamedTuple):
    """The inputs of one chunk, (N, …), or of all chunks of a span, (chunks, N, …); or the gradients at them."""

    k: Tensor  # (N, c, D)
    v: Tensor  # (N, c, D)
    step: Layers  # (N, c, 1), 2θ
    end: list[End]  # the coefficients after the last token
    before: Rows | None  # the coefficients one token earlier; this and the next are for the exact rule
    inverse: Tensor | None  # (N, c, c), see `online.inverse_systems`


def tokens_of(x: Tensor, plan: Plan, where: slice) -> Tensor:
    """View the tokens of a span, (N, T, D) as (chunks, N, c, D)."""
    return x.unflatten(1, (-1, plan.size))[:, where].transpose(0, 1)


def gates_of(x: Tensor, plan: Plan, where: slice) -> Tensor:
    """View the gates of a span, (N, T, 1 or L) as (1 or L, chunks, N, c)."""
    return x.unflatten(1, (-1, plan.size))[:, where].permute(3, 1, 0, 2)


def per_layer(x: Tensor, depth: int) -> Layers:
    """Split (1 or L, …) into L tensors: one set of gates serves all layers."""
    return [x[min(layer, len(x) - 1)] for layer in range(depth)]


def unstack(x: Any) -> Iterable:
    """Unbind tensors, and lists and named tuples of tensors, along their first axis; None stays None."""
    if x is None:
        return itertools.repeat(None)
    if torch.is_tensor(x):
        return x.unbind(0)
    parts = zip(*map(unstack, x), strict=False)  # not strict: the repeated None has no end
    return [list(part) if isinstance(x, list) else type(x)(*part) for part in parts]


class Span:
    """A span of chunks in the layout in which they are computed; or the gradients at them."""

    def __init__(
        self, plan: Plan, q: Tensor, k: Tensor, v: Tensor, step: Tensor, table: Tensor, inverse: Tensor | None
    ) -> None:
        """View tensors (chunks, N, …) as chunks; step and table are (1 or L, chunks, N, …)."""
        self.q, self.step, self.table = q, step, table
        steps, tables = (per_layer(x, plan.net.depth) for x in (step, table))
        before = rows_of(tables[0], "before") if plan.exact else None
        self.chunks: list[Chunk] = unstack(Chunk(k, v, steps, [end_of(x) for x in tables], before, inverse))
        self.groups = [slice(i, i + plan.group) for i in range(0, len(self.chunks), plan.group)]

    @classmethod
    def of(cls, plan: Plan, inputs: Sequence[Tensor], where: slice, keep_n: bool = False) -> tuple[Span, tuple]:
        """Lay out a span of the inputs (N, T, …); also returns alpha, eta, the table and n, see `coefficient_table`."""
        q, k, v = (tokens_of(x, plan, where) for x in inputs[:3])
        alpha, eta, theta = (gates_of(x, plan, where).contiguous() for x in inputs[3:6])
        table, n = coefficient_table(alpha, eta, keep_n)
        step = 2 * theta.unsqueeze(-1)
        inverse = online.inverse_systems(k, step[0], rows_of(table[0], "before").G) if plan.exact else None
        return cls(plan, q, k, v, step, table, inverse), (alpha, eta, table, n)

    def rows(self, plan: Plan, group: slice) -> list[Rows]:
        """View the coefficients for the reads of a group, its chunks joined along N."""
        return [rows_of(x[group].flatten(0, 1), plan.read) for x in per_layer(self.table, plan.net.depth)]


# -- autograd ----------------------------------------------------------------------------------------------------------


def _apply(plan: Plan, inputs: list[Tensor]) -> tuple[Tensor, ...]:
    """Run equal chunks, through `Scan` where a gradient is wanted."""
    if torch.is_grad_enabled() and any(x.requires_grad for x in inputs):
        return Scan.apply(plan, _Kept(), *inputs)
    return forward(plan, None, inputs)


class _Kept(list):
    """The list `kept` of `forward`. A class of its own, since torch.func would hand on a copy of a plain list."""


class Scan(torch.autograd.Function):
    """Equal chunks, one after the other, with the backward pass written by hand.

    Gradients of gradients are refused: the backward pass works in place and keeps no graph.
    """

    @staticmethod
    def forward(plan: Plan, kept: _Kept, *inputs: Tensor) -> tuple[Tensor, ...]:
        """See `forward` of this module."""
        return forward(plan, kept, inputs)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
        """Save what `backward` needs; apart from `forward`, as torch.func.grad wants it."""
        ctx.plan, kept, *inputs = inputs
        ctx.inputs, ctx.groups = len(inputs), [len(group) for group in kept]
        # all by way of save_for_backward: it is freed after use, and hooks see it (offloading, checkpointing)
        ctx.save_for_backward(*inputs, *itertools.chain(*kept))

    @staticmethod
    def backward(ctx: Any, *d_out: Tensor) -> tuple[Tensor | None, ...]:
        """See `backward` of this module."""
        saved = ctx.saved_tensors  # asked for once: checkpointing recomputes at this moment
        inputs, kept = saved[: ctx.inputs], iter(saved[ctx.inputs :])
        kept = [list(itertools.islice(kept, count)) for count in ctx.groups]
        plan = replace(ctx.plan, net=ctx.plan.net.with_parameters(inputs[ctx.plan.tensors :]))
        with torch.no_grad(), no_autocast(d_out[0].device):
            grads = backward(plan, kept, inputs, d_out)
        if torch.is_grad_enabled():  # create_graph=True
            grads = _FirstOrder.apply(len(grads), *grads, *d_out, *inputs)
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
