"""Real bAbI: read, checked by reading it with understanding, and refused when it is damaged."""

import json
import os
from collections import Counter
from itertools import islice
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.data.babi_reader import Reader
from titans_mini.data import KNOWN, babi_qa1, last_room, make_stories, parse_stories, read_stories
from titans_mini.data.babi import Fact, Question

DATA = Path(os.environ.get("TITANS_DATA", "no data"))
REAL = """\
1 Mary moved to the bathroom.
2 John went to the hallway.
3 Where is Mary? \tbathroom\t1
4 Daniel went back to the  hallway.
5 Sandra moved to the garden.
6 Where is Daniel? \thallway\t4
1 The office is north of the kitchen.
2 The garden is south of the kitchen.
3 What is north of the kitchen?\toffice\t1
"""
GOLDEN = """\
1 Mary moved to the bathroom.
2 Sandra journeyed to the bedroom.
3 Mary got the football there.
4 John went to the kitchen.
5 Mary went back to the kitchen.
6 Mary went back to the garden.
7 Where is the football? \tgarden\t3 6
8 Sandra went back to the office.
9 John moved to the office.
10 Sandra journeyed to the hallway.
11 Daniel went back to the kitchen.
12 Mary dropped the football.
13 John got the milk there.
14 Where is the football? \tgarden\t12 6
15 Mary took the football there.
16 Sandra picked up the apple there.
17 Mary travelled to the hallway.
18 John journeyed to the kitchen.
19 Where is the football? \thallway\t15 17
1 Fred picked up the football there.
2 Fred gave the football to Jeff.
3 What did Fred give to Jeff? \tfootball\t2
4 Bill went back to the bathroom.
5 Jeff grabbed the milk there.
6 Who gave the football to Jeff? \tFred\t2
"""  # the beginning of the real training stories of qa2 and qa5, as quoted in public (bAbI data: CC BY 3.0)


def stand_in(tmp_path, monkeypatch, name, task="qa1", number=200):
    """Put generated stories where `fetch` looks for the real ones."""
    import hashlib

    text = "".join(story.text() for story in islice(make_stories(task, seed=5), number))
    known = KNOWN[name]._replace(sha256=hashlib.sha256(text.encode()).hexdigest())
    path = tmp_path / known.path
    path.parent.mkdir(parents=True)
    path.write_text(text)
    monkeypatch.setitem(KNOWN, name, known)
    monkeypatch.setenv("TITANS_DATA", str(tmp_path))
    return path


@pytest.fixture(params=["test", "train"])
def qa1(request, tmp_path, monkeypatch):
    """Serve the stories of qa1: the real file, or as many generated ones where it is not on this machine."""
    name = f"babi_qa1_{request.param}"
    number = {"test": 200, "train": 2000}[request.param]
    real = (DATA / KNOWN[name].path).is_file()
    if not real:
        stand_in(tmp_path, monkeypatch, name, number=number)
    return real, number, list(babi_qa1(request.param))


def test_qa1_is_complete_and_every_answer_is_right(qa1):
    _, number, stories = qa1
    assert len(stories) == number and all(len(story.lines) == 15 for story in stories)
    samples = [sample for story in stories for sample in story.samples()]
    assert len(samples) == 5 * number
    for sample in samples:
        assert Reader(sample.facts).answer(sample.question) == (sample.answer, sample.support)


def test_the_shortcut_of_the_last_room(qa1):
    real, number, stories = qa1
    samples = [sample for story in stories for sample in story.samples()]
    score = sum(last_room(sample) == sample.answer for sample in samples) / len(samples)
    if real and number == 200:
        assert score == 0.527
    assert 0.49 < score < 0.57


def test_a_story_becomes_one_sample_a_question():
    first, second, third = (s for story in parse_stories(REAL.splitlines(True)) for s in story.samples())
    assert first.facts == ("Mary moved to the bathroom.", "John went to the hallway.")
    assert (first.question, first.answer, first.support) == ("Where is Mary?", "bathroom", (0,))
    assert second.facts == (*first.facts, "Daniel went back to the hallway.", "Sandra moved to the garden.")
    assert second.support == (2,), "numbers of lines count questions, positions in facts do not"
    assert third.facts == ("The office is north of the kitchen.", "The garden is south of the kitchen.")


def test_public_quotes_are_read_and_right():
    stories = list(parse_stories(GOLDEN.splitlines(True)))
    assert "".join(story.text() for story in stories) == GOLDEN
    for sample in (sample for story in stories for sample in story.samples()):
        assert Reader(sample.facts).answer(sample.question) == (sample.answer, sample.support)


def test_real_records_are_right_where_they_are_on_this_machine():
    path = DATA / "babi/real_samples_qa1-3.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
    made = [s for task in ("qa1", "qa2", "qa3") for story in islice(make_stories(task), 2) for s in story.samples()]
    records += [{"facts": s.facts, "question": s.question, "answer": s.answer} for s in made]
    for record in records:
        assert Reader(record["facts"]).answer(record["question"].strip())[0] == record["answer"]


# -- the text of a file -------------------------------------------------------------------------------------------


def test_reading_and_writing_undo_each_other(tmp_path):
    path = tmp_path / "qa.txt"
    path.write_text(REAL)
    text = "".join(story.text() for story in read_stories(path))
    assert text == REAL.replace("  ", " "), "white space is made plain, the space behind a question stays"
    assert list(parse_stories(text.splitlines())) == list(read_stories(path)), "with and without line ends"
    path.write_bytes(REAL.replace("\n", "\r\n").encode())
    assert "".join(story.text() for story in read_stories(path)) == text


def test_real_files_are_written_as_they_stand(qa1):
    real, number, stories = qa1
    path = DATA / KNOWN["babi_qa1_test" if number == 200 else "babi_qa1_train"].path
    text = "".join(story.text() for story in stories)
    expected = path.read_text().replace("to  the", "to the") if real else text
    assert text == expected


def test_stories_are_read_one_at_a_time(tmp_path):
    def lines():
        yield from REAL.splitlines(True)
        raise RuntimeError("read too far")

    stories = parse_stories(lines())
    assert next(stories).lines[0] == Fact(1, "Mary moved to the bathroom.")
    with pytest.raises(RuntimeError):
        next(stories)


@pytest.mark.parametrize(
    "old, new, words",
    [
        ("2 John", "3 John", "line 2: got the number 3, expected 2, or 1 for a new story: a line is missing"),
        ("\tbathroom\t1", "", "line 3: .*expected a fact that ends with a full stop"),
        ("\tbathroom\t1", "\tbathroom", "line 3: got .*expected 'number sentence'"),
        ("\tbathroom\t1", "\t\t1", "line 3: got .*expected 'number sentence'"),
        ("\tbathroom\t1", "\tbathroom\tone", "line 3: .*numbers of facts behind the second tab"),
        ("\tbathroom\t1", "\tbathroom\t7", "line 3: got support by line 7, expected numbers of facts earlier"),
        ("\thallway\t4", "\thallway\t3", "line 6: got support by line 3"),
        ("is Mary?", "is Mary", "line 3: .*expected a question mark"),
        ("garden.\n6", "garden.\n1 A.\n6", "line 5: got a story that ends without a question"),
        ("1 Mary", "Mary", "line 1: got 'Mary moved"),
    ],
)
def test_a_damaged_line_is_named(old, new, words):
    assert REAL.count(old) == 1
    with pytest.raises(ValueError, match=f"bAbI text, {words}"):
        list(parse_stories(REAL.replace(old, new).splitlines(True)))


@pytest.mark.parametrize("lines", [[], ["\n"], ["1 Mary moved to the bathroom.\n"]])
def test_an_empty_file_is_refused(lines):
    with pytest.raises(ValueError, match="bAbI text, line [01]: got"):
        list(parse_stories(lines))


@given(st.integers(1, len(REAL) - 1))
def test_a_file_cut_anywhere_but_behind_a_question_is_refused(cut):
    text = REAL[:cut]
    whole = text.endswith("\n") and "\t" in text.splitlines()[-1]
    if whole:  # no parser can tell that more should follow: the sha256 of `fetch` does
        assert list(parse_stories(text.splitlines(True)))
        return
    with pytest.raises(ValueError, match="bAbI text, line"):
        list(parse_stories(text.splitlines(True)))


def test_the_loader_refuses_what_was_changed(tmp_path, monkeypatch):
    path = stand_in(tmp_path, monkeypatch, "babi_qa1_test", number=3)
    assert len(list(babi_qa1("test"))) == 3
    path.write_text(path.read_text().replace("went to", "moved to", 1))
    with pytest.raises(ValueError, match="got sha256 .*was changed or not copied completely"):
        babi_qa1("test")


def test_other_splits_and_files_that_are_not_there(tmp_path):
    with pytest.raises(KeyError, match="got the split 'valid', expected 'train' or 'test'"):
        babi_qa1("valid")
    with pytest.raises(FileNotFoundError):
        list(read_stories(tmp_path / "none.txt"))


def test_the_last_room_needs_a_room():
    sample = next(next(parse_stories(["1 A cat sat.", "2 Where is it?\tmat\t1"])).samples())
    with pytest.raises(ValueError, match="got no room in 1 facts"):
        last_room(sample)


# -- generated stories resemble real ones -------------------------------------------------------------------------


def portrait(stories):
    """Count what can be counted about stories of qa1."""
    counts = Counter()
    for story in stories:
        place, rooms = {}, {}
        for line in story.lines:
            words = line.text.rstrip(".?").split()
            if isinstance(line, Question):
                counts["distance", line.id - line.support[0]] += 1
                counts["answer", line.answer] += 1
                counts["asked", words[-1]] += 1
            else:
                counts["verb", " ".join(words[1:-2])] += 1
                counts["who", words[0]] += 1
                counts["room", words[-1]] += 1
                counts["same room"] += rooms.get(words[0]) == words[-1]
                place[words[0]], rooms[words[0]] = line.id, words[-1]
    return counts


MEASURED = {1: 4520, 2: 2895, 4: 1325, 5: 857, 7: 403}  # distances in the real 10,000 training questions


def test_generated_qa1_has_the_statistics_of_the_real_file(qa1):
    real, number, stories = qa1
    made = portrait(islice(make_stories("qa1", seed=3), 2000))
    assert {key[1] for key in made if key[0] == "distance"} == set(MEASURED)
    for distance, count in MEASURED.items():
        assert abs(made["distance", distance] - count) < 4 * (2 * count) ** 0.5, distance
    assert made["same room"] == 0
    theirs = portrait(stories)
    assert set(made) == set(theirs), "the same words, rooms, people and distances"
    for key, count in theirs.items():
        expected = made[key] * number / 2000
        assert abs(count - expected) < 5 * (expected * (1 + number / 2000) + 1) ** 0.5, key
