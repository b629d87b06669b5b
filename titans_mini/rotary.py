"""Rotary positions (RoPE): queries and keys are turned by their places, and products depend on distances alone."""

from __future__ import annotations

import torch
from torch import Tensor


def rotate(x: Tensor, positions: Tensor, base: float = 10_000.0) -> Tensor:
    """Turn pairs of components by angles that grow with the position (RoPE): products then depend on distances.

    Args:
        x: (..., T, D) queries or keys, D even.
        positions: (T,) integers.
        base: of the wavelengths.

    Returns:
        (..., T, D).

    Built in: notebooks/07 · Paper: section 3.3
    """
    return turn(x, turns(x, positions, base))


def turns(x: Tensor, positions: Tensor, base: float = 10_000.0) -> tuple[Tensor, Tensor]:
    """Compute what `turn` multiplies with at positions; arguments as those of `rotate`.

    Returns:
        (T, D) twice: [cos, cos], and [−sin, sin] of each angle.

    Built in: notebooks/07 · Paper: section 3.3
    """
    half = x.shape[-1] // 2
    frequency = base ** (-torch.arange(half, dtype=torch.float64, device=_wide(x)) / half)
    angle = positions.to(frequency.device, torch.float64)[:, None] * frequency  # token 10⁶ needs more than float32
    cos, sin = angle.cos().to(x), angle.sin().to(x)
    return torch.cat([cos, cos], -1), torch.cat([-sin, sin], -1)


def turn(x: Tensor, by: tuple[Tensor, Tensor]) -> Tensor:
    """Turn [a, b] to [a cos − b sin, b cos + a sin].

    Args:
        x: (..., T, D), a and b its halves.
        by: from `turns`.

    Returns:
        (..., T, D).

    Built in: notebooks/07 · Paper: section 3.3
    """
    cos, sin = by
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, -1), sin)  # [b, a] is [a, b], rolled


def _wide(x: Tensor) -> torch.device:
    """Where float64 exists: Apple's GPUs have none."""
    return torch.device("cpu") if x.device.type == "mps" else x.device
