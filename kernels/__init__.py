"""Triton kernels for GPUs: the chunked form, fused, with the arguments of `chunked`.

Importing this package does not import triton; `run` does, and `unsupported_reason` returns why it cannot.
  launch        device support, dtypes and precision, tile sizes, spans, kernel launches
  coefficients  products of the gates of every chunk, and their derivative
  triangular    the triangular systems of the exact online rule, solved for all chunks at once
  matrix        a memory that is a matrix: one sequential pass over the states, all else parallel over chunks
  mlp           a memory that is a two-layer MLP
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

_MODULES = {1: "matrix", 2: "mlp"}  # by depth of the memory's network


@dataclass(frozen=True)
class Job:
    """Options of a run, without its tensors."""

    net: MemoryNet
    chunk_size: int  # C; with `online` it affects only the speed
    online: bool  # anchor="token": the exact online rule
    read: str  # "after" or "before" the write
    group: int | None  # chunks between two states kept for the backward pass; None: as many as the buffers hold


def _module(net: MemoryNet) -> ModuleType:
    """Import the kernels for a memory's depth; this imports triton."""
    return importlib.import_module(f"{__name__}.{_MODULES[net.depth]}")


def unsupported_reason(net: MemoryNet, v: Tensor, chunk_size: int, anchor: str) -> str | None:
    """Return the reason why the kernels cannot run this memory on these tensors, or None.

    Args:
        net: the memory's network.
        v: (B, H, T, D) values; only their dtype and device matter.
        chunk_size: C.
        anchor: "chunk" or "token".

    Returns:
        One sentence naming the obstacle and a remedy, or None.
    """
    from titans_mini.kernels import launch

    reason = launch.missing(v.device)
    if reason is None and v.dtype not in launch.OPERANDS:
        reason = f"the kernels multiply float32, bfloat16 or float16, and these tensors are {v.dtype}"
    if reason is None and net.depth not in _MODULES:
        reason = f"there are kernels for memories of depth 1 and 2, and this one has depth {net.depth}"
    return reason or _module(net).unsupported_reason(net, v, chunk_size, anchor)


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
    """Run the memory with Triton kernels; equal by algebra to `chunked`, with the same arguments and results.

    The rest of a chunk that an earlier call left unfinished goes through `chunked`: it is shorter than a chunk, and
    its gradients are taken at an anchor that is not its start.

    Args:
        q: (B, H, T, D) queries, float32, bfloat16 or float16.
        k: (B, H, T, D) keys.
        v: (B, H, T, D) values.
        alpha: (B, H, T, 1 or L) forget gates, float32.
        eta: (B, H, T, 1 or L) momentum gates, float32.
        theta: (B, H, T, 1 or L) step sizes, float32.
        state: the state to continue from, float32.
        net: the memory's network.
        chunk_size: C.
        anchor: "chunk", or "token" for the exact online rule of a matrix memory.
        read: "after" or "before" the write.
        group_size: chunks between two states kept for the backward pass.

    Returns:
        y (B, H, T, D) in the dtype of v, and the state after the last token.
    """
    T, online = v.shape[2], anchor == "token"
    position = 0 if online else state.position
    unfinished = min(T, chunk_size - position) if position else 0
    gates = alpha, eta, theta
    if not alpha.shape == eta.shape == theta.shape:
        gates = torch.broadcast_tensors(*gates)  # if one gate is per layer, all are expanded
    x, y = [q, k, v, *gates], []
    if unfinished:
        first, x = zip(*(z.split([unfinished, T - unfinished], 2) for z in x), strict=True)
        y_first, state = chunked(*(z.float() for z in first), state, net, chunk_size, anchor, read)
        y.append(y_first.to(v.dtype))
    if unfinished < T:
        job = Job(net, chunk_size, online, read, group_size)
        y_rest, state = _module(net).run(job, *x, state)
        y.append(y_rest)
    elif not unfinished:
        return torch.zeros_like(v), _reset_anchor(state, online)
    return torch.cat(y, 2) if len(y) > 1 else y[0], _reset_anchor(state, online)


def _reset_anchor(state: MemoryState, online: bool) -> MemoryState:
    """Set the anchor to the memory itself unless a chunk is unfinished."""
    position = 0 if online else state.position
    return MemoryState(state.weights, state.momentum, state.anchor if position else state.weights, position)
