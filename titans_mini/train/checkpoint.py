"""Files of a run that are never half written."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import torch


def save_checkpoint(path: str | Path, content: dict[str, Any]) -> None:
    """Write tensors and plain data to a file.

    The file is written beside its place and then moved there, so that an interruption leaves the one before.

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
    """Read what `save_checkpoint` wrote. Only tensors and plain data are read (`weights_only`), no code.

    Args:
        path: the file.
        device: where the tensors go.

    Returns:
        The content.
    """
    return torch.load(path, map_location=device, weights_only=True)
