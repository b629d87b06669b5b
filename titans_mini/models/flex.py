"""FlexAttention: the same masks as functions, compiled into one kernel that skips hidden blocks. For NVIDIA GPUs.

`scaled_dot_product_attention` takes a mask as a tensor and computes the hidden scores, too; long calls with a window
are split into blocks there. A mask function (query, key) ↦ visible needs neither.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

Rule = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]  # batch, head, query, key ↦ visible


class Layout(NamedTuple):
    """Numbers of keys in one call, in their order (prefix, extra, cached tokens, new tokens), and their visibility.

    Attributes:
        prefix: P, keys that every query sees.
        extra: E, keys of MAC's h.
        old: N, cached tokens.
        window: tokens a query sees, itself included; None for all.
        stride: tokens per h.
        begun: tokens of this segment before the call.
        all_extra: whether every token sees every h, as in MAC's printed form.
        own_extra: whether a token sees only its own h, the latest.
        first: number of this segment's h before the first of the E.
    """

    prefix: int = 0
    extra: int = 0
    old: int = 0
    window: int | None = None
    stride: int = 1
    begun: int = 0
    all_extra: bool = False
    own_extra: bool = False
    first: int = 0


def mask_rule(layout: Layout) -> Rule:
    """Build the mask of a layout as a function; `window_mask` and `MemoryKeys.visible` build it as a tensor.

    Args:
        layout: of the keys.

    Returns:
        A function of batch, head, query and key indices, for `create_block_mask` or `create_mask`.

    Built in: notebooks/10 · Paper: section 4.1
    """
    P, E, old, window, stride, begun, everything, own, first = layout

    def rule(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        distance = query + old - (key - P - E)
        token = (key >= P + E) & (distance >= 0)
        if window is not None:
            token = token & (distance < window)
        h = (key >= P) & (key < P + E)
        if not everything:
            since = query + begun - (key - P + first) * stride  # tokens since the first that sees this h
            h = h & (since >= 0) & (since < stride) if own else h & (since >= 0)
        return (key < P) | h | token

    return rule


def check_flex(device: torch.device) -> None:
    """Raise if FlexAttention cannot run on a device.

    Args:
        device: of the queries.

    Raises:
        RuntimeError: without a CUDA device, or with a PyTorch that lacks FlexAttention; names the alternative.
    """
    try:
        from torch.nn.attention import flex_attention  # noqa: F401
    except ImportError as error:
        raise RuntimeError(
            f"attention: got 'flex' with torch {torch.__version__}, expected 2.5 or newer: 'sdpa' computes the same"
        ) from error
    if device.type != "cuda":
        raise RuntimeError(
            f"attention: got 'flex' on {device.type}, expected a CUDA device, where its kernel is compiled: 'sdpa' "
            "computes the same everywhere"
        )


@cache
def _compiled() -> Callable[..., Tensor]:
    """Compile FlexAttention once, with dynamic shapes."""
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=True)


@lru_cache(maxsize=64)
def _block_mask(layout: Layout, queries: int, keys: int, device: str):
    """Build the block mask of a layout; cached, because layouts recur."""
    from torch.nn.attention.flex_attention import create_block_mask

    return create_block_mask(mask_rule(layout), None, None, queries, keys, device=device)


def flex(q: Tensor, k: Tensor, v: Tensor, layout: Layout) -> Tensor:
    """Compute attention with FlexAttention.

    Args:
        q: (B, H, T, D) queries.
        k: (B, H, P + E + N + T, D) keys.
        v: like k.
        layout: of the keys.

    Returns:
        (B, H, T, D).

    Raises:
        RuntimeError: see `check_flex`.

    Built in: notebooks/10 · Paper: eq. 2
    """
    check_flex(q.device)
    mask = _block_mask(layout, q.shape[2], k.shape[2], str(q.device))
    return _compiled()(q, k, v, block_mask=mask)
