"""Byte-pair pieces: any text there and back without a library, and the same pieces as the library's."""

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.data import standin
from titans_mini.data import KNOWN, novel
from titans_mini.data import pieces as module
from titans_mini.data.novels import TEST, TRAIN, VALIDATION
from titans_mini.data.pieces import SIZE, WORDS, BytePairs, byte_pairs, learn, letters, pieces

DATA = Path(os.environ.get("TITANS_DATA", "no data"))
PROSE = "\n".join(standin.prose(1, 60)) + "\n"
STRANGE = "naïve 🙂 日本語\u2028\x85 \x1c don't I'll 'tis __x__ 1,234  \t\n\n  Ünïcode\u0301 ٣ ² "


def library(merges):
    """Build Hugging Face's tokenizer of the same merges and ids."""
    tokenizers = pytest.importorskip("tokenizers", reason="needs the extra `prepare`")
    spelled = letters()
    for left, right in merges:
        spelled.append(spelled[left] + spelled[right])
    vocabulary = {piece: i for i, piece in enumerate(spelled)}
    coder = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, [(spelled[a], spelled[b]) for a, b in merges]))
    split = tokenizers.pre_tokenizers.Split(tokenizers.Regex(WORDS), "isolated")
    bytelevel = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    coder.pre_tokenizer = tokenizers.pre_tokenizers.Sequence([split, bytelevel])
    return coder


def shipped():
    return module._shipped()


def test_what_is_shipped():
    coder = pieces()
    assert coder.name == "pieces" and coder.vocab_size == SIZE == len(byte_pairs().pieces) == 2048
    assert coder.separator is None and len(coder.digest) == 64
    assert len(set(byte_pairs().pieces)) == SIZE and byte_pairs().pieces[:256] == [bytes([i]) for i in range(256)]
    path = next(folder / module.FILE for folder in module.FOLDERS if (folder / module.FILE).is_file())
    assert path.stat().st_size <= 40_000
    record = shipped()["record"]
    assert set(record["texts"]) == set(TRAIN) and record["words"] == WORDS and record["command"] == module.COMMAND


@given(st.text())
def test_any_text_there_and_back(text):
    text = text.encode("utf-8", "ignore").decode()
    coder = pieces()
    assert coder.decode(coder.encode(text)) == text and coder(text) <= len(text.encode())


def test_strange_texts():
    coder = pieces()
    assert coder.decode(coder.encode(STRANGE)) == STRANGE and coder.encode("") == []
    assert coder.decode(coder.encode("aé")[:-1]) == "a", "half a character is dropped"
    assert coder.encode("\ud800") == list(b"\xed\xa0\x80"), "half a surrogate pair has bytes too"
    assert len(coder.encode(" the")) == 1


def test_merges_come_in_the_order_in_which_they_were_learned():
    coder = BytePairs([[97, 98], [98, 99], [256, 99], [97, 97], [259, 97]])
    assert coder.encode("abc") == [258] and coder.encode("bc") == [257] and coder.encode("aaaaa") == [259, 260]
    assert coder.decode([258, 259]) == "abcaa"


@given(st.text("ab' 1.\n\tüé日", max_size=30))
def test_words_are_cut_as_the_library_cuts_them(text):
    merges = shipped()["merges"]
    assert pieces().encode(text) == library_of_the_shipped(merges).encode(text).ids


cache = {}


def library_of_the_shipped(merges):
    if "coder" not in cache:
        cache["coder"] = library(merges)
    return cache["coder"]


@given(st.text())
def test_the_library_agrees_on_any_text(text):
    text = text.encode("utf-8", "ignore").decode()
    assert pieces().encode(text) == library_of_the_shipped(shipped()["merges"]).encode(text).ids


@pytest.mark.parametrize("name", [*TRAIN[:2], *VALIDATION, *TEST])
def test_the_library_agrees_on_novels(name):
    text = novel(name)[50_000:90_000] if (DATA / KNOWN[name].path).is_file() else PROSE
    assert pieces().encode(text) == library_of_the_shipped(shipped()["merges"]).encode(text).ids
    assert pieces().decode(pieces().encode(text)) == text


def test_learning_pieces():
    pytest.importorskip("tokenizers", reason="needs the extra `prepare`")
    merges = learn([PROSE + STRANGE], 300)
    assert len(merges) == 44 and merges == learn([PROSE + STRANGE], 300)
    coder = BytePairs(merges)
    assert coder.encode(PROSE + STRANGE) == library(merges).encode(PROSE + STRANGE).ids
    assert len(coder.encode(PROSE)) < 0.6 * len(PROSE)


def test_the_shipped_pieces_are_those_of_the_novels():
    """Only where the novels are, and the library that made them."""
    tokenizers = pytest.importorskip("tokenizers", reason="needs the extra `prepare`")
    if not all((DATA / KNOWN[name].path).is_file() for name in TRAIN):
        pytest.skip("the novels are not on this machine; learning is tested on made-up prose above")
    if shipped()["record"]["tokenizers"] != tokenizers.__version__:
        pytest.skip("made with another version of tokenizers, which may break ties otherwise")
    assert learn(novel(name) for name in TRAIN) == shipped()["merges"]


def test_without_the_file_or_the_library(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "FOLDERS", (tmp_path,))
    with pytest.raises(FileNotFoundError, match="got no pieces.json, expected it in .*not installed completely"):
        module._shipped()
    monkeypatch.setitem(__import__("sys").modules, "tokenizers", None)
    with pytest.raises(ImportError, match="expected it to learn pieces: pip install"):
        learn([PROSE])
    assert json.dumps(letters())  # needs nothing
