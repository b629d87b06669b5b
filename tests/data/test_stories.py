"""Generated bAbI: read back by an independent reader, and held against real stories line by line."""

import hashlib
import os
import re
from collections import Counter
from itertools import islice
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.babi_public import PUBLIC
from tests.data.babi_reader import DROP, GET, GIVE, MOVE, Reader
from titans_mini.data import make_stories, parse_stories
from titans_mini.data.babi import ROOMS, Fact, Question
from titans_mini.data.stories import ASKERS, THINGS, WINDOW, Event

TASKS = ("qa1", "qa2", "qa3", "qa4", "qa5")
WORDS = set(  # of version 1.2
    "went to back journeyed travelled moved the got took grabbed picked up dropped left discarded put down there gave "
    "handed passed is north south east west of Where was before What did give Who received".split()
) | {*ROOMS, *THINGS, *"John Mary Sandra Daniel Bill Fred Jeff The".split()}


def real_stories(task):
    """Parse the public stories of a task, and those of this machine."""
    yield from parse_stories(PUBLIC.get(task, "").splitlines(True)) if task in PUBLIC else ()
    path = Path(os.environ.get("TITANS_DATA", "no data")) / "babi/qa5_sample_story.txt"
    if task == "qa5" and path.is_file():
        yield from parse_stories(path.read_text().splitlines(True))


def event(fact):
    """Understand a sentence."""
    for kind, form in (("move", MOVE), ("get", GET), ("drop", DROP), ("give", GIVE)):
        if found := re.fullmatch(form, fact.text):
            return Event(fact.id, kind, *found.groups())
    raise AssertionError(fact.text)


# -- answers ------------------------------------------------------------------------------------------------------


@settings(max_examples=30)
@given(st.sampled_from(TASKS), st.integers(0, 2**32))
def test_every_answer_and_every_support_follows_from_the_sentences(task, seed):
    for story in islice(make_stories(task, seed), 5):
        for sample in story.samples():
            assert Reader(sample.facts).answer(sample.question) == (sample.answer, sample.support)
            assert sample.answer.lower() not in re.findall(r"\w+", sample.question.lower()), "a question never tells"


@settings(max_examples=30)
@given(st.sampled_from(TASKS), st.integers(0, 2**32))
def test_a_story_can_be_written_and_read(task, seed):
    made = list(islice(make_stories(task, seed), 3))
    text = "".join(story.text() for story in made)
    assert list(parse_stories(text.splitlines(True))) == made
    assert set(re.findall(r"[A-Za-z]+", text)) <= WORDS
    for story in made:
        questions = [line for line in story.lines if isinstance(line, Question)]
        assert len(questions) == (1 if task == "qa4" else 5) and story.lines[-1] is questions[-1]
        for raw in story.text().splitlines():
            assert ("? \t" in raw) == ("?" in raw and task != "qa4")


# -- the rule by which questions are asked, against real stories ----------------------------------------------------


@pytest.mark.parametrize("task", ["qa2", "qa3", "qa5"])
def test_real_stories_ask_when_and_what_the_rule_says(task):
    stories = list(real_stories(task))
    assert stories
    for story in stories:
        events, facts_since = [], 0
        for line, after in zip(story.lines, story.lines[1:], strict=False):
            facts_since = facts_since + 1 if isinstance(line, Fact) else 0
            if isinstance(line, Question):
                continue
            events.append(event(line))
            asks = [ask for e in events[-WINDOW:] for ask in ASKERS[task](e, events)]
            asked = isinstance(after, Question)
            assert asked == (bool(asks) and facts_since % 2 == 0), f"after line {line.id}"
            assert not asked or (after.text, after.answer, after.support) in asks


@pytest.mark.parametrize("task", ["qa2", "qa3", "qa5"])
def test_what_people_do_is_as_frequent_as_in_real_stories(task):
    def shares(stories):
        kinds = Counter(event(line).kind for story in stories for line in story.lines if isinstance(line, Fact))
        return {kind: count / kinds.total() for kind, count in kinds.items()}, kinds.total()

    (real, number), (made, _) = shares(real_stories(task)), shares(islice(make_stories(task, seed=1), 300))
    assert set(real) == set(made)
    for kind, share in real.items():
        assert abs(share - made[kind]) < 3 * (made[kind] * (1 - made[kind]) / number) ** 0.5, kind


# -- statistics ---------------------------------------------------------------------------------------------------


def samples(task, number, seed=0):
    return [sample for story in islice(make_stories(task, seed), number) for sample in story.samples()]


@pytest.mark.parametrize("task, answers", [("qa1", ROOMS), ("qa2", ROOMS), ("qa3", ROOMS), ("qa4", ROOMS)])
def test_no_room_is_the_answer_more_often_than_others(task, answers):
    counts = Counter(sample.answer for sample in samples(task, 2000 if task == "qa4" else 400))
    assert set(counts) == set(answers)
    assert all(0.12 < count / counts.total() < 0.21 for count in counts.values())


def test_questions_of_qa4_have_eight_forms():
    forms = Counter(
        re.sub("|".join(ROOMS), "room", sample.question.replace("the ", "")) for sample in samples("qa4", 2000)
    )
    sides = ("north", "south", "east", "west")
    assert set(forms) == {f"What is {s} of room?" for s in sides} | {f"What is room {s} of?" for s in sides}
    assert all(200 < count < 300 for count in forms.values())
    assert Counter(sample.support for sample in samples("qa4", 2000)).keys() == {(0,), (1,)}


def test_questions_of_qa5_have_five_forms():
    forms = Counter(form_of(s.question) for s in samples("qa5", 400))
    shares = {form: count / 2000 for form, count in forms.items()}
    expected = {"What did": 1 / 3, "Who gave": 1 / 6, "Who gave to": 1 / 6, "Who did": 1 / 6, "Who received": 1 / 6}
    assert set(shares) == set(expected)
    assert all(abs(shares[form] - share) < 0.04 for form, share in expected.items())


def form_of(question):
    start = " ".join(question.split()[:2])
    return start + " to" if start == "Who gave" and " to " in question else start


def test_there_is_said_as_often_as_in_the_real_files():
    def share(task, form):
        found = [line.text for story in islice(make_stories(task), 150) for line in story.lines]
        found = [text for text in found if re.fullmatch(form, text)]
        return sum("there" in text for text in found) / len(found)

    assert share("qa2", GET) == share("qa5", GET) == 1
    assert 0.05 < share("qa2", DROP) < 0.16
    assert 0.15 < share("qa3", GET) < 0.25 and 0.1 < share("qa3", DROP) < 0.2


# -- streams ------------------------------------------------------------------------------------------------------


@settings(max_examples=25)
@given(st.sampled_from(TASKS), st.integers(0, 100), st.integers(1, 5))
def test_workers_share_the_stream_without_overlap(task, seed, shards):
    one = list(islice(make_stories(task, seed), 3 * shards))
    parts = [list(islice(make_stories(task, seed, shard, shards), 3)) for shard in range(shards)]
    assert [part[n] for n in range(3) for part in parts] == one


def test_tasks_and_seeds_differ():
    firsts = {next(make_stories(task, seed)) for task in TASKS for seed in range(5)}
    assert len(firsts) == 25


def test_the_same_stories_in_every_process_and_version():
    text = "".join(next(make_stories(task, seed=7)).text() for task in TASKS)
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "91f0ca61c9508f02", (
        "recorded results belong to these stories"
    )


@pytest.mark.parametrize("task, shard, shards, error", [("qa6", 0, 1, KeyError), ("qa1", 2, 2, ValueError)])
def test_what_cannot_be_is_refused_at_once(task, shard, shards, error):
    with pytest.raises(error, match="got (the task 'qa6', expected one of qa1|shard 2 of 2)"):
        make_stories(task, 0, shard, shards)
