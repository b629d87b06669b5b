"""Batches of repeating pieces: every other sequence repeats, the rest is text; the same number gives the same batch."""

import pytest
import torch

from titans_mini.train.echo import Echo


def echo(**options):
    return Echo(torch.arange(200), **{"batch": 4, "length": 40, "shortest": 5, "longest": 9} | options)


def test_every_other_sequence_repeats_and_the_rest_is_the_text():
    tokens, targets = echo()(3)
    assert tokens.shape == targets.shape == (4, 40) and torch.equal(tokens[:, 1:], targets[:, :-1])
    assert (targets[::2] == tokens[::2] + 1).all()  # the text counts up
    for row in tokens[1::2]:
        periods = [p for p in range(5, 10) if torch.equal(row[p:], row[:-p])]
        assert len(periods) == 1 and torch.equal(row[: periods[0]], row[0] + torch.arange(periods[0]))


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
