"""How long a text is, and where its sentences end."""

import hashlib
import json
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from titans_mini.data import KNOWN, english
from titans_mini.data.tokens import BYTES, gpt2, split_sentences


@given(st.text())
def test_bytes_there_and_back(text):
    text = text.encode("utf-8", "ignore").decode()
    assert BYTES(text) == len(text.encode()) and BYTES.decode(BYTES.encode(text)) == text


def test_half_a_character_is_dropped():
    assert BYTES.decode(BYTES.encode("aé")[:-1]) == "a"


@pytest.fixture
def tiny_gpt2(monkeypatch, tmp_path):
    """Files of the form of GPT-2's, with 256 bytes and two merges: what is left where the real ones are not here."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letter = {b: chr(b) for b in printable}
    rest = [b for b in range(256) if b not in letter]
    letter.update({b: chr(256 + i) for i, b in enumerate(rest)})
    order = [letter[b] for b in (*printable, *rest)]
    merges = ["h e", "he l"]
    tokens = [*order, "he", "hel"]
    vocab = "#version: 0.2\n" + "\n".join(merges) + "\n"
    encoder = json.dumps({token: i for i, token in enumerate(tokens)})
    (tmp_path / "tokenizer").mkdir()
    for name, content in (("gpt2_vocab", vocab), ("gpt2_encoder", encoder)):
        known = KNOWN[name]._replace(sha256=hashlib.sha256(content.encode()).hexdigest())
        (tmp_path / known.path).write_text(content, encoding="utf-8")
        monkeypatch.setitem(KNOWN, name, known)
    monkeypatch.setenv("TITANS_DATA", str(tmp_path))
    gpt2.cache_clear()
    yield
    gpt2.cache_clear()


def test_gpt2_from_its_two_files(tiny_gpt2):
    coder = gpt2()
    assert len(coder.encode("hello")) == coder("hello") == 3  # hel, l, o
    assert coder.decode(coder.encode("hello wörld 🙂")) == "hello wörld 🙂"
    assert coder.decode(coder.encode("ö")[:1]) == ""
    assert coder("<|endoftext|>") > 1, "text is text, special or not"


def test_gpt2_proper():
    gpt2.cache_clear()
    try:
        coder = gpt2()
    except ConnectionError as error:
        assert "TITANS_DATA" in str(error)  # offline and without the files: it says what to do
        return
    assert coder.encode("Hello world") == [15496, 995]
    assert coder("The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again.\n") == 25


def test_gpt2_without_tiktoken(monkeypatch):
    gpt2.cache_clear()
    monkeypatch.setitem(sys.modules, "tiktoken", None)
    with pytest.raises(ImportError, match="pip install tiktoken"):
        gpt2()


@given(st.text("aB.!? \n\"')1", max_size=60))
def test_sentences_are_the_text(text):
    sentences = split_sentences(text)
    assert " ".join(sentences) == " ".join(text.split())
    assert all(s and s == s.strip() for s in sentences)


@pytest.mark.parametrize(
    "text, expected",
    [
        ("One. Two! Three? Four", ["One.", "Two!", "Three?", "Four"]),
        ('He said "Stop." Then he\nleft.', ['He said "Stop."', "Then he left."]),
        ("Dr. Watson met Mr. J. S. Holmes. They talked.", ["Dr. Watson met Mr. J. S. Holmes.", "They talked."]),
        ("It cost 3.50 in all. 20 were sold.", ["It cost 3.50 in all.", "20 were sold."]),
        ("see e.g. below. and on", ["see e.g. below. and on"]),
        ('"Why?" asked she. (Nobody knew.) “So.”', ['"Why?" asked she.', "(Nobody knew.)", "“So.”"]),
        ("", []),
    ],
)
def test_where_sentences_end(text, expected):
    assert split_sentences(text) == expected


def test_sentences_of_real_prose():
    lengths = [len(s.split()) for s in split_sentences(english())]
    assert 8 < sum(lengths) / len(lengths) < 40


def test_importing_the_data_needs_none_of_the_extras():
    extras = "{'tiktoken', 'wonderwords', 'nltk', 'sklearn', 'matplotlib', 'huggingface_hub'}"
    line = f"import sys, titans_mini.data; print({extras} & {{name.split('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", line], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
