"""Autocast, which the memory keeps out of: bfloat16 would round small writes away."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch


def no_autocast(device: torch.device) -> AbstractContextManager:
    """Compute in the types that the tensors have.

    Args:
        device: where they are. "meta", which has shapes and no numbers, knows no autocast, and refuses to be asked.

    Returns:
        A context manager.

    Built in: notebooks/12 · Paper: –
    """
    known = torch.amp.is_autocast_available(device.type)
    return torch.autocast(device.type, enabled=False) if known else nullcontext()


def autocasts(device: torch.device) -> bool:
    """Say whether autocast is on for a device.

    Built in: notebooks/12 · Paper: –
    """
    return torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type)
