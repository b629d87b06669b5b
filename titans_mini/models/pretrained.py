"""Small trained models that ship with the library, and their surprise on a text: no network, no pickle.

`assets/checkpoints/` holds their weights and the records of their training: command, seed, data, curve.
`python -m titans_mini.train.ship` adds a trained model.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from titans_mini.memory.layer import NeuralMemory
from titans_mini.models.titans import TitansLM

HERE = Path(__file__).parent.parent
FOLDERS = (HERE / "assets" / "checkpoints", HERE.parent / "assets" / "checkpoints")  # installed; in a checkout
START = 10  # newline, read by the model before the first byte


def folder_of(name: str) -> Path:
    """Return the folder of a shipped model.

    Args:
        name: such as "lmm-bytes".

    Raises:
        FileNotFoundError: if there is none of that name; lists the shipped ones.
    """
    for folder in FOLDERS:
        if (folder / name / "model.safetensors").is_file():
            return folder / name
    there = sorted({path.parent.name for folder in FOLDERS for path in folder.glob("*/model.safetensors")})
    raise FileNotFoundError(f"pretrained: got {name!r}, expected one of {there}; looked in {[*map(str, FOLDERS)]}")


def pretrained(name: str = "lmm-bytes") -> TitansLM:
    """Load a shipped model.

    Args:
        name: "lmm-bytes": the memory alone, two layers, bytes of English.

    Returns:
        The model, in evaluation mode.

    Raises:
        FileNotFoundError: if there is no such model.
        ValueError: if its files are damaged.
    """
    return TitansLM.from_pretrained(folder_of(name))


def training_of(name: str = "lmm-bytes") -> dict:
    """Read the training record of a shipped model: command, data, seed, date, commit, hardware, curve and scores."""
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


@torch.no_grad()
def read_bytes(
    model: TitansLM, ids: Tensor, factor: float = 1.0, frozen_from: int | None = None
) -> tuple[Tensor, Tensor]:
    """Read a text with a byte-level language model from a fresh state, and compute the bits of each byte.

    Args:
        model: a byte-level language model.
        ids: (T,) bytes.
        factor: of all step sizes, see `scaled_steps`.
        frozen_from: index of the first byte predicted without writing; None writes throughout.

    Returns:
        Bits (T,), −log₂ of the predicted probability of each byte, and the likeliest byte (T,).
    """
    line = torch.cat([ids.new_tensor([START]), ids[:-1]])[None]
    cut = len(ids) if frozen_from is None else frozen_from
    with scaled_steps(model, factor):
        logits, state = model(line[:, :cut])
    with scaled_steps(model, 0.0):
        logits = torch.cat([logits, model(line[:, cut:], state)[0]], 1)[0]
    bits = F.cross_entropy(logits.double(), ids, reduction="none") / torch.log(torch.tensor(2.0, dtype=torch.float64))
    return bits, logits.argmax(-1)


def read_text(model: TitansLM, text: str, factor: float = 1.0, frozen_from: int | None = None) -> tuple[Tensor, Tensor]:
    """Read a text like `read_bytes`, and sum the bits over the bytes of each character.

    Args:
        model: a byte-level language model.
        text: T characters, any Unicode.
        factor: of all step sizes, see `scaled_steps`.
        frozen_from: index of the first character predicted without writing; None writes throughout.

    Returns:
        Bits per character (T,), and whether the likeliest bytes were right (T,).
    """
    pieces = [character.encode("utf-8", "surrogatepass") for character in text]
    owner = torch.tensor([i for i, piece in enumerate(pieces) for _ in piece], dtype=torch.int64)
    ids = torch.tensor(list(b"".join(pieces)), dtype=torch.int64)
    if not text:
        return torch.zeros(0), torch.zeros(0, dtype=torch.bool)
    cut = None if frozen_from is None else sum(map(len, pieces[:frozen_from]))
    bits, guess = read_bytes(model, ids, factor, cut)
    wrong = torch.zeros(len(text)).index_add_(0, owner, (guess != ids).float())
    return torch.zeros(len(text)).index_add_(0, owner, bits.float()), wrong == 0
