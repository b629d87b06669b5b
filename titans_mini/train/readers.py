"""Long texts as streams: each row of a batch reads whole books, or drills, and changes its work from stage to stage."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from titans_mini.data.seeds import generator
from titans_mini.data.shards import Tokens
from titans_mini.train.sources import StreamBatch

# batch number → length + 1 tokens, and whether the row begins anew with them
Row = Callable[[int], tuple[np.ndarray, bool]]


class Reader:
    """One row that reads one book after another, each from the front to the back; every pass has an order of its own.

    Its memory goes on from piece to piece and is forgotten where a book begins. With a probability it is forgotten
    before any other piece too. Readers of all probabilities side by side teach a memory of every age: one that is
    always old would be trained on nothing that it does not know, and one that is always young on nothing it could know.

    Args:
        tokens: the books, in memory or in shards. The last tokens of each, too few for a piece, are left out.
        length: tokens T of a piece.
        key: of its random draws, such as the seed and the number of the row.
        forget: probability to forget before a piece.

    Raises:
        ValueError: if no book is long enough for a piece.
    """

    def __init__(self, tokens: Tokens, length: int, key: tuple[int, ...], forget: float = 0.0) -> None:
        """Count the pieces of each book; see the class for the arguments."""
        self.tokens, self.length, self.key, self.forget = tokens, length, key, forget
        self._starts, self._pieces = _starts_and_pieces(tokens, length)
        self._pass: tuple[int, list[int], list[int]] = (-1, [], [])

    def __call__(self, index: int) -> tuple[np.ndarray, bool]:
        """Return piece number `index`: its tokens (length + 1,), and whether the row begins anew."""
        number, place = divmod(index, int(self._pieces.sum()))
        order, last = self._order(number)
        turn = bisect_right(last, place)
        book, nth = order[turn], place - (last[turn - 1] if turn else 0)
        start = int(self._starts[book]) + nth * self.length
        chance = float(torch.rand((), generator=generator(*self.key, 1, index))) if self.forget else 1.0
        return self.tokens[start : start + self.length + 1], nth == 0 or chance < self.forget

    def _order(self, number: int) -> tuple[list[int], list[int]]:
        """Return the shuffled books of a pass, and how many pieces end with each."""
        if self._pass[0] != number:  # kept, because the next piece is likely to be of the same pass
            order = torch.randperm(len(self._pieces), generator=generator(*self.key, 0, number)).numpy()
            self._pass = (number, order.tolist(), self._pieces[order].cumsum().tolist())
        return self._pass[1:]


class Drill:
    """One row of passages that come twice: whoever has remembered the first time knows every token of the second.

    In a book little returns word for word, and an attempt to remember it pays late. Here it pays at once. The second
    time has to lie beyond the window of attention, or the window would do.

    Args:
        tokens: the books that passages are taken from.
        length: tokens T of a piece, even.
        key: of its random draws.
        later: True repeats a whole piece in the next batch, where only a memory that was carried knows it; False
            repeats the first half of a piece as its second, and the gradient reaches what was written.

    Raises:
        ValueError: if no book is long enough for a passage, or the length is odd.
    """

    def __init__(self, tokens: Tokens, length: int, key: tuple[int, ...], later: bool = False) -> None:
        """Find the books that are long enough; see the class for the arguments."""
        if length % 2:
            raise ValueError(f"Drill: got length={length}, expected an even number: a passage is half of it")
        self.tokens, self.length, self.key, self.later = tokens, length, key, later
        self._need = length + 1 if later else length // 2
        starts, pieces = _starts_and_pieces(tokens, self._need)
        self._books = np.stack([starts, tokens.ends[:]], 1)[pieces > 0]  # (books, 2)

    def __call__(self, index: int) -> tuple[np.ndarray, bool]:
        """Return piece number `index`: its tokens (length + 1,), and whether the row begins anew."""
        number, again = divmod(index, 2) if self.later else (index, 0)
        book, place, chance = torch.rand(3, dtype=torch.float64, generator=generator(*self.key, number)).tolist()
        begin, end = self._books[int(book * len(self._books))].tolist()
        start = begin + int(place * (end - begin - self._need + 1))
        passage = self.tokens[start : start + self._need]
        if not self.later:
            return np.concatenate([passage, passage, passage[:1]]), True
        return passage, not again and chance < 0.5  # the other half of the passages meets a memory in use


def _starts_and_pieces(tokens: Tokens, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Return where each book begins, and how many pieces of `length` tokens and the one after them it has."""
    stops = tokens.ends[:]
    starts = np.concatenate([[0], stops[:-1]])
    pieces = (stops - starts - 1) // max(length, 1)
    if length < 1 or not pieces.any():
        raise ValueError(f"got {tokens} for pieces of {length} tokens, expected length ≥ 1 and a book with more tokens")
    return starts, pieces


@dataclass(frozen=True, eq=False)
class Rows:
    """A source whose rows are readers and drills side by side, in stages; the last stage goes on for ever.

    A row that does something else from a stage on begins anew there; the same object in two stages just goes on.
    """

    stages: tuple[tuple[int, tuple[Row, ...]], ...]  # (number of the first batch after it, its rows)

    def __post_init__(self) -> None:
        """Raise ValueError for no stages, ends that do not increase, or another number of rows."""
        ends, sizes = [end for end, _ in self.stages], {len(rows) for _, rows in self.stages}
        if not ends or ends != sorted(ends) or len(sizes) != 1 or 0 in sizes:
            raise ValueError(f"Rows: got stages up to {ends} of {sorted(sizes)} rows, expected one number of rows")

    def __call__(self, index: int) -> StreamBatch:
        """Return batch number `index`."""
        rows = self._rows(index)
        before = self._rows(index - 1) if index else [None] * len(rows)
        found = [row(index) for row in rows]
        tokens = torch.from_numpy(np.stack([tokens for tokens, _ in found]).astype(np.int64))  # (B, T + 1)
        fresh = torch.tensor([new or a is not b for (_, new), a, b in zip(found, rows, before, strict=True)])
        return StreamBatch(tokens[:, :-1], tokens[:, 1:], fresh)

    def _rows(self, index: int) -> tuple[Row, ...]:
        return next((rows for end, rows in self.stages if index < end), self.stages[-1][1])
