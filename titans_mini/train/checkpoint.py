"""Checkpoints of a run: everything that the next step depends on, in one file that is never half written."""

from __future__ import annotations

import os
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from titans_mini.train.history import History

if TYPE_CHECKING:
    from titans_mini.train.loop import Trainer


def save_checkpoint(path: str | Path, trainer: Trainer) -> None:
    """Write a run: weights, optimiser, curve, random state and configuration.

    The file is written beside its place and then moved there, so that an interruption leaves the one before.

    Args:
        path: the file.
        trainer: the run.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "model": trainer.model.state_dict(),
        "optimizer": trainer.optimizer.state_dict(),
        "history": trainer.history.to_dict(),
        "random": torch.get_rng_state(),
        "config": asdict(trainer.config),
    }
    handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            torch.save(content, file)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def load_checkpoint(path: str | Path, trainer: Trainer) -> None:
    """Go on where a run stopped. Only tensors and plain data are read (`weights_only`), no code.

    Args:
        path: the file.
        trainer: the run, freshly made; it is changed.

    Raises:
        ValueError: if the file belongs to a run with another configuration or another model.
    """
    content = torch.load(path, map_location=trainer.device, weights_only=True)
    mine = asdict(trainer.config)
    other = {key: value for key, value in content["config"].items() if mine.get(key) != value}
    if other:
        got = {key: mine.get(key) for key in other}
        raise ValueError(f"{path}: got {got}, expected {other} as in this checkpoint: resume it or choose a new folder")
    try:
        trainer.model.load_state_dict(content["model"])
    except RuntimeError as error:
        raise ValueError(f"{path}: expected a checkpoint of this model, got another one's: {error}") from error
    trainer.optimizer.load_state_dict(content["optimizer"])
    trainer.history = History(**content["history"])
    torch.set_rng_state(content["random"].cpu())
