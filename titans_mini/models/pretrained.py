"""Small trained models that ship with the library: no network, no pickle. `titans_mini.data.reading` reads with them.

`assets/checkpoints/` holds their weights, a card for people, and the record of their training: experiment, seed, curve,
scores. `python -m titans_mini.train.ship` adds a recorded model.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torch import nn

from titans_mini.memory.layer import NeuralMemory
from titans_mini.models.titans import TitansLM

HERE = Path(__file__).parent.parent
FOLDERS = (HERE / "assets" / "checkpoints", HERE.parent / "assets" / "checkpoints")  # installed; in a checkout


def folder_of(name: str) -> Path:
    """Return the folder of a shipped model.

    Args:
        name: such as "mag-novels".

    Raises:
        FileNotFoundError: if there is none of that name; lists the shipped ones.
    """
    for folder in FOLDERS:
        if (folder / name / "model.safetensors").is_file():
            return folder / name
    there = sorted({path.parent.name for folder in FOLDERS for path in folder.glob("*/model.safetensors")})
    raise FileNotFoundError(f"pretrained: got {name!r}, expected one of {there}; looked in {[*map(str, FOLDERS)]}")


def pretrained(name: str = "mag-novels") -> TitansLM:
    """Load a shipped model.

    Args:
        name: "mag-novels": memory as gate, two layers, trained on ten English novels in pieces of 2,048 byte pairs.

    Returns:
        The model, in evaluation mode.

    Raises:
        FileNotFoundError: if there is no such model.
        ValueError: if its files are damaged.
    """
    return TitansLM.from_pretrained(folder_of(name))


def training_of(name: str = "mag-novels") -> dict:
    """Read the record of a shipped model: experiment, seed, seconds, date, commit, hardware, curve and scores."""
    return json.loads((folder_of(name) / "training.json").read_text(encoding="utf-8"))


@contextmanager
def scaled_steps(model: nn.Module, factor: float) -> Iterator[None]:
    """Multiply all step sizes θ of a model within the context; with 0 its memories do not write.

    Args:
        model: a module with `NeuralMemory` layers.
        factor: ≥ 0; 1 leaves the trained step sizes.
    """
    memories = [m for m in model.modules() if isinstance(m, NeuralMemory)]
    before = [m.max_theta for m in memories]
    try:
        for m, cap in zip(memories, before, strict=True):
            m.max_theta = min(1.0, cap * factor)
        yield
    finally:
        for m, cap in zip(memories, before, strict=True):
            m.max_theta = cap
