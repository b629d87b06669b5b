"""Byte-level language modelling of a book: bits per byte by position in the context, and along the book."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from titans_mini.data.fetch import fetch
from titans_mini.data.novels import gutenberg_body
from titans_mini.data.text import to_bytes
from titans_mini.train.sources import Source, Windows


@lru_cache(maxsize=2)
def book(name: str) -> str:
    """Return a known text without the publisher's header and footer, with plain line ends.

    Args:
        name: a name known to `fetch`, such as "sherlock".
    """
    return gutenberg_body(fetch(name).read_bytes())


@dataclass(frozen=True)
class Language:
    """A task of `train.experiments`: train on the last 80 % of a book, evaluate on its beginning."""

    text: str = "sherlock"  # a name known to `fetch`
    held_out: float = 0.2  # share of the book, from its first byte on
    batch: int = 8
    length: int = 256  # bytes per training sequence
    context: int = 1024  # bytes per evaluation sequence
    pieces: int = 64  # evaluation sequences, evenly spaced in the held-out part
    edges: tuple[int, ...] = (0, 16, 32, 64, 128, 256, 512, 1024)  # edges of the position bins
    along: int = 57_344  # bytes read from the beginning of the book with one carried state
    block: int = 1024  # bytes per average; the reading with fresh states resets after each block
    vocab_size: int = 256

    def split(self) -> tuple[Tensor, Tensor]:
        """Return the training bytes and the held-out bytes, each 1-D."""
        ids = to_bytes(book(self.text))
        cut = round(len(ids) * self.held_out)
        return ids[cut:], ids[:cut]

    def source(self, seed: int) -> Source:
        """Return the source of training batches."""
        return Windows(self.split()[0], self.batch, self.length, seed)

    @torch.no_grad()
    def score(self, model: nn.Module, seed: int) -> dict:
        """Measure bits per byte by position in the context, and along the book; all models get the same bytes.

        Args:
            model: a `TitansLM`.
            seed: training seed; not used.

        Returns:
            "edges": of the position bins. "bits": mean bits per byte in each bin. "carried" and "fresh": bits per byte
            of each block of the book's beginning, with one carried state and with a fresh state per block.
        """
        ids = self.split()[1]
        starts = torch.linspace(0, len(ids) - self.context - 1, self.pieces).long()
        pieces = ids[starts[:, None] + torch.arange(self.context + 1)]
        bits = torch.cat([bits_per_token(model, part)[0] for part in pieces.split(16)])  # (pieces, context)
        by_position = bits.mean(0)
        bins = zip(self.edges, self.edges[1:], strict=False)
        row = [round(by_position[a:b].mean().item(), 5) for a, b in bins]
        return {"edges": list(self.edges), "bits": row, **self._by_block(model, ids[: self.along + 1])}

    def _by_block(self, model: nn.Module, ids: Tensor) -> dict:
        """Measure bits per byte of each block of `ids` (N,), with one carried state and with fresh states."""
        blocks = ids.unfold(0, self.block + 1, self.block)  # each ends with the first byte of the next
        state, carried = None, []
        for block in blocks:
            bits, state = bits_per_token(model, block[None], state)
            carried.append(round(bits.mean().item(), 4))
        fresh = torch.cat([bits_per_token(model, part)[0].mean(1) for part in blocks.split(16)])
        return {"carried": carried, "fresh": [round(x, 4) for x in fresh.tolist()]}


@torch.no_grad()
def bits_per_token(model: nn.Module, tokens: Tensor, state=None) -> tuple[Tensor, object]:
    """Compute the cross-entropy of each next token in bits.

    Args:
        model: a `TitansLM`.
        tokens: (B, T + 1).
        state: initial state; None starts afresh.

    Returns:
        (B, T) bits, and the state after T tokens.
    """
    logits, state = model(tokens[:, :-1], state)
    nats = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction="none")
    return nats.view(len(tokens), -1) / torch.log(torch.tensor(2.0)), state
