"""From the name of a text to batches: what a run reads, what it is validated on, and the digest of both."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch

from titans_mini.data.fetch import KNOWN, fetch
from titans_mini.data.recall import RecallTask
from titans_mini.data.shards import SOURCES, Shards, Tokens, find_shards
from titans_mini.data.text import english, held_out
from titans_mini.train.config import DataConfig, nearest
from titans_mini.train.echo import Echo
from titans_mini.train.sources import Recall, ShuffledWindows, Source, TextStreams

TEXTS = tuple(name for name, known in KNOWN.items() if known.path.startswith("text/"))
UNSEEN = 1 << 20  # added to the seed of generated tasks: their validation batches are never trained on


@dataclass(frozen=True)
class Reading:
    """What a run reads.

    Attributes:
        train: batch number → batch.
        validation: the same of what is kept apart; None if there is too little of it.
        vocab_size: number of token ids.
        digest: of the bytes that are read; resuming compares it.
        facts: for the run's README.
    """

    train: Source
    validation: Source | None
    vocab_size: int
    digest: str
    facts: dict[str, str]


def open_data(c: DataConfig, seed: int) -> Reading:
    """Open what a configuration names.

    Args:
        c: names the data, and the size of batches.
        seed: of the order.

    Raises:
        FileNotFoundError: if there are no such data; says what could be meant, or how to prepare them.
        ValueError: if there are too few of them for one batch.
    """
    generated, text = c.data == "recall", c.data == "english" or c.data in TEXTS or Path(c.data).is_file()
    if c.echo and not text:
        raise ValueError(f"echo: got data {c.data!r}, expected a text of bytes, such as english or a file")
    if generated:
        task = RecallTask()
        sources = (Recall(task, c.batch, c.length, s) for s in (seed, seed + UNSEEN))
        return Reading(
            *sources, task.vocab_size, _digest(repr(task).encode()), {"data": "associative recall, generated"}
        )
    if text:
        return _text(c, seed)
    shards = Shards.open(_find(c.data))
    train, validation = shards.split("train"), shards.split("validation")
    facts = {"data": f"{Path(c.data).name}, {len(train):,} tokens to train on, {len(validation):,} kept apart"}
    facts |= {"tokenizer": shards.tokenizer}
    return Reading(_order(train, c, seed), _kept(validation, c), shards.vocab_size, shards.digest, facts)


def _text(c: DataConfig, seed: int) -> Reading:
    """Read the bytes of one text; its end is kept for validation."""
    if c.data == "english":
        from pydoc_data.topics import topics

        content = english(*sorted(topics)).encode()
    else:
        content = (fetch(c.data) if c.data in TEXTS else Path(c.data)).read_bytes()
    if not content:
        raise ValueError(f"data: got {Path(c.data).name} without a single byte, expected a text")
    ids = torch.frombuffer(bytearray(content), dtype=torch.uint8)
    train, rest = held_out(ids, c.validation) if c.validation and len(ids) > 20 else (ids, ids[:0])
    source = (
        Echo(train, c.batch, c.length, seed, drill=c.drill) if c.echo else _order(Tokens.of(train.numpy()), c, seed)
    )
    facts = {"data": f"{Path(c.data).name}, {len(train):,} bytes to train on, {len(rest):,} kept apart"}
    return Reading(source, _kept(Tokens.of(rest.numpy()), c) if len(rest) else None, 256, _digest(content), facts)


def _find(name: str) -> Path:
    """Return the folder of prepared shards; says what else the name could mean."""
    try:
        return find_shards(name)
    except FileNotFoundError as error:
        known = ("english", "recall", *TEXTS, *SOURCES)
        raise FileNotFoundError(f"data: {error}{'' if name in known else nearest(name, known)}") from error


def _order(tokens: Tokens, c: DataConfig, seed: int) -> Source:
    """Return batches in the order that was asked for."""
    return (TextStreams if c.order == "streams" else ShuffledWindows)(tokens, c.batch, c.length, seed)


def _kept(tokens: Tokens, c: DataConfig) -> Source | None:
    """Return the validation batches, always the same; None if the text is too short for them."""
    try:
        return _order(tokens, c, 0)
    except ValueError:
        return None


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
