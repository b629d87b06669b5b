"""Permutations and parity: every label is the state after its move."""

from itertools import islice
from math import factorial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from titans_mini.data import ParityTask, PermutationTask

TASKS = [ParityTask(), ParityTask(7), *(PermutationTask(n, m) for n in (2, 3, 5) for m in ("all", "even", "swaps"))]


def by_hand(task, tokens, start):
    """Carry things about, one move at a time."""
    if isinstance(task, ParityTask):
        total = int(start)
        return [total := (total + int(token)) % task.modulus for token in tokens]
    rows = [tuple(row) for row in task.arrangements.tolist()]
    place = rows[int(start)]  # place[k]: where thing k lies
    states = []
    for token in tokens.tolist():
        place = tuple(rows[token][p] for p in place)
        states.append(rows.index(place))
    return states


@given(st.sampled_from(TASKS), st.integers(1, 4), st.integers(1, 30), st.integers(0, 2**31), st.integers(0, 9))
def test_every_label_is_the_state_after_its_move(task, batch, length, seed, index):
    made = task.batch(batch, length, seed, index)
    assert made.tokens.shape == made.targets.shape == (batch, length) and made.tokens.dtype == torch.int64
    assert made.start.tolist() == [0] * batch
    for tokens, targets in zip(made.tokens, made.targets, strict=True):
        assert targets.tolist() == by_hand(task, tokens, 0)
    assert 0 <= made.tokens.min() and max(made.tokens.max(), made.targets.max()) < task.vocab_size
    again = task.batch(batch, length, seed, index)
    assert torch.equal(again.tokens, made.tokens) and torch.equal(again.targets, made.targets)


@given(st.sampled_from(TASKS), st.integers(0, 2**31), st.integers(1, 12))
def test_a_stream_goes_on_where_it_stopped(task, seed, length):
    stretches = list(islice(task.stream(2, length, seed), 4))
    for one, two in zip(stretches, stretches[1:], strict=False):
        assert torch.equal(one.targets[:, -1], two.start)
    tokens, targets = (torch.cat([part[i] for part in stretches], 1) for i in (0, 1))
    assert [row.tolist() for row in targets] == [by_hand(task, row, 0) for row in tokens]
    assert torch.equal(task.follow(tokens), targets)


def test_parity_is_parity():
    tokens = torch.tensor([[1, 0, 1, 1, 0, 0, 1]])
    assert ParityTask().follow(tokens).tolist() == [[1, 1, 0, 1, 1, 1, 0]]
    assert ParityTask().follow(tokens, torch.tensor([1])).tolist() == [[0, 0, 1, 0, 0, 0, 1]]


@pytest.mark.parametrize("things", [2, 3, 4, 5, 6])
def test_products_are_a_group(things):
    task = PermutationTask(things)
    products, size = task.products, factorial(things)
    assert task.vocab_size == size and task.arrangements[0].tolist() == list(range(things))
    assert torch.equal(products[0], torch.arange(size)) and torch.equal(products[:, 0], torch.arange(size))
    assert torch.equal(products.sort(-1).values, torch.arange(size).expand(size, size)), "each row every state once"
    a, b, c = torch.randint(size, (3, 500), generator=torch.Generator().manual_seed(0))
    assert torch.equal(products[products[a, b], c], products[a, products[b, c]])
    assert things == 2 or not torch.equal(products, products.T), "the order of moves matters"


@pytest.mark.parametrize("things", [2, 3, 4, 5])
def test_kinds_of_moves(things):
    every, even, swaps = (PermutationTask(things, moves).moves_used for moves in ("all", "even", "swaps"))
    rows = PermutationTask(things).arrangements
    assert every.tolist() == list(range(factorial(things)))
    assert len(even) == factorial(things) // 2
    assert all(torch.det(torch.eye(things)[rows[i]]) > 0 for i in even)
    assert len(swaps) == things - 1
    for row in rows[swaps].tolist():
        moved = [k for k in range(things) if row[k] != k]
        assert len(moved) == 2 and moved[1] - moved[0] == 1


def test_moves_and_states_are_equally_frequent():
    task = PermutationTask(3)
    made = task.batch(64, 300, seed=1)
    for numbers in (made.tokens, made.targets):
        shares = numbers.flatten().bincount(minlength=6) / numbers.numel()
        assert (shares - 1 / 6).abs().max() < 0.01
    swaps = PermutationTask(5, "swaps").batch(64, 300, seed=1).tokens
    assert set(swaps.flatten().tolist()) == set(PermutationTask(5, "swaps").moves_used.tolist())
    even = PermutationTask(5, "even").batch(8, 50, seed=1)
    assert set(even.targets.flatten().tolist()) <= set(PermutationTask(5, "even").moves_used.tolist())


def test_numbers_of_batches_and_seeds_do_not_repeat():
    task = PermutationTask()
    rows = [tuple(row.tolist()) for s in range(3) for i in range(5) for row in task.batch(4, 20, s, i).tokens]
    rows += [tuple(row.tolist()) for row in next(task.stream(4, 20, 0)).tokens]
    assert len(set(rows)) == len(rows) == 64


def test_each_state_needs_every_move():
    """One move changed, however early, changes every later state."""
    task = PermutationTask(5)
    tokens = task.batch(1, 200, seed=3).tokens
    other = tokens.clone()
    other[0, 0] = (other[0, 0] + 1) % task.vocab_size
    assert (task.follow(tokens) != task.follow(other)).all()


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: ParityTask(1), "modulus: got 1"),
        (lambda: PermutationTask(1), "things: got 1, expected 2 … 6"),
        (lambda: PermutationTask(7), "things: got 7"),
        (lambda: PermutationTask(3, "odd"), "moves: got 'odd', expected one of all, even, swaps"),
        (lambda: ParityTask().batch(0, 5, seed=0), "got batch=0, length=5"),
        (lambda: PermutationTask().stream(2, 0, seed=0), "got batch=2, length=0"),
    ],
)
def test_what_cannot_be_is_refused_at_once(make, words):
    with pytest.raises(ValueError, match=words):
        make()
