"""Text and digits that need no download."""

import ast
import sys

import pytest
import torch

from titans_mini.data import code, digits, encode, english, held_out, to_bytes, vocabulary


def test_english_is_prose():
    text = english()
    assert 5_000 < len(text) < 30_000
    assert text == english()
    for mark in ("****", "====", "::=", "``", ">>>", "\n\n", "  "):
        assert mark not in text
    lines = text.split("\n")
    assert all(len(line) > 20 and line == line.strip() for line in lines)
    assert text.lower().split().count("the") > 80


def test_english_by_topic():
    assert english("truth").startswith("Any object can be tested for truth value")
    assert english("truth", "while") == english("truth") + "\n" + english("while")
    with pytest.raises(KeyError, match="got topic 'nope', expected one of .*while"):
        english("truth", "nope")


def test_code_of_a_module_and_of_one_function():
    assert ast.parse(code("heapq")).body
    text = code("bisect:bisect_right")
    assert text.startswith("def bisect_right(a, x") and text in code("bisect")
    assert ast.parse(text).body[0].name == "bisect_right"


@pytest.mark.parametrize("name, words", [("nope", "module"), ("sys", "module"), ("bisect:nope", "function or class")])
def test_code_that_is_not_there(name, words):
    with pytest.raises(ValueError, match=f"got '{name}', expected a {words}"):
        code(name)


def test_bytes_and_characters():
    assert to_bytes("aé").tolist() == [97, 195, 169]
    assert vocabulary("hello") == "ehlo"
    assert encode("hello", "ehlo").tolist() == [1, 0, 2, 2, 3]
    assert encode("", "ehlo").shape == to_bytes("").shape == (0,)
    with pytest.raises(ValueError, match="got the character 'x'"):
        encode("hex", "ehlo")


def test_the_end_is_held_out():
    assert held_out("abcdefghij", 0.2) == ("abcdefgh", "ij")
    ids = torch.arange(1000)
    train, validation = held_out(ids)
    assert torch.equal(torch.cat([train, validation]), ids) and len(validation) == 100
    for text, share in (("ab", 0.0), ("ab", 1.0), ("ab", 0.2), ("", 0.5), ("ab", -0.5), ("ab", 1.5)):
        with pytest.raises(ValueError, match=f"held_out: got {len(text)} and share={share}"):
            held_out(text, share)


def test_digits_are_shuffled_by_the_seed_alone():
    images, labels = digits()
    assert images.shape == (1797, 64) and images.dtype == torch.float32
    assert labels.shape == (1797,) and labels.dtype == torch.int64
    assert images.min() == 0 and images.max() == 1
    assert set(labels[:200].tolist()) == set(range(10))
    again, other = digits(0), digits(1)
    assert torch.equal(again[0], images) and torch.equal(again[1], labels)
    assert not torch.equal(other[1], labels)
    assert torch.equal(other[1].bincount(), labels.bincount())


def test_digits_without_scikit_learn(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match="pip install scikit-learn"):
        digits()
