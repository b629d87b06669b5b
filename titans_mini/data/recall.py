"""Associative recall: keys bound to values somewhere in a haystack of noise, asked for at the end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from titans_mini.data.seeds import generator

IGNORE = -100  # the target of a position that is not asked; what `cross_entropy` skips


class RecallBatch(NamedTuple):
    """Sequences with their questions.

    Attributes:
        tokens: (B, T) int64.
        targets: (B, T) int64: at the position of an asked key the value that follows it, elsewhere `IGNORE`.
        depth: (B, Q) float32 in [0, 1]: where the asked pair stands in the haystack, 0 first, 1 last.
    """

    tokens: Tensor
    targets: Tensor
    depth: Tensor


@dataclass(frozen=True)
class RecallTask:
    """Multi-query associative recall; with one pair and one question it is a needle in a haystack.

    A sequence is `noise … key value … noise … key value … noise` and then, for each question, `key value` again. The
    keys of a sequence differ, so each question has one right answer, and noise has tokens of its own: nothing but the
    pair itself tells the answer. Guessing scores 1 / values.

    Ids: 0 … keys−1 are keys, then values, then noise.

    Raises:
        ValueError: if sizes do not fit.
    """

    pairs: int = 4  # pairs in the haystack
    questions: int = 4  # asked at the end, in rounds: every pair once, in an order of chance, before any is asked again
    keys: int = 32  # different keys
    values: int = 32  # different values
    noise: int = 16  # different tokens of noise

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
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
        """Length of a sequence without noise: two tokens a pair and two a question."""
        return 2 * (self.pairs + self.questions)

    def batch(self, batch: int, length: int, seed: int, index: int = 0, depth: float | None = None) -> RecallBatch:
        """Make batch number `index` of the stream that `seed` names: the same numbers whenever it is asked for.

        Args:
            batch: sequences B.
            length: tokens T of each, questions included.
            seed: of the stream.
            index: which batch of it.
            depth: where the first asked pair stands, 0 first to 1 last; by default by chance, like the others.

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
        ask = self._order(batch, g)  # (B, Q)
        tokens[:, room::2], tokens[:, room + 1 :: 2] = key.gather(1, ask), value.gather(1, ask)
        targets = torch.full_like(tokens, IGNORE)
        targets[:, room::2] = tokens[:, room + 1 :: 2]
        return RecallBatch(tokens, targets, start.gather(1, ask) / (room - 2))

    def _order(self, batch: int, g: torch.Generator) -> Tensor:
        """Which pair each question is about: (B, Q). The first round begins with pair 0, which may have been placed."""
        rounds = -(-self.questions // self.pairs)
        chance = torch.rand(batch, rounds, self.pairs, generator=g)
        chance[:, 0, 0] = -1.0
        return chance.argsort(-1).flatten(1)[:, : self.questions]

    def _starts(self, batch: int, room: int, depth: float | None, g: torch.Generator) -> Tensor:
        """Places (B, pairs) of the pairs, which never overlap, in an order of chance.

        Each pair is a token of its own in a shorter haystack of room − pairs tokens; then they widen to two.
        """
        chance = torch.rand(batch, room - self.pairs, generator=g)
        first = None if depth is None else round(depth * (room - self.pairs - 1))
        if first is not None:
            chance[:, first] = 2.0
        place = chance.topk(self.pairs).indices  # (B, pairs), the chosen `first` in front
        return place + (place[:, :, None] > place[:, None]).sum(-1)  # moved by the pairs before it
