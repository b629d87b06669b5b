"""Associative recall: what a sequence is made of, that the answer is in it once, and where."""

import pytest
import torch

from titans_mini.data.recall import IGNORE, RecallTask

TASK = RecallTask(pairs=4, questions=3, keys=8, values=6, noise=5)


def kinds(tokens, task=TASK):
    return torch.bucketize(
        tokens, torch.tensor([task.keys, task.keys + task.values]), right=True
    )  # 0 key 1 value 2 noise


@pytest.mark.parametrize("length", [15, 16, 40, 200])
@pytest.mark.parametrize("seed", [0, 1])
def test_every_question_is_answered_once_in_the_haystack(length, seed):
    made = TASK.batch(32, length, seed)
    room = length - 6
    for tokens, targets, depths in zip(*made, strict=True):
        row, kind = tokens.tolist(), kinds(tokens).tolist()
        pairs = {row[t]: (row[t + 1], t) for t in range(room) if kind[t] == 0}
        assert len(pairs) == kind[:room].count(0) == kind[:room].count(1) == 4
        assert all(kind[t + 1] == 1 for _, t in pairs.values())
        assert [t for t, x in enumerate(targets.tolist()) if x != IGNORE] == [room, room + 2, room + 4]
        for t, depth in zip((room, room + 2, room + 4), depths.tolist(), strict=True):
            value, place = pairs[row[t]]
            assert targets[t] == row[t + 1] == value and depth == pytest.approx(place / (room - 2))
        assert len({row[t] for t in (room, room + 2, room + 4)}) == 3


def test_places_are_uniform_and_reach_both_ends():
    depth = TASK.batch(4000, 60, 0).depth.flatten()
    assert depth.min() == 0 and depth.max() == 1
    counts = torch.histc(depth, 4, 0, 1) / len(depth)
    assert ((counts - 0.25).abs() < 0.02).all(), counts


@pytest.mark.parametrize("depth", [0.0, 0.3, 1.0])
def test_the_first_asked_pair_stands_where_it_should(depth):
    made = TASK.batch(64, 200, 0, depth=depth).depth[:, 0]
    assert ((made - depth).abs() < 0.03).all()  # the other pairs move it by a token or two
    one = RecallTask(1, 1).batch(64, 200, 0, depth=depth).depth
    assert ((one - depth).abs() < 0.005).all()


def test_a_stream_repeats_and_its_batches_differ():
    first, again, other, next_one = (TASK.batch(2, 30, *x) for x in ((7, 3), (7, 3), (8, 3), (7, 4)))
    assert torch.equal(first.tokens, again.tokens)
    assert not torch.equal(first.tokens, other.tokens) and not torch.equal(first.tokens, next_one.tokens)


def test_every_pair_is_asked_once_before_any_is_asked_again():
    made = RecallTask(pairs=3, questions=8, keys=8, values=6, noise=5).batch(16, 40, 0)
    for row in made.tokens[:, 24::2].tolist():
        assert len(set(row[:3])) == len(set(row[3:6])) == 3 and len(set(row)) == 3 and row[6] != row[7]
    orders = {tuple(row.index(x) for x in row[3:6]) for row in made.tokens[:, 24::2].tolist()}
    assert len(orders) > 2  # not the same order in every round


def test_a_value_says_nothing_without_its_pair():
    """The best guess that ignores the haystack is right once in `values` times."""
    made = TASK.batch(4000, 30, 0)
    answers = made.targets[made.targets != IGNORE] - TASK.keys
    assert (torch.bincount(answers, minlength=6) / len(answers)).max() < 1 / 6 + 0.02


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="as many keys as pairs"):
        RecallTask(pairs=5, keys=4)
    with pytest.raises(ValueError, match="expected all ≥ 1"):
        RecallTask(questions=0)
    with pytest.raises(ValueError, match="expected at least 15"):
        TASK.batch(1, 14, 0)
    with pytest.raises(ValueError, match="depth: got 1.5"):
        TASK.batch(1, 20, 0, depth=1.5)
