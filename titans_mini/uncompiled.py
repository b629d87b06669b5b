"""Calls that torch.compile does not look into. To load this loads the compiler: see `compiling`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


@torch.compiler.disable
def call(function: Callable, *args: Any, **kwargs: Any) -> Any:
    """Call a function as it is."""
    return function(*args, **kwargs)
