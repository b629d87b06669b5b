"""Who may see whom: a window, a segment, and what MAC's memory recalled."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


def window_mask(new: int, old: int, window: int | None, device: torch.device | None = None) -> Tensor:
    """Say which of the last tokens each new token sees: itself and the window − 1 before it.

    Args:
        new: T, number of new tokens.
        old: N, number of older tokens whose keys are kept.
        window: how many tokens a query sees, itself included; None for all.
        device: where the mask lives.

    Returns:
        (T, N + T) booleans.

    Built in: notebooks/07 · Paper: section 4.2
    """
    mask = torch.ones(new, old + new, dtype=torch.bool, device=device).tril(old)
    return mask.triu(old - window + 1) if window else mask


def as_scores(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Turn a mask into what is added to scores: 0 where it is True, else −∞.

    `scaled_dot_product_attention` takes either, and makes the one of the other, call after call.

    Args:
        mask: booleans of any shape.
        dtype: of the scores.

    Returns:
        The same shape.

    Built in: notebooks/07 · Paper: eq. 2
    """
    return torch.zeros_like(mask, dtype=dtype).masked_fill_(mask.logical_not(), -torch.inf)


class Recalled(NamedTuple):
    """Keys and values beside the tokens: MAC's h, of which the first token of every `stride` has one.

    Attributes:
        k: (B, H, E, D), rotated.
        v: (B, H, E, D).
        stride: tokens for one h.
        begun: tokens of the segment before the call.
        everything: all are visible, as in MAC's printed form.

    Built in: notebooks/07 · Paper: eq. 22
    """

    k: Tensor
    v: Tensor
    stride: int = 1
    begun: int = 0
    everything: bool = False

    def visible(self, new: int) -> Tensor:
        """Say who sees which: (T, E) booleans."""
        at = torch.arange(self.k.shape[2], device=self.k.device) * self.stride
        seen = at <= torch.arange(self.begun, self.begun + new, device=at.device)[:, None]
        return torch.ones_like(seen) if self.everything else seen


def segment_lengths(tokens: int, position: int, segment: int) -> list[int]:
    """Cut a call where segments end.

    Args:
        tokens: T of the call.
        position: tokens seen before.
        segment: tokens of a segment.

    Returns:
        Lengths of the parts, each inside one segment.

    Built in: notebooks/07 · Paper: section 4.1
    """
    first = min(tokens, segment - position % segment)
    rest = tokens - first
    return [first] + [segment] * (rest // segment) + ([rest % segment] if rest % segment else [])
