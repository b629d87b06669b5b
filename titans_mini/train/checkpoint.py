"""Checkpoint files, written atomically."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import torch


def save_checkpoint(path: str | Path, content: dict[str, Any]) -> None:
    """Write tensors and plain data to a file, atomically.

    A temporary file in the same folder replaces the old one, so that an interruption leaves the previous checkpoint.

    Args:
        path: the file.
        content: nested dictionaries and lists of tensors, numbers and strings.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            torch.save(content, file)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def load_checkpoint(path: str | Path, device: torch.device) -> dict[str, Any]:
    """Load a file of `save_checkpoint`: only tensors and plain data (`weights_only`), no code.

    Args:
        path: the file.
        device: device of the loaded tensors.

    Returns:
        The saved dictionary.
    """
    return torch.load(path, map_location=device, weights_only=True)
