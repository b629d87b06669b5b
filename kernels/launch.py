"""Shared by all kernels: device support, dtypes and precision, tile sizes, spans, and the launch itself.

Policy, the same for all kernels:
  states      float32 in registers from the first token to the last; copies that only feed products are operands
  operands    q, k, v in their own dtype: float32, bfloat16 or float16; so are the copies of states and errors in memory
  gates       float32 in and out; multiplied in float64, see `coefficients`
  sums        float32 always; products of float32 follow torch.get_float32_matmul_precision()
  tiles       powers of two, at least 16; entries beyond T, C or D are masked
  addresses   int64 in every product with a batch, head or token index
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from threading import Lock
from typing import Any

import torch
from torch import Tensor

from titans_mini.kernels import versions

OPERANDS = (torch.float32, torch.bfloat16, torch.float16)
OLDEST = (8, 0)  # compute capability: Ampere, the first with bfloat16
# "highest" uses three TF32 products, equal to float32 up to the last bits: Triton's "ieee" bypasses the tensor cores
# and spills 20 to 50 KB of registers in these kernels
PRECISION = {"highest": "tf32x3", "high": "tf32", "medium": "tf32"}
BUFFER = 256 * 2**20  # bytes that the buffers of one span may take
NO_WGMMA = "DISABLE_MMA_V3"
LEAST = 16  # the smallest side of a matrix product
_lock, _active, _saved = Lock(), [], []  # `without_wgmma`: one entry per open context, and the variable's old value


def interpreted() -> bool:
    """Return whether Triton's interpreter runs the kernels, on a CPU and slowly."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def missing(device: torch.device) -> str | None:
    """Return the reason why a device cannot run the kernels, or None.

    Args:
        device: device of the tensors.

    Returns:
        One sentence, or None.
    """
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed (pip install triton, on Linux with an NVIDIA GPU)"
    if interpreted():
        known = device.type in ("cpu", "cuda")
        return (
            versions.unsupported_reason(interpreted=True) if known else f"Triton's interpreter has no device {device}"
        )
    if device.type != "cuda" or torch.version.hip:
        return (
            f"the tensors are on {'an AMD GPU' if torch.version.hip else device}, and the kernels need an NVIDIA GPU; "
            "with TRITON_INTERPRET=1 in the environment before Python starts they run on a CPU, slowly"
        )
    capability = torch.cuda.get_device_capability(device)
    if capability < OLDEST:
        name = torch.cuda.get_device_name(device)
        return f"{name} has compute capability {capability}, and the kernels need {OLDEST} or newer"
    return versions.unsupported_reason(interpreted=False)


def precision(dtype: torch.dtype) -> str:
    """Return Triton's `input_precision` for products.

    Args:
        dtype: dtype of the operands.

    Returns:
        For float32 operands the setting of torch.set_float32_matmul_precision. Half-precision products are exact
        anyway; for the few float32 products beside them "tf32" is precise enough.
    """
    return PRECISION[torch.get_float32_matmul_precision()] if dtype == torch.float32 else "tf32"


def tile(size: int) -> int:
    """Round a size up to a power of two that a matrix product supports."""
    return max(LEAST, 1 << (size - 1).bit_length())


def chunks(T: int, C: int) -> int:
    """Return the number of chunks of a sequence, counting a shorter last one."""
    return -(-T // C)


def spans(T: int, C: int, bytes_per_chunk: int, group: int | None = None) -> list[tuple[int, int]]:
    """Split a sequence into spans of whole chunks whose buffers fit into BUFFER.

    One state per span is kept for the backward pass; within a span only the states are sequential.

    Args:
        T: tokens.
        C: chunk size.
        bytes_per_chunk: size of the buffers for one chunk of all sequences.
        group: chunks per span; default as many as fit.

    Returns:
        (first token, end) of every span; every end but the last is a multiple of C.
    """
    count = group or max(LEAST, BUFFER // max(1, bytes_per_chunk))
    return [(start, min(T, start + count * C)) for start in range(0, T, count * C)]


def same_layout(*x: Tensor) -> list[Tensor]:
    """Return tensors (B, H, T, D) with equal strides, the last of them 1; copies only if they differ.

    Args:
        x: tensors of one shape.

    Returns:
        The same values; `torch.empty_like` of one of them has the same strides.
    """
    first = x[0].stride()
    kept = x[0].is_contiguous() or torch.empty_like(x[0], device="meta").stride() == first  # not if expanded or sliced
    if kept and first[-1] == 1 and all(z.stride() == first for z in x):
        return list(x)
    return [z.contiguous() for z in x]


def launch(
    kernel: Any, grid: tuple[int, ...], *args: Any, num_warps: int = 4, num_stages: int = 2, **sizes: Any
) -> None:
    """Launch a kernel.

    Args:
        kernel: a function under `triton.jit`.
        grid: programs along each axis.
        args: tensors and numbers, in the kernel's order.
        num_warps: warps of a program.
        num_stages: depth of the software pipeline of loads.
        sizes: the kernel's compile-time constants.
    """
    device = next(z for z in args if torch.is_tensor(z)).device
    elsewhere = device.type == "cuda" and device.index != torch.cuda.current_device()
    with torch.cuda.device(device) if elsewhere else nullcontext(), without_wgmma():
        kernel[grid](*args, num_warps=num_warps, num_stages=num_stages, **sizes)


@contextmanager
def without_wgmma() -> Iterator[None]:
    """Make Triton compile products for Hopper as for Ampere, with `mma`, in this context.

    With `wgmma`, Triton 3.6 and 3.7 sometimes read shared memory out of bounds: on an H200 the two-layer kernels
    ended in an illegal memory access (triton-lang/triton#11366 reproduces it in a few lines).
    """
    with _lock:  # autograd launches kernels from its own threads; the last one to leave restores the variable
        if not _active:
            _saved.append(os.environ.get(NO_WGMMA))
            os.environ[NO_WGMMA] = "1"  # read by the compiler, and part of its cache key
        _active.append(None)
    try:
        yield
    finally:
        with _lock:
            _active.pop()
            if not _active and (before := _saved.pop()) is None:
                del os.environ[NO_WGMMA]
            elif not _active:
                os.environ[NO_WGMMA] = before


def first_order(gradients: Sequence[Tensor], *depend_on: Tensor) -> list[Tensor]:
    """Make gradients raise when differentiated: otherwise some second derivatives would silently be 0 or None.

    Args:
        gradients: results of a backward pass by kernels.
        depend_on: all tensors that they were computed from.

    Returns:
        The same values; differentiating them raises RuntimeError.
    """
    return list(_FirstOrder.apply(len(gradients), *gradients, *depend_on))


class _FirstOrder(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, count: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(x.clone() for x in tensors[:count])

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> None:
        raise RuntimeError(
            "neural_memory: got a second derivative through the Triton kernels, expected a first one: their backward "
            "pass is written by hand and keeps no graph. backend='recurrence' can be differentiated again"
        )
