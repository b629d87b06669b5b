"""Novels are clean and split by whole books; invented names replace all names of a book, the same for the same seed."""

import os
import random
import re
from pathlib import Path

import pytest

from tests.data import standin
from titans_mini.data import KNOWN, novel
from titans_mini.data.invented import NAME, invent, letter_chain, names_of, with_invented_names
from titans_mini.data.novels import TEST, TRAIN, VALIDATION, gutenberg_body

ALL = (*TRAIN, *VALIDATION, *TEST)
DATA = Path(os.environ.get("TITANS_DATA", "no data"))


def test_seventeen_books_each_in_one_part():
    assert len(ALL) == len(set(ALL)) == 17 and len(VALIDATION) == 2 and len(TEST) == 5
    books = {name for name, known in KNOWN.items() if known.path.startswith("text/books/")}
    assert set(ALL) == books and {"emma", "the_hound_of_the_baskervilles"} <= set(TEST)
    for name in books:
        known = KNOWN[name]
        commit, number = re.fullmatch(r".*GITenberg/[\w-]+/([0-9a-f]{40})/(\d+)\.txt", known.url).groups()
        assert known.path == f"text/books/{name}_pg{number}.txt" and len(known.sha256) == 64
    assert len({known.sha256 for known in KNOWN.values()}) == len(KNOWN)


def test_a_book_without_its_licence(tmp_path, monkeypatch):
    standin.write(tmp_path, monkeypatch, ["emma"], 3)
    assert novel("emma") == "\n".join(standin.prose(0, 3)) + "\n"


def test_paragraphs_become_lines(tmp_path, monkeypatch):
    standin.write(tmp_path, monkeypatch, ["emma"], 1)
    (tmp_path / KNOWN["emma"].path).write_bytes(b"  A\r\n   title \r\n \t\r\n\r\n\r\nTwo  lines\r\nof it.\r\n")
    monkeypatch.setitem(KNOWN, "emma", KNOWN["emma"]._replace(sha256="0" * 64))
    with pytest.raises(ValueError, match="was changed"):
        novel("emma")
    monkeypatch.setattr("titans_mini.data.novels.fetch", lambda name: tmp_path / KNOWN[name].path)
    assert novel("emma") == "A title\nTwo lines of it.\n"
    assert gutenberg_body(b"as it is\r\n") == "as it is\n"


def test_an_unknown_novel():
    with pytest.raises(KeyError, match="got the novel 'sherlock', expected one of adventures"):
        novel("sherlock")


@pytest.mark.parametrize("name", ["emma", "wuthering_heights", "the_memoirs_of_sherlock_holmes"])
def test_the_real_books(name):
    if not (DATA / KNOWN[name].path).is_file():
        pytest.skip("the novels are not on this machine; cleaning is tested on a made-up book above")
    text = novel(name)
    assert "Gutenberg" not in text and "\r" not in text and "  " not in text and "\n\n" not in text
    assert not re.match("Produced|Transcribed", text) and text.isascii() and len(text) > 300_000


# -- invented names -------------------------------------------------------------------------------------------------

TEXT = "\n".join(standin.prose(3, 200)) + "\n"
NAMES = names_of(TEXT)
CHAIN = letter_chain(standin.PEOPLE)


def test_names_are_found_by_their_capital_letter():
    assert len(NAMES) == 4 and set(NAMES) <= set(standin.PEOPLE)
    assert names_of("He met Anna, Anna and Mr. Anna. But Sir, Sir or Sir went. Will will, will Will or Will.") == [
        "Anna"
    ]


def test_an_invented_name_looks_like_one():
    names = {invent(CHAIN, random.Random(i)) for i in range(200)}
    assert len(names) > 20 and all(re.fullmatch("[A-Z][a-z]{3,9}", name) for name in names)
    with pytest.raises(ValueError, match="without a name of 4 to 10 letters"):
        invent(letter_chain(["Abc"]), random.Random(0))


def test_all_names_go_and_nothing_else():
    new = with_invented_names(TEXT, NAMES, CHAIN, "0 x")
    pattern = re.compile(r"\b[A-Z][a-z]{3,}\b(?<!They)(?<!That)(?<!When)(?<!With)(?<!Said)")
    assert pattern.sub("N", new) == pattern.sub("N", TEXT)
    kept = [(a, b) for a, b in zip(NAME.findall(TEXT), NAME.findall(new), strict=True) if a == b]
    assert len(kept) < 0.2 * len(NAME.findall(TEXT)), "the chain makes a name of its own now and then"


def test_names_change_every_few_pages_and_by_the_seed():
    new = with_invented_names(TEXT, NAMES, CHAIN, "0 x")
    assert new == with_invented_names(TEXT, NAMES, CHAIN, "0 x") != with_invented_names(TEXT, NAMES, CHAIN, "1 x")
    assert with_invented_names("", NAMES, CHAIN, 0) == ""
    was, now = NAME.findall(TEXT), NAME.findall(new)
    stands_for = [b for a, b in zip(was, now, strict=True) if a == NAMES[0]]
    changes = sum(a != b for a, b in zip(stands_for, stands_for[1:], strict=False))
    assert 200_000 / 60_000 - 1 < changes + 1 <= 200_000 / 8_000 + 1, "between 8,000 and 60,000 characters each"
    once = with_invented_names("I met Anna, Anna.\n", ["Anna"], CHAIN, 5)
    assert len(set(NAME.findall(once))) == 1, "the same name within a section"
