"""Tokenise text once, into shards that training maps into memory: ``python -m titans_mini.data.prepare --help``.

A source gives texts; long ones are cut into pieces, each piece goes to a split, workers turn pieces into tokens, and
one process writes them in order, part by part. So the shards do not depend on the number of workers. A part counts
once its files and a note of it are on disk; whoever is interrupted, however rudely, gives the same command again: what
finished parts have read is read again, compared by its digest, and not tokenised, and the next part begins there.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from itertools import islice
from multiprocessing import connection, get_context, parent_process
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from filelock import FileLock, Timeout  # comes with torch
from tqdm import tqdm

from titans_mini.data.corpus import HUB, READERS, Parts, open_source
from titans_mini.data.fetch import FULL, cache
from titans_mini.data.shards import DTYPES, FORMAT, MANIFEST, SOURCES, Shards, canonical, names_to_disk, seal, unseal
from titans_mini.data.tokens import Tokenizer, tokenizer

PIECE = 1 << 20  # characters; what is longer is cut at the end of a line or word, and tokenised piece by piece
BATCH = 1 << 20  # characters that a worker gets at once


class Piece(NamedTuple):
    """A text, or a part of a long one.

    Attributes:
        split: where it goes, "train" or "validation".
        text: some characters.
        ends: whether its text ends with it.
    """

    split: str
    text: str
    ends: bool


# -- pieces and splits ----------------------------------------------------------------------------------------------


def cut(parts: Parts) -> Iterator[tuple[int, str, bool]]:
    """Cut texts into pieces of at most `PIECE` characters; texts without a character are left out.

    Yields:
        The number of the text, the characters, and whether the text ends with them.
    """
    number, text = 0, ""
    for part in parts:
        if part is None:
            if text:
                yield number, text, True
                number += 1
            text = ""
            continue
        text += part  # on its own, or Python copies it all for each line
        start = 0
        while len(text) - start > PIECE:
            last = start + PIECE
            line, space = text.rfind("\n", start, last) + 1, text.rfind(" ", start + 1, last)
            stop = line if line > start else space if space > start else last  # a space begins the next word
            yield number, text[start:stop], False
            start = stop
        text = text[start:] if start else text


def deal(read: Callable[[], Parts], share: float) -> Iterator[Piece]:
    """Deal texts to "train" and "validation": the first text, and each whose number's hash falls below the share.

    Of fewer texts than 1 / share, such as a single book, the end is for validation instead, wherever in a text it
    begins. It comes first, so that a limit leaves it whole.

    Args:
        read: reads the source from the start.
        share: of validation, from 0 (none) to below 1.
    """
    total = _characters_of_few(cut(read()), 1 / share) if share else 0
    if total:
        place = total - max(1, round(share * total))
        yield from (Piece("validation", *piece) for piece in _between(cut(read()), place, total))
        yield from (Piece("train", *piece) for piece in _between(cut(read()), 0, place))
    else:
        for number, text, ends in cut(read()):
            yield Piece("validation" if share and _falls_below(number, share) else "train", text, ends)


def _falls_below(number: int, share: float) -> bool:
    hashed = hashlib.blake2b(number.to_bytes(8, "little"), digest_size=4).digest()
    return number == 0 or int.from_bytes(hashed, "little") < share * 2**32


def _characters_of_few(pieces: Iterable[tuple[int, str, bool]], most: float) -> int:
    """Count the characters; 0 if there are more texts than `most`."""
    total = 0
    for number, text, _ in pieces:
        if number >= most:
            return 0
        total += len(text)
    return total


def _between(pieces: Iterable[tuple[int, str, bool]], start: int, stop: int) -> Iterator[tuple[str, bool]]:
    """Yield the characters from `start` to `stop` of all texts, and where texts end."""
    at = 0
    for _, text, ends in pieces:
        inside = text[max(start - at, 0) : max(stop - at, 0)]
        at += len(text)
        if inside:
            yield inside, ends or at >= stop
        if at >= stop:
            return


# -- tokens ---------------------------------------------------------------------------------------------------------

_tokenizer: Tokenizer | None = None  # of this worker


def _start(name: str) -> None:
    """Begin as a worker: load the tokenizer, leave Ctrl-C to the main process, and end with it, however it ends."""
    global _tokenizer
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(parent_process().sentinel,), daemon=True).start()
    _tokenizer = tokenizer(name)


def _end_with(sentinel: int) -> None:
    connection.wait([sentinel])
    os._exit(1)


def _work(batch: list[Piece]) -> tuple[np.ndarray, list[int]]:
    return encode(_tokenizer, batch)


def encode(coder: Tokenizer, batch: list[Piece]) -> tuple[np.ndarray, list[int]]:
    """Turn pieces into tokens, and add the separator where a text ends.

    Args:
        coder: the tokenizer.
        batch: pieces.

    Returns:
        The tokens of all (N,), uint16 or uint32, and how many are of each piece.

    Raises:
        ValueError: if the tokenizer gives an id that is not below its size.
    """
    arrays = []
    for piece in batch:
        ids = coder.encode(_without_surrogates(piece.text))
        ids = np.frombuffer(ids, np.uint8) if isinstance(ids, bytes) else np.array(ids, np.int64)
        arrays.append(np.append(ids, coder.separator) if piece.ends and coder.separator is not None else ids)
    tokens = np.concatenate(arrays)
    if len(tokens) and tokens.max() >= coder.vocab_size:
        raise ValueError(f"{coder.name}: got the token {tokens.max()}, expected fewer than {coder.vocab_size}")
    return tokens.astype(DTYPES[_dtype(coder)]), [len(array) for array in arrays]


def _dtype(coder: Tokenizer) -> str:
    return "uint16" if coder.vocab_size <= 1 << 16 else "uint32"


def _without_surrogates(text: str) -> str:
    """Mend what JSON may hold and UTF-8 may not: halves of characters, joined where they fit, else replaced."""
    try:
        text.encode()
        return text
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def encoded(
    pieces: Iterator[Piece], coder: Tokenizer, name: str, jobs: int
) -> Iterator[tuple[list[Piece], tuple[np.ndarray, list[int]]]]:
    """Yield batches of pieces and their tokens, in order, whatever the number of processes."""
    batches = _batches(pieces)
    if jobs == 1:
        yield from ((batch, encode(coder, batch)) for batch in batches)
        return
    pool = ProcessPoolExecutor(jobs, get_context("spawn"), _start, (name,))  # it notices when a worker dies
    try:
        waiting: deque = deque()
        for batch in batches:
            waiting.append((batch, pool.submit(_work, batch)))
            if len(waiting) > 2 * jobs:  # enough to keep all busy, and not the whole source in memory
                batch, future = waiting.popleft()
                yield batch, future.result()
        while waiting:
            batch, future = waiting.popleft()
            yield batch, future.result()
    except BrokenProcessPool as error:
        raise ChildProcessError(
            "got a worker that died, expected it to end with us: out of memory? Give the same command with fewer --jobs"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _batches(pieces: Iterator[Piece]) -> Iterator[list[Piece]]:
    batch, size = [], 0
    for piece in pieces:
        batch.append(piece)
        size += len(piece.text)
        if size >= BATCH or len(batch) >= 4096:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


# -- shards ---------------------------------------------------------------------------------------------------------


def write_safely(path: Path, data: bytes) -> None:
    """Write a file so that, whenever the power fails, it is there whole or not at all."""
    part = path.with_name(path.name + ".part")
    with open(part, "wb") as file:
        file.write(data)
        _to_disk(file)
    os.replace(part, path)
    names_to_disk(path.parent)


def _to_disk(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())


class _Shard:
    """A shard that is being written: two files with the ending .part."""

    def __init__(self, path: Path) -> None:
        self.paths = path, path.with_suffix(".ends.bin")
        self.files = [open(f"{path}.part", "wb") for path in self.paths]
        self.hashes = hashlib.sha256(), hashlib.sha256()
        self.tokens = self.texts = 0

    def add(self, tokens: np.ndarray, ends: bool) -> None:
        self._write(0, tokens.tobytes())
        self.tokens += len(tokens)
        if ends:
            self._write(1, self.tokens.to_bytes(8, "little"))
            self.texts += 1

    def _write(self, which: int, data: bytes) -> None:
        self.files[which].write(data)
        self.hashes[which].update(data)

    def finish(self) -> dict[str, Any] | None:
        """Give the files their names, and return the shard's line of the manifest; None if it is empty."""
        for file, path in zip(self.files, self.paths, strict=True):
            with file:
                _to_disk(file)
            if self.tokens:
                os.replace(file.name, path)
            else:  # and nothing is left that an interrupted run with other arguments may have called so
                Path(file.name).unlink()
                path.unlink(missing_ok=True)
        if not self.tokens:
            return None
        digests = {"sha256": self.hashes[0].hexdigest(), "ends_sha256": self.hashes[1].hexdigest()}
        return {"file": self.paths[0].name, "tokens": self.tokens, "texts": self.texts} | digests


class _Parts:
    """The parts of a folder: those finished, each with a note in ``progress/``, and the one that is being written."""

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        self.folder, self.settings = folder, settings
        self.notes: list[dict[str, Any]] = []
        while (path := self._note(len(self.notes))).is_file():
            self.notes.append(unseal(path.read_bytes(), path))
        self.pieces = self.notes[-1]["pieces"] if self.notes else 0  # read so far
        self.hash = hashlib.sha256()  # of what was read so far
        self.totals = {split: sum(s["tokens"] for s in self.shards(split)) for split in ("train", "validation")}
        self.open: dict[str, _Shard] = {}

    def _note(self, number: int) -> Path:
        return self.folder / "progress" / f"{number:05}.json"

    def shards(self, split: str) -> list[dict[str, Any]]:
        """List the finished shards of a split."""
        return [note["splits"][split] for note in self.notes if note["splits"][split]]

    @property
    def complete(self) -> bool:
        """Whether the last part is among the finished ones."""
        return bool(self.notes) and self.notes[-1]["last"]

    def read(self, piece: Piece) -> None:
        """Take note of what is read."""
        self.hash.update(piece.text.encode("utf-8", "surrogatepass") + b"\xff" * piece.ends)  # no UTF-8 has this byte

    def skip(self, pieces: Iterator[Piece]) -> None:
        """Read again what the finished parts have read.

        Raises:
            ValueError: if it is something else today.
        """
        for piece in islice(pieces, self.pieces):
            self.read(piece)
        if self.notes and self.hash.hexdigest() != self.notes[-1]["read"]:
            raise ValueError(
                f"{self.folder}: got another text than {len(self.notes)} finished parts were made of, expected the "
                "same: the source was changed. Delete the folder, or pass another --out"
            )

    def add(self, piece: Piece, tokens: np.ndarray) -> None:
        """Write a piece; finish the part when it is large enough, and the last part when the limit is reached."""
        left = self.settings["limit_tokens"] - self.totals["train"]
        last = piece.split == "train" and 0 < self.settings["limit_tokens"] and len(tokens) >= left
        if last:
            piece, tokens = piece._replace(ends=True), tokens[:left]
        if not self.open:
            start = len(self.notes)
            self.open = {split: _Shard(self.folder / f"{split}-{start:05}.bin") for split in self.totals}
        self.read(piece)
        self.pieces += 1
        self.totals[piece.split] += len(tokens)
        self.open[piece.split].add(tokens, piece.ends)
        if last or sum(shard.tokens for shard in self.open.values()) >= self.settings["shard_tokens"]:
            self.finish(last)

    def finish(self, last: bool) -> None:
        """Finish the part, if one is open."""
        if not self.open:
            return
        note = {"pieces": self.pieces, "read": self.hash.hexdigest(), "last": last}
        note["splits"] = {split: shard.finish() for split, shard in self.open.items()}
        names_to_disk(self.folder)
        if not self.notes:  # not earlier: who mistyped an argument, and got an error, may correct it
            write_safely(self.folder / "progress" / "settings.json", canonical(self.settings))
        write_safely(self._note(len(self.notes)), seal(note))
        self.notes.append(unseal(seal(note), self._note(len(self.notes))))
        self.open = {}

    def close(self) -> None:
        """Drop what is unfinished."""
        for shard in self.open.values():
            for file in shard.files:
                with suppress(OSError):  # a full disk, again
                    file.close()
                Path(file.name).unlink(missing_ok=True)


class _Progress:
    """A bar on a terminal; elsewhere, such as in the log of a job, a line now and then."""

    def __init__(self, shown: bool, start: int) -> None:
        self.bar = tqdm(unit=" tokens", unit_scale=True, initial=start, disable=not (shown and sys.stderr.isatty()))
        self.lines, self.start, self.next = shown and self.bar.disable, time.monotonic(), 0.0
        self.first = self.tokens = start

    def update(self, tokens: int) -> None:
        self.bar.update(tokens)
        self.tokens += tokens
        seconds = time.monotonic() - self.start
        if self.lines and seconds > self.next:
            print(f"{self.tokens:,} tokens, {(self.tokens - self.first) / seconds:,.0f} a second", flush=True)
            self.next = seconds + 10


def prepare(
    sources: Sequence[str],
    out: str | Path | None = None,
    tokenizer_name: str = "gpt2",
    *,
    jobs: int = 1,
    validation: float = 0.005,
    limit_tokens: int = 0,
    shard_tokens: int = 1 << 27,
    subset: str | None = None,
    field: str = "text",
    split_on: str | None = None,
    errors: str = "strict",
    progress: bool = True,
) -> Shards:
    """Tokenise texts into a folder of shards, or go on where an interrupted call has stopped.

    Args:
        sources: "fineweb-edu", "wikitext", or files, folders and patterns of .txt, .jsonl and .parquet.
        out: the folder; by default ``shards/<name of the source>`` in the cache.
        tokenizer_name: "bytes", "gpt2", or one of Hugging Face, by name or folder.
        jobs: processes that tokenise. The shards do not depend on it.
        validation: share of the texts that are held out, and of few texts, such as a book, their end; see `deal`.
        limit_tokens: stop after so many tokens for training; 0 is no limit.
        shard_tokens: a part is finished when it has so many tokens, give or take a piece.
        subset: of "fineweb-edu" (by default sample-10BT) or "wikitext".
        field: of .jsonl and .parquet: where the text is.
        split_on: of .txt: a regular expression; each line that it matches from end to end separates two texts.
        errors: "strict", or "replace" to read what is not UTF-8 as "�".
        progress: show it.

    Returns:
        The opened shards.

    Raises:
        ValueError: for arguments out of range, other arguments than those of an earlier call that wrote to this folder
            (each difference is named), a folder with something else in it, or a source that cannot be read.
        FileNotFoundError: if nothing is where a source should be.
        ImportError: when a library is missing.
        OSError: when the disk is full, or another call is at work in the folder.
    """
    if jobs < 1 or not 0 <= validation < 1 or limit_tokens < 0 or shard_tokens < 1:
        raise ValueError(
            f"got jobs={jobs}, validation={validation}, limit_tokens={limit_tokens}, shard_tokens={shard_tokens}, "
            "expected jobs ≥ 1, validation from 0 to below 1, limit_tokens ≥ 0 (0 is none) and shard_tokens ≥ 1"
        )
    if errors not in ("strict", "replace"):
        raise ValueError(f"errors: got {errors!r}, expected 'strict' or 'replace'")
    if split_on is not None:
        try:
            re.compile(split_on)
        except re.error as error:
            raise ValueError(f"split_on: got {split_on!r}, expected a regular expression ({error})") from error
    folder = Path(out).expanduser() if out else cache() / "shards" / _name(sources)
    about, read = open_source(sources, subset, field=field, split_on=split_on, errors=errors)
    coder = tokenizer(tokenizer_name)
    settings = {"source": about, "field": field, "split_on": split_on, "errors": errors, "validation": validation}
    settings |= {"limit_tokens": limit_tokens, "shard_tokens": shard_tokens, "piece": PIECE}
    settings |= {"tokenizer": coder.name, "tokenizer_digest": coder.digest, "vocab_size": coder.vocab_size}
    settings |= {"separator": coder.separator, "dtype": _dtype(coder), "format": FORMAT}
    work, manifest = folder / "progress", folder / MANIFEST
    if manifest.is_file():
        _compare(folder, settings, unseal(manifest.read_bytes(), manifest))
    elif folder.is_dir() and any(folder.iterdir()) and not work.is_dir():
        raise ValueError(f"{folder}: got a folder with something else in it, expected an empty or a new one")
    try:
        work.mkdir(parents=True, exist_ok=True)
        with FileLock(work / "lock", timeout=0):
            if not manifest.is_file():
                _fill(folder, settings, read, coder, tokenizer_name, jobs, progress)
            _compare(folder, settings, unseal(manifest.read_bytes(), manifest))  # another process may have written it
    except Timeout as error:
        raise OSError(
            f"{folder}: got another process at work there, expected none: wait for it, or pass --out"
        ) from error
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise OSError(
            error.errno,
            f"got no room in {folder}: the disk or your quota is full. Make room, and give the same command",
        ) from error
    shutil.rmtree(work)
    return Shards.open(folder)


def _name(sources: Sequence[str]) -> str:
    """Name the default folder."""
    path = Path(sources[0]).expanduser()
    if sources[0] not in HUB and not path.exists():
        raise FileNotFoundError(f"got {sources[0]!r}, expected {', '.join(SOURCES)} or a file; a pattern needs --out")
    return sources[0] if sources[0] in HUB else path.resolve().stem


def _compare(folder: Path, settings: dict[str, Any], before: dict[str, Any]) -> None:
    """Raise ValueError if a folder was begun with other settings, and name each difference."""
    other = [
        f"{key}: got {settings[key]!r}, it has {before.get(key)!r}"
        for key in settings
        if settings[key] != before.get(key)
    ]
    if other:
        raise ValueError(
            f"{folder} was prepared with other arguments ({'; '.join(other)}), expected the same: delete it, or pass "
            "another --out"
        )


def _fill(
    folder: Path,
    settings: dict[str, Any],
    read: Callable[[], Parts],
    coder: Tokenizer,
    name: str,
    jobs: int,
    progress: bool,
) -> None:
    """Write all parts that are missing, and then the manifest."""
    parts = _Parts(folder, settings)
    if parts.notes:
        _compare(folder, settings, json.loads((folder / "progress" / "settings.json").read_bytes()))
    shown = _Progress(progress, sum(parts.totals.values()))
    try:
        if not parts.complete:
            pieces = deal(read, settings["validation"])
            parts.skip(pieces)
            for batch, (tokens, lengths) in encoded(pieces, coder, name, jobs):
                ends = np.cumsum(lengths)
                for piece, end, length in zip(batch, ends.tolist(), lengths, strict=True):
                    if not parts.complete:
                        parts.add(piece, tokens[end - length : end])
                shown.update(len(tokens))
                if parts.complete:
                    break
            if not parts.totals["train"]:
                raise ValueError(f"got no text to train on in {settings['source']}, expected some: is all of it empty?")
            parts.finish(last=True)
    finally:
        shown.bar.close()
        parts.close()
    splits = {split: parts.shards(split) for split in parts.totals if parts.shards(split)}
    write_safely(folder / MANIFEST, seal(settings | {"splits": splits, "text_sha256": parts.notes[-1]["read"]}))


def parser() -> argparse.ArgumentParser:
    """Build the command-line parser."""
    p = argparse.ArgumentParser(
        prog="python -m titans_mini.data.prepare",
        description="Tokenise text into shards. When interrupted, give the same command again: it goes on.",
    )
    p.add_argument("source", nargs="+", help=f"{', '.join(SOURCES)}, or files, folders, patterns: {', '.join(READERS)}")
    p.add_argument(
        "--out", type=Path, help="folder; default: shards/<source> in the cache, where training looks for it"
    )
    p.add_argument("--tokenizer", default="gpt2", help="bytes, gpt2, or a name or folder for Hugging Face")
    p.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes that tokenise")
    p.add_argument("--validation", type=float, default=0.005, help="share held out: texts, or of few their end")
    p.add_argument("--limit-tokens", type=int, default=0, help="stop after so many tokens for training")
    p.add_argument("--shard-tokens", type=int, default=1 << 27, help="tokens of a shard, about")
    p.add_argument("--subset", help="of fineweb-edu (default sample-10BT) or wikitext")
    p.add_argument("--field", default="text", help="of .jsonl and .parquet: where the text is")
    p.add_argument("--split-on", metavar="REGEX", help="of .txt: lines that separate texts; '\\s*' for blank lines")
    p.add_argument("--errors", choices=("strict", "replace"), default="strict", help="at bytes that are not UTF-8")
    return p


def main(arguments: list[str] | None = None) -> None:
    """Prepare shards, and say where they are.

    Args:
        arguments: command-line arguments; default sys.argv[1:].
    """
    options = vars(parser().parse_args(arguments))
    try:
        shards = prepare(options.pop("source"), options.pop("out"), options.pop("tokenizer"), **options)
    except (ValueError, OSError, ImportError) as error:
        raise SystemExit(f"prepare: {error}") from error
    except KeyboardInterrupt:
        raise SystemExit("prepare: interrupted; give the same command again, and it goes on") from None
    splits = ", ".join(f"{name} {shards.split(name)}" for name in shards.splits)
    print(f"{shards.folder}: {splits}; vocabulary {shards.vocab_size:,} ({shards.tokenizer})")


if __name__ == "__main__":
    main()
