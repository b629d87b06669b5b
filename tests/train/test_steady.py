"""The thousand-step runs in short, and that what is no number is found; the recorded runs are complete."""

import json
import math

import pytest
import torch

from titans_mini.train import steady
from titans_mini.train.sources import Windows


@pytest.fixture(scope="module")
def source():
    return Windows(steady.prose(), 1, 96)


@pytest.mark.parametrize("name", steady.RUNS)
def test_the_first_steps_are_numbers_and_learn(name, source):
    model, history = steady.steady(name, source, 40)  # the learning rate is still warming up
    assert len(history.losses) == 40 and sum(history.losses[-3:]) / 3 < history.losses[0] - 0.1
    assert model.config.memory_depth == (4 if "depth 4" in name else 2)


def test_a_gradient_that_is_no_number_stops_the_run(source, monkeypatch):
    """The loss of this step is finite; only the hook on the gradients sees what is wrong."""
    from titans_mini.models.mixers import MemoryAlone

    class Poison(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, dy):
            return dy * math.nan

    original = MemoryAlone.forward
    monkeypatch.setattr(MemoryAlone, "forward", lambda self, x, state: original(self, Poison.apply(x), state))
    with pytest.raises(FloatingPointError, match="numbers infinite or NaN"):
        steady.steady("lmm", source, 2)


def test_a_run_is_put_beside_the_others(tmp_path, monkeypatch):
    monkeypatch.setattr(steady, "prose", lambda: torch.arange(2000) % 256)
    for name in ("mag", "lmm"):
        steady.main(["--only", name, "--steps", "2", "--out", str(tmp_path / "steady.json")])
    runs = json.loads((tmp_path / "steady.json").read_text())["runs"]
    assert list(runs) == ["mag", "lmm"] and all(run["steps"] == 2 for run in runs.values())
