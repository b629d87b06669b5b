"""Where batches come from: batch number i is a function of i alone, so a resumed run reads what it would have read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from titans_mini.data.recall import IGNORE, RecallTask
from titans_mini.data.seeds import generator


class Batch(NamedTuple):
    """What one step learns from.

    Attributes:
        tokens: (B, T) int64, what the model reads.
        targets: (B, T) int64, what it should say at each position; −100 where nothing is asked.
    """

    tokens: Tensor
    targets: Tensor


Source = Callable[[int], Batch]  # the number of a batch → the batch


@dataclass(frozen=True)
class Recall:
    """Batches of associative recall, made when they are asked for."""

    task: RecallTask
    batch: int  # sequences B
    length: int  # tokens T
    seed: int = 0

    def __call__(self, index: int) -> Batch:
        """Make batch number `index`."""
        made = self.task.batch(self.batch, self.length, self.seed, index)
        return Batch(made.tokens, made.targets)


@dataclass(frozen=True, eq=False)
class Windows:
    """Pieces of one long text from places of chance; the target of a token is the next one.

    Raises:
        ValueError: if the text is shorter than one piece.
    """

    ids: Tensor  # (N,) integers, the text
    batch: int  # pieces B
    length: int  # tokens T of a piece
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse a text that holds no piece."""
        if self.ids.dim() != 1 or len(self.ids) <= self.length:
            got = tuple(self.ids.shape)
            raise ValueError(f"ids: got shape {got}, expected (N,) with N > length = {self.length}: one token more")

    def __call__(self, index: int) -> Batch:
        """Cut batch number `index`."""
        g = generator(self.seed, index)
        start = torch.randint(len(self.ids) - self.length, (self.batch, 1), generator=g)
        piece = self.ids[start + torch.arange(self.length + 1)].long()
        return Batch(piece[:, :-1], piece[:, 1:])


@dataclass(frozen=True, eq=False)
class Examples:
    """A fixed set of examples, in a new order each time through; the last, incomplete batch is left out.

    Raises:
        ValueError: if shapes differ, there are fewer examples than a batch takes, or nothing is asked.
    """

    tokens: Tensor  # (N, T) int64
    targets: Tensor  # (N, T) int64, −100 where nothing is asked
    batch: int
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what no batch can be made of."""
        if self.tokens.shape != self.targets.shape or self.tokens.dim() != 2 or len(self.tokens) < self.batch:
            got = f"{tuple(self.tokens.shape)} and {tuple(self.targets.shape)}"
            raise ValueError(f"Examples: got shapes {got}, expected the same (N, T) twice, N ≥ batch = {self.batch}")
        if not bool((self.targets != IGNORE).any(-1).all()):
            raise ValueError(f"targets: got examples with {IGNORE} only, expected a target in each: nothing to learn")

    def __call__(self, index: int) -> Batch:
        """Choose batch number `index`."""
        per_epoch = len(self.tokens) // self.batch
        epoch, place = divmod(index, per_epoch)
        g = generator(self.seed, epoch)
        rows = torch.randperm(len(self.tokens), generator=g)[place * self.batch : (place + 1) * self.batch]
        return Batch(self.tokens[rows], self.targets[rows])


@dataclass(frozen=True)
class Curriculum:
    """Easier batches first: each stage has a source and the number of the batch at which it ends."""

    stages: tuple[tuple[int, Source], ...]  # (end, source), ends rising
    last: Source  # what comes after them

    def __call__(self, index: int) -> Batch:
        """Take batch number `index` from the stage that it falls into."""
        for end, source in self.stages:
            if index < end:
                return source(index)
        return self.last(index)
