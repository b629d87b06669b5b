"""How the memory behaves inside PyTorch's own modes: autocast stays out of it, and so does torch.compile."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import ParamSpec, TypeVar

import torch

P, R = ParamSpec("P"), TypeVar("R")


def no_autocast(device: torch.device) -> AbstractContextManager:
    """Compute in the types that the tensors have: in bfloat16 small writes would be rounded away.

    Args:
        device: of the tensors. "meta", which has shapes and no numbers, has no autocast and refuses the question.

    Returns:
        A context manager.
    """
    known = torch.amp.is_autocast_available(device.type)
    return torch.autocast(device.type, enabled=False) if known else nullcontext()


def autocasts(device: torch.device) -> bool:
    """Return whether autocast is on for a device."""
    return torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type)


def not_compiled(function: Callable[P, R]) -> Callable[P, R]:
    """Let torch.compile go around a function: the graph ends before it and begins anew after it.

    The compiler would unroll the loop over chunks, and it fails in writes that go in place. The checks that look at
    numbers would end the graph too, with a line in the log for each.

    Args:
        function: runs as it is, compiled or not.

    Returns:
        The same function. `fullgraph=True` refuses it.
    """

    @functools.wraps(function)
    def around(*args: P.args, **kwargs: P.kwargs) -> R:
        if torch.compiler.is_compiling():
            # made here and not above: `disable` loads the compiler, which takes as long as loading PyTorch
            return torch.compiler.disable(function)(*args, **kwargs)
        return function(*args, **kwargs)

    return around
