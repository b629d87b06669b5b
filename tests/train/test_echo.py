"""Batches of repeating pieces: what repeats, what does not, what is asked; the same number gives the same batch."""

import pytest
import torch

from titans_mini.data.recall import IGNORE
from titans_mini.train.echo import LETTERS, Echo


def echo(**options):
    text = 1000 + torch.arange(200)  # no letter among them
    return Echo(text, **{"batch": 8, "length": 40, "shortest": 5, "longest": 9} | options)


def period_of(row):
    found = [p for p in range(5, 10) if torch.equal(row[p:], row[:-p])]
    assert found, "nothing repeats"
    return found[0]


def is_nonsense(row):
    return bool((row >= LETTERS[0]).all() and (row < LETTERS[1]).all())


def test_half_is_text_a_quarter_repeats_it_a_quarter_repeats_nonsense():
    tokens, targets = echo()(3)
    assert tokens.shape == targets.shape == (8, 40)
    assert (targets[::2] == tokens[::2] + 1).all()  # the text counts up
    for row in (1, 5):
        p = period_of(tokens[row])
        assert torch.equal(tokens[row, :p], tokens[row, 0] + torch.arange(p))
        assert torch.equal(targets[row, :-1], tokens[row, 1:])  # all of it is text, and asked
    for row in (3, 7):
        p = period_of(tokens[row])
        assert is_nonsense(tokens[row]) and len(tokens[row, :p].unique()) > 2
        assert (targets[row, : p - 1] == IGNORE).all()  # nobody can foresee it the first time
        assert torch.equal(targets[row, p - 1 : -1], tokens[row, p:])
    assert not torch.equal(tokens[3], tokens[7])


def test_the_drill_is_nonsense_alone_and_ends():
    tokens, targets = echo(drill=2)(1)
    assert all(is_nonsense(row) and period_of(row) for row in tokens)
    assert (targets[:, :4] == IGNORE).all() and (targets[:, 9:] != IGNORE).all()
    assert torch.equal(echo(drill=2)(2).tokens, echo()(2).tokens)


def test_a_batch_is_a_function_of_its_number_and_seed():
    a, b = echo()(7), echo()(7)
    assert torch.equal(a.tokens, b.tokens)
    assert not torch.equal(a.tokens, echo()(8).tokens) and not torch.equal(a.tokens, echo(seed=1)(7).tokens)


@pytest.mark.parametrize("wrong", [{"shortest": 0}, {"longest": 4}, {"longest": 41}])
def test_pieces_that_cannot_be_are_refused(wrong):
    with pytest.raises(ValueError, match="Echo: got pieces"):
        echo(**wrong)
    with pytest.raises(ValueError, match="N > length"):
        echo(length=200)
