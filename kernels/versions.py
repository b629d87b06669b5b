"""Which versions of Triton run the kernels. Nothing here loads triton."""

from __future__ import annotations

import importlib.metadata
import re
from functools import cache

import numpy as np

OLDEST = (3, 3)  # compiles our kernels for sm_80 and sm_90; PyTorch brings it since 2.7
OLDEST_INTERPRETER = (3, 2)  # in earlier ones `tl.arange` refuses the constants of our kernels
NUMPY = (2, 4)  # makes a number of an array of one element no longer, and interpreters before this one still ask it to
KNOWS_NUMPY = (3, 7)


def unsupported_reason(interpreted: bool) -> str | None:
    """Say why the Triton that is installed cannot run the kernels; None if it can, or if nobody knows its version.

    Args:
        interpreted: whether its interpreter is to run them, on a CPU.

    Returns:
        One sentence: what is there, and what would help.
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
    """Look up the version of Triton that is installed; None where that is not written down."""
    for name in ("triton", "pytorch-triton"):  # the latter in PyTorch's nightly builds
        try:
            return numbers(importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


def numbers(version: str) -> tuple[int, int]:
    """Read the first two numbers of a version."""
    major, minor = re.match(r"(\d+)\.(\d+)", version).groups()
    return int(major), int(minor)
