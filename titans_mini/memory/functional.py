"""The entry point to the memory: `neural_memory` checks its inputs and selects a backend."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from titans_mini.memory.backends import choose_backend
from titans_mini.memory.channelwise import channelwise
from titans_mini.memory.checks import HALF, check_channels, check_options, check_state, check_tensors
from titans_mini.memory.network import MemoryNet
from titans_mini.memory.recurrence import recurrence
from titans_mini.memory.state import MemoryState
from titans_mini.memory.torch_modes import leave_inference_mode, no_autocast, not_compiled


@not_compiled
def neural_memory(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    alpha: Tensor,
    eta: Tensor,
    theta: Tensor,
    state: MemoryState | None = None,
    *,
    net: MemoryNet,
    chunk_size: int = 16,
    anchor: str = "chunk",
    read: str = "after",
    backend: str = "auto",
    group_size: int | None = None,
) -> tuple[Tensor, MemoryState]:
    """Stream a sequence through a memory that learns while it reads.

    S_t = η_t S_{t−1} − θ_t ∇ℓ(M_anchor; k_t, v_t),  M_t = (1−α_t) M_{t−1} + S_t,  y_t = M_t(q_t),
    with ℓ = ‖M(k) − v‖². Any split of a sequence into calls gives the same outputs and the same final state.

    A key or value that is not finite leaves the answers before it, and all other sequences and heads, as they are. From
    it on the memory is spoiled: answers and state are NaN (with backend="recurrence" only where its arithmetic makes
    them so), until a fresh state is used.

    Args:
        q: (B, H, T, D) queries.
        k: (B, H, T, D) keys.
        v: (B, H, T, D) values.
        alpha: (B, H, T) forget gates in [0, 1], or (B, H, T, depth), one per layer, or (B, H, T, 1 or depth, D), one
            per channel, see `channelwise`.
        eta: (B, H, T) momentum gates in [0, 1], or (B, H, T, depth).
        theta: step sizes in [0, 1], shaped like eta.
        state: the state to continue from; default `net.init_state(B, H)`. It is not modified.
        net: the memory's network.
        chunk_size: C. Gradients are taken at the memory at the start of the chunk; 1 is the online rule.
        anchor: "chunk", or "token": gradients at M_{t−1} whatever the chunk size (a matrix memory only; exact).
        read: "after" the write, y_t = M_t(q_t), or "before" it, M_{t−1}(q_t).
        group_size: for the chunked backend: chunks that are read together, with one state kept for the backward pass.
            More take less memory and more time. Default: 1 for C ≥ 64, else chunks of about 128 tokens together.
        backend: "recurrence" (the definition), "chunked" (matrix products), "triton" (kernels for NVIDIA GPUs), or
            "auto" (the fastest that supports the inputs).

    Returns:
        y (B, H, T, D) in the dtype of v, and the state after the last token. Half-precision inputs are computed in
        float32, with a float32 state; the kernels keep half-precision operands and accumulate in float32.

    Raises:
        ValueError: if shapes, gates, sizes or options are invalid. On a GPU, gates outside [0, 1] are reported by a
            later call, to avoid a synchronisation; `checks.check_earlier_calls(device, wait=True)` waits for them.
        TypeError: if inputs are not floating-point tensors of one dtype on one device.
        RuntimeError: if backend="triton" and its kernels cannot run; the message gives the reason.

    Built in: notebooks/03 · Paper: eq. 13–18
    """
    check_options(net, chunk_size, anchor, read, backend, group_size)
    check_tensors(q, k, v, alpha, eta, theta, net)
    if alpha.dim() == 5:
        check_channels(net, anchor, backend)
    dtype = torch.float32 if v.dtype in HALF else v.dtype
    B, H = v.shape[:2]
    if state is None:
        state = net.init_state(B, H, device=v.device, dtype=dtype)
    check_state(state, net, B, H, v.device, dtype, chunk_size, anchor)
    gates = [x.unsqueeze(-1) if x.dim() == 3 else x for x in (alpha, eta, theta)]
    (run, takes_half), outer = choose_backend(backend, net, v, chunk_size, anchor), torch.is_grad_enabled()
    if alpha.dim() == 5 and run is not recurrence:
        run, takes_half = channelwise, False
    grouping = () if run is recurrence else (group_size,)
    # inference mode off: the memory differentiates while it reads
    with torch.inference_mode(False), torch.set_grad_enabled(outer), no_autocast(v.device):
        inputs = [leave_inference_mode(x if takes_half else x.to(dtype)) for x in (q, k, v)]
        inputs += [leave_inference_mode(x.to(dtype)) for x in gates]
        state = state.map(leave_inference_mode)
        spoiled = None if run is recurrence else find_spoiled(*inputs[1:3])
        if spoiled is not None:  # products mask the future by factors of 0, and 0 · NaN is NaN
            inputs[1:3] = (x.masked_fill(spoiled.starts, 0) for x in inputs[1:3])
        y, state = run(*inputs, state, net, chunk_size, anchor, read, *grouping)
        if spoiled is not None:
            y, state = spoil(y, state, spoiled.since, read)
        return y.to(v.dtype), state


class Spoiled(NamedTuple):
    """Where keys or values are not finite.

    Attributes:
        starts: (B, H, T, 1) booleans, True at such a token.
        since: (B, H, T, 1) booleans, True from the first such token of a sequence and head on.
    """

    starts: Tensor
    since: Tensor


def find_spoiled(k: Tensor, v: Tensor) -> Spoiled | None:
    """Find keys and values (B, H, T, D) that are not finite; None where all are, or where nobody can look.

    On a GPU the answer is never None: to look at it would be to wait for the GPU.
    """
    if not k.numel() or k.is_meta:
        return None
    if not k.is_cuda and math.isfinite((k.detach().sum() + v.detach().sum()).item()):
        return None
    starts = ~(k.isfinite() & v.isfinite()).all(-1, keepdim=True)
    return Spoiled(starts, starts.cumsum(2) > 0)


def spoil(y: Tensor, state: MemoryState, since: Tensor, read: str) -> tuple[Tensor, MemoryState]:
    """Turn answers and states from the first key or value on that is not finite into NaN.

    They are filled, not multiplied: a loss on the answers before has gradients of 0 there, and 0 · NaN is NaN.
    """
    after = [torch.zeros_like(since[:, :, :1]), *since.split(1, 2)]  # of M_0 … M_T, (B, H, 1, 1) each
    answers = torch.cat(after[1:] if read == "after" else after[:-1], 2)
    begun = max(0, len(after) - 1 - state.position)  # tokens before the present chunk
    parts = {"weights": after[-1], "momentum": after[-1], "anchor": after[begun]}
    spoiled = {name: tuple(w.masked_fill(x, math.nan) for w in getattr(state, name)) for name, x in parts.items()}
    return y.masked_fill(answers, math.nan), MemoryState(**spoiled, position=state.position)
