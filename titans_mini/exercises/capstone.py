"""The examination of a sequence layer of one's own, the last exercise of notebook 11.

Guests pass, four of them leave a coat, and at the end these four are asked for their hooks. A token is one guest,
name, hook and flags together, so nothing has to be convolved: attention that still sees the guest can answer. It is
trained on evenings of 48 guests and examined on evenings of 1,024.
"""

from __future__ import annotations

import copy
import functools
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from titans_mini.models.attention import Attention
from titans_mini.testing import SequenceLayerError, check_sequence_layer

DIM, NAME, HOOKS = 24, 14, 8  # a token: a name of 14 numbers, one of 8 hooks, "leaves a coat", "asks"
COATS, FLAG = 4, 4.0  # flags are larger than the numbers of a name: a gate has to tell them from it
TRAINED, EXAMINED = 48, 1024  # guests in an evening
WINDOW = 16  # of the rival
STEPS, RATE, BATCH = 400, 0.03, 32
WEIGHTS = 12_000  # at most
SKIP = {
    "copies": "a class inside a function cannot be pickled",
    "past stays clean": "a masked softmax multiplies what it hides by 0, and 0 · NaN is NaN",
}
LEAD = 0.25  # share of the coats by which it has to beat the window


class Outcome(NamedTuple):
    """The result of an examination.

    Attributes:
        verdict: "passes", or the first thing that went wrong: "no layer", "battery", "causality", "no state",
            "state grows", "weights", "learns nothing", "forgets".
        words: the details, for people.
        short: share of coats found among as many guests as in training.
        long: share found among 1,024 guests.
        rival: the same for attention with a window of 16.
    """

    verdict: str
    words: str = ""
    short: float = 0.0
    long: float = 0.0
    rival: float = 0.0


def evening(batch: int, guests: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return tokens (B, guests, DIM), the last four of them questions, and the hooks asked for, (B, 4)."""
    g = torch.Generator().manual_seed(seed)
    names = F.normalize(torch.randn(batch, guests, NAME, generator=g), dim=-1)
    hooks = torch.randint(HOOKS, (batch, guests), generator=g)
    leaves, asks = torch.zeros(2, batch, guests)
    at = torch.rand(batch, guests - COATS, generator=g).argsort(-1)[:, :COATS]  # who leaves a coat
    leaves.scatter_(1, at, FLAG)
    asks[:, -COATS:] = FLAG
    names[:, -COATS:] = names.gather(1, at[..., None].expand(-1, -1, NAME))
    shown = F.one_hot(hooks, HOOKS).float() * (asks == 0)[..., None]
    return torch.cat([names, shown, leaves[..., None], asks[..., None]], -1), hooks.gather(1, at)


class Attendant(nn.Module):
    """A layer, a residual around it, and a linear map to the hooks."""

    def __init__(self, layer: nn.Module) -> None:
        """Take the layer as it is."""
        super().__init__()
        self.layer, self.to_hook = layer, nn.Linear(DIM, HOOKS)

    def forward(self, x: Tensor) -> Tensor:
        """Return scores of the hooks at the questions: (B, T, DIM) to (B, 4, HOOKS)."""
        y = self.layer(x)
        y = y[0] if isinstance(y, tuple) else y
        return self.to_hook(y[:, -COATS:] + x[:, -COATS:])


def trained(layer: nn.Module, seed: int = 0, steps: int | None = None) -> Attendant:
    """Train a copy of a layer on evenings of 48 guests."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Attendant(copy.deepcopy(layer).float()).train()
    optimizer, steps = torch.optim.AdamW(model.parameters(), RATE), steps or STEPS
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = RATE * min(1, (step + 1) / 10) * (1 - 0.9 * step / steps)
        x, hooks = evening(BATCH, TRAINED, 1000 * (seed + 1) + step)
        loss = F.cross_entropy(model(x).flatten(0, 1), hooks.flatten())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return model.eval()


@torch.no_grad()
def found(model: nn.Module, guests: int, evenings: int = 64) -> float:
    """Return the share of coats found, on evenings that nobody has trained on."""
    x, hooks = evening(evenings, guests, 10**6 + guests)
    return (model(x).argmax(-1) == hooks).float().mean().item()


class Window(nn.Module):
    """The rival: attention with a window of 16, and its keys and values as a state."""

    def __init__(self, dim: int = DIM) -> None:
        """Build the attention."""
        super().__init__()
        self.attention = Attention(dim, heads=2, window=WINDOW)

    def forward(self, x: Tensor, state: object = None) -> tuple[Tensor, object]:
        """Attend: (B, T, dim) → (B, T, dim) and the next state."""
        return self.attention(x, state)


@functools.cache
def rival(guests: int = EXAMINED) -> float:
    """Train the rival in the same way, and return its share of coats found."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        window = Window()
    return found(trained(window), guests)


def _numbers(state: object) -> int:
    """Count the numbers in a state of any form."""
    if isinstance(state, Tensor):
        return state.numel()
    if isinstance(state, dict):
        return sum(map(_numbers, state.values()))
    if isinstance(state, tuple | list):
        return sum(map(_numbers, state))
    return sum(map(_numbers, vars(state).values())) if hasattr(state, "__dict__") else 0


def examine(build, dim: int = DIM) -> Outcome | None:
    """Examine `build(dim)`: the battery of checks, a state that does not grow, the weights, and 1,024 guests.

    Returns:
        The outcome; None if there is no layer yet.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layer = build(dim)
    if layer is None or layer is ...:
        return None
    if not isinstance(layer, nn.Module):
        return Outcome("no layer", f"got {type(layer).__name__}, expected a layer: an nn.Module, not its output")
    try:
        report = check_sequence_layer(lambda: build(dim), dim=dim, skip=SKIP)
    except SequenceLayerError as error:
        first = error.failures[0]
        return Outcome("causality" if "causality" in error.names else "battery", str(first))
    if "split" in report.skipped:
        return Outcome("no state", "the layer returns y alone")
    with torch.no_grad():
        sizes = [_numbers(layer.eval()(torch.zeros(1, n, dim))[1]) for n in (64, 256)]
    if sizes[1] > sizes[0]:
        return Outcome("state grows", f"{sizes[0]:,} numbers after 64 tokens, {sizes[1]:,} after 256")
    count = sum(p.numel() for p in layer.parameters())
    if count > WEIGHTS:
        return Outcome("weights", f"{count:,} weights, at most {WEIGHTS:,}")
    model = trained(layer)
    short, long, other = found(model, TRAINED), found(model, EXAMINED), rival()
    words = (
        f"finds {short:.0%} of the coats among {TRAINED} guests, {long:.0%} among {EXAMINED:,} (a window {other:.0%})"
    )
    if short < 2 / HOOKS:
        return Outcome("learns nothing", words, short, long, other)
    return Outcome("passes" if long >= other + LEAD else "forgets", words, short, long, other)
