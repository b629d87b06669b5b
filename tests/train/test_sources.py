"""Batches by number, and the curve."""

import pytest
import torch

from titans_mini.data.recall import IGNORE, RecallTask
from titans_mini.train import Examples, History, Recall, Windows

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
    }


@pytest.mark.parametrize("name", ["recall", "windows", "examples"])
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


def test_what_no_batch_can_be_made_of_is_refused():
    with pytest.raises(ValueError, match="N > length = 50"):
        Windows(TEXT, 2, 50)
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
