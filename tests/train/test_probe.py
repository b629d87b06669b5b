"""Examining MAC: what a linear probe reads, where attention looks, and a read that is silenced."""

from dataclasses import replace

import pytest
import torch

from titans_mini import TitansConfig, TitansLM
from titans_mini.data.recall import RecallTask
from titans_mini.train.needle import Needle
from titans_mini.train.probe import _looks, _read_off, _watched, probe, silenced

TASK = RecallTask(pairs=2, questions=4, keys=6, values=6, noise=4)
CONFIG = TitansConfig("mac", TASK.vocab_size, 16, layers=1, heads=1, segment=8, chunk_size=8, persistent=2)


def built(**changes):
    torch.manual_seed(0)
    return TitansLM(replace(CONFIG, **changes)).eval()


def test_what_is_written_is_read_off_only_as_far_as_it_is_there():
    torch.manual_seed(0)
    tokens, table = torch.randint(6, (200, 10)), torch.randn(6, 16)
    everywhere = torch.ones_like(tokens, dtype=torch.bool)
    assert _read_off(table[tokens], tokens, everywhere) == 1
    assert _read_off(torch.randn(200, 10, 16), tokens, everywhere) < 0.3, "noise says nothing, guessing is 1/6"
    one = torch.arange(10) < 5  # the probe is asked where it is told to look
    mixed = torch.where(one[:, None], table[tokens], torch.randn(200, 10, 16))
    assert _read_off(mixed, tokens, everywhere & one) == 1 > _read_off(mixed, tokens, everywhere)


@pytest.mark.parametrize("choice", [{}, {"sees": "own"}, {"writes": "x"}, {"long_term": 2}, {"attention_heads": 2}])
def test_watching_changes_nothing_and_attention_adds_up(choice):
    model, made = built(**choice), TASK.batch(4, 32, 0)
    mixer = model.blocks[0].mixer
    plain = model(made.tokens)[0]
    with _watched(mixer) as (written, attention):
        torch.testing.assert_close(model(made.tokens)[0], plain)
    assert written[-1].shape == (4, 32, 16) and [a.shape[2] for a in attention] == [8] * 4
    last = attention[-1].mean(1)
    torch.testing.assert_close(last.sum(-1), torch.ones(4, 8))
    shares = _looks(last, mixer, torch.ones(4, 8, dtype=torch.bool))
    assert sum(shares.values()) == pytest.approx(1, abs=1e-3) and min(shares["own h"], shares["persistent"]) > 0
    assert (shares["other h"] == 0) == (choice.get("sees") == "own")
    torch.testing.assert_close(model(made.tokens)[0], plain)


def test_a_silenced_read_answers_nothing_and_comes_back():
    model, tokens = built(), TASK.batch(4, 32, 0).tokens
    mixer, plain = model.blocks[0].mixer, model(tokens)[0]
    for name in ("h", "the last read"):
        with silenced(mixer, name):
            assert not torch.equal(model(tokens)[0], plain)
        assert torch.equal(model(tokens)[0], plain)
    with pytest.raises(ValueError, match="got 'y', expected 'h' or 'the last read'"), silenced(mixer, "y"):
        pass


def test_the_probe_is_part_of_a_score_and_refuses_what_it_cannot_examine():
    score = Needle(TASK, length=32, lengths=(32,), sequences=4, probe=True).score(built(writes="x"), 0)["probe"]
    assert score["written"]["key"] == score["written"]["value"] == 1, "the token itself is written"
    assert set(score["found"]) == {"as trained", "without h", "without the last read"}
    assert len(score["map"]) == len(score["tokens"]) == 8 and len(score["map"][0]) == 2 + 8 + 8
    with pytest.raises(ValueError, match="got a model of variant 'mag', expected mac"):
        probe(built(variant="mag"), TASK, 0)
    with pytest.raises(ValueError, match="got 33 tokens and segments of 8"):
        probe(built(), TASK, 0, 33)
