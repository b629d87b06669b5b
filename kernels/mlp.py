"""A two-layer memory run by Triton kernels: buffers, launches, and the autograd function around them.

The sequence is split into spans of whole chunks. Inside a span the states at all chunk starts lie in one buffer: the
sequential kernels pass them on through it, in the L2 cache if they fit, and the parallel kernels read them there. So
the number of hidden units is not limited: the weights and momenta of one head (256 KiB at D = 64, expansion 4) need not
fit into one multiprocessor. One state per span is kept; the backward pass recomputes the states inside a span.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from titans_mini.kernels import Job, launch
from titans_mini.kernels.coefficients import Coefficients, empty_grads, multiply_up, multiply_up_backward
from titans_mini.kernels.mlp_backward import mlp_answers_backward, mlp_hidden_backward, mlp_keys_backward
from titans_mini.kernels.mlp_chain import mlp_chain_backward
from titans_mini.kernels.mlp_forward import mlp_reads, mlp_states
from titans_mini.memory.network import MemoryNet
from titans_mini.memory.state import MemoryState

ACTIVATIONS = ("gelu", "silu")
LARGEST_D, LARGEST_C = 128, 64
LARGEST_FLOAT32 = 2048  # D × C, both rounded up to the sides of a tile
# hidden units per tile, warps and pipeline stages, by kernel: the fastest on an H200 that fit the registers
TILES = {"mlp_states": (16, 4, 1), "mlp_chain_backward": (16, 4, 2), "mlp_hidden_backward": (16, 4, 1)}
OTHERS = 32, 4, 1


def unsupported_reason(net: MemoryNet, v: Tensor, chunk_size: int, anchor: str) -> str | None:
    """Return the reason why these kernels cannot run a memory of two layers, or None.

    Args:
        net: the memory's network, of depth 2.
        v: (B, H, T, D) values.
        chunk_size: C.
        anchor: "chunk"; the exact online rule has no closed form here.

    Returns:
        One sentence, or None.
    """
    if net.activation not in ACTIVATIONS:
        return f"the kernels of a two-layer memory know {ACTIVATIONS}, and this one has activation {net.activation!r}"
    if net.dim > LARGEST_D or chunk_size > LARGEST_C:
        return (
            f"the kernels of a two-layer memory hold tiles up to D = {LARGEST_D} and chunks up to {LARGEST_C}, "
            f"and here D = {net.dim}, chunk_size = {chunk_size}"
        )
    tile = launch.tile(net.dim) * launch.tile(chunk_size)
    if v.dtype == torch.float32 and tile > LARGEST_FLOAT32 and not launch.interpreted():
        return (
            f"float32 tiles of D = {net.dim} and chunk_size = {chunk_size} need more shared memory than a GPU has "
            f"(260 KiB at 64 × 64); shorter chunks, D × chunk_size ≤ {LARGEST_FLOAT32} when both are rounded up to "
            "powers of two, or bfloat16 would do"
        )
    return None


@dataclass(frozen=True)
class _Plan:
    """Options and spans of a run, without its tensors."""

    job: Job
    spans: list[tuple[int, int]]
    layers: int  # sets of gates: 1 for both layers, or 2

    @property
    def shift(self) -> int:
        """Rows from the coefficients of a token's read to its own: 1 if it reads before its write, else 0."""
        return int(self.job.read == "before")

    @property
    def sizes(self) -> dict[str, Any]:
        """Constants that all kernels share."""
        net, C = self.job.net, self.job.chunk_size
        D, E = net.shapes[0]
        tiles = {"BC": launch.tile(C), "BD": launch.tile(D)}
        return {"C": C, "D": D, "E": E, "LAYERS": self.layers, "ACTIVATION": net.activation, **tiles}

    @property
    def norm(self) -> dict[str, bool]:
        """Constants of the last layer's output."""
        return {"NORM": self.job.net.norm, "RESIDUAL": self.job.net.residual}


def _plan(job: Job, N: int, T: int, layers: int) -> _Plan:
    """Split a sequence into spans; an unfinished last chunk is a span of its own: its start is the anchor."""
    C, (D, E) = job.chunk_size, job.net.shapes[0]
    whole = T - T % C
    floats = N * (8 * D * E + C * (6 * E + 5 * D) + layers * 4 * C * C)
    tail = [(whole, T)] if whole < T else []
    return _Plan(job, launch.spans(whole, C, 4 * floats, job.group) + tail, layers)


class _Inputs(NamedTuple):
    """Inputs of a run. N is B·H; X is N, or 2N with one set of gates per layer."""

    q: Tensor  # (B, H, T, D), k and v likewise, with the same strides
    k: Tensor
    v: Tensor
    alpha: Tensor  # (X, T), eta and theta likewise
    eta: Tensor
    theta: Tensor
    gain: Tensor | None  # (D,), of the norm; bias likewise
    bias: Tensor | None


class _Span(NamedTuple):
    """Some chunks of the sequence, their states in one buffer."""

    start: int  # its first token, and its end
    end: int
    c: Coefficients
    states: Tensor  # (nc + 1, N, 4DE)
    record: Tensor  # (N, nc·C, 2E + 2D)

    def numbers(self, x: _Inputs) -> tuple[int, ...]:
        """Return the lengths and strides that every kernel takes."""
        B, H = x.q.shape[:2]
        return B * H, H, self.end, len(self.states) - 1, self.start, *x.q.stride()[:3], x.theta.stride(0)


def _empty(like: Tensor, *shape: int) -> Tensor:
    return torch.empty(shape, dtype=torch.float32, device=like.device)


def _norm_parameters(x: _Inputs) -> tuple[Tensor, Tensor]:
    """Return gain and bias for a kernel; without a norm, placeholders that it never reads."""
    return (x.theta, x.theta) if x.gain is None else (x.gain, x.bias)


def _launch(kernel: Any, plan: _Plan, grid: tuple[int, ...], *args: Any, **constants: Any) -> None:
    """Launch one of the six kernels with the constants they share."""
    units, warps, stages = TILES.get(kernel.__name__, OTHERS)
    if plan.sizes["BC"] * plan.sizes["BD"] > 64 * 64:  # else the chain spills 70 KB of registers
        warps *= 2
    constants |= {"BE": min(units, launch.tile(plan.sizes["E"])), "PRECISION": launch.precision(args[0].dtype)}
    launch.launch(kernel, grid, *args, num_warps=warps, num_stages=stages, **plan.sizes, **constants)


def _run_states(plan: _Plan, x: _Inputs, start: int, end: int, state: Tensor, keep_n: bool = False) -> _Span:
    """Run the sequential pass of a span from the state at its start."""
    C, net = plan.job.chunk_size, plan.job.net
    D, E = net.shapes[0]
    nc, N = launch.chunks(end - start, C), len(state)
    c = multiply_up(x.alpha[:, start:end], x.eta[:, start:end], C, keep_n)
    span = _Span(start, end, c, _empty(state, nc + 1, *state.shape), _empty(state, N, nc * C, 2 * E + 2 * D))
    span.states[0] = state
    tensors = (x.k, x.v, x.theta, *c, *_norm_parameters(x), span.states, span.record)
    _launch(mlp_states, plan, (N,), *tensors, *span.numbers(x), net.eps, N_ROWS=c.n.shape[2], **plan.norm)
    return span


def _read(plan: _Plan, x: _Inputs, span: _Span, y: Tensor) -> None:
    """Compute the outputs of a span, all chunks at once."""
    nc, N = len(span.states) - 1, span.states.shape[1]
    tensors = (x.q, x.k, y, x.theta, *span.c[:3], *_norm_parameters(x), span.states, span.record)
    _launch(mlp_reads, plan, (nc, N), *tensors, *span.numbers(x), plan.job.net.eps, SHIFT=plan.shift, **plan.norm)


def _forward(plan: _Plan, x: _Inputs, state: Tensor, starts: list[Tensor] | None) -> tuple[Tensor, Tensor, Tensor]:
    """Run all spans; append the state at the start of each to `starts`."""
    y, anchor = torch.empty_like(x.q), state
    for start, end in plan.spans:
        if starts is not None:
            starts.append(state)
        span = _run_states(plan, x, start, end, state)
        _read(plan, x, span, y)
        anchor, state = state, span.states[-1].clone()  # a view would keep the whole span alive
    return y, state, anchor


class _Grads(NamedTuple):
    """Buffers for the gradients, filled span by span."""

    q: Tensor  # like the inputs
    k: Tensor
    v: Tensor
    alpha: Tensor
    eta: Tensor
    theta: Tensor
    slow: Tensor  # (4, D): gain and bias through the reads, then through the writes


def _backward_span(plan: _Plan, x: _Inputs, span: _Span, dy: Tensor, d_end: Tensor, out: _Grads) -> Tensor:
    """Backpropagate through a span; return the gradient of the state at its start."""
    D, E = plan.job.net.shapes[0]
    (slots, N, _), c = span.states.shape, span.c
    d, d_states = empty_grads(c, online=False), torch.empty_like(span.states)
    d_states[-1] = d_end
    scratch, slow = _empty(dy, *span.record.shape[:2], 4 * E + 3 * D), _empty(dy, slots - 1, N, 4, D)
    numbers, rows, n_rows = span.numbers(x), {"SHIFT": plan.shift}, {"N_ROWS": c.n.shape[2]}
    gates, NORM, RESIDUAL = (x.theta, *c[:3]), plan.norm["NORM"], plan.norm["RESIDUAL"]
    tensors = (x.q, x.k, dy, *gates, _norm_parameters(x)[0], span.states, span.record, d.G, scratch, slow)
    _launch(mlp_answers_backward, plan, (slots - 1, N), *tensors, *numbers, plan.job.net.eps, **rows, NORM=NORM)
    tensors = (x.q, x.k, dy, *gates, span.states, span.record, out.q, *d[:3], scratch)
    _launch(mlp_hidden_backward, plan, (slots - 1, N), *tensors, *numbers, **rows, RESIDUAL=RESIDUAL)
    tensors = (x.q, x.k, x.v, x.theta, *c, *_norm_parameters(x), span.states, span.record)
    tensors += (out.v, out.theta, d.G_end, d.n_end, d_states, scratch, slow)
    _launch(mlp_chain_backward, plan, (N,), *tensors, *numbers, plan.job.net.eps, **rows, **n_rows, **plan.norm)
    tensors = (x.k, x.theta, *c, span.states, span.record, out.k, d.bfm_end, d_states, scratch)
    _launch(mlp_keys_backward, plan, (slots - 1, N), *tensors, *numbers, **n_rows)
    here = slice(span.start, span.end)
    multiply_up_backward(x.alpha[:, here], x.eta[:, here], c, d, (out.alpha[:, here], out.eta[:, here]), plan.shift)
    if plan.job.net.norm:
        out.slow.add_(slow.sum((0, 1)))
    return d_states[0]


def _backward(
    plan: _Plan, x: _Inputs, starts: list[Tensor], dy: Tensor, d_state: Tensor, d_anchor: Tensor
) -> tuple[Tensor, _Grads]:
    """Backpropagate through all spans, the last one first, from the gradient of the last state."""
    dy = dy if dy.stride() == x.q.stride() else torch.empty_like(x.q).copy_(dy)
    slow = torch.zeros(4, x.q.shape[-1], device=dy.device)
    out = _Grads(*(torch.empty_like(z) for z in x[:6]), slow)
    for i in reversed(range(len(starts))):
        span = _run_states(plan, x, *plan.spans[i], starts[i], keep_n=True)
        d_state = _backward_span(plan, x, span, dy, d_state, out)
        if i == len(starts) - 1:
            d_state = d_state + d_anchor  # the returned anchor is this span's start
    return d_state, out


class _TwoLayers(torch.autograd.Function):
    """The whole run as an autograd function; its backward pass is written by hand."""

    @staticmethod
    def forward(ctx: Any, plan: _Plan, state: Tensor, *tensors: Tensor | None) -> tuple[Tensor, ...]:
        starts: list[Tensor] = []
        out = _forward(plan, _Inputs(*tensors), state, starts)
        ctx.plan = plan
        ctx.save_for_backward(*tensors, *starts)
        return out

    @staticmethod
    def backward(ctx: Any, dy: Tensor, d_end: Tensor, d_anchor: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors  # read once: under checkpointing the access recomputes
        x, starts = _Inputs(*saved[:8]), saved[8:]
        with torch.no_grad():
            d_state, out = _backward(ctx.plan, x, starts, dy, d_end, d_anchor)
        of_norm = [] if x.gain is None else [out.slow[i::2].sum(0).to(x.gain.dtype) for i in range(2)]
        grads = [d_state, *out[:6], *of_norm]
        if torch.is_grad_enabled():  # create_graph=True
            grads = launch.first_order(grads, dy, d_end, d_anchor, *(z for z in saved if z is not None))
        return None, *grads, *[None] * (9 - len(grads))


def run(
    job: Job, q: Tensor, k: Tensor, v: Tensor, alpha: Tensor, eta: Tensor, theta: Tensor, state: MemoryState
) -> tuple[Tensor, MemoryState]:
    """Run a memory of two layers from the start of a chunk.

    Args:
        job: options of the run.
        q: (B, H, T, D) queries; k and v likewise, of the same dtype.
        k: keys.
        v: values.
        alpha: (B, H, T, 1 or 2) forget gates; eta and theta likewise, float32.
        eta: momentum gates.
        theta: step sizes.
        state: the state to continue from, float32, at position 0.

    Returns:
        y (B, H, T, D), and the state after the last token, with the anchor if that is inside a chunk.
    """
    net, C = job.net, job.chunk_size
    B, H, T, D = v.shape
    E = net.shapes[0][1]
    plan = _plan(job, B * H, T, alpha.shape[-1])
    gates = (x.movedim(-1, 0).reshape(-1, T).contiguous() for x in (alpha, eta, theta))  # (X, T), like their gradients
    slow = (net.norm_weight, net.norm_bias) if net.norm else (None, None)
    flat = torch.cat([w.reshape(B * H, D * E) for w in (*state.weights, *state.momentum)], 1)
    y, *ends = _TwoLayers.apply(plan, flat, *launch.same_layout(q, k, v), *gates, *slow)
    (W1, W2, P1, P2), (A1, A2, _, _) = (x.view(B, H, 4, D * E).unbind(2) for x in ends)
    inner, outer = (W1, P1, A1), (W2, P2, A2)
    (W1, P1, A1), (W2, P2, A2) = ([x.unflatten(-1, (D, E)) for x in inner], [x.unflatten(-1, (E, D)) for x in outer])
    return y, MemoryState((W1, W2), (P1, P2), (A1, A2), T % C)
