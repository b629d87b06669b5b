"""Selection of a backend: the recurrence, the chunked form, or the Triton kernels where they can run."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable
from functools import cache
from types import ModuleType

from torch import Tensor

from titans_mini.memory.network import MemoryNet
from titans_mini.memory.recurrence import recurrence
from titans_mini.memory.scan import chunked

BACKENDS = {"recurrence": recurrence, "chunked": chunked, "triton": None}  # the kernels are imported on first use


def choose_backend(backend: str, net: MemoryNet, v: Tensor, chunk_size: int, anchor: str) -> tuple[Callable, bool]:
    """Select the function that runs the memory.

    "auto" is "triton" on a GPU where the kernels can run this memory, "chunked" elsewhere; on a GPU it warns once
    why the kernels are not used.

    Args:
        backend: "auto", "recurrence", "chunked" or "triton".
        net: the memory's network.
        v: (B, H, T, D) values; only their dtype and device matter.
        chunk_size: C.
        anchor: "chunk" or "token".

    Returns:
        `recurrence`, `chunked` or `titans_mini.kernels.run`, and whether it takes half-precision inputs uncast.

    Raises:
        RuntimeError: if backend is "triton" and the kernels cannot run.
    """
    if backend != "triton" and not (backend == "auto" and v.is_cuda):
        return BACKENDS["chunked" if backend == "auto" else backend], False
    reason = kernels().unsupported_reason(net, v, chunk_size, anchor)
    if reason is None:
        return kernels().run, True
    if backend == "triton":
        raise RuntimeError(f"backend: got 'triton', expected a memory and a machine that its kernels can run: {reason}")
    _say_once(f"neural_memory runs without its Triton kernels: {reason}")
    return BACKENDS["chunked"], False


@cache
def _say_once(message: str) -> None:
    """Warn once per message."""
    warnings.warn(message, stacklevel=4)


@cache
def kernels() -> ModuleType:
    """Import titans_mini.kernels, which in a checkout is the folder kernels/ (see `titans_mini/__init__.py`)."""
    return importlib.import_module("titans_mini.kernels")
