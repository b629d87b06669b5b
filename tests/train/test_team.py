"""Two processes, with the model whole in each (DDP) or sharded (FSDP2), train as one does, and share checkpoints."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.train.test_loop import SOURCE, small
from titans_mini.train import TrainConfig, Trainer
from titans_mini.train.checkpoint import CHECKPOINTS
from titans_mini.train.team import Team

ROOT = Path(__file__).parent.parent.parent
CONFIG = TrainConfig(steps=50, warmup=5, accumulate=2, save_every=25)
HALF, KINDS, VARIANTS, MOVED = 25, ("ddp", "fsdp"), ("lmm", "mac"), "mac"  # the last moves between one and two
DTYPES = {torch.float32: 1e-5, torch.float64: 1e-10}  # how near the losses have to be, relatively


def losses(variant, dtype=torch.float64, folder=None, until=None, team=None):
    """Train, or go on with what is in the folder."""
    trainer = Trainer(small(variant, layers=2).to(dtype), SOURCE, CONFIG, folder=folder, team=team)
    try:
        return trainer.run(until).losses
    finally:
        trainer.close()


def work(folder):
    """One of two processes, started by torchrun."""
    torch.set_num_threads(1)
    found = {}
    for kind in KINDS:
        team = Team.join("cpu", kind)
        for variant in VARIANTS:
            found[f"{variant} {kind} float32"] = losses(variant, torch.float32, team=team)
        found[f"{MOVED} {kind} float64"] = losses(MOVED, folder=folder / kind, team=team)
        found[f"{MOVED} {kind} float64, begun by one"] = losses(MOVED, folder=folder / f"one-{kind}", team=team)
    if team.rank == 0:
        (folder / "losses.json").write_text(json.dumps(found))
    team.leave()


@pytest.mark.slow
def test_two_processes_train_as_one_and_checkpoints_move_between_them(tmp_path):
    alone = {(variant, str(dtype)[6:]): losses(variant, dtype) for variant in VARIANTS for dtype in DTYPES}
    for kind in KINDS:
        losses(MOVED, folder=tmp_path / f"one-{kind}", until=HALF)
    env = dict(os.environ, PYTHONPATH=os.pathsep.join([str(ROOT), *sys.path]), OMP_NUM_THREADS="1")
    words = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", __file__, str(tmp_path)]
    done = subprocess.run([sys.executable, *words], env=env, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "returned a view" not in done.stderr, done.stderr  # FSDP2 warns of them
    found = json.loads((tmp_path / "losses.json").read_text())
    assert len(found) == 8
    for name, got in found.items():
        variant, _, dtype = name.split(",")[0].split(" ")
        near = DTYPES[getattr(torch, dtype)]
        assert got == pytest.approx(alone[variant, dtype], rel=near, abs=0), name
    for kind in KINDS:  # and what two began, one goes on with
        shutil.rmtree(tmp_path / kind / CHECKPOINTS / f"{CONFIG.steps:08d}")
        assert losses(MOVED, folder=tmp_path / kind) == pytest.approx(alone[MOVED, "float64"], rel=1e-10, abs=0)


def test_a_batch_that_cannot_be_shared_is_refused():
    trainer = Trainer(small(), SOURCE, CONFIG)
    trainer.team = Team(torch.device("cpu"), 0, 3)
    with pytest.raises(ValueError, match="batch: got 4 sequences for 3 processes"):
        trainer.step()


if __name__ == "__main__":
    work(Path(sys.argv[1]))
    os._exit(0)  # as the command does: gloo's threads now and then abort a process on Python's way out
