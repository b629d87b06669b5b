"""The training loop: schedule, gradients, interruption, streams, and errors that say what to do."""

import json
import math
import random
import signal

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from titans_mini import TitansConfig, TitansLM
from titans_mini.data.recall import RecallTask
from titans_mini.train import Batch, MachineConfig, Recall, TrainConfig, Trainer, train
from titans_mini.train.checkpoint import CHECKPOINTS
from titans_mini.train.loop import parameter_groups
from titans_mini.train.reporter import Reporter
from titans_mini.train.team import Team

TASK = RecallTask(pairs=2, questions=2, keys=4, values=4, noise=2)
SOURCE = Recall(TASK, batch=4, length=16, seed=3)
CONFIG = TrainConfig(steps=6, lr=3e-3, warmup=2, seed=1)


def small(variant="lmm", seed=0, **changes):
    torch.manual_seed(seed)
    sizes = {"dim": 16, "layers": 1, "heads": 2, "chunk_size": 8, "memory_expansion": 1, "segment": 8, "window": 8}
    return TitansLM(TitansConfig(variant, **{"vocab_size": TASK.vocab_size, **sizes, **changes}))


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def checkpoints(folder):
    return sorted(path.name for path in (folder / CHECKPOINTS).iterdir())


class Dropping(nn.Module):
    """A model that draws random numbers of its own, of all three kinds."""

    def __init__(self):
        super().__init__()
        self.embedding, self.drop = nn.Embedding(TASK.vocab_size, TASK.vocab_size), nn.Dropout(0.5)

    def forward(self, tokens):
        return self.drop(self.embedding(tokens)) * (0.5 + random.random()) * (0.5 + np.random.rand()), None


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
        history = train(model, SOURCE, CONFIG)
        runs.append((history.losses, weights(model)))
        assert mean_loss(model) < untrained  # on the same batches: each step's own loss also depends on its batch
    assert runs[0][0] == runs[1][0] and torch.equal(runs[0][1], runs[1][1])
    assert len(runs[0][0]) == 6


@pytest.mark.parametrize("make", [small, Dropping])
def test_interrupted_and_resumed_is_uninterrupted(make, tmp_path):
    def seed():
        random.seed(0)
        np.random.seed(0)

    torch.manual_seed(0)
    whole, parts = make(), make()
    parts.load_state_dict(whole.state_dict())
    seed()
    straight = train(whole, SOURCE, CONFIG)
    seed()
    first = Trainer(parts, SOURCE, CONFIG, folder=tmp_path)
    first.run(until=2)
    first.close()
    other = make()  # a new process would start from other weights and another random state
    torch.rand(7), random.random(), np.random.rand(3)
    trainer = Trainer(other, SOURCE, CONFIG, folder=tmp_path)
    assert trainer.done == 2
    resumed = trainer.run()
    assert resumed.losses == straight.losses and torch.equal(weights(other), weights(whole))
    assert checkpoints(tmp_path) == ["00000002", "00000006"]


def test_a_finished_run_is_not_trained_again(tmp_path):
    first = train(small(), SOURCE, CONFIG, folder=tmp_path)
    again = train(small(), SOURCE, CONFIG, folder=tmp_path)
    assert again.losses == first.losses and again.seconds == first.seconds


def test_checkpoints_on_the_way_and_the_last_few_are_kept(tmp_path):
    config, machine = TrainConfig(steps=6, save_every=1), MachineConfig(keep=2)
    trainer = Trainer(small(), SOURCE, config, folder=tmp_path, machine=machine)
    trainer.source = lambda i: SOURCE(i) if i < 5 else (_ for _ in ()).throw(KeyError("broken"))
    with pytest.raises(KeyError):
        trainer.run()
    trainer.close()
    assert checkpoints(tmp_path) == ["00000004", "00000005"]
    assert Trainer(small(), SOURCE, config, folder=tmp_path).done == 5


def test_a_checkpoint_is_a_model_that_can_be_loaded(tmp_path):
    model = small("mac")
    train(model, SOURCE, CONFIG, folder=tmp_path)
    loaded = TitansLM.from_pretrained(tmp_path / CHECKPOINTS / "00000006")
    assert torch.equal(weights(loaded), weights(model)) and loaded.config == model.config


def test_a_checkpoint_of_another_run_is_refused_with_every_difference(tmp_path):
    train(small(), SOURCE, CONFIG, folder=tmp_path, identity={"data": {"digest": "a"}})
    other = TrainConfig(steps=7, lr=1e-3, warmup=2, seed=1)
    differ = r"data.digest: got 'b', expected 'a'; train.lr: got 0.001, expected 0.003; train.steps: got 7, expected 6"
    with pytest.raises(ValueError, match=differ):
        Trainer(small(), SOURCE, other, folder=tmp_path, identity={"data": {"digest": "b"}})
    with pytest.raises(ValueError, match="model.read: got 'before', expected 'after'"):
        Trainer(small(read="before"), SOURCE, CONFIG, folder=tmp_path, identity={"data": {"digest": "a"}}, force=True)
    with pytest.raises(ValueError, match="model.variant: got 'transformer', expected 'lmm'"):
        Trainer(small("transformer"), SOURCE, CONFIG, folder=tmp_path, identity={"data": {"digest": "a"}})


def test_a_checkpoint_from_before_a_field_existed_is_resumed_with_its_default(tmp_path):
    trainer = Trainer(small(), SOURCE, CONFIG)
    saved = {part: dict(fields) for part, fields in trainer.identity.items()}
    del saved["train"]["betas"], saved["model"]["read"]
    trainer._compare(saved)
    trainer.identity["model"]["read"] = "before"
    del saved["model"]["read"]
    with pytest.raises(ValueError, match="model.read: got 'before', expected 'after'"):
        trainer._compare(saved)


def test_force_goes_on_with_what_may_change_and_says_so(tmp_path):
    class Said(Reporter):
        def say(self, text):
            said.append(text)

    said = []
    train(small(), SOURCE, CONFIG, folder=tmp_path)
    longer = TrainConfig(steps=8, lr=3e-3, warmup=2, seed=1)
    assert len(train(small(), SOURCE, longer, folder=tmp_path, force=True, reporter=Said()).losses) == 8
    assert "train.steps: 6 until" in said[0] and "resumed at step 6" in said[1]


def test_pieces_evaluations_and_checkpoints_are_free_to_change(tmp_path):
    whole = train(small(), SOURCE, CONFIG)
    trainer = Trainer(small(), SOURCE, CONFIG, folder=tmp_path)
    trainer.run(until=3)
    trainer.close()
    free = TrainConfig(steps=6, lr=3e-3, warmup=2, seed=1, accumulate=2, evaluate_every=5, save_every=1)
    assert train(small(), SOURCE, free, folder=tmp_path).losses == pytest.approx(whole.losses, rel=1e-5)


def test_a_signal_stops_after_the_step_and_the_same_call_goes_on(tmp_path):
    whole = train(small(), SOURCE, CONFIG)
    trainer = Trainer(small(), SOURCE, CONFIG, folder=tmp_path)
    trainer.source = lambda i: (signal.raise_signal(signal.SIGTERM) if i == 2 else None) or SOURCE(i)
    before = signal.getsignal(signal.SIGTERM)
    assert len(trainer.run().losses) == 3 and trainer.stopped_by == signal.SIGTERM
    trainer.close()
    assert signal.getsignal(signal.SIGTERM) is before and checkpoints(tmp_path) == ["00000003"]
    assert train(small(), SOURCE, CONFIG, folder=tmp_path).losses == whole.losses


def test_what_is_ignored_stays_ignored(tmp_path):
    """As nohup does it: a run that is to outlive its terminal is not stopped by the end of the terminal."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        source = lambda i: signal.raise_signal(signal.SIGHUP) or SOURCE(i)  # noqa: E731
        assert len(train(small(), source, CONFIG, folder=tmp_path).losses) == 6
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_process_whose_torchrun_is_gone_leaves(tmp_path):
    team = Team(torch.device("cpu"), parent=1 << 30)  # no such process
    with pytest.raises(SystemExit, match="torchrun is gone"):
        Trainer(small(), SOURCE, CONFIG, team=team).run()


def test_the_rate_rises_then_falls():
    c = TrainConfig(steps=100, lr=1.0, warmup=10, final_lr=0.1)
    rates = [c.rate(i) for i in range(101)]
    assert rates[0] == 0.1 and rates[9] == rates[10] == 1.0 and math.isclose(rates[100], 0.1)
    assert math.isclose(rates[55], 0.55) and all(a >= b for a, b in zip(rates[10:], rates[11:], strict=False))


@pytest.mark.parametrize("pieces", [2, 3, 9])
def test_a_batch_in_pieces_is_the_same_step(pieces):
    """Also where the pieces have different numbers of targets."""

    def source(i):
        tokens, targets = SOURCE(i)
        return Batch(tokens, targets.masked_fill(torch.arange(4)[:, None] == 0, -100))

    model, twin = small(), small()
    a = train(model, source, TrainConfig(steps=3, accumulate=pieces, warmup=0))
    b = train(twin, source, TrainConfig(steps=3, warmup=0))
    assert a.losses == pytest.approx(b.losses, rel=1e-5)
    torch.testing.assert_close(weights(model), weights(twin), rtol=1e-3, atol=2e-5)


@pytest.mark.parametrize("variant", ["lmm", "mac", "mag"])
def test_recomputed_activations_give_the_same_run(variant):
    config = TrainConfig(steps=3, lr=3e-3, warmup=1)
    runs = [train(small(variant), SOURCE, config, machine=MachineConfig(checkpoint_activations=on)) for on in (0, 1)]
    assert runs[0].losses == runs[1].losses


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
    history = train(model, SOURCE, TrainConfig(steps=5, evaluate_every=2), evaluate=evaluate)
    assert history.scores == [{"step": s, "size": 1.0} for s in (2, 4, 5)] and model.training


def test_the_mean_loss_over_batches_is_the_mean_over_their_targets():
    model = small()
    trainer = Trainer(model, SOURCE, CONFIG)
    with torch.no_grad():
        assert trainer.mean_loss(SOURCE, 6) == pytest.approx(mean_loss(model), rel=1e-6)


def test_a_loss_that_is_not_finite_stops_the_run():
    model = Dropping()
    with torch.no_grad():
        model.embedding.weight[:] = math.inf
    with pytest.raises(FloatingPointError, match="at step 1, expected a finite number"):
        train(model, SOURCE, CONFIG)


def test_a_gradient_that_is_no_number_reaches_no_weight_and_no_checkpoint(tmp_path):
    """The loss of that step is a number; saved after it, the run could never go on."""
    model, config = Dropping(), TrainConfig(steps=6, save_every=1)
    trainer = Trainer(model, SOURCE, config, folder=tmp_path)
    poison = model.embedding.weight.register_hook(lambda g: g * math.nan if trainer.done == 3 else g)
    with pytest.raises(FloatingPointError, match="gradient: got norm nan at step 4"):
        trainer.run()
    trainer.close()
    poison.remove()
    assert checkpoints(tmp_path)[-1] == "00000003" and weights(model).isfinite().all()


def test_bfloat16_trains_and_keeps_float32_weights():
    model = small()
    history = train(model, SOURCE, TrainConfig(steps=6, lr=3e-3, warmup=2, precision="bfloat16"))
    assert history.losses[-1] < history.losses[0] and weights(model).dtype == torch.float32


@pytest.mark.parametrize(
    "wrong",
    [{"steps": 0}, {"lr": 0.0}, {"lr": math.inf}, {"clip": -1.0}, {"warmup": -1}, {"precision": "float8"}]
    + [{"accumulate": 0}, {"betas": (0.9, 1.0)}, {"weight_decay": math.nan}],
)
def test_what_cannot_be_is_refused(wrong):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))}: got"):
        TrainConfig(**wrong)


def test_the_record_of_a_run_is_plain_json(tmp_path):
    train(small(), SOURCE, CONFIG, folder=tmp_path)
    record = json.loads((tmp_path / CHECKPOINTS / "00000006" / "run.json").read_text())
    assert len(record["history"]["losses"]) == 6 and record["identity"]["train"]["lr"] == 3e-3
