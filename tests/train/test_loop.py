"""The training loop: schedule, gradients, interruption, and errors that say what to do."""

import json
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from titans_mini import TitansConfig, TitansLM
from titans_mini.data.recall import RecallTask
from titans_mini.train import Batch, Recall, TrainConfig, Trainer, train
from titans_mini.train.__main__ import main
from titans_mini.train.loop import parameter_groups

TASK = RecallTask(pairs=2, questions=2, keys=4, values=4, noise=2)
SOURCE = Recall(TASK, batch=4, length=16, seed=3)
CONFIG = TrainConfig(steps=6, lr=3e-3, warmup=2, seed=1)


def small(variant="lmm", seed=0):
    torch.manual_seed(seed)
    sizes = {"dim": 16, "layers": 1, "heads": 2, "chunk_size": 8, "memory_expansion": 1, "segment": 8, "window": 8}
    return TitansLM(TitansConfig(variant, vocab_size=TASK.vocab_size, **sizes))


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


class Dropping(nn.Module):
    """A model that draws random numbers of its own."""

    def __init__(self):
        super().__init__()
        self.embedding, self.drop = nn.Embedding(TASK.vocab_size, TASK.vocab_size), nn.Dropout(0.5)

    def forward(self, tokens):
        return self.drop(self.embedding(tokens)), None


@torch.no_grad()
def mean_loss(model):
    losses = []
    for batch in map(SOURCE, range(6)):
        logits, _ = model(batch.tokens)
        losses.append(F.cross_entropy(logits.flatten(0, 1), batch.targets.flatten(), ignore_index=-100).item())
    return sum(losses) / len(losses)


@pytest.mark.parametrize("variant", ["lmm", "mac", "mal", "transformer"])
def test_the_same_seed_gives_the_same_run(variant):
    runs = []
    for _ in range(2):
        model = small(variant)
        untrained = mean_loss(model)
        history = train(model, SOURCE, CONFIG, progress=False)
        runs.append((history.losses, weights(model)))
        assert mean_loss(model) < untrained  # on the same batches: each step's own loss also depends on its batch
    assert runs[0][0] == runs[1][0] and torch.equal(runs[0][1], runs[1][1])
    assert len(runs[0][0]) == 6


@pytest.mark.parametrize("make", [small, Dropping])
def test_interrupted_and_resumed_is_uninterrupted(make, tmp_path):
    torch.manual_seed(0)
    whole, parts = make(), make()
    parts.load_state_dict(whole.state_dict())
    straight = train(whole, SOURCE, CONFIG, progress=False)
    Trainer(parts, SOURCE, CONFIG, folder=tmp_path, progress=False).run(until=2)
    other = make()  # a new process would start from other weights and another random state
    torch.rand(7)
    trainer = Trainer(other, SOURCE, CONFIG, folder=tmp_path, progress=False)
    assert trainer.done == 2
    resumed = trainer.run()
    assert resumed.losses == straight.losses and torch.equal(weights(other), weights(whole))
    assert not list(tmp_path.glob("*.part"))


def test_a_finished_run_is_not_trained_again(tmp_path):
    first = train(small(), SOURCE, CONFIG, folder=tmp_path, progress=False)
    again = train(small(), SOURCE, CONFIG, folder=tmp_path, progress=False)
    assert again.losses == first.losses and again.seconds == first.seconds


def test_checkpoints_on_the_way(tmp_path):
    trainer = Trainer(small(), SOURCE, TrainConfig(steps=6, save_every=2), folder=tmp_path, progress=False)
    trainer.source = lambda i: SOURCE(i) if i < 5 else (_ for _ in ()).throw(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        trainer.run()
    assert Trainer(small(), SOURCE, TrainConfig(steps=6, save_every=2), folder=tmp_path).done == 4


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    train(small(), SOURCE, CONFIG, folder=tmp_path, progress=False)
    with pytest.raises(ValueError, match="got {'lr': 0.001}, expected {'lr': 0.003}"):
        Trainer(small(), SOURCE, TrainConfig(steps=6, lr=1e-3, warmup=2, seed=1), folder=tmp_path)
    with pytest.raises(ValueError, match="expected a checkpoint of this model"):
        Trainer(small("transformer"), SOURCE, CONFIG, folder=tmp_path)


def test_an_interrupted_write_leaves_the_checkpoint_before(tmp_path, monkeypatch):
    trainer = Trainer(small(), SOURCE, CONFIG, folder=tmp_path, progress=False)
    trainer.run(until=2)
    before = (tmp_path / "checkpoint.pt").read_bytes()

    def half(content, file):
        file.write(b"half")
        raise OSError("the disk is full")

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(OSError, match="full"):
        trainer.run()
    assert (tmp_path / "checkpoint.pt").read_bytes() == before and not list(tmp_path.glob("*.part"))


def test_the_rate_rises_then_falls():
    c = TrainConfig(steps=100, lr=1.0, warmup=10, final_lr=0.1)
    rates = [c.rate(i) for i in range(101)]
    assert rates[0] == 0.1 and rates[9] == rates[10] == 1.0 and math.isclose(rates[100], 0.1)
    assert math.isclose(rates[55], 0.55) and all(a >= b for a, b in zip(rates[10:], rates[11:], strict=False))


def test_accumulation_is_the_mean_of_its_batches():
    model, twin = small(), small()
    config = TrainConfig(steps=1, accumulate=2, warmup=0)
    both = [SOURCE(0), SOURCE(1)]
    joined = Batch(*(torch.cat(x) for x in zip(*both, strict=True)))
    train(model, SOURCE, config, progress=False)
    train(twin, lambda i: joined, TrainConfig(steps=1, warmup=0), progress=False)
    torch.testing.assert_close(weights(model), weights(twin), rtol=1e-3, atol=2e-5)


def test_gates_memories_and_norms_do_not_decay():
    model = small("mac")
    decaying, free = (group["params"] for group in parameter_groups(model, 0.1))
    named = {id(p): name for name, p in model.named_parameters()}
    names = [{named[id(p)] for p in part} for part in (decaying, free)]
    assert set(named.values()) == names[0] | names[1] and not names[0] & names[1]
    assert all("norm" not in n and "bias" not in n and "initial" not in n for n in names[0])
    assert any("to_qkv" in n for n in names[0]) and any("persistent" in n for n in names[1])


def test_the_hook_is_asked_on_the_way_and_at_the_end():
    def evaluate(model):
        assert not model.training and not torch.is_grad_enabled()
        return {"size": 1.0}

    model = small()
    history = train(model, SOURCE, TrainConfig(steps=5, evaluate_every=2), evaluate=evaluate, progress=False)
    assert history.scores == [{"step": s, "size": 1.0} for s in (2, 4, 5)] and model.training


def test_a_loss_that_is_not_finite_stops_the_run():
    model = Dropping()
    with torch.no_grad():
        model.embedding.weight[:] = math.inf
    with pytest.raises(FloatingPointError, match="at step 1, expected a finite number"):
        train(model, SOURCE, CONFIG, progress=False)


def test_bfloat16_trains_and_keeps_float32_weights():
    model = small()
    history = train(model, SOURCE, TrainConfig(steps=6, lr=3e-3, warmup=2, precision="bfloat16"), progress=False)
    assert history.losses[-1] < history.losses[0] and weights(model).dtype == torch.float32


@pytest.mark.parametrize(
    "wrong", [{"steps": 0}, {"lr": 0.0}, {"clip": -1.0}, {"warmup": -1}, {"precision": "float8"}, {"accumulate": 0}]
)
def test_what_cannot_be_is_refused(wrong):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))}: got"):
        TrainConfig(**wrong)


def test_the_command_line_trains_and_goes_on(tmp_path, capsys):
    common = ["--model", "lmm-tiny", "--data", "recall", "--batch", "2", "--length", "24", "--out", str(tmp_path)]
    common += ["--set", "dim=16", "layers=1", "chunk_size=8", "half_life=(100.0, 200.0)", "--steps", "3"]
    main(common)
    losses = json.loads((tmp_path / "history.json").read_text())["history"]["losses"]
    assert len(losses) == 3
    model = TitansLM.from_pretrained(tmp_path)
    assert model.config.half_life == (100.0, 200.0) and model.config.dim == 16
    main(common)  # finished: nothing more to do
    assert json.loads((tmp_path / "history.json").read_text())["history"]["losses"] == losses
    assert "parameters on" in capsys.readouterr().out


def test_the_command_line_reads_text(tmp_path):
    (tmp_path / "a.txt").write_text("a text that is long enough to cut pieces from it. " * 8, encoding="utf-8")
    sizes = ["--batch", "2", "--length", "16", "--steps", "2", "--set", "dim=16", "layers=1", "chunk_size=16"]
    main(["--model", "mag-tiny", "--data", str(tmp_path / "a.txt"), "--out", str(tmp_path / "run"), *sizes])
    assert (tmp_path / "run" / "model.safetensors").exists()
    with pytest.raises(FileNotFoundError, match="got 'no such text'"):
        main(["--data", "no such text", "--out", str(tmp_path)])
