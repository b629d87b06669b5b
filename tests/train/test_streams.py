"""Texts side by side: memories are carried from step to step, begin anew with a text, and survive a resume."""

import numpy as np
import pytest
import torch

from tests.train.test_loop import small, weights
from titans_mini.data.shards import Tokens
from titans_mini.train import StreamBatch, TextStreams, TrainConfig, Trainer, train

VARIANTS = ["lmm", "mac", "mag", "mal", "swa"]
CONFIG = TrainConfig(steps=6, lr=3e-3, warmup=2)


def streams(batch=4, length=16, texts=9):
    rng = np.random.default_rng(0)
    sizes = rng.integers(20, 90, texts)
    return TextStreams(Tokens.of(rng.integers(0, 10, sizes.sum()), ends=np.cumsum(sizes)), batch, length)


OTHERS = {"writes": "x", "sees": "own", "attention_conv": 4, "attention_heads": 1, "learn_gates": False}


@pytest.mark.parametrize("options", [{}, OTHERS], ids=["", "others"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_row_that_goes_on_remembers_and_one_that_is_fresh_does_not(variant, options):
    model = small(variant, **options).double().eval()
    tokens, more = torch.randint(0, 10, (2, 3, 16), generator=torch.Generator().manual_seed(0))
    fresh = torch.tensor([True, False, True])
    with torch.no_grad():
        _, state = model(tokens)
        y, after = model(more, state, fresh=fresh)
        alone, state_alone = model(more)
        assert torch.allclose(y[fresh], alone[fresh], atol=1e-12)
        went_on = not torch.allclose(y[1], alone[1], atol=1e-6)
        assert went_on == (variant != "swa")  # a window of attention is not carried
        assert after.position == state_alone.position  # positions stay those of training
        all_fresh, _ = model(more, state, fresh=torch.ones(3, dtype=torch.bool))
        assert torch.allclose(all_fresh, alone, atol=1e-12)


def test_the_memory_alone_goes_on_as_in_one_call():
    """Without attention there is nothing but the memory to carry, so pieces of whole chunks are one long text."""
    model = small("lmm", persistent=8).double().eval()
    tokens = torch.randint(0, 10, (2, 48), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        whole, _ = model(tokens)
        state, parts = None, []
        for piece in tokens.split(16, 1):
            y, state = model(piece, state, fresh=torch.zeros(2, dtype=torch.bool))
            parts.append(y)
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=0, atol=1e-12)


@pytest.mark.parametrize("variant", VARIANTS[:4])
def test_gradients_reach_the_first_memory_through_fresh_rows_only(variant):
    model = small(variant, persistent=0).double()  # MAL's prefix is what the first memory answers to them
    tokens = torch.randint(0, 10, (2, 2, 16), generator=torch.Generator().manual_seed(0))
    _, state = model(tokens[0])
    for fresh, expected in ((torch.tensor([True, False]), True), (torch.tensor([False, False]), False)):
        model.zero_grad()
        y, _ = model(tokens[1], state.detach(), fresh=fresh)
        y.square().mean().backward()
        grads = [p.grad for name, p in model.named_parameters() if "initial_weights" in name]
        assert grads and all((g is not None and bool(g.abs().max() > 0)) == expected for g in grads)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("pieces", [1, 2])
def test_interrupted_and_resumed_is_uninterrupted(variant, pieces, tmp_path):
    config = TrainConfig(steps=6, lr=3e-3, warmup=2, accumulate=pieces)
    model = small(variant)
    whole = train(model, streams(), config)
    trainer = Trainer(small(variant), streams(), config, folder=tmp_path)
    trainer.run(until=3)
    trainer.close()
    other = small(variant, seed=7)
    trainer = Trainer(other, streams(), config, folder=tmp_path)
    assert trainer.run().losses == whole.losses and torch.equal(weights(other), weights(model))
    trainer.close()


def test_what_was_read_before_helps(tmp_path):
    """One text over and over, in pieces: a carried memory changes the loss, a fresh one in every piece does not."""

    class Forgetting(TextStreams):
        def __call__(self, index):
            batch = super().__call__(index)
            return StreamBatch(batch.tokens, batch.targets, torch.ones_like(batch.fresh))

    source = streams()
    forgetting = Forgetting(source.tokens, source.batch, source.length)
    carried, fresh = (train(small("lmm"), s, CONFIG).losses for s in (source, forgetting))
    assert carried[0] == fresh[0] and carried[1] != fresh[1]


def test_a_piece_that_ends_within_a_chunk_cannot_be_carried():
    model = small("lmm", persistent=0)
    tokens = torch.zeros(2, 12, dtype=torch.long)
    _, state = model(tokens)
    with pytest.raises(ValueError, match="expected pieces of whole chunks"):
        model(tokens, state, fresh=torch.tensor([True, False]))
    for wrong in (torch.ones(2), torch.ones(3, dtype=torch.bool)):
        with pytest.raises(ValueError, match="fresh: got"):
            model(tokens, state, fresh=wrong)
