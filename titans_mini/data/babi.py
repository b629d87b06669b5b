"""bAbI stories, version 1.2: parsing, writing, and one sample per question."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from titans_mini.data.fetch import fetch

ROOMS = ("bathroom", "bedroom", "garden", "hallway", "kitchen", "office")
FILES = {"train": "babi_qa1_train", "test": "babi_qa1_test"}  # names of `fetch`; train is the 10k version


@dataclass(frozen=True)
class Fact:
    """A statement: the number of its line in the story, counted from 1, and the sentence."""

    id: int
    text: str


@dataclass(frozen=True)
class Question:
    """A question about the lines before it.

    Attributes:
        id: number of the line.
        text: the question, without the space after it in some files.
        answer: one word, or several joined by commas.
        support: numbers of the facts that answer it, in the file's order.
    """

    id: int
    text: str
    answer: str
    support: tuple[int, ...]


@dataclass(frozen=True)
class Story:
    """Facts and questions in the order of the file."""

    lines: tuple[Fact | Question, ...]

    def samples(self) -> Iterator[BabiSample]:
        """Yield each question with the facts before it, as BABILong and most models read it."""
        facts: list[Fact] = []
        for line in self.lines:
            if isinstance(line, Fact):
                facts.append(line)
                continue
            place = {fact.id: i for i, fact in enumerate(facts)}
            support = tuple(place[i] for i in line.support)
            yield BabiSample(tuple(fact.text for fact in facts), line.text, line.answer, support)

    def text(self) -> str:
        """Return the story in the file format: numbers, tabs, and a space after every question except qa4's."""
        lines = []
        for line in self.lines:
            if isinstance(line, Fact):
                lines.append(f"{line.id} {line.text}\n")
            else:
                space = "" if re.search(r"(north|south|east|west) of", line.text) else " "
                lines.append(f"{line.id} {line.text}{space}\t{line.answer}\t{' '.join(map(str, line.support))}\n")
        return "".join(lines)


@dataclass(frozen=True)
class BabiSample:
    """One question.

    Attributes:
        facts: the sentences before it, oldest first.
        question: the question.
        answer: the right answer.
        support: positions in `facts` of the facts that answer it.
    """

    facts: tuple[str, ...]
    question: str
    answer: str
    support: tuple[int, ...]


def babi_qa1(split: str = "train") -> Iterator[Story]:
    """Yield the stories of the real task qa1: 2,000 to train (10,000 questions) or 200 to test (1,000).

    Args:
        split: "train" or "test".

    Raises:
        KeyError: for another split.
        ConnectionError, ValueError: when the file cannot be found or downloaded, or was changed.
    """
    if split not in FILES:
        raise KeyError(f"got the split {split!r}, expected 'train' or 'test'")
    return read_stories(fetch(FILES[split]))


def read_stories(path: str | Path) -> Iterator[Story]:
    """Yield the stories of a local bAbI file, one at a time.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when it is not a complete file of version 1.2; names the line.
    """
    with open(path, encoding="utf-8", newline="") as file:
        yield from parse_stories(file, str(path))


def parse_stories(lines: Iterable[str], name: str = "bAbI text") -> Iterator[Story]:
    """Parse lines in bAbI's format and yield the stories; raise at the first malformed line.

    Runs of white space become one space, because one line in thousands of the files has two.

    Args:
        lines: with or without line ends.
        name: of the source, for error messages.

    Raises:
        ValueError: for a wrong number, a question without answer or support, a support that is not an earlier fact, a
            sentence that does not end, a last line without a line end where the others have one, or a story that ends
            without a question.
    """
    story: list[Fact | Question] = []
    number, raw, ends = 0, "", False
    for number, raw in enumerate(lines, 1):
        ends = ends or raw.endswith("\n")
        line = _parse(raw, name, number)
        if line.id == 1 and story:
            yield _finish(story, name, number - 1)
            story = []
        _check(line, story, name, number)
        story.append(line)
    if ends and not raw.endswith("\n"):
        raise _error(name, number, f"{raw[-20:]!r} without a line end", "a complete last line: the file is cut off")
    yield _finish(story, name, number)


def _error(name: str, number: int, got: str, expected: str) -> ValueError:
    return ValueError(f"{name}, line {number}: got {got}, expected {expected}")


def _parse(raw: str, name: str, number: int) -> Fact | Question:
    """Parse one line on its own."""
    found = re.fullmatch(r"(\d+) (\S[^\t]*)(?:\t([^\t]+)\t([^\t]+))?", raw.rstrip("\r\n"))
    if not found:
        raise _error(name, number, repr(raw[:60]), "'number sentence' or 'number question<tab>answer<tab>numbers'")
    text = " ".join(found[2].split())
    if found[3] is None:
        if not text.endswith("."):
            raise _error(name, number, repr(text[-40:]), "a fact that ends with a full stop: a line is cut or damaged")
        return Fact(int(found[1]), text)
    if not text.endswith("?") or not re.fullmatch(r"\d+( \d+)*", found[4].strip()):
        raise _error(name, number, repr(raw[:60]), "a question mark, and numbers of facts behind the second tab")
    return Question(int(found[1]), text, found[3].strip(), tuple(map(int, found[4].split())))


def _check(line: Fact | Question, story: list[Fact | Question], name: str, number: int) -> None:
    """Raise if a line does not continue the story."""
    if line.id != len(story) + 1:
        raise _error(
            name, number, f"the number {line.id}", f"{len(story) + 1}, or 1 for a new story: a line is missing"
        )
    if isinstance(line, Question):
        facts = {earlier.id for earlier in story if isinstance(earlier, Fact)}
        wrong = sorted(set(line.support) - facts)
        if wrong:
            raise _error(name, number, f"support by line {wrong[0]}", "numbers of facts earlier in the story")


def _finish(story: list[Fact | Question], name: str, number: int) -> Story:
    if not story or not isinstance(story[-1], Question):
        raise _error(name, number, "a story that ends without a question", "a question: the file is cut off or empty")
    return Story(tuple(story))


def last_room(sample: BabiSample) -> str:
    """Return the room mentioned last, regardless of the person: the baseline to beat on qa1.

    It is right for 0.527 of the real test questions. A model that scores no more has not learned to track people.

    Raises:
        ValueError: when no fact names a room.
    """
    for fact in reversed(sample.facts):
        rooms = [word for word in re.findall(r"\w+", fact) if word in ROOMS]
        if rooms:
            return rooms[-1]
    raise ValueError(f"got no room in {len(sample.facts)} facts, expected one of {', '.join(ROOMS)}")
