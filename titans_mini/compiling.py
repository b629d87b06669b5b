"""torch.compile: it may have everything but the memory, which stays the loop over matrix products that it is."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

P, R = ParamSpec("P"), TypeVar("R")


def not_compiled(function: Callable[P, R]) -> Callable[P, R]:
    """Let torch.compile go around a function: the graph ends before it and begins anew after it.

    The compiler would unroll the loop over chunks, and fails in writes that go in place. Checks that look at numbers
    would end the graph too, and be logged.

    Args:
        function: runs as it is, compiled or not.

    Returns:
        The same function. `fullgraph=True` refuses it.

    Built in: notebooks/12 · Paper: –
    """

    @functools.wraps(function)
    def around(*args: P.args, **kwargs: P.kwargs) -> R:
        if torch.compiler.is_compiling():
            from titans_mini import uncompiled  # loads the compiler, which takes seconds: here it is loaded already

            return uncompiled.call(function, *args, **kwargs)
        return function(*args, **kwargs)

    return around
