"""Learning to read novels as streams: what is read, where the weights start, and what the memory gains on unseen books.

A memory carried from piece to piece does not pay by itself. It took names that only a memory can know, passages that
come twice, a start from which it is of use, and gates that do not drift: options of the task, each with its reason.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch

from titans_mini.data.invented import letter_chain, names_of, with_invented_names
from titans_mini.data.novels import TEST, TRAIN, VALIDATION, novel
from titans_mini.data.pieces import byte_pairs
from titans_mini.data.seeds import generator
from titans_mini.data.shards import Tokens
from titans_mini.models.titans import TitansLM
from titans_mini.train.longscore import CARRIED, EDGES, bits_by_position, bits_of_names, by_kilobyte, read_bits
from titans_mini.train.readers import Drill, Reader, Row, Rows
from titans_mini.train.sources import Source
from titans_mini.train.starts import copy_start, induction_start, memories, steady_gates

# Each of eight readers forgets where a book begins, and before any other piece with this probability.
FORGET = (0.0, 0.003, 0.01, 0.01, 0.01, 1 / 16, 1 / 2, 3 / 4)


class Stage(NamedTuple):
    """A part of training.

    Attributes:
        until: the share of all steps at which it ends.
        invented: whether names are invented, see `titans_mini.data.invented`.
        later: rows that drill, each passage again in the next step, see `Drill`.
        within: rows that drill, each passage again in the same piece.
    """

    until: float
    invented: bool = False
    later: tuple[int, ...] = ()
    within: tuple[int, ...] = ()


PLAIN = (Stage(1.0),)  # books as they are: the best that a model without a memory can be given
# First the memory learns to be of use, then it meets names that only it can know, then real ones. One row of drill
# stays to the end.
DRILLED = (Stage(0.15, True, (4, 5), (6, 7)), Stage(2 / 3, True, (), (7,)), Stage(1.0, False, (), (7,)))


@dataclass(frozen=True)
class LongText:
    """A task of `train.experiments`: read whole novels as streams, then unseen ones, with a memory carried and reset.

    Raises:
        ValueError: if the stages name a row that is not there, or do not end with the training.
    """

    steps: int = 1000  # of the training, which the stages divide
    vocab_size: int = 2048  # the pieces of `titans_mini.data.pieces`, or 256: bytes
    length: int = 256  # tokens of a piece: whole chunks of the memory
    forget: tuple[float, ...] = FORGET  # of each row, so their number is the batch
    stages: tuple[Stage, ...] = DRILLED
    editions: int = 1  # with invented names, others in each
    train_on: tuple[str, ...] = TRAIN
    # where the weights start, see `train.starts`
    induction: bool = True  # memories answer what followed a token the last time
    copy: bool = True  # the first memory's answer is the embedding of a token
    half_lives: tuple[float, ...] = (5_000.0, 20_000.0)  # of each block, in tokens, kept; none: gates learn as ever
    theta: float = 0.005  # initial step size, with half_lives
    # the score
    validation: tuple[str, ...] = VALIDATION  # every choice is made on these
    test: tuple[str, ...] = TEST  # scored as well and looked at last, for the final table
    kilobytes: int = 64  # of each book, from its beginning
    edges: tuple[int, ...] = EDGES  # of the positions, in kilobytes
    block: int = 320  # tokens of a call, about a kilobyte of pieces; whole chunks
    read_chunk: int = 0  # tokens of a chunk while reading; 0: as in training
    resets: tuple[int, ...] = (1, 4)  # blocks after which memories forget, for comparison

    def __post_init__(self) -> None:
        """Raise ValueError for stages that do not fit."""
        ends = [stage[0] for stage in self.stages]
        if not ends or ends != sorted(ends) or ends[-1] != 1:
            raise ValueError(f"stages: got ends {ends}, expected increasing shares of the steps up to 1")
        rows = [row for _, _, later, within in self.stages for row in (*later, *within)]
        if any(not 0 <= row < len(self.forget) for row in rows):
            raise ValueError(f"stages: got drills in rows {sorted(set(rows))}, expected 0 to {len(self.forget) - 1}")

    def source(self, seed: int) -> Source:
        """Return the source of training batches."""
        made: dict[tuple[int, str, bool], Row] = {}  # what is the same in two stages goes on
        stages = [Stage(*stage) for stage in self.stages]
        return Rows(tuple((round(s.until * self.steps), self._rows(s, seed, made)) for s in stages))

    def _rows(self, stage: Stage, seed: int, made: dict[tuple[int, str, bool], Row]) -> tuple[Row, ...]:
        """Return what each row does in a stage."""
        rows = []
        for row, forget in enumerate(self.forget):
            work = "later" if row in stage.later else "within" if row in stage.within else "read"
            if (row, work, stage.invented) not in made:
                books = _encoded(self.train_on, self.vocab_size, self.editions if stage.invented else 0)
                made[row, work, stage.invented] = (
                    Reader(books, self.length, (seed, row, 0), forget)
                    if work == "read"
                    else Drill(books, self.length, (seed, row, 1), later=work == "later")
                )
            rows.append(made[row, work, stage.invented])
        return tuple(rows)

    def start(self, model: TitansLM, seed: int) -> None:
        """Set where the memories of a model start; `Experiment` calls it before training.

        Raises:
            ValueError: if a start does not fit the model.
        """
        found = memories(model)
        if self.half_lives and len(found) != len(self.half_lives):
            raise ValueError(f"half_lives: got {len(self.half_lives)}, expected one for each of {len(found)} memories")
        for number, memory in enumerate(found):
            if self.induction:
                induction_start(memory, generator(seed, number))
            if self.half_lives:
                steady_gates(memory, self.half_lives[number], self.theta)
        if self.copy:
            copy_start(model)

    def score(self, model: TitansLM, seed: int) -> dict:
        """Read the beginnings of unseen books, with memories that are carried and that are reset.

        Args:
            model: a `TitansLM`; one without a memory that writes is read once.
            seed: of the training; not used.

        Returns:
            "validation" and "test", each with "books"; "kilobytes": for each reading bits per byte of each kilobyte of
            each book, from which readings of several models are compared; "position", see `bits_by_position`; "names",
            see `bits_of_names`.
        """
        trained = [memory.options for memory in memories(model)]
        try:
            for memory in memories(model) if self.read_chunk else ():
                memory.options = memory.options | {"chunk_size": self.read_chunk}
            return {"validation": self._score(model, self.validation), "test": self._score(model, self.test)}
        finally:
            for memory, options in zip(memories(model), trained, strict=True):
                memory.options = options

    def _score(self, model: TitansLM, names: tuple[str, ...]) -> dict:
        """Score a model on some books; none give nothing."""
        if not names:
            return {}
        ids, sizes = self._books(names)
        resets = {f"reset {n}": n for n in self.resets} if memories(model) else {}
        readings = {CARRIED: 0} | resets
        bits = {name: read_bits(model, ids, self.block, n).double().numpy() for name, n in readings.items()}
        pieces = {name: by_kilobyte(x, sizes, self.kilobytes) for name, x in bits.items()}
        return {
            "books": list(names),
            "kilobytes": {name: x.round(4).tolist() for name, x in pieces.items()},
            "position": bits_by_position(pieces, self.edges),
            "names": bits_of_names(bits, ids.numpy(), _spelled(self.vocab_size), self.kilobytes),
        }

    def _books(self, names: tuple[str, ...]) -> tuple[torch.Tensor, np.ndarray]:
        """Return the beginnings of books, all as long: ids (B, N + 1), and their sizes in bytes."""
        books, length = _encoded(names, self.vocab_size), np.array([len(x) for x in _spelled(self.vocab_size)])
        stops = books.ends[:].tolist()
        rows = [books[a:b] for a, b in zip([0, *stops], stops, strict=False)]
        need = max(int(np.searchsorted(length[row].cumsum(), self.kilobytes * 1024)) for row in rows)
        count = -(-need // self.block) * self.block + 1
        if min(len(row) for row in rows) < count:
            raise ValueError(
                f"kilobytes: got a book of {min(map(len, rows))} tokens, expected {count}: {self.kilobytes} kB in "
                f"blocks of {self.block}"
            )
        ids = np.stack([row[:count] for row in rows])
        return torch.from_numpy(ids.astype(np.int64)), length[ids]


def _spelled(vocab_size: int) -> list[bytes]:
    """Return the bytes of each id."""
    whole = byte_pairs().pieces
    if vocab_size not in (256, len(whole)):
        raise ValueError(f"vocab_size: got {vocab_size}, expected 256 for bytes or {len(whole)} for pieces")
    return whole[:vocab_size]


@lru_cache(maxsize=4)
def _encoded(names: tuple[str, ...], vocab_size: int, editions: int = 0) -> Tokens:
    """Return novels as tokens, a text each; or else so many editions of them with invented names."""
    _spelled(vocab_size)  # its error is the clear one
    encode = (lambda text: list(text.encode())) if vocab_size == 256 else byte_pairs().encode
    texts = {name: novel(name) for name in names}
    if editions:
        found = {name: names_of(text) for name, text in texts.items()}
        chain = letter_chain(sorted({name for those in found.values() for name in those}))
        pairs = [(number, name) for number in range(editions) for name in names]
        texts = {
            f"{n} {name}": with_invented_names(texts[name], found[name], chain, f"{n} {name}") for n, name in pairs
        }
    ids = [np.array(encode(text), np.uint16) for text in texts.values()]
    return Tokens.of(np.concatenate(ids), np.cumsum([len(x) for x in ids]))
