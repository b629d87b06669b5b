"""Experiments are data: hashes, files, resuming; and recorded results belong to the present configuration."""

import json
from dataclasses import dataclass, replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from titans_mini import TitansConfig, TitansLM
from titans_mini.data.recall import RecallTask
from titans_mini.train import TrainConfig, Trainer
from titans_mini.train import record as module
from titans_mini.train.checkpoint import CHECKPOINTS
from titans_mini.train.experiments import Experiment
from titans_mini.train.needle import Needle
from titans_mini.train.recipes import EXPERIMENTS, NEEDLE, SEARCHES, rivals

TINY = Needle(
    RecallTask(2, 2, keys=4, values=4, noise=2),
    stages=((1, 1),),
    batch=2,
    length=16,
    lengths=(16, 32),
    sequences=2,
    bins=2,
)
MODEL = TitansConfig("lmm", vocab_size=10, dim=16, layers=1, heads=1, chunk_size=8, memory_expansion=1)
ONE = Experiment("trial", "lmm", MODEL, TrainConfig(steps=3, lr=1e-3), TINY, seeds=(0, 1))
ORIGIN = {"hardware": {"cpu": "x", "torch": "y", "threads": 1}, "date": "2026-01-01", "commit": "abc"}


def test_a_hash_tells_every_change_and_ignores_seeds_and_words():
    changed = [
        replace(ONE, model=replace(MODEL, momentum=False)),
        replace(ONE, train=TrainConfig(steps=3, lr=2e-3)),
        replace(ONE, task=replace(TINY, bins=4)),
        replace(ONE, task=replace(TINY, task=replace(TINY.task, noise=3))),
    ]
    assert len({e.hash() for e in [ONE, *changed]}) == 5
    assert replace(ONE, seeds=(7,), why="other words", train=replace(ONE.train, seed=9)).hash() == ONE.hash()


def test_a_new_field_with_a_default_keeps_the_hash():
    @dataclass(frozen=True)
    class Later(Needle):
        more: int = 3

    Later.__name__ = "Needle"
    fields = {f: getattr(TINY, f) for f in TINY.__dataclass_fields__}
    assert replace(ONE, task=Later(**fields)).hash() == ONE.hash()
    assert replace(ONE, task=Later(**fields, more=4)).hash() != ONE.hash()


def test_a_run_repeats():
    first, again = ONE.run(1), ONE.run(1)
    assert {k: v for k, v in first.items() if k != "seconds"} == {k: v for k, v in again.items() if k != "seconds"}
    assert first["first"] != ONE.run(0)["first"] and first["hash"] == ONE.hash()


def test_only_what_is_missing_runs_and_old_configurations_go(tmp_path):
    assert module.missing((ONE,), tmp_path) == [(ONE, 0), (ONE, 1)]
    module.add(ONE, ONE.run(1), ORIGIN, tmp_path)
    assert module.missing((ONE,), tmp_path) == [(ONE, 0)]
    module.add(ONE, ONE.run(0), ORIGIN, tmp_path)
    runs = module.read("trial", tmp_path)["experiments"]["lmm"]["runs"]
    assert [run["seed"] for run in runs] == [0, 1] and runs[0]["commit"] == "abc"
    other = replace(ONE, train=TrainConfig(steps=2))
    assert module.missing((other,), tmp_path) == [(other, 0), (other, 1)]
    module.add(other, other.run(0), ORIGIN, tmp_path)
    entry = module.read("trial", tmp_path)["experiments"]["lmm"]
    assert [run["hash"] for run in entry["runs"]] == [other.hash()] and entry["config"] == other.config()
    assert not list(tmp_path.glob("*.part"))


def test_processes_record_what_is_missing_and_nothing_twice(tmp_path, monkeypatch, capsys):
    module.record((ONE,), 2, tmp_path, tmp_path / "pieces")
    assert module.missing((ONE,), tmp_path) == []
    recorded = module.path_of("trial", tmp_path).read_text()
    assert len(json.loads(recorded)["experiments"]["lmm"]["runs"]) == 2
    module.record((ONE,), 2, tmp_path, tmp_path / "pieces")
    assert module.path_of("trial", tmp_path).read_text() == recorded
    out = capsys.readouterr().out
    assert "2 runs to do" in out and "0 runs to do" in out and "minutes of training in all" in out
    pieces = sorted((tmp_path / "pieces").iterdir())
    names = [f"trial-lmm-{ONE.hash()}-{seed}" for seed in (0, 1)]
    assert [path.name for path in pieces] == [names[0], f"{names[0]}.json", names[1], f"{names[1]}.json"]
    for path in pieces[1::2]:
        assert {"commit", "date", "hardware", "scores"} <= set(json.loads(path.read_text()))
    for path in pieces[::2]:  # the trained model, and no checkpoint is left
        assert {"config.json", "model.safetensors"} <= {file.name for file in path.iterdir()} and not (
            path / CHECKPOINTS
        ).exists()
        TitansLM.from_pretrained(path)


def test_an_interrupted_piece_goes_on(tmp_path, monkeypatch):
    whole = ONE.run(0)
    name = f"trial-lmm-{ONE.hash()}-0"
    trainer = ONE.trainer(0, tmp_path / name)
    trainer.run(until=2)
    trainer.close()
    steps = []
    monkeypatch.setattr(
        Trainer, "step", lambda self, *args, right=Trainer.step: steps.append(self.done) or right(self, *args)
    )
    piece = module.run_piece(ONE, 0, tmp_path)
    assert steps == [2] and piece["first"] == whole["first"] and piece["scores"] == whole["scores"]
    assert module.run_piece(ONE, 0, tmp_path) == piece and steps == [2]


def test_a_wrong_name_on_the_command_line_is_refused(tmp_path):
    with pytest.raises(SystemExit, match="got \\['hay'\\], expected some of needle/lmm"):
        module.main(["--only", "hay", "--folder", str(tmp_path)])


def test_the_command_line_chooses_and_forgets(tmp_path, monkeypatch):
    chosen = []
    monkeypatch.setattr(module, "record", lambda experiments, *_: chosen.append([named(e) for e in experiments]))
    module.path_of("needle", tmp_path).write_text("{}")
    module.path_of("text", tmp_path).write_text("{}")
    module.main(["--only", "needle/lmm", "text", "--folder", str(tmp_path)])
    assert (
        chosen == [["needle/lmm", "text/mag", "text/swa", "text/swa, prefix"]]
        and module.path_of("text", tmp_path).exists()
    )
    module.main(["--only", "text", "--fresh", "--folder", str(tmp_path)])
    assert not module.path_of("text", tmp_path).exists() and module.path_of("needle", tmp_path).exists()
    module.main(["--folder", str(tmp_path)])
    assert chosen[-1] == [named(e) for e in EXPERIMENTS]


# -- what is recorded -------------------------------------------------------------------------------------------------


def recorded(experiment):
    return module.read(experiment.group)["experiments"].get(experiment.name, {"runs": []})


def named(experiment):
    return f"{experiment.group}/{experiment.name}"


def stale(entry, experiment):
    """List what differs between a recorded configuration and the present one; new fields at their default are none."""
    found = [] if entry.get("hash") == experiment.hash() else ["hash"]
    present = experiment.config()
    for part, values in entry.get("config", {}).items():
        found += [f"{part}.{key}" for key, value in values.items() if present[part].get(key) != value]
    return found


@pytest.mark.parametrize("experiment", EXPERIMENTS, ids=named)
def test_recorded_results_belong_to_the_present_configuration(experiment):
    entry = recorded(experiment)
    assert not stale(entry, experiment), "run `make results`"
    assert [run["seed"] for run in entry["runs"]] == list(experiment.seeds)
    assert len(experiment.seeds) >= 3 or experiment.group in SEARCHES
    for run in entry["runs"]:
        assert run["hash"] == experiment.hash() and len(run["first"]) == 5
        assert run["commit"] and run["hardware"]["cpu"] and len(run["date"]) == 10 and run["seconds"] > 0
        assert run["curve"][-1][0] == experiment.train.steps


SLICE = [e for e in EXPERIMENTS if e.group in ("needle", "ablations")]  # these need no file
TOLERANCE = 2e-3  # relative: five steps in float32, on another processor or with another order of sums


@pytest.mark.parametrize("experiment", SLICE, ids=named)
def test_a_slice_of_every_generated_experiment_reproduces(experiment):
    """The first steps of the second seed, trained again; another seed or setting differs far more (see below)."""
    run = recorded(experiment)["runs"][1]
    again = experiment.trainer(run["seed"]).run(until=len(run["first"])).losses
    assert again == pytest.approx(run["first"], rel=TOLERANCE)


def test_the_slice_tells_another_seed_from_the_recorded_one():
    run = recorded(SLICE[0])["runs"][1]
    other = SLICE[0].trainer(run["seed"] + 5).run(until=len(run["first"])).losses
    assert other != pytest.approx(run["first"], rel=TOLERANCE)


def test_a_changed_default_or_field_is_found():
    entry = {"hash": ONE.hash(), "config": ONE.config()}
    assert stale(entry, ONE) == []
    assert stale(entry, replace(ONE, model=replace(MODEL, momentum=False))) == ["hash", "model.momentum"]
    entry["config"]["model"]["persistent"] = 9  # what a default was when it was recorded
    assert stale(entry, ONE) == ["model.persistent"]


def test_names_are_unique():
    assert len({named(e) for e in EXPERIMENTS}) == len(EXPERIMENTS)


def test_rivals_have_the_state_and_the_operations_that_their_names_say():
    by_name, size, cost = {e.name: e for e in rivals()}, {}, {}
    for name in ("lmm", "mac", "mag", "mal", "swa, same state", "transformer, same operations"):
        experiment = by_name[name]
        model, tokens = TitansLM(experiment.model), torch.zeros(1, 256, dtype=torch.int64)
        size[name] = sum(x.numel() for x in model(tokens)[1].to_dict().values())
        with FlopCounterMode(display=False) as counter:
            model(tokens[:, : NEEDLE.length])[0].sum().backward()
        cost[name] = counter.get_total_flops() * experiment.train.steps
    assert size["swa, same state"] == pytest.approx(size["lmm"], rel=0.05)
    assert cost["transformer, same operations"] >= 0.99 * max(cost.values())
