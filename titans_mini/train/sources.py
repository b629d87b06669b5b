"""Sources of batches: batch number i is a function of i alone, so a resumed run reads the same data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from titans_mini.data.recall import IGNORE, RecallTask
from titans_mini.data.seeds import generator


class Batch(NamedTuple):
    """The input and the targets of one step.

    Attributes:
        tokens: (B, T) int64, the model's input.
        targets: (B, T) int64, the target of each position; −100 where there is none.
    """

    tokens: Tensor
    targets: Tensor


Source = Callable[[int], Batch]  # batch number → batch


@dataclass(frozen=True)
class Recall:
    """Batches of associative recall, generated on demand."""

    task: RecallTask
    batch: int  # sequences B
    length: int  # tokens T
    seed: int = 0

    def __call__(self, index: int) -> Batch:
        """Return batch number `index`."""
        made = self.task.batch(self.batch, self.length, self.seed, index)
        return Batch(made.tokens, made.targets)


@dataclass(frozen=True, eq=False)
class Windows:
    """Random windows of one long text; the target of each token is the next token.

    Raises:
        ValueError: if the text is too short for one window and its targets.
    """

    ids: Tensor  # (N,) integers, the text
    batch: int  # windows B
    length: int  # tokens T per window
    seed: int = 0

    def __post_init__(self) -> None:
        """Raise ValueError if the text is too short for one window."""
        if self.ids.dim() != 1 or len(self.ids) <= self.length:
            got = tuple(self.ids.shape)
            raise ValueError(f"ids: got shape {got}, expected (N,) with N > length = {self.length}: one token more")

    def __call__(self, index: int) -> Batch:
        """Return batch number `index`."""
        g = generator(self.seed, index)
        start = torch.randint(len(self.ids) - self.length, (self.batch, 1), generator=g)
        piece = self.ids[start + torch.arange(self.length + 1)].long()
        return Batch(piece[:, :-1], piece[:, 1:])


@dataclass(frozen=True, eq=False)
class Examples:
    """A fixed set of examples, reshuffled every epoch; the last, incomplete batch is dropped.

    Raises:
        ValueError: if the shapes differ, there are fewer examples than one batch, or an example has no target.
    """

    tokens: Tensor  # (N, T) int64
    targets: Tensor  # (N, T) int64, −100 where there is no target
    batch: int
    seed: int = 0

    def __post_init__(self) -> None:
        """Raise ValueError for mismatched shapes, too few examples, or an example without a target."""
        if self.tokens.shape != self.targets.shape or self.tokens.dim() != 2 or len(self.tokens) < self.batch:
            got = f"{tuple(self.tokens.shape)} and {tuple(self.targets.shape)}"
            raise ValueError(f"Examples: got shapes {got}, expected the same (N, T) twice, N ≥ batch = {self.batch}")
        if not bool((self.targets != IGNORE).any(-1).all()):
            raise ValueError(f"targets: got examples with {IGNORE} only, expected a target in each: nothing to learn")

    def __call__(self, index: int) -> Batch:
        """Return batch number `index`."""
        per_epoch = len(self.tokens) // self.batch
        epoch, place = divmod(index, per_epoch)
        g = generator(self.seed, epoch)
        rows = torch.randperm(len(self.tokens), generator=g)[place * self.batch : (place + 1) * self.batch]
        return Batch(self.tokens[rows], self.targets[rows])


@dataclass(frozen=True)
class Curriculum:
    """Stages of sources, easier batches first; each stage ends at a batch number."""

    stages: tuple[tuple[int, Source], ...]  # (end, source), ends increasing
    last: Source  # the source after the last stage

    def __call__(self, index: int) -> Batch:
        """Return batch number `index` from its stage."""
        for end, source in self.stages:
            if index < end:
                return source(index)
        return self.last(index)
