"""Texts that repeat themselves: only a memory that writes can foresee the second time.

Half of each batch is text as it is, a quarter pieces of it again and again, a quarter pieces of nonsense: in these
nothing but the memory helps. A model that learns text first has little left to gain from its memory and hardly ever
begins to use it, so a drill comes before: batches of nonsense alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from titans_mini.data.recall import IGNORE
from titans_mini.data.seeds import generator
from titans_mini.train.sources import Batch, Windows

LETTERS = 97, 123  # a to z, what nonsense is made of


@dataclass(frozen=True, eq=False)
class Echo:
    """Batches of bytes of which every other sequence repeats one piece until it is full.

    Raises:
        ValueError: if the text is shorter than one sequence, or the lengths of the pieces cannot be.
    """

    ids: Tensor  # (N,) integers, the text
    batch: int  # sequences B
    length: int  # bytes T of a sequence
    seed: int = 0
    shortest: int = 4  # bytes of a piece
    longest: int = 24
    drill: int = 0  # so many batches come first in which every sequence is nonsense

    def __post_init__(self) -> None:
        """Refuse what cannot be, the first thing found."""
        Windows(self.ids, self.batch, self.length, self.seed)  # its error is the clear one
        if not 0 < self.shortest <= self.longest <= self.length:
            raise ValueError(
                f"Echo: got pieces of {self.shortest} to {self.longest} tokens, expected 1 ≤ shortest ≤ longest ≤ "
                f"length = {self.length}"
            )

    def __call__(self, index: int) -> Batch:
        """Make batch number `index`; nothing is asked of the first time that nonsense is read."""
        g = generator(self.seed, index)
        row = torch.arange(self.batch)[:, None]
        nonsense = (row % 4 == 3) | (index < self.drill)
        start = torch.randint(len(self.ids) - self.length, (self.batch, 1), generator=g)
        period = torch.randint(self.shortest, self.longest + 1, (self.batch, 1), generator=g)
        place = torch.arange(self.length + 1).expand(self.batch, -1)
        new = place < period
        place = torch.where(nonsense | (row % 2 == 1), place % period, place)
        letters = torch.randint(*LETTERS, (self.batch, self.length + 1), generator=g)
        sequence = torch.where(nonsense, letters.gather(1, place), self.ids[start + place].long())
        targets = sequence.masked_fill(nonsense & new, IGNORE)
        return Batch(sequence[:, :-1], targets[:, 1:])
