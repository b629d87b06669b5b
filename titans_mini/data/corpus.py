"""Texts from files and data sets, one after the other: what `titans_mini.data.prepare` makes shards of."""

from __future__ import annotations

import glob
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from titans_mini.data.shards import SOURCES, canonical

BLOCK = 1 << 20  # characters of a file that are read at once
INSTALL = "pip install -e '.[prepare]' in a checkout"
HUB = {
    "fineweb-edu": ("HuggingFaceFW/fineweb-edu", "sample-10BT"),
    "wikitext": ("Salesforce/wikitext", "wikitext-103-raw-v1"),
}

Parts = Iterator[str | None]  # a source: parts of texts, of any length, and None where a text ends


def rows(path: str, *arguments: Any, **options: Any) -> Iterator[dict[str, Any]]:
    """Iterate over the rows of a data set through the library `datasets`, which downloads while we read.

    Args:
        path: name on the hub, or a format such as "parquet".
        arguments: further ones of `datasets.load_dataset`.
        options: likewise.

    Raises:
        ImportError: when the library is not installed.
        ConnectionError: when it fails, whatever the reason.
    """
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise ImportError(f"got no datasets, expected it to read {path}: {INSTALL}") from error
    try:
        yield from load_dataset(path, *arguments, split="train", streaming=True, **options)
    except Exception as error:  # the libraries beneath it have a dozen kinds
        raise ConnectionError(
            f"got {type(error).__name__} while reading {path} ({_short(str(error))}), expected its rows: is this "
            "machine offline? Else give the same command again, and it goes on"
        ) from error


def whole(texts: Iterable[str]) -> Parts:
    """Make a source of whole texts."""
    for text in texts:
        yield text
        yield None


def articles(lines: Iterable[str]) -> Parts:
    """Join the lines of WikiText, which gives one line per row, into articles: each begins with ``= Title =``."""
    for line in lines:
        if re.fullmatch(r" = [^=](.*[^=])? = \n", line):
            yield None
        yield line
    yield None


def read_txt(path: Path, *, split_on: str | None, errors: str, **_: Any) -> Parts:
    """Read a text file: one text, or several between lines that match `split_on`. All line ends become the same."""
    with open(path, encoding="utf-8-sig", errors=errors) as file:
        if split_on is None:
            while part := file.read(BLOCK):
                yield part
        else:
            start = True  # of a line; what is longer than a piece comes in several
            while line := file.readline(BLOCK):
                yield None if start and re.fullmatch(split_on, line.removesuffix("\n")) else line
                start = line.endswith("\n")
    yield None


def read_jsonl(path: Path, *, field: str, errors: str, **_: Any) -> Parts:
    """Read a file with a JSON object in each line."""
    with open(path, encoding="utf-8-sig", errors=errors) as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                try:
                    row = json.loads(line)
                except (ValueError, RecursionError) as error:
                    raise ValueError(
                        f"{path}, line {number}: got {_short(line.strip())}, expected JSON ({error})"
                    ) from error
                yield _text(row, field, f"{path}, line {number}")
                yield None


def read_parquet(path: Path, *, field: str, **_: Any) -> Parts:
    """Read a column of a Parquet file, a batch of rows at a time."""
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise ImportError(f"got no pyarrow, expected it to read {path}: {INSTALL}") from error
    try:
        with ParquetFile(path) as file:
            columns = file.schema_arrow.names
            if field not in columns:
                raise ValueError(f"{path}: got columns {columns}, expected {field!r} among them: pass --field")
            for batch in file.iter_batches(batch_size=256, columns=[field]):
                for row in batch.to_pylist():
                    yield _text(row, field, str(path))
                    yield None
    except ArrowException as error:
        raise ValueError(f"{path}: got {_short(str(error))}, expected a whole Parquet file: copy it again") from error


READERS: dict[str, Callable[..., Parts]] = {".txt": read_txt, ".jsonl": read_jsonl, ".parquet": read_parquet}


def _text(row: Any, field: str, where: str) -> str:
    """Return a field of a row; an empty text where it is null."""
    if not isinstance(row, dict) or field not in row:
        got = f"the fields {list(row)}" if isinstance(row, dict) else _short(repr(row))
        raise ValueError(f"{where}: got {got}, expected the field {field!r}: pass --field")
    if not isinstance(row[field], str | None):
        raise ValueError(f"{where}: got {field} = {_short(repr(row[field]))}, expected text: another --field?")
    return row[field] or ""


def _short(text: str) -> str:
    return text if len(text) < 80 else text[:80] + "…"


def read_files(files: Sequence[Path], errors: str = "strict", **options: Any) -> Parts:
    """Read files one after the other.

    Args:
        files: .txt, .jsonl or .parquet.
        errors: "strict", or "replace" to read bytes that are not UTF-8 as "�".
        options: of the readers: `field`, `split_on`.

    Raises:
        ValueError: for the first thing that cannot be read, with its file and line.
    """
    for file in files:
        try:
            yield from READERS[file.suffix.lower()](file, errors=errors, **options)
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{file}: {_not_utf8(file)}: convert it (`iconv -t utf-8`), or --errors replace"
            ) from error


def _not_utf8(file: Path) -> str:
    """Name the first line of a file that is not UTF-8."""
    with open(file, "rb") as lines:
        for number, line in enumerate(lines, 1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as error:
                return f"got the byte 0x{line[error.start]:02x} in line {number}, expected UTF-8"
    return "got bytes that are not UTF-8"  # changed in between


def find_files(sources: Sequence[str]) -> tuple[list[Path], list[str]]:
    """List the files that are meant, in an order that does not depend on the machine.

    Args:
        sources: files; folders, searched to the bottom but for hidden ones; or patterns such as ``"texts/**/*.txt"``.

    Returns:
        The files; and their names, relative to the folder that was named.

    Raises:
        FileNotFoundError: if nothing is there.
        ValueError: for a file of another kind.
    """
    found: dict[Path, str] = {}
    for source in sources:
        path = Path(source).expanduser()
        if path.is_dir():
            names = {file: file.relative_to(path) for file in path.rglob("*") if file.suffix.lower() in READERS}
            shown = {file: name for file, name in names.items() if not any(x.startswith(".") for x in name.parts)}
            here = {file: name.as_posix() for file, name in shown.items() if file.is_file()}
        else:
            matches = [path] if path.is_file() else map(Path, glob.glob(str(path), recursive=True))
            here = {file: file.name for file in matches if file.is_file()}
        if not here:
            raise FileNotFoundError(
                f"got {source!r}, expected one of {', '.join(SOURCES)}, or files that exist, {', '.join(READERS)}"
            )
        found |= dict(sorted(here.items(), key=lambda item: (item[1], str(item[0]))))
    for file in found:
        if file.suffix.lower() not in READERS:
            raise ValueError(f"got {file}, expected {', '.join(READERS)}: unpack it, or name it by what it is")
    return list(found), list(found.values())


def open_source(
    sources: Sequence[str], subset: str | None, **options: Any
) -> tuple[dict[str, Any], Callable[[], Parts]]:
    """Return what describes a source, without a path of this machine, and a function that reads it from the start."""
    if len(sources) == 1 and sources[0] in HUB:
        name, default = HUB[sources[0]]
        subset = subset or default
        join = articles if sources[0] == "wikitext" else whole
        return {"dataset": name, "subset": subset}, lambda: join(row["text"] for row in rows(name, subset))
    files, names = find_files(sources)
    sizes = [file.stat().st_size for file in files]
    listing = hashlib.sha256(canonical(list(zip(names, sizes, strict=True)))).hexdigest()
    return {"files": len(files), "bytes": sum(sizes), "listing": listing}, partial(read_files, files, **options)
