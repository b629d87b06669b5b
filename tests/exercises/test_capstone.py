"""The examination of a block of one's own, exercise 11.6."""

import copy

import pytest
import torch
from torch import nn

from titans_mini.exercises import capstone, check
from titans_mini.exercises.nb11 import block


class Echo(nn.Module):
    """Answers with the token itself, and is faultless in every other way."""

    def __init__(self, dim, hidden=8):
        super().__init__()
        self.map = nn.Sequential(nn.Linear(dim, hidden), nn.Linear(hidden, dim))

    def forward(self, x, state=None):
        return self.map(x), x.new_zeros(len(x), 1) if state is None else state.clone()


class Restarts(nn.Module):
    """Returns a state and never looks at it again."""

    def forward(self, x, state=None):
        return x.cumsum(1), x[:, -1].clone()


def test_an_evening_asks_those_who_left_a_coat():
    tokens, hooks = capstone.evening(5, 30, seed=3)
    names, shown, leaves, asks = tokens.split((capstone.NAME, capstone.HOOKS, 1, 1), -1)
    assert (leaves[..., 0] > 0).sum(1).tolist() == (asks[..., 0] > 0).sum(1).tolist() == [capstone.COATS] * 5
    assert (shown[:, -capstone.COATS :] == 0).all() and (asks[:, : -capstone.COATS] == 0).all()
    for row in range(5):
        for question, hook in zip(range(-capstone.COATS, 0), hooks[row], strict=True):
            [guest] = (names[row, : -capstone.COATS] == names[row, question]).all(-1).nonzero()[:, 0].tolist()
            assert leaves[row, guest] > 0 and shown[row, guest].argmax() == hook


def test_the_evenings_of_training_and_examination_differ():
    seeds = {1000 * (seed + 1) + step for seed in range(2) for step in range(capstone.STEPS)}
    assert not seeds & {10**6 + guests for guests in (capstone.TRAINED, capstone.EXAMINED)}


@pytest.mark.slow
def test_the_reference_passes_and_the_window_forgets():
    """Both are trained; `check` takes the reference's word for it."""
    assert (best := capstone.examine(block)).verdict == "passes", best
    window = capstone.examine(capstone.Window)
    assert window.verdict == "forgets" and window.long == window.rival < 0.2 < window.short, window
    assert best.long > best.rival + capstone.LEAD


def test_a_block_without_any_memory_learns_nothing(monkeypatch):
    monkeypatch.setattr(capstone, "STEPS", 3)
    monkeypatch.setattr(capstone, "rival", lambda guests=capstone.EXAMINED: 0.125)
    outcome = capstone.examine(Echo)
    assert outcome.verdict == "learns nothing" and "among 1,024" in outcome.words


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda dim: torch.zeros(2), "returns no layer"),
        (lambda dim: Echo(dim, hidden=400), "19,624 weights"),
        (lambda dim: Restarts(), "check_sequence_layer"),
    ],
)
def test_other_faults_are_named(build, words, monkeypatch):
    monkeypatch.delenv("TITANS_STRICT", raising=False)
    result = check("11.6", build)
    assert not result.passed and words in result.message, result.message


def test_training_leaves_the_given_layer_and_the_random_numbers_alone():
    torch.manual_seed(0)
    layer, before = Echo(capstone.DIM), torch.get_rng_state()
    weights = copy.deepcopy(layer.state_dict())
    capstone.trained(layer, steps=2)
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(weights.values(), layer.state_dict().values(), strict=True))
