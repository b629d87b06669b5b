"""Bytes of a book: how much a memory helps, by the position in the context, and along the book."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from titans_mini.data.fetch import fetch
from titans_mini.data.text import to_bytes
from titans_mini.train.sources import Source, Windows

HEADING = re.compile(r"^(?:ADVENTURE )?(?:[IVX]+\.)[ ]+(?:THE |A )[A-Z' -]+$|^ADVENTURE [IVX]+\.[^\n]*$", re.M)


@lru_cache(maxsize=2)
def book(name: str) -> str:
    """Return a known text without the lines that its publisher put around it, with plain line ends.

    Args:
        name: of `fetch`, such as "sherlock".
    """
    text = fetch(name).read_text(encoding="utf-8").replace("\r\n", "\n")
    found = re.search(r"\*\*\* ?START OF[^\n]*\n(.*)\*\*\* ?END OF", text, re.S)
    return (found[1] if found else text).strip() + "\n"


@dataclass(frozen=True)
class Language:
    """A task of `titans_mini.train.experiments`: the first 90 % of a book to learn from, the rest to be scored on."""

    text: str = "sherlock"  # a name of `fetch`
    batch: int = 16
    length: int = 256  # bytes of a piece in training
    context: int = 1024  # bytes of a piece in the evaluation
    pieces: int = 48  # of the held-out part, evenly spaced
    edges: tuple[int, ...] = (0, 16, 32, 64, 128, 256, 512, 1024)  # of the bins of position
    vocab_size: int = 256

    def split(self) -> tuple[Tensor, Tensor]:
        """Return the bytes to learn from and those held out."""
        ids = to_bytes(book(self.text))
        cut = len(ids) * 9 // 10
        return ids[:cut], ids[cut:]

    def source(self, seed: int) -> Source:
        """Make the batches of training."""
        return Windows(self.split()[0], self.batch, self.length, seed)

    @torch.no_grad()
    def score(self, model: nn.Module, seed: int) -> dict:
        """Measure bits a byte by position in the context; the pieces are the same for every model and seed.

        Args:
            model: a `TitansLM`.
            seed: of training; not used.

        Returns:
            "edges": of the bins. "bits": mean bits a byte in each bin.
        """
        ids = self.split()[1]
        starts = torch.linspace(0, len(ids) - self.context - 1, self.pieces).long()
        pieces = ids[starts[:, None] + torch.arange(self.context + 1)]
        bits = torch.cat([bits_per_token(model, part)[0] for part in pieces.split(16)])  # (pieces, context)
        by_position = bits.mean(0)
        bins = zip(self.edges, self.edges[1:], strict=False)
        return {"edges": list(self.edges), "bits": [by_position[a:b].mean().item() for a, b in bins]}


@torch.no_grad()
def bits_per_token(model: nn.Module, tokens: Tensor, state=None) -> tuple[Tensor, object]:
    """Ask a language model how many bits each next token costs.

    Args:
        model: a `TitansLM`.
        tokens: (B, T + 1).
        state: where to go on from.

    Returns:
        (B, T) bits, and the state after T tokens.
    """
    logits, state = model(tokens[:, :-1], state)
    nats = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction="none")
    return nats.view(len(tokens), -1) / torch.log(torch.tensor(2.0)), state
