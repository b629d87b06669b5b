"""The evenings of lesson 02: a recorded one, and the three events that interrupt a quiet one."""

import torch

from titans_mini.data.evening import spell
from titans_mini.exercises.cloakroom import record_evening, three_events


def test_a_recorded_evening_follows_the_rule_visit_by_visit():
    g = torch.Generator().manual_seed(0)
    book, keys, values = (torch.randn(n, 3, generator=g, dtype=torch.float64) for n in (3, 4, 4))
    eta = torch.tensor([0.0, 0.5, 0.9, 0.2], dtype=torch.float64)
    trace = record_evening(book, keys, values, eta, 0.1)
    M, S = book, torch.zeros_like(book)
    for t, (k, v) in enumerate(zip(keys, values, strict=True)):
        S = eta[t] * S - 0.1 * 2 * torch.outer(k, k @ M - v)
        M = M + S
        torch.testing.assert_close(trace.weights[0][t + 1, 0, 0], M, atol=1e-12, rtol=0)
        torch.testing.assert_close(trace.momentum[0][t + 1, 0, 0], S, atol=1e-12, rtol=0)


def test_nothing_surprises_the_book_before_the_event():
    eight, anna = spell(*"Bob Kim Ted Guy Ross Val Chaz Finn".split()), spell("Anna")[0]
    events, book = three_events(eight, anna, at=8)
    assert list(events) == ["a slip of the tongue", "a new order", "a new guest"]
    for keys, values, asked, right, _ in events.values():
        wrong = (keys @ book - values).norm(dim=-1)  # of the book of the morning
        assert len(keys) == len(values) == 48 and wrong[:8].max() < 1e-12 and wrong[8] > 0.5
        assert asked.shape == right.shape == (len(asked), 26)
    slip, order, guest = events.values()
    assert ((slip[1] - slip[0] @ book).norm(dim=-1) > 0.5).sum() == 1
    assert ((order[1] - order[0] @ book).norm(dim=-1) > 0.5).sum() == 40
    assert torch.allclose(guest[0][9:16], 0.3 * anna) and torch.equal(guest[0][16:], slip[0][16:])
