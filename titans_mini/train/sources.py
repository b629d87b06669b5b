"""Sources of batches: batch number i is a function of i alone, so a resumed run reads the same data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from titans_mini.data.recall import IGNORE, RecallTask
from titans_mini.data.seeds import generator
from titans_mini.data.shards import Tokens


class Batch(NamedTuple):
    """The input and the targets of one step.

    Attributes:
        tokens: (B, T) int64, the model's input.
        targets: (B, T) int64, the target of each position; −100 where there is none.
    """

    tokens: Tensor
    targets: Tensor


class StreamBatch(NamedTuple):
    """The next T tokens of B texts that are read side by side.

    Attributes:
        tokens: (B, T) int64, the model's input; 0 after the end of a text.
        targets: (B, T) int64, the token after each; −100 from the end of a text on.
        fresh: (B,) bool: whether a row begins anew here; if not, it goes on with the state of the batch before.
    """

    tokens: Tensor
    targets: Tensor
    fresh: Tensor


Source = Callable[[int], Batch | StreamBatch]  # batch number → the whole batch, of which each rank takes its rows


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
class ShuffledWindows:
    """Every window of a long row of tokens once per epoch, in an order of its own each epoch, for any amount of tokens.

    Windows lie end to end, so a token is a target once per epoch, but for fewer than two windows at the two ends: each
    epoch starts at another offset. Windows do not heed where texts end. Nothing is kept in memory: the order is
    computed, window by window.

    Raises:
        ValueError: if there are too few tokens for one window.
    """

    tokens: Tokens
    batch: int  # windows B
    length: int  # tokens T per window
    seed: int = 0

    def __post_init__(self) -> None:
        """Raise ValueError if there are too few tokens for one window."""
        if min(self.batch, self.length) < 1 or len(self.tokens) <= self.length:
            raise ValueError(
                f"ShuffledWindows: got {self.tokens}, batch={self.batch}, length={self.length}, expected batch ≥ 1 and "
                "more tokens than length ≥ 1: a window and the token after it"
            )

    @property
    def windows(self) -> int:
        """Return the number of windows of an epoch."""
        return max(1, len(self.tokens) // self.length - 1)  # one is left for the offset

    def __call__(self, index: int) -> Batch:
        """Return batch number `index`. A batch may hold the last windows of an epoch and the first of the next."""
        numbers = index * self.batch + np.arange(self.batch)
        starts = np.empty_like(numbers)
        for epoch in np.unique(numbers // self.windows):
            here = numbers // self.windows == epoch
            room = min(self.length, len(self.tokens) - self.windows * self.length)
            offset = int(torch.randint(room, (1,), generator=generator(self.seed, int(epoch))))
            starts[here] = offset + self.length * permuted(numbers[here] % self.windows, self.windows, self.seed, epoch)
        piece = np.stack([self.tokens[start : start + self.length + 1] for start in starts.tolist()])
        piece = torch.from_numpy(piece.astype(np.int64))
        return Batch(piece[:, :-1], piece[:, 1:])


def permuted(places: np.ndarray, count: int, *key: int) -> np.ndarray:
    """Return where a shuffle of ``range(count)`` puts the numbers `places`, without a table.

    Four rounds of a Feistel network shuffle the next power of four, as a cipher with a small block does: each round
    changes one half of the bits by a hash of the other half, which can be undone, so no two numbers meet. Whoever lands
    beyond `count` is shuffled again until it lands within (cycle walking).

    Args:
        places: (n,) int64 in [0, count).
        count: how many numbers are shuffled.
        key: whole numbers ≥ 0; another key is another shuffle.

    Returns:
        (n,) int64 in [0, count).
    """
    half = np.uint64(max(1, (int(count - 1).bit_length() + 1) // 2))
    mask, mix, shift = np.uint64((1 << int(half)) - 1), np.uint64(0xD6E8FEB86659FD93), np.uint64(32)
    keys = np.random.SeedSequence((len(key), *(int(number) for number in key))).generate_state(4, np.uint64)
    x, todo = places.astype(np.uint64), np.ones(len(places), bool)
    while todo.any():
        left, right = x[todo] >> half, x[todo] & mask
        for number in keys:
            hashed = (right ^ number) * mix  # modulo 2⁶⁴
            hashed = (hashed ^ hashed >> shift) * mix
            left, right = right, left ^ (hashed >> shift & mask)
        x[todo] = left << half | right
        todo = x >= np.uint64(count)
    return x.astype(np.int64)


class TextStreams:
    """B texts side by side for truncated backpropagation: each row goes on where it stopped in the batch before.

    The texts of an epoch are shuffled, cut into pieces of T targets, laid end to end, and dealt to the rows in B equal
    parts. A text's last piece is padded, and the next piece begins a new text, `fresh`. So all rows stay busy whatever
    the lengths of the texts are, and the price is that B texts at most are cut where one row's part ends and the
    next one's begins; there the second half begins `fresh`, in the middle of the text. Fewer texts than rows, even a
    single one, are therefore read as B parts side by side. The first token of a text is no target.

    An epoch ends for all rows at once: the next begins `fresh` in every row, with texts in another order and cut at
    other places. The tail of fewer than B pieces, too few for another batch, is left out, another one each epoch.
    Batch i is a function of i and the seed alone. Memory: a few whole numbers per text.

    Args:
        tokens: the texts; `tokens.ends` says where they end.
        batch: rows B.
        length: tokens T per batch and row.
        seed: of the shuffles.

    Attributes:
        steps: number of batches of an epoch.

    Raises:
        ValueError: if there is not a piece for each row.
    """

    def __init__(self, tokens: Tokens, batch: int, length: int, seed: int = 0) -> None:
        """Count the pieces of each text; see the class for the arguments."""
        self.tokens, self.batch, self.length, self.seed = tokens, batch, length, seed
        self._stops = tokens.ends[:]  # (texts,) int64
        if min(batch, length) >= 1:
            targets = np.maximum(np.diff(self._stops, prepend=0) - 1, 0)  # the first token of a text is none
            self._pieces = -(-targets // length)  # (texts,)
        if min(batch, length) < 1 or self._pieces.sum() < batch:
            raise ValueError(
                f"TextStreams: got {tokens}, batch={batch}, length={length}, expected both ≥ 1 and a piece of text for "
                "each row: fewer rows, or shorter pieces"
            )
        self.steps = int(self._pieces.sum()) // batch
        self._epoch: tuple[int, np.ndarray, np.ndarray] = (-1, self._stops, self._stops)

    def __call__(self, index: int) -> StreamBatch:
        """Return batch number `index`."""
        epoch, step = divmod(index, self.steps)
        order, last = self._order(epoch)
        turn = int(torch.randint(int(last[-1]), (1,), generator=generator(self.seed, epoch, 1)))
        number = (turn + np.arange(self.batch) * self.steps + step) % last[-1]  # (B,) of the piece in the epoch
        place = np.searchsorted(last, number, side="right")
        text = order[place]
        nth = number - (last[place] - self._pieces[text])  # of the piece in its text
        start = self._stops[text - 1] * (text > 0) + nth * self.length
        tokens = torch.zeros(self.batch, self.length, dtype=torch.int64)
        targets = torch.full_like(tokens, IGNORE)
        for row, (begin, end) in enumerate(zip(start.tolist(), self._stops[text].tolist(), strict=True)):
            piece = torch.from_numpy(self.tokens[begin : min(begin + self.length + 1, end)].astype(np.int64))
            tokens[row, : len(piece) - 1], targets[row, : len(piece) - 1] = piece[:-1], piece[1:]
        return StreamBatch(tokens, targets, torch.from_numpy((nth == 0) | (step == 0)))

    def _order(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the shuffled texts of an epoch, and how many pieces end with each: two of (texts,) int64."""
        kept = self._epoch  # because the next batch is likely to be of the same epoch
        if kept[0] != epoch:
            order = torch.randperm(len(self._stops), generator=generator(self.seed, epoch, 0)).numpy()
            kept = self._epoch = (epoch, order, self._pieces[order].cumsum())
        return kept[1:]


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
