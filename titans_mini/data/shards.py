"""Tokenised text on disk, memory-mapped: any size opens at once, and every flipped bit can be found.

A folder of shards, as `titans_mini.data.prepare` writes it::

    manifest.json               what is here; written last, so a folder without it is not finished
    train-00000.bin             tokens, little-endian uint16 or uint32
    train-00000.ends.bin        uint64: where texts end, counted in tokens from the beginning of this shard
    validation-00000.bin …      a text may go on in the next shard of its split
"""

from __future__ import annotations

import hashlib
import json
import mmap
import operator
import os
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from titans_mini.data.fetch import cache, own, sha256_of

FORMAT = 1
MANIFEST = "manifest.json"
DTYPES = {"uint16": "<u2", "uint32": "<u4"}
ENDS = "<u8"
SOURCES = ("fineweb-edu", "wikitext")  # data sets that `prepare` knows by name


class _File(NamedTuple):
    """An array in a file; the digest is there to tell a file from another that once had its name."""

    path: Path
    dtype: str
    count: int
    sha256: str


@lru_cache(maxsize=256)  # each map holds a file descriptor, and a process often has 1024 of them
def _map(file: _File) -> np.ndarray:
    if not file.count:
        return np.empty(0, file.dtype)  # nothing cannot be mapped
    with open(file.path, "rb") as opened:
        mapped = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
    if file.dtype != ENDS and hasattr(mmap, "MADV_RANDOM"):  # windows are read here and there, and ends from end to end
        mapped.madvise(mmap.MADV_RANDOM)  # or each window would read 128 kB: measured 300 times slower
    return np.frombuffer(mapped, file.dtype, file.count)


class Joined:
    """Several 1-D arrays, in files or in memory, read as one. An index or a slice copies what it names and no more.

    Holds paths and no open files, so it can be handed to other processes, forked or spawned.
    """

    def __init__(self, parts: Sequence[np.ndarray | _File], shifts: Sequence[int] | None = None) -> None:
        self._parts, self._shifts = tuple(parts), shifts  # the numbers of part i are increased by shifts[i], as int64
        self._dtype = np.dtype(parts[0].dtype if shifts is None else np.int64)
        self._stops = list(accumulate(part.count if isinstance(part, _File) else len(part) for part in parts))

    def __len__(self) -> int:
        return self._stops[-1] if self._stops else 0

    def __getitem__(self, place: int | slice) -> Any:
        if not isinstance(place, slice):
            index = operator.index(place)
            index += len(self) if index < 0 else 0
            if not 0 <= index < len(self):
                raise IndexError(f"got the place {place}, expected one of {len(self)}")
            return int(self[index : index + 1][0])
        start, stop, step = place.indices(len(self))
        if step != 1:
            raise ValueError(f"got a slice with step {step}, expected 1: slice first and then take every {step}th")
        number = bisect_right(self._stops, start)
        found = np.empty(max(stop - start, 0), self._dtype)
        at = start
        while at < stop:
            part = self._parts[number]
            part = _map(part) if isinstance(part, _File) else part
            begin = self._stops[number] - len(part)
            piece = part[at - begin : stop - begin]
            found[at - start : at - start + len(piece)] = piece
            if self._shifts is not None:
                found[at - start : at - start + len(piece)] += self._shifts[number]
            at, number = at + len(piece), number + 1
        return found


class Tokens(Joined):
    """A long row of tokens, in memory or in shards: ``len(tokens)``, ``tokens[i]``, ``tokens[i:j]`` as a NumPy array.

    Attributes:
        ends: where each text ends, increasing; the last is the number of tokens. Read like `Tokens`, as int64.
    """

    def __init__(self, parts: Sequence[np.ndarray | _File], ends: Joined) -> None:
        super().__init__(parts)
        self.ends = ends

    @classmethod
    def of(cls, array: Any, ends: Any = None) -> Tokens:
        """Wrap tokens that are in memory.

        Args:
            array: (N,) whole numbers, a NumPy array or a tensor on the CPU.
            ends: (texts,) where texts end, increasing; by default all is one text.

        Raises:
            ValueError: for another shape or type, no tokens, or ends that are not increasing up to N.
        """
        array = np.asarray(array)
        if array.ndim != 1 or not len(array) or array.dtype.kind not in "iu":
            raise ValueError(f"Tokens.of: got {array.dtype} {array.shape}, expected whole numbers (N,) with N ≥ 1")
        ends = np.asarray([len(array)] if ends is None else ends, dtype=np.int64)
        if ends.ndim != 1 or not len(ends) or ends[-1] != len(array) or (np.diff(ends, prepend=0) <= 0).any():
            raise ValueError(f"ends: got {ends}, expected increasing numbers up to {len(array)}: no text is empty")
        return cls([array], Joined([ends]))

    def __repr__(self) -> str:
        return f"Tokens({len(self):,} tokens, {len(self.ends):,} texts)"


@dataclass(frozen=True)
class Shards:
    """A folder of tokenised text. Open it with `Shards.open`."""

    folder: Path
    manifest: dict[str, Any]

    @classmethod
    def open(cls, folder: str | Path, verify: bool = False) -> Shards:
        """Open a folder that `titans_mini.data.prepare` has written.

        Args:
            folder: that folder.
            verify: read everything and compare its digests; else the manifest's digest and the sizes of files only.

        Raises:
            FileNotFoundError: if the folder has no manifest, or a file is missing.
            ValueError: if anything was changed.
        """
        folder = Path(folder).expanduser()
        path = folder / MANIFEST
        if not path.is_file():
            raise FileNotFoundError(
                f"got {folder} without {MANIFEST}, expected a folder of shards: if its preparation was interrupted, "
                "give the same prepare command again, and it goes on"
            )
        shards = cls(folder, unseal(path.read_bytes(), path))
        if shards.manifest["format"] != FORMAT:
            raise ValueError(f"{path}: got format {shards.manifest['format']}, expected {FORMAT}: another version's?")
        for split in shards.splits:
            for file in (file for pair in shards._files(split) for file in pair):
                expected = file.count * np.dtype(file.dtype).itemsize
                if not file.path.is_file():
                    raise FileNotFoundError(f"got no {file.path}, expected {expected} bytes: copied without it?")
                if file.path.stat().st_size != expected:
                    got = file.path.stat().st_size
                    raise ValueError(f"{file.path}: got {got} bytes, expected {expected}: not copied completely?")
                if verify and sha256_of(file.path) != file.sha256:
                    raise ValueError(f"{file.path}: got other bytes than its manifest says: copy or prepare it again")
        return shards

    @property
    def digest(self) -> str:
        """Return the digest of everything: equal digests, equal tokens."""
        return self.manifest["digest"]

    @property
    def tokenizer(self) -> str:
        """Return the name of the tokenizer."""
        return self.manifest["tokenizer"]

    @property
    def vocab_size(self) -> int:
        """Return how many ids the tokenizer has."""
        return self.manifest["vocab_size"]

    @property
    def splits(self) -> list[str]:
        """Return the names of the splits: "train", and "validation" if there is one."""
        return sorted(self.manifest["splits"])

    def split(self, name: str) -> Tokens:
        """Return the tokens of a split, without reading them.

        Args:
            name: "train" or "validation".

        Raises:
            KeyError: if there is no such split.
        """
        if name not in self.splits:
            raise KeyError(f"got the split {name!r}, expected one of {self.splits}: prepared with --validation 0?")
        files = self._files(name)
        starts = [0, *accumulate(tokens.count for tokens, _ in files)]
        return Tokens([tokens for tokens, _ in files], Joined([ends for _, ends in files], starts[:-1]))

    def _files(self, split: str) -> list[tuple[_File, _File]]:
        """List the tokens and the ends of each shard of a split."""
        dtype, found = DTYPES[self.manifest["dtype"]], []
        for shard in self.manifest["splits"][split]:
            path = self.folder / Path(shard["file"]).name  # in this folder, whatever the manifest says
            tokens = _File(path, dtype, shard["tokens"], shard["sha256"])
            found.append((tokens, _File(path.with_suffix(".ends.bin"), ENDS, shard["texts"], shard["ends_sha256"])))
        return found


def find_shards(name: str | Path) -> Path:
    """Return the folder of shards called `name`: that path itself, else in ``TITANS_DATA/shards``, else in the cache.

    Raises:
        FileNotFoundError: if there is none; the message is the command that makes it.
    """
    data = own()
    folders = [Path(name).expanduser(), *([data / "shards" / name] if data else []), cache() / "shards" / name]
    for folder in folders:
        if (folder / MANIFEST).is_file():
            return folder
    places = " or ".join(str(folder.parent) for folder in folders[1:])
    source = name if name in SOURCES else f"YOUR_TEXT.txt --out {folders[-1]}"
    raise FileNotFoundError(
        f"got {str(name)!r}, expected a folder of shards, by its path or in {places}: make them with "
        f"`python -m titans_mini.data.prepare {source} --tokenizer gpt2`"
    )


def names_to_disk(folder: Path) -> None:
    """Wait until the names in a folder are on the disk; not every system can be asked."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def canonical(content: Any) -> bytes:
    """Return the one way in which we write `content` as JSON, so that no byte of it can change unnoticed."""
    return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def seal(content: dict[str, Any]) -> bytes:
    """Return the bytes of a manifest: `content`, and the digest of it."""
    return canonical(content | {"digest": hashlib.sha256(canonical(content)).hexdigest()})


def unseal(raw: bytes, path: Path) -> dict[str, Any]:
    """Return the content of a manifest, with its digest.

    Args:
        raw: its bytes.
        path: for the message.

    Raises:
        ValueError: if one of the bytes was changed.
    """
    try:
        content = json.loads(raw)
        unsealed = {key: value for key, value in content.items() if key != "digest"}
        whole = seal(unsealed) == raw
    except (ValueError, AttributeError, RecursionError):
        whole = False
    if not whole:
        raise ValueError(
            f"{path}: got other bytes than were written, expected them unchanged: copy or prepare it again"
        )
    return content
