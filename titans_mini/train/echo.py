"""Byte sequences with repetitions, which only a memory that writes can predict.

Half of each batch is plain text, a quarter repeats a piece of text, a quarter repeats a piece of random letters
("nonsense"), which only the memory can predict. A model that learns text first has little left to gain from its memory
and hardly ever begins to use it, so training can start with a drill: batches of nonsense alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from titans_mini.data.recall import IGNORE
from titans_mini.data.seeds import generator
from titans_mini.train.sources import Batch, Windows

LETTERS = 97, 123  # a to z, the alphabet of the nonsense


@dataclass(frozen=True, eq=False)
class Echo:
    """Source of byte batches in which every other sequence repeats one piece to its full length.

    Raises:
        ValueError: if the text is shorter than one sequence, or the lengths of the pieces are out of range.
    """

    ids: Tensor  # (N,) integers, the text
    batch: int  # sequences B
    length: int  # bytes T per sequence
    seed: int = 0
    shortest: int = 4  # bytes per repeated piece
    longest: int = 24
    drill: int = 0  # number of initial batches in which every sequence is nonsense

    def __post_init__(self) -> None:
        """Raise ValueError for the first field out of range."""
        Windows(self.ids, self.batch, self.length, self.seed)  # raises its clear error if the text is too short
        if not 0 < self.shortest <= self.longest <= self.length:
            raise ValueError(
                f"Echo: got pieces of {self.shortest} to {self.longest} tokens, expected 1 ≤ shortest ≤ longest ≤ "
                f"length = {self.length}"
            )

    def __call__(self, index: int) -> Batch:
        """Return batch number `index`; the first occurrence of a piece of nonsense has no targets."""
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
