"""The same chunk, fused: Triton kernels for GPUs, behind the arguments of `chunked`.

Importing this package loads no triton; `run` does, and `refusal` says in one sentence why it cannot.
  launch        what a device can do, types and precision, tiles, spans, how a kernel is started
  coefficients  the gates of every chunk multiplied up, and their derivative
  triangular    the systems of the exact online rule, solved for all chunks at once
  matrix        a memory that is a matrix: one pass over the states, everything else parallel over chunks
  mlp           a memory that is an MLP of two layers
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from types import ModuleType

import torch
from torch import Tensor

from titans_mini.memory.network import MemoryNet
from titans_mini.memory.scan import chunked
from titans_mini.memory.state import MemoryState

_HALVES = {1: "matrix", 2: "mlp"}  # by the depth of the memory


@dataclass(frozen=True)
class Job:
    """How a sequence is run, apart from its tensors."""

    net: MemoryNet
    chunk_size: int  # C; with `online` it changes nothing but the speed
    online: bool  # anchor="token": the exact online rule
    read: str  # "after" or "before" the write
    group: int | None  # chunks between two states that the backward pass keeps; None: as many as the buffers hold


def _half(net: MemoryNet) -> ModuleType:
    """Load the kernels of a memory's depth; this loads triton."""
    return importlib.import_module(f"{__name__}.{_HALVES[net.depth]}")


def unsupported_reason(net: MemoryNet, v: Tensor, chunk_size: int, anchor: str) -> str | None:
    """Say why the kernels cannot run this memory on these tensors; None if they can.

    Args:
        net: the memory's network.
        v: (B, H, T, D) values: their type and device count.
        chunk_size: C.
        anchor: "chunk" or "token".

    Returns:
        One sentence: what is missing, and what would help.
    """
    from titans_mini.kernels import launch

    reason = launch.missing(v.device)
    if reason is None and v.dtype not in launch.OPERANDS:
        reason = f"the kernels multiply float32, bfloat16 or float16, and these tensors are {v.dtype}"
    if reason is None and net.depth not in _HALVES:
        reason = f"there are kernels for memories of depth 1 and 2, and this one has depth {net.depth}"
    return reason or _half(net).unsupported_reason(net, v, chunk_size, anchor)


def run(
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
    """Run the memory by Triton kernels; equal by algebra to `chunked`, with the same arguments and results.

    The rest of a chunk that an earlier call began is run by `chunked`: it is shorter than a chunk, and its gradients
    are taken at an anchor that is not its start.

    Args:
        q: (B, H, T, D) queries, float32, bfloat16 or float16.
        k: (B, H, T, D) keys.
        v: (B, H, T, D) values.
        alpha: (B, H, T, 1 or L) forget gates, float32.
        eta: (B, H, T, 1 or L) momentum gates, float32.
        theta: (B, H, T, 1 or L) step sizes, float32.
        state: where to go on from, float32.
        net: the memory's network.
        chunk_size: C.
        anchor: "chunk", or "token" for the exact online rule of a matrix memory.
        read: "after" or "before" the write.
        group_size: chunks between two states that the backward pass keeps.

    Returns:
        y (B, H, T, D) in the type of v, and the state after the last token.
    """
    T, online = v.shape[2], anchor == "token"
    position = 0 if online else state.position
    begun = min(T, chunk_size - position) if position else 0
    gates = alpha, eta, theta
    if not alpha.shape == eta.shape == theta.shape:
        gates = torch.broadcast_tensors(*gates)  # one of them per layer makes all of them so
    x, y = [q, k, v, *gates], []
    if begun:
        first, x = zip(*(z.split([begun, T - begun], 2) for z in x), strict=True)
        y_first, state = chunked(*(z.float() for z in first), state, net, chunk_size, anchor, read)
        y.append(y_first.to(v.dtype))
    if begun < T:
        job = Job(net, chunk_size, online, read, group_size)
        y_rest, state = _half(net).run(job, *x, state)
        y.append(y_rest)
    elif not begun:
        return torch.zeros_like(v), _settled(state, online)
    return torch.cat(y, 2) if len(y) > 1 else y[0], _settled(state, online)


def _settled(state: MemoryState, online: bool) -> MemoryState:
    """Let the anchor be the memory itself where no chunk is begun."""
    position = 0 if online else state.position
    return MemoryState(state.weights, state.momentum, state.anchor if position else state.weights, position)
