"""Generators from several numbers."""

import pytest
import torch

from titans_mini.data.seeds import generator


def draw(*numbers):
    return torch.rand(4, generator=generator(*numbers)).tolist()


def test_every_number_matters_and_repeats():
    cases = [(0, 0), (0, 1), (1, 0), (1, 1), (2**40, 1), (0,), (0, 2**32), (0, 0, 1)]
    drawn = [tuple(draw(*case)) for case in cases]
    assert len(set(drawn)) == len(cases) and draw(1, 0) == draw(1, 0)


def test_torch_keeps_32_bits_of_a_seed():
    """Why there is a function for this; when it fails, torch has changed and `generator` could become simpler."""
    a, b = (torch.rand(4, generator=torch.Generator().manual_seed(s)) for s in (5, 5 + (1 << 32)))
    assert torch.equal(a, b)


def test_negative_numbers_are_refused():
    with pytest.raises(ValueError, match="got \\(-1,\\)"):
        generator(-1)
