"""The memory under PyTorch's modes: no autocast inside it, no inference mode, and torch.compile skips it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

P, R = ParamSpec("P"), TypeVar("R")


def no_autocast(device: torch.device) -> AbstractContextManager:
    """Disable autocast, so that tensors keep their dtypes: bfloat16 would round small writes away.

    Args:
        device: device of the tensors. "meta" has no autocast and raises if asked, so nothing is disabled there.

    Returns:
        A context manager.
    """
    known = torch.amp.is_autocast_available(device.type)
    return torch.autocast(device.type, enabled=False) if known else nullcontext()


def autocasts(device: torch.device) -> bool:
    """Return whether autocast is on for a device."""
    return torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type)


def leave_inference_mode(x: Tensor) -> Tensor:
    """Copy a tensor created in inference mode, which autograd refuses."""
    return x.clone() if x.is_inference() else x


def not_compiled(function: Callable[P, R]) -> Callable[P, R]:
    """Exclude a function from torch.compile by a graph break.

    The compiler would unroll the loop over chunks, and it fails on in-place writes. The checks that read values would
    break the graph too, with a line in the log for each.

    Args:
        function: the function to run eagerly.

    Returns:
        A wrapper with the same results. `fullgraph=True` raises.
    """

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        if torch.compiler.is_compiling():
            # called here, not at import: `disable` imports the compiler, which takes as long as importing PyTorch
            return torch.compiler.disable(function)(*args, **kwargs)
        return function(*args, **kwargs)

    return wrapper
