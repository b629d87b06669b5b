"""Needles in haystacks: byte for byte what RULER's own code writes, and what no sample may ever break."""

import hashlib
import json
import os
import re
from itertools import islice
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from titans_mini.data.needle import NOISE, RULER_TASKS, NeedleTask, parse_needle, string_match_all
from titans_mini.data.ruler import DEPTHS, needles
from titans_mini.data.tokens import BYTES, gpt2

# RULER's own code (commit c3f5e3b4) was run on the settings below, outside of this project; recorded are fingerprints
# of what it wrote and, where it counted GPT-2's tokens, the counts in the order in which it asked for them.
WITH_GPT2 = [
    ("noise", "number", 512, "2ddf90fa75cfe2d9", [203, 606, 378, 478, 431, 406, 382, 268, 381, 318, 385, 259, 44]),
    ("noise", "number", 1024, "0051e4c345ca2ad2", [203, 1081, 628, 853, 956, 906, 878, 881, 568, 881, 568, 881, 193]),
    (
        *("noise", "number", 2048, "151046c7ddd82515"),
        [203, 2031, 1103, 1553, 1781, 1906, 1953, 1931, 1906, 1118, 1906, 343, 1906, 168],
    ),
    (
        *("noise", "number", 4096, "c1b6bbc5b11d60aa"),
        [703, 5831, 3253, 4528, 3881, 4206, 4028, 3956, 3981, 3956, 643, 3956, 318, 3956, 2443],
    ),
    ("noise", "uuid", 1024, "4b16ffbde5df6b83", [228, 1014, 603, 807, 908, 856, 879, 889, 397, 888, 548, 884, 572]),
]
WITH_BYTES = [
    ("noise", "number", 1500, 42, "binary", "b3315a5848886fb3"),
    ("noise", "number", 5000, 7, "binary", "153554cb3ab66c2c"),
    ("noise", "word", 1500, 3, "binary", "d752d63452c6142a"),
    ("noise", "uuid", 6000, 42, "linear", "65110e16e9e38ed6"),
    ("essay", "number", 6000, 42, "binary", "592672402959d1b0"),
    ("essay", "uuid", 12000, 42, "binary", "985c24a0acf04502"),
    ("essay", "number", 40000, 5, "binary", "19ff32450f0bf779"),  # longer than the essay, which is repeated
    ("essay", "uuid", 40000, 42, "linear", "9b1bd4a7e1c3d91c"),  # and here it is not
    ("essay", "number", 12000, 1, "linear", "939458f9654c678d"),
    ("essay", "number", 19000, 42, "linear", "fe6c83c4a4be1046"),  # all of it fits, half a step more does not
    ("noise", "number", 4982, 42, "linear", "cced7faec03637bf"),  # fits without the answer, not with it
]
NAMES = "river garden letter window doctor morning captain stone market winter violin island".split()
WORDS = [f"{a}-{b}" for a in ("red", "old", "quick") for b in NAMES]


def make_essay(sentences):
    """Make prose that is the same everywhere."""
    x, out = 1, []
    for _ in range(sentences):
        x = (x * 1103515245 + 12345) % 2**31
        first, second, no, again = NAMES[x % 12], NAMES[x // 12 % 12], x // 144 % 2, x // 288 % 4
        out.append(f"The {first} of the {second} was {'not ' * no}seen {'again ' * again}in year {x // 1000 % 900}.")
    return "  ".join(out)


ESSAY = make_essay(300)


def split(text):
    return re.split(r"(?<=\.) ", text)


def fingerprint(records):
    lines = "\n".join(json.dumps(record, sort_keys=True) for record in records)
    return hashlib.sha256(lines.encode()).hexdigest()[:16]


def golden_file(length):
    """Find samples written by RULER, on machines that have them."""
    path = Path(os.environ.get("TITANS_DATA", "no data")) / f"ruler/golden/niah_single_1_{length}.gpt2tok.seed42.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else None


def counter(counts):
    """Count GPT-2's tokens, or repeat the counts recorded where its vocabulary is not on this machine."""
    try:
        return gpt2()
    except ConnectionError:
        recorded = iter(counts)
        return lambda text: next(recorded)


# -- the same bytes as RULER --------------------------------------------------------------------------------------


@pytest.fixture
def no_network(monkeypatch):
    monkeypatch.setattr("urllib.request.urlopen", lambda *a, **k: (_ for _ in ()).throw(OSError("no network")))


@pytest.mark.parametrize("haystack, value, length, expected, counts", WITH_GPT2)
def test_gpt2_samples_are_rulers(no_network, haystack, value, length, expected, counts):
    made = needles(NeedleTask(haystack, value), length, count=counter(counts))
    records = [sample.as_ruler() for sample in islice(made, 3)]
    assert fingerprint(records) == expected
    golden = golden_file(length) if value == "number" else None
    assert golden is None or records == golden


@pytest.mark.parametrize("haystack, value, length, expected, counts", WITH_GPT2)
def test_token_counts_are_asked_for_in_rulers_order(haystack, value, length, expected, counts):
    recorded = iter(counts)
    made = needles(NeedleTask(haystack, value), length, count=lambda text: next(recorded))
    assert fingerprint(sample.as_ruler() for sample in islice(made, 3)) == expected
    assert list(recorded) == [], "not one count more or less: each costs a pass over the prompt"


@pytest.mark.parametrize("haystack, value, length, seed, search, expected", WITH_BYTES)
def test_byte_samples_are_rulers(haystack, value, length, seed, search, expected):
    options = dict(seed=seed, essay=ESSAY, sentences=split, search=search)
    made = islice(needles(NeedleTask(haystack, value), length, **options), 4)
    assert fingerprint(sample.as_ruler() for sample in made) == expected


def test_space_around_an_essay_counts_as_in_ruler():
    options = dict(seed=3, essay=" \n" + ESSAY, sentences=split)
    made = islice(needles(NeedleTask("essay", "number"), 9000, **options), 4)
    assert fingerprint(sample.as_ruler() for sample in made) == "90c2496cca2150a7"


@pytest.mark.parametrize("length", [512, 1024])
def test_a_sample_from_elsewhere_can_be_taken_apart_and_put_together(length):
    golden = golden_file(length) or [s.as_ruler() for s in islice(needles(length=4 * length, seed=9), 3)]
    for record in golden:
        task, key, value, context = parse_needle(record["input"] + record["answer_prefix"])
        assert task == RULER_TASKS["niah_single_1"] and [value] == record["outputs"]
        lines = context.split("\n")
        needle = f"One of the special magic numbers for {key} is: {value}."
        assert set(lines) == {NOISE, needle} and lines.count(needle) == 1 and lines[-1] == NOISE
        question = f"What is the special magic number for {key} mentioned in the provided text?"
        assert record["input"].split("\n")[1:] == [*lines, question]
        assert record["input"][record["index"] :].startswith(value)


def test_depths_are_numpys():
    import numpy as np

    assert list(DEPTHS) == np.round(np.linspace(0, 100, num=40, endpoint=True)).astype(int).tolist()


# -- what holds for every sample ----------------------------------------------------------------------------------


@settings(max_examples=25)
@given(
    st.sampled_from(["noise", "essay"]),
    st.sampled_from(["number", "uuid", "word"]),
    st.sampled_from(["number", "uuid", "word"]),
    st.integers(5_200, 9_000),
    st.integers(0, 2**32),
    st.sampled_from(["binary", "linear"]),
)
def test_what_every_sample_keeps(haystack, value, key, length, seed, search):
    task = NeedleTask(haystack, value, key)
    options = dict(seed=seed, essay=ESSAY, sentences=split, search=search, words=WORDS)
    first, second = islice(needles(task, length, **options), 2)
    assert [first, second] == list(islice(needles(task, length, **options), 2)), "the seed decides"
    assert first.input != second.input
    for sample in (first, second):
        prompt = sample.input + sample.answer_prefix
        assert len(prompt.encode()) + 128 == sample.length <= length
        if sample.key != sample.value:
            assert sample.input.count(sample.value) == 1 and prompt.count(sample.key) == 3
        assert sample.input.index(sample.value) == sample.index == sample.token_position_answer
        assert 0 < sample.depth < 1
        parsed, found_key, found_value, context = parse_needle(prompt)
        assert (parsed, found_key, found_value) == (task, sample.key, sample.value)
        hay = context.replace(f"One of the special magic {value}s for {found_key} is: {found_value}.", "", 1)
        if haystack == "noise":
            assert hay.split("\n").count(NOISE) == sample.size == len(hay.split("\n")) - 1
        else:
            assert hay.split() == ESSAY.split()[: sample.size]


@pytest.mark.parametrize("count", [BYTES, lambda text: len(text.split())])
@pytest.mark.parametrize("length", [3_000, 4_096])
def test_the_budget_is_used_up_to_one_unit(count, length):
    sample = next(needles(length=length, count=count))
    assert length - 2 * count(NOISE + "\n") - 20 < sample.length <= length


def test_the_needle_goes_everywhere():
    depths = [s.depth for s in islice(needles(length=3_000, seed=1), 200)]
    assert min(depths) < 0.15 and max(depths) > 0.85 and 0.4 < sum(depths) / 200 < 0.6
    made = list(islice(needles("niah_single_2", 7_000, essay=ESSAY, sentences=split, words=WORDS), 300))
    largest = max(sample.size for sample in made)
    before = {sample.input.split("One of the special")[0] for sample in made if sample.size == largest}
    assert 35 <= len(before) <= 40, "forty depths"


def test_a_needle_stands_before_the_first_and_after_the_last_sentence():
    made = islice(needles("niah_single_2", 8_000, essay=ESSAY, sentences=split, words=WORDS), 300)
    contexts = [parse_needle(sample.input)[3] for sample in made]
    assert any(context.startswith(" One of") for context in contexts), "RULER's own leading space"
    assert any(re.search(r"is: \d+\. $", context) for context in contexts)


def test_own_text_and_the_text_that_python_ships():
    own = next(needles("niah_single_3", 5_000, essay="Café après café. " * 3, words=WORDS))
    assert "Café après café. Café" in own.input and own.length <= 5_000
    assert "truth value" in next(needles("niah_single_2", 9_000, words=WORDS)).input


def test_seeds_are_shards_of_their_own():
    shards = [{(s.key, s.value) for s in islice(needles(length=1_500, seed=42 + n), 30)} for n in range(3)]
    assert len(set.union(*shards)) == 90, "RULER's shard n has the seed 42 + n"


def test_sentences_are_split_once_a_size():
    calls = []

    def counting(text):
        calls.append(len(text))
        return split(text)

    list(islice(needles("niah_single_2", 6_000, essay=ESSAY, sentences=counting, words=WORDS, seed=2), 50))
    assert len(calls) < 25


def test_memory_does_not_grow_with_the_number_of_samples():
    import tracemalloc

    made = needles(length=4_096, words=WORDS)
    next(made)
    tracemalloc.start()
    for _ in islice(made, 50):
        pass
    first = tracemalloc.get_traced_memory()[0]
    for _ in islice(made, 200):
        pass
    grown = tracemalloc.get_traced_memory()[0] - first
    tracemalloc.stop()
    assert grown < 20_000


# -- what cannot be -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments, error, words",
    [
        (dict(task="niah_single_4"), KeyError, "got the task 'niah_single_4', expected one of niah_single_1"),
        (dict(search="fast"), ValueError, "search: got 'fast'"),
        (dict(task="niah_single_2", essay="  \n "), ValueError, "essay: got an empty text"),
    ],
)
def test_what_cannot_be_is_refused_at_once(arguments, error, words):
    with pytest.raises(error, match=words):
        needles(**arguments)


@pytest.mark.parametrize("search", ["binary", "linear"])
@pytest.mark.parametrize("task, length", [("niah_single_1", 700), ("niah_single_2", 2_000), ("niah_single_1", 100)])
def test_a_budget_that_holds_nothing_is_refused(task, length, search):
    with pytest.raises(ValueError, match=rf"length: got {length}, of which 128 are reserved.*raise the length"):
        next(needles(task, length, search=search, words=WORDS, essay=ESSAY))


def test_a_tight_budget_is_met_at_a_later_try():
    words = ["long-" + "x" * 60, "a-b"]
    sample = next(needles(length=960, words=words, seed=0))
    assert sample.key == "a-b" and sample.length <= 960


@pytest.mark.parametrize("task", [("hay", "number"), ("noise", "numbers"), ("noise", "number", "name")])
def test_a_task_that_cannot_be(task):
    with pytest.raises(ValueError, match="got '(hay|numbers|name)'"):
        NeedleTask(*task)


def test_what_is_no_prompt_of_rulers_is_refused():
    good = next(needles(length=1_500, words=WORDS)).input
    needle = good.split("\n")[[line.startswith("One") for line in good.split("\n")].index(True)]
    for bad in ("hello", good.replace(needle, needle + " " + needle), good.replace(needle, NOISE)):
        with pytest.raises(ValueError, match="got [02] needles"):
            parse_needle(bad)
    for bad in (good[1:], good[:-1], good + " and more"):
        with pytest.raises(ValueError, match="expected RULER's words around the haystack"):
            parse_needle(bad)


# -- scoring ------------------------------------------------------------------------------------------------------


def test_string_match_all():
    assert string_match_all(["it is 1234567.", "no"], [["1234567"], ["7654321"]]) == 50.0
    assert string_match_all(["AbC"], [["aBc", "x"]]) == 50.0, "every right answer counts its share, in any case"
    assert string_match_all(["1", "2", "x"], [["1"], ["2"], ["3"]]) == 66.67
    with pytest.raises(ValueError):
        string_match_all(["a"], [["a"], ["b"]])
    with pytest.raises(ValueError, match="got no predictions"):
        string_match_all([], [])
