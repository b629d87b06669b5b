"""Versions of Triton that run the kernels. This module does not import triton."""

from __future__ import annotations

import importlib.metadata
import re
from functools import cache

import numpy as np

OLDEST = (3, 3)  # compiles our kernels for sm_80 and sm_90; PyTorch 2.7 and later install it
OLDEST_INTERPRETER = (3, 2)  # in earlier ones `tl.arange` refuses the constants of our kernels
NUMPY = (2, 4)  # no longer converts one-element arrays to numbers; interpreters before KNOWS_NUMPY need that
KNOWS_NUMPY = (3, 7)


def unsupported_reason(interpreted: bool) -> str | None:
    """Return the reason why the installed Triton cannot run the kernels; None if it can or its version is unknown.

    Args:
        interpreted: whether its interpreter runs them, on a CPU.

    Returns:
        One sentence naming the versions and a remedy, or None.
    """
    found = version()
    if found is None:
        return None
    name = f"Triton {found[0]}.{found[1]}"
    oldest = OLDEST_INTERPRETER if interpreted else OLDEST
    if found < oldest:
        return f"{name} is installed, and the kernels need {oldest[0]}.{oldest[1]} or newer; it comes with PyTorch"
    if interpreted and found < KNOWS_NUMPY and numbers(np.__version__) >= NUMPY:
        return f"the interpreter of {name} does not run with NumPy {np.__version__}, but with numpy<2.4 or triton>=3.7"
    return None


@cache
def version() -> tuple[int, int] | None:
    """Return the version of the installed Triton, or None without package metadata."""
    for name in ("triton", "pytorch-triton"):  # the latter in PyTorch's nightly builds
        try:
            return numbers(importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


def numbers(version: str) -> tuple[int, int]:
    """Parse the first two numbers of a version."""
    major, minor = re.match(r"(\d+)\.(\d+)", version).groups()
    return int(major), int(minor)
