"""Associative recall: key–value pairs in a haystack of noise, queried at the end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from titans_mini.data.seeds import generator

IGNORE = -100  # target of positions without a question; `cross_entropy` skips it


class RecallBatch(NamedTuple):
    """Sequences and their targets.

    Attributes:
        tokens: (B, T) int64.
        targets: (B, T) int64: at a queried key the value that follows it, elsewhere `IGNORE`.
        depth: (B, Q) float32 in [0, 1]: position of the queried pair in the haystack, 0 first, 1 last.
    """

    tokens: Tensor
    targets: Tensor
    depth: Tensor


@dataclass(frozen=True)
class RecallTask:
    """Multi-query associative recall; with one pair and one question it is a needle in a haystack.

    A sequence is `noise … key value … noise … key value … noise` and then, for each question, `key value` again. The
    keys of a sequence differ, so each question has one correct answer, and noise has its own tokens, so only the pair
    itself gives the answer. Chance accuracy is 1 / values.

    Ids: 0 … keys−1 are keys, then values, then noise.

    Raises:
        ValueError: if sizes do not fit.
    """

    pairs: int = 4  # pairs in the haystack
    questions: int = 4  # at the end, in rounds: every pair once, in random order, before any is queried again
    keys: int = 32  # different keys
    values: int = 32  # different values
    noise: int = 16  # different tokens of noise

    def __post_init__(self) -> None:
        """Raise if sizes do not fit."""
        if min(self.pairs, self.questions, self.values, self.noise) < 1 or self.keys < self.pairs:
            raise ValueError(
                f"RecallTask: got {self}, expected all ≥ 1 and as many keys as pairs: each key is used once"
            )

    @property
    def vocab_size(self) -> int:
        """Count the token ids."""
        return self.keys + self.values + self.noise

    @property
    def shortest(self) -> int:
        """Return the length of a sequence without noise: two tokens per pair and two per question."""
        return 2 * (self.pairs + self.questions)

    def batch(self, batch: int, length: int, seed: int, index: int = 0, depth: float | None = None) -> RecallBatch:
        """Return batch number `index` of the stream of `seed`; equal arguments give equal batches.

        Args:
            batch: sequences B.
            length: tokens T of each, questions included.
            seed: of the stream.
            index: of the batch.
            depth: position of the first queried pair, 0 first to 1 last; by default random, like the others.

        Returns:
            The batch.

        Raises:
            ValueError: if the length does not hold the pairs and questions, or the depth is outside [0, 1].
        """
        if length < self.shortest + 1:
            raise ValueError(
                f"length: got {length}, expected at least {self.shortest + 1}: {self.pairs} pairs and "
                f"{self.questions} questions take two tokens each, and one token of noise"
            )
        if depth is not None and not 0 <= depth <= 1:
            raise ValueError(f"depth: got {depth}, expected 0 (first) to 1 (last)")
        g = generator(seed, index)
        room = length - 2 * self.questions  # the haystack
        tokens = torch.randint(self.keys + self.values, self.vocab_size, (batch, length), generator=g)
        key = torch.rand(batch, self.keys, generator=g).argsort(-1)[:, : self.pairs]
        value = torch.randint(self.keys, self.keys + self.values, (batch, self.pairs), generator=g)
        start = self._starts(batch, room, depth, g)
        tokens.scatter_(1, start, key).scatter_(1, start + 1, value)
        asked = self._order(batch, g)  # (B, Q)
        tokens[:, room::2], tokens[:, room + 1 :: 2] = key.gather(1, asked), value.gather(1, asked)
        targets = torch.full_like(tokens, IGNORE)
        targets[:, room::2] = tokens[:, room + 1 :: 2]
        return RecallBatch(tokens, targets, start.gather(1, asked) / (room - 2))

    def _order(self, batch: int, g: torch.Generator) -> Tensor:
        """Draw the pair of each question, (B, Q); the first is pair 0, which `depth` may have placed."""
        rounds = -(-self.questions // self.pairs)
        score = torch.rand(batch, rounds, self.pairs, generator=g)
        score[:, 0, 0] = -1.0
        return score.argsort(-1).flatten(1)[:, : self.questions]

    def _starts(self, batch: int, room: int, depth: float | None, g: torch.Generator) -> Tensor:
        """Draw start positions (B, pairs) of pairs that never overlap, in random order.

        Each pair is first one token of a shorter haystack of room − pairs tokens, and then widened to two.
        """
        score = torch.rand(batch, room - self.pairs, generator=g)
        first = None if depth is None else round(depth * (room - self.pairs - 1))
        if first is not None:
            score[:, first] = 2.0
        place = score.topk(self.pairs).indices  # (B, pairs), `first` in front if given
        return place + (place[:, :, None] > place[:, None]).sum(-1)  # shifted by the pairs before it
