"""The reader's own copies of the lessons: `make lab` opens `my_notebooks/`, and git never sees what happens there.

`refresh` copies a lesson when it is missing there. When the course brings a newer edition, a copy that was only run is
replaced by it; a copy in which the reader wrote anything stays, and the newer edition is put beside it under a name of
its own. So nothing that a reader typed is ever overwritten, and `git pull` finds `notebooks/` as it left it.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
COURSE, MINE = ROOT / "notebooks", ROOT / "my_notebooks"
RECORD = ".editions.json"  # lesson → the edition seen last, and file → the digest of what was put there


def digest(path: Path) -> str:
    """Return a digest of a notebook's cells without their outputs, and "" for a file that is no notebook."""
    try:
        cells = json.loads(path.read_bytes())["cells"]
        sources = [(cell["cell_type"], "".join(cell["source"])) for cell in cells]
    except (OSError, ValueError, KeyError, TypeError):
        return ""
    return hashlib.sha256(json.dumps(sources).encode()).hexdigest()


def refresh(course: Path = COURSE, mine: Path = MINE) -> list[str]:
    """Bring the reader's copies up to date without touching what they wrote.

    Args:
        course: the lessons as the course has them.
        mine: the folder of the copies; made where it is missing. A copy that is deleted comes back fresh.

    Returns:
        One line for the reader per lesson of which a newer edition has come.
    """
    mine.mkdir(exist_ok=True)
    record = _load(mine / RECORD)
    seen, given = record["seen"], record["given"]
    edited, lines = _edited(course), []
    for lesson in sorted(course.glob("*.ipynb")):
        edition, name = digest(lesson), lesson.name
        if (mine / name).exists() and seen.get(name) == edition:
            continue
        target = next(path for path in _names(mine, name) if not path.exists() or _untouched(path, given, edition))
        news = (mine / name).exists() and digest(target) != edition
        if not target.exists() or news:
            _write(target, lesson.read_bytes())
            given[target.name] = None if name in edited else edition
        if news:
            where = "replaced your copy, in which you had written nothing" if target.name == name else "is beside yours"
            lines.append(f"{lesson.stem}: a newer edition {where}: {mine.name}/{target.name}")
        seen[name] = edition
    _write(mine / RECORD, json.dumps(record, indent=1, sort_keys=True).encode())
    return lines


def _names(mine: Path, name: str):
    """Yield the places for a lesson: its own name, then `01_x.new.ipynb`, `01_x.new2.ipynb`, …."""
    stem = name.removesuffix(".ipynb")
    yield mine / name
    yield mine / f"{stem}.new.ipynb"
    number = 2
    while True:
        yield mine / f"{stem}.new{number}.ipynb"
        number += 1


def _untouched(path: Path, given: dict, edition: str) -> bool:
    """Return whether a copy still says what it was given, or already is the edition that has come."""
    now = digest(path)
    return bool(now) and now in (given.get(path.name), edition)


def _edited(course: Path) -> set[str]:
    """Return the lessons that somebody edited in the course's own folder, as far as git can tell."""
    command = ["git", "diff", "--name-only", "HEAD", "--", "."]
    try:
        done = subprocess.run(command, cwd=course, capture_output=True, text=True)
    except OSError:  # no git
        return set()
    return {Path(line).name for line in done.stdout.splitlines()}


def _load(path: Path) -> dict:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        return {"seen": dict(record["seen"]), "given": dict(record["given"])}
    except (OSError, ValueError, KeyError, TypeError):  # the first time, or damaged: every copy counts as written in
        return {"seen": {}, "given": {}}


def _write(path: Path, content: bytes) -> None:
    """Write a file at once or not at all."""
    part = path.with_name(f".{path.name}.part")
    part.write_bytes(content)
    os.replace(part, path)
