"""Batches by number, and the curve."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from titans_mini.data import Tokens, english, to_bytes
from titans_mini.data.recall import IGNORE, RecallTask
from titans_mini.train import Examples, History, Recall, ShuffledWindows, TextStreams, Windows
from titans_mini.train.sources import permuted

TEXT = torch.arange(50)


def equal(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def sources(seed):
    targets = torch.full((7, 4), IGNORE)
    targets[:, -1] = torch.arange(7)
    return {
        "recall": Recall(RecallTask(keys=8, values=8), 3, 24, seed),
        "windows": Windows(TEXT, 3, 8, seed),
        "examples": Examples(torch.arange(28).view(7, 4), targets, 2, seed),
        "shuffled": ShuffledWindows(Tokens.of(TEXT), 3, 8, seed),
        "streams": TextStreams(Tokens.of(TEXT, [4, 5, 16, 30, 50]), 2, 4, seed),
    }


@pytest.mark.parametrize("name", ["recall", "windows", "examples", "shuffled", "streams"])
def test_a_batch_depends_on_its_number_and_the_seed_alone(name):
    source = sources(5)[name]
    late = source(9)
    for i in range(3):
        source(i)
    assert equal(source(9), late) and equal(sources(5)[name](9), late)
    assert not equal(source(8), late) and not equal(sources(6)[name](9), late)


def test_a_window_asks_for_the_next_token():
    batch = Windows(TEXT, 400, 8)(0)
    assert batch.tokens.shape == batch.targets.shape == (400, 8)
    assert torch.equal(batch.targets, batch.tokens + 1)
    assert batch.tokens.min() == 0 and batch.targets.max() == 49  # both ends are reached


def test_each_example_comes_once_an_epoch():
    source = sources(0)["examples"]
    rows = torch.cat([source(i).tokens[:, 0] for i in range(3)])
    assert len(set(rows.tolist())) == 6
    assert not torch.equal(rows, torch.cat([source(i).tokens[:, 0] for i in range(3, 6)]))


# -- all windows, shuffled ------------------------------------------------------------------------------------------


@given(st.integers(1, 600), st.integers(0, 2**40), st.integers(0, 9))
def test_a_permutation(count, seed, epoch):
    there = permuted(np.arange(count), count, seed, epoch)
    assert there.dtype == np.int64 and sorted(there.tolist()) == list(range(count))
    places = np.array([count - 1, 0])
    assert permuted(places, count, seed, epoch).tolist() == there[places].tolist(), "a place at a time, or all at once"


def test_a_permutation_of_more_than_memory_holds():
    there = permuted(np.arange(10_000), 10**15, 3)
    assert len(set(there.tolist())) == 10_000 and there.max() < 10**15 and len(permuted(there[:0], 7, 3)) == 0
    assert abs(there.mean() / 10**15 - 0.5) < 0.02
    assert abs(np.corrcoef(there[1:], there[:-1])[0, 1]) < 0.05, "neighbours do not stay neighbours"


@pytest.mark.parametrize("count", [3, 10, 64])
def test_a_permutation_puts_each_number_everywhere(count):
    first = np.bincount([permuted(np.array([0]), count, seed)[0] for seed in range(200 * count)], minlength=count)
    assert ((first - 200) ** 2 / 200).sum() < 2.5 * count + 10  # χ², generous


@given(st.integers(1, 5), st.integers(1, 9), st.integers(1, 150), st.integers(0, 2**31))
def test_every_window_once_an_epoch(batch, length, more, seed):
    source = ShuffledWindows(Tokens.of(torch.arange(length + more)), batch, length, seed)
    n = source.windows
    batches = [source(i) for i in range(-(-3 * n // batch))]
    for made in batches:
        assert made.tokens.shape == (batch, length) and torch.equal(made.targets, made.tokens + 1)
        assert made.tokens.dtype == made.targets.dtype == torch.int64
    rows = torch.cat([made.tokens for made in batches])
    for epoch in range(3):
        read = rows[epoch * n : (epoch + 1) * n]
        assert len(read.unique()) == n * length, "no token twice"
        assert read.max() - read.min() == n * length - 1, "end to end"
    assert length + more - n * length <= 2 * length, "hardly any is left out"


def test_another_order_and_another_offset_each_epoch():
    source = ShuffledWindows(Tokens.of(torch.arange(1000)), 9, 100)
    epochs = [source(i).tokens[:, 0] for i in range(40)]
    assert source.windows == 9 and len({tuple((e // 100).tolist()) for e in epochs}) == 40
    assert len({int(e.min()) for e in epochs}) > 20 and all(int(e.min()) < 100 for e in epochs)


# -- texts side by side ---------------------------------------------------------------------------------------------

LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=25)


def streams(lengths, batch, length, seed=0):
    """Make streams of texts whose tokens are all different, so that each is its own place."""
    return TextStreams(Tokens.of(torch.arange(1, sum(lengths) + 1), np.cumsum(lengths)), batch, length, seed)


@given(LENGTHS, st.integers(1, 4), st.integers(1, 9), st.integers(0, 2**31))
def test_rows_put_together_are_the_texts(lengths, batch, length, seed):
    pieces = sum(-(-(n - 1) // length) for n in lengths)
    if pieces < batch:
        return
    source = streams(lengths, batch, length, seed)
    ends = np.cumsum(lengths)
    assert source.steps == pieces // batch
    for epoch in range(2):
        made = [source(epoch * source.steps + step) for step in range(source.steps)]
        assert made[0].fresh.all() and made[0].fresh.dtype == torch.bool and made[0].fresh.shape == (batch,)
        read, begun = [], 0
        for row in range(batch):
            stretches = []
            for part in made:
                real = part.targets[row] != IGNORE
                count = int(real.sum())
                assert 1 <= count and real[:count].all() and not part.tokens[row, count:].any(), (
                    "padded at the end only"
                )
                tokens, targets = part.tokens[row, :count].tolist(), part.targets[row, :count].tolist()
                assert targets == [token + 1 for token in tokens]
                if part.fresh[row]:
                    stretches.append([tokens[0]])
                assert tokens[0] == stretches[-1][-1], "it goes on where it stopped"
                assert count == length or targets[-1] in ends, "only the end of a text is padded"
                stretches[-1] += targets
            for number, stretch in enumerate(stretches):
                text = int(np.searchsorted(ends, stretch[0]))
                assert ends[text] >= stretch[-1], "one text at a time"
                first, last = stretch[0] == ends[text] - lengths[text] + 1, stretch[-1] == ends[text]
                assert (first or number == 0) and (last or number == len(stretches) - 1), "whole, but at a row's ends"
                begun += first
                read += stretch[1:]
        assert len(set(read)) == len(read) and sum(n - 1 for n in lengths) - len(read) < batch * length
        assert begun >= sum(n > 1 for n in lengths) - batch, "all texts, but for the tail"


def test_a_single_text_is_read_by_all_rows():
    source = streams([101], 4, 5)
    made = [source(i) for i in range(2 * source.steps)]
    assert source.steps == 5 and len(torch.cat([part.targets for part in made[:5]]).unique()) == 100
    assert [bool(part.fresh.all()) for part in made] == [True, *[False] * 4] * 2
    assert {
        tuple(streams([101], 4, 5, seed)(0).tokens[:, 0].tolist()) != tuple(made[0].tokens[:, 0].tolist())
        for seed in range(1, 9)
    } == {True}


def test_an_epoch_has_an_order_of_its_own():
    source = streams([7] * 30, 3, 3)
    starts = [torch.cat([source(e * source.steps + i).tokens[:, 0] for i in range(source.steps)]) for e in range(4)]
    assert len({tuple(s.tolist()) for s in starts}) == 4 and len({tuple(s.sort()[0].tolist()) for s in starts}) == 1


def test_any_batch_without_those_before():
    lengths = np.random.default_rng(0).integers(1, 60, 500).tolist()
    one = streams(lengths, 4, 8, 3)
    order = torch.randperm(3 * one.steps, generator=torch.Generator().manual_seed(0))[:40].tolist()
    for index in order:
        assert equal(one(index), streams(lengths, 4, 8, 3)(index))


def test_a_lone_token_and_real_text():
    assert streams([1, 1, 3, 1], 1, 4)(5).targets.tolist() == [[4, 5, IGNORE, IGNORE]]
    ids = to_bytes(english()).to(torch.uint8)
    made = TextStreams(Tokens.of(ids), 4, 64)(0)
    assert made.tokens.dtype == torch.int64 and torch.equal(made.tokens[:, 1:], made.targets[:, :-1])


def test_what_no_batch_can_be_made_of_is_refused():
    with pytest.raises(ValueError, match="N > length = 50"):
        Windows(TEXT, 2, 50)
    for batch, length in ((2, 50), (0, 5), (2, 0)):
        with pytest.raises(ValueError, match=r"ShuffledWindows: got Tokens\(50 tokens, 1 texts\), batch"):
            ShuffledWindows(Tokens.of(TEXT), batch, length)
    for lengths, batch, length in (([9], 3, 4), ([1, 1], 1, 4), ([9], 0, 4), ([9], 1, 0)):
        with pytest.raises(ValueError, match="TextStreams: got Tokens.* a piece of text for each row"):
            streams(lengths, batch, length)
    with pytest.raises(ValueError, match="N ≥ batch = 8"):
        Examples(torch.zeros(7, 4), torch.zeros(7, 4), 8)
    with pytest.raises(ValueError, match="nothing to learn"):
        Examples(torch.zeros(7, 4), torch.full((7, 4), IGNORE), 2)


def test_the_curve_is_smoothed_and_thinned():
    history = History(losses=[4.0, 2.0, 0.0, 2.0])
    assert history.smooth(2) == [4.0, 3.0, 1.0, 1.0]
    assert history.thin(2) == [[2, 3.0], [4, 1.0]] and history.thin(3) == [[2, 3.0], [4, 1.0]]
    assert History(losses=[1.0, 2.0, 3.0]).thin(2) == [[2, 1.5], [3, 3.0]] and History().thin() == []
    assert History(**history.to_dict()) == history
    with pytest.raises(ValueError, match="over: got 0"):
        history.smooth(0)
    with pytest.raises(ValueError, match="points: got 0"):
        history.thin(0)
