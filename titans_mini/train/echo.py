"""Texts that repeat themselves: half of each batch is the text as it is, half are short pieces of it, again and again.

Only a memory that writes can foresee the second time, so this half teaches the outer loop to make the inner one write.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from titans_mini.data.seeds import generator
from titans_mini.train.sources import Batch, Windows


@dataclass(frozen=True, eq=False)
class Echo:
    """Batches of which every other sequence repeats a piece of the text until it is full.

    Raises:
        ValueError: if the text is shorter than one sequence, or the lengths of the pieces cannot be.
    """

    ids: Tensor  # (N,) integers, the text
    batch: int  # sequences B
    length: int  # tokens T of a sequence
    seed: int = 0
    shortest: int = 8  # tokens of a piece
    longest: int = 40

    def __post_init__(self) -> None:
        """Refuse what cannot be, the first thing found."""
        Windows(self.ids, self.batch, self.length, self.seed)  # its error is the clear one
        if not 0 < self.shortest <= self.longest <= self.length:
            raise ValueError(
                f"Echo: got pieces of {self.shortest} to {self.longest} tokens, expected 1 ≤ shortest ≤ longest ≤ "
                f"length = {self.length}"
            )

    def __call__(self, index: int) -> Batch:
        """Make batch number `index`."""
        g = generator(self.seed, index)
        start = torch.randint(len(self.ids) - self.length, (self.batch, 1), generator=g)
        period = torch.randint(self.shortest, self.longest + 1, (self.batch, 1), generator=g)
        place = torch.arange(self.length + 1).expand(self.batch, -1).clone()
        place[1::2] %= period[1::2]
        sequence = self.ids[start + place].long()
        return Batch(sequence[:, :-1], sequence[:, 1:])
