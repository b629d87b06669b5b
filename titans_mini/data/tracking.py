"""State tracking: predict the state after every move, when each move changes a state that is never shown.

The subject of the paper's theorem 4.1, which states, without a proof, that Titans solve such problems and transformers,
diagonal linear recurrences and DeltaNet cannot.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from titans_mini.data.seeds import generator

MOVES = ("all", "even", "swaps")


class TrackingBatch(NamedTuple):
    """Moves and the state after each.

    Attributes:
        tokens: (B, T) int64, the moves.
        targets: (B, T) int64, the state after the move at the same position.
        start: (B,) int64, the state before the first move.
    """

    tokens: Tensor
    targets: Tensor
    start: Tensor


class _Tracking:
    """Base class of the tasks: indexed batches, and endless streams."""

    @property
    def vocab_size(self) -> int:
        """Count the token ids; states use the same ids."""
        raise NotImplementedError

    def moves_of(self, g: torch.Generator, batch: int, length: int) -> Tensor:
        """Draw moves (B, T)."""
        raise NotImplementedError

    def follow(self, tokens: Tensor, start: Tensor | None = None) -> Tensor:
        """Return the state after each move: (B, T) from moves (B, T) and states (B,), by default 0, the rest state."""
        raise NotImplementedError

    def batch(self, batch: int, length: int, seed: int, index: int = 0) -> TrackingBatch:
        """Return batch number `index` of the stream of `seed`; every sequence starts at rest.

        Workers share the work by taking different indices.

        Args:
            batch: sequences B.
            length: moves T.
            seed: of the stream.
            index: of the batch.

        Raises:
            ValueError: if a size is smaller than 1.
        """
        return next(itertools.islice(self._segments(batch, length, (seed, index)), 1))

    def stream(self, batch: int, length: int, seed: int) -> Iterator[TrackingBatch]:
        """Yield consecutive stretches of B endless sequences: each continues where the last one stopped.

        Args:
            batch: sequences B.
            length: moves T per stretch.
            seed: of the stream.

        Raises:
            ValueError: if a size is smaller than 1.
        """
        return self._segments(batch, length, (seed, 0, 1))

    def _segments(self, batch: int, length: int, seeds: tuple[int, ...]) -> Iterator[TrackingBatch]:
        if min(batch, length) < 1:
            raise ValueError(f"got batch={batch}, length={length}, expected both ≥ 1")
        g = generator(*seeds)
        return self._generate(g, batch, length)

    def _generate(self, g: torch.Generator, batch: int, length: int) -> Iterator[TrackingBatch]:
        start = torch.zeros(batch, dtype=torch.int64)
        while True:
            tokens = self.moves_of(g, batch, length)
            targets = self.follow(tokens, start)
            yield TrackingBatch(tokens, targets, start)
            start = targets[:, -1]


@dataclass(frozen=True)
class ParityTask(_Tracking):
    """Moves 0 … m−1 are added up; the state is the sum modulo m. With m = 2: is the number of ones odd?

    Chance accuracy is 1 / m, and the last few moves alone carry no information.

    Raises:
        ValueError: if the modulus is smaller than 2.
    """

    modulus: int = 2  # m

    def __post_init__(self) -> None:
        """Raise if the modulus is too small."""
        if self.modulus < 2:
            raise ValueError(f"modulus: got {self.modulus}, expected at least 2")

    @property
    def vocab_size(self) -> int:
        """Count the token ids; states use the same ids."""
        return self.modulus

    def moves_of(self, g: torch.Generator, batch: int, length: int) -> Tensor:
        """Draw moves (B, T)."""
        return torch.randint(self.modulus, (batch, length), generator=g)

    def follow(self, tokens: Tensor, start: Tensor | None = None) -> Tensor:
        """Return the state after each move: (B, T) from moves (B, T) and states (B,), by default 0, the rest state."""
        start = torch.zeros_like(tokens[:, 0]) if start is None else start
        return (tokens.cumsum(-1) + start[:, None]) % self.modulus


@dataclass(frozen=True)
class PermutationTask(_Tracking):
    """Each move rearranges n things; the state is the arrangement so far, one of n!.

    With n = 5 the group is not solvable, which makes the task hard in theory. Token i is row i of `arrangements`, 0 the
    identity. Chance accuracy is 1 / n!.

    Raises:
        ValueError: for unknown moves, or a number of things outside 2 … 6.
    """

    things: int = 5  # n
    moves: str = "all"  # "all" n!; "even", half of them (A_n); "swaps" of two neighbours, n − 1

    def __post_init__(self) -> None:
        """Raise for unknown moves or a wrong number of things."""
        if not 2 <= self.things <= 6:
            raise ValueError(f"things: got {self.things}, expected 2 … 6: there are n! arrangements, each a token")
        if self.moves not in MOVES:
            raise ValueError(f"moves: got {self.moves!r}, expected one of {', '.join(MOVES)}")

    @property
    def vocab_size(self) -> int:
        """Count the token ids; states use the same ids."""
        return len(self.arrangements)

    @property
    def arrangements(self) -> Tensor:
        """Return (n!, n) int64: row i holds the position of each thing in arrangement i."""
        return _arrangements(self.things)

    @property
    def products(self) -> Tensor:
        """Return (n!, n!) int64: entry (i, j) is the arrangement after move i on arrangement j."""
        return _products(self.things)

    @property
    def moves_used(self) -> Tensor:
        """Return the tokens that are drawn, ascending."""
        table = self.arrangements
        if self.moves == "all":
            return torch.arange(len(table))
        a, b = torch.triu_indices(self.things, self.things, 1)
        even = (table[:, a] > table[:, b]).sum(-1) % 2 == 0
        displaced = table != torch.arange(self.things)
        neighbours = (displaced.sum(-1) == 2) & (displaced[:, 1:] & displaced[:, :-1]).any(-1)
        return torch.nonzero(even if self.moves == "even" else neighbours)[:, 0]

    def moves_of(self, g: torch.Generator, batch: int, length: int) -> Tensor:
        """Draw moves (B, T)."""
        used = self.moves_used
        return used[torch.randint(len(used), (batch, length), generator=g)]

    def follow(self, tokens: Tensor, start: Tensor | None = None) -> Tensor:
        """Return the state after each move: (B, T) from moves (B, T) and states (B,), by default 0, the rest state."""
        state = torch.zeros_like(tokens[:, 0]) if start is None else start
        products, states = self.products, []
        for move in tokens.unbind(1):
            state = products[move, state]
            states.append(state)
        return torch.stack(states, dim=1)


@lru_cache(maxsize=8)
def _arrangements(things: int) -> Tensor:
    return torch.tensor(list(itertools.permutations(range(things))), dtype=torch.int64)


@lru_cache(maxsize=8)
def _products(things: int) -> Tensor:
    table = _arrangements(things)
    digits = things ** torch.arange(things)
    place = torch.zeros(things**things, dtype=torch.int64)
    place[(table * digits).sum(-1)] = torch.arange(len(table))  # index of an arrangement by its digits
    after = table[:, table]  # (moves, states, n): the move puts thing k where it sends the position of k
    return place[(after * digits).sum(-1)]
