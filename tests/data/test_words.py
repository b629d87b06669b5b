"""RULER's six million keys, never built."""

import sys
from bisect import bisect_left
from importlib import resources

import pytest
from hypothesis import given
from hypothesis import strategies as st

from titans_mini.data import words
from titans_mini.data.words import KeyWords, ruler_words

PARTS = st.lists(st.text("ab-", max_size=4), min_size=1, max_size=8)


@given(PARTS, PARTS)
def test_the_same_as_building_and_sorting_them(adjectives, nouns):
    expected = sorted({f"{a}-{n}" for a in adjectives for n in nouns})
    keys = KeyWords(adjectives, nouns)
    assert len(keys) == len(expected) and list(keys) == expected
    assert [keys[-1], keys[-len(keys)]] == [expected[-1], expected[0]]
    for outside in (len(keys), -len(keys) - 1):
        with pytest.raises(IndexError):
            keys[outside]


@pytest.mark.parametrize("lists", [((), ("a",)), (("a",), ())])
def test_an_empty_list_is_refused(lists):
    with pytest.raises(ValueError, match="KeyWords: got an empty list"):
        KeyWords(*lists)


def test_rulers_words():
    keys = ruler_words()
    assert len(keys) == 6_171_620
    places = [0, 1_234_567, 3_000_000, 6_171_619]
    assert [keys[i] for i in places] == sorted(keys[i] for i in places)
    assert keys[bisect_left(keys, "wandering-loneliness")] == "wandering-loneliness"
    assert all(" -" not in keys[i] for i in range(0, len(keys), 997)), "no space at the end of an adjective"


def test_without_wonderwords(monkeypatch):
    monkeypatch.setitem(sys.modules, "wonderwords", None)
    with pytest.raises(ImportError, match="pip install wonderwords"):
        words._read("nounlist.txt", words.WORD_LISTS["nounlist.txt"])


def test_another_version_of_wonderwords(monkeypatch, tmp_path):
    (tmp_path / "assets").mkdir()
    (tmp_path / "assets" / "nounlist.txt").write_text("cat\n")
    monkeypatch.setattr(resources, "files", lambda package: tmp_path)
    with pytest.raises(ValueError, match="got nounlist.txt with sha256 .*other words"):
        words._read("nounlist.txt", words.WORD_LISTS["nounlist.txt"])
    with pytest.raises(ImportError, match="got no adjectivelist.txt"):
        words._read("adjectivelist.txt", words.WORD_LISTS["adjectivelist.txt"])
