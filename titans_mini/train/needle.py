"""The toy needle: trained on short haystacks, asked in long ones, scored by length and depth."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import nn

from titans_mini.data.recall import IGNORE, RecallTask
from titans_mini.memory.layer import NeuralMemory
from titans_mini.train.sources import Curriculum, Recall, Source

CALL = 1 << 15  # tokens of one call in an evaluation: its memory stays small
HELD_OUT = 1_000_000  # added to a seed: no batch of an evaluation is one of training


@dataclass(frozen=True)
class Needle:
    """A task of `titans_mini.train.experiments`: what is trained on, and how it is scored.

    In training each pair is asked three times: the second and third question about a key can be answered from the
    first, a few tokens back. Scored are haystacks with one question a pair, so every answer is as far away as its pair.
    """

    task: RecallTask = RecallTask(pairs=4, questions=12, keys=16, values=16, noise=16)
    stages: tuple[tuple[int, int], ...] = ((60, 1), (120, 2))  # (until this step, pairs): the curriculum
    batch: int = 16
    length: int = 64  # of every sequence in training
    lengths: tuple[int, ...] = (64, 128, 256, 512, 1024, 2048, 4096)
    sequences: int = 64  # in an evaluation, of each length
    bins: int = 8  # of depth

    @property
    def vocab_size(self) -> int:
        """Count the token ids."""
        return self.task.vocab_size

    def source(self, seed: int) -> Source:
        """Make the batches of training."""
        stages = [(end, Recall(replace(self.task, pairs=n), self.batch, self.length, seed)) for end, n in self.stages]
        return Curriculum(tuple(stages), Recall(self.task, self.batch, self.length, seed))

    def score(self, model: nn.Module, seed: int) -> dict:
        """Count right answers by length and depth; with a memory, see what its gates do to each kind of token.

        Args:
            model: a `TitansLM`.
            seed: of training; the questions are others.

        Returns:
            "chance": of guessing. "lengths": a list of {"length", "right": one count a bin of depth, "asked": likewise,
            "order": right answers to the first question of a sequence, the second …}: who knows which values there
            are, but not which belongs to the key, is right at the last question, when one is left.
            "gates": kind of token → {"keep": mean half-life of the last layer in tokens, "theta": mean θ}, or None.
        """
        task = replace(self.task, questions=self.task.pairs)
        rows = [self._at(model, task, length, HELD_OUT + seed) for length in self.lengths]
        return {"chance": 1 / task.values, "lengths": rows, "gates": gates_by_kind(model, task, HELD_OUT + seed)}

    @torch.no_grad()
    def _at(self, model: nn.Module, task: RecallTask, length: int, seed: int) -> dict:
        """Score one length."""
        right, asked, order = torch.zeros(self.bins), torch.zeros(self.bins), torch.zeros(task.questions)
        made = task.batch(self.sequences, length, seed, length)
        for tokens, targets, depth in zip(*(x.split(max(1, CALL // length)) for x in made), strict=True):
            where = targets != IGNORE
            hit = (model(tokens)[0][where].argmax(-1) == targets[where]).float()
            order += hit.view(len(tokens), -1).sum(0)
            place = (depth.flatten() * self.bins).long().clamp(max=self.bins - 1)
            right += torch.bincount(place, hit, self.bins)
            asked += torch.bincount(place, minlength=self.bins)
        counts = {"right": right, "asked": asked, "order": order}
        return {"length": length} | {name: x.int().tolist() for name, x in counts.items()}


@torch.no_grad()
def gates_by_kind(model: nn.Module, task: RecallTask, seed: int, length: int = 256) -> dict | None:
    """Average the first memory's gates over keys, values and noise of a haystack: does it write what matters?

    Args:
        model: a `TitansLM`.
        task: what it was trained on.
        seed: of the haystacks.
        length: of each.

    Returns:
        Kind of token → {"half_life": tokens, "theta": step size}, of the memory's last layer, averaged over heads; the
        half-life is that of the mean α. None for a model without a memory.
    """
    memories = [m for m in model.modules() if isinstance(m, NeuralMemory)]
    if not memories:
        return None
    seen: list[torch.Tensor] = []
    hook = memories[0].to_gates.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    tokens = task.batch(16, length, seed).tokens
    try:
        model(tokens)
    finally:
        hook.remove()
    read = torch.cat(seen, 1)[:, -length:]  # MAC's segments one by one; others read persistent tokens in front
    alpha, _, theta = memories[0].gates(read)
    alpha, theta = (g[..., -1].mean(1).double() for g in (alpha, theta))  # (B, T)
    edges = torch.tensor([task.keys, task.keys + task.values])
    kind = torch.bucketize(tokens, edges, right=True)
    out = {}
    for i, name in enumerate(("key", "value", "noise")):
        rate = -torch.log2(1 - alpha[kind == i].mean()).item()  # halvings a token
        out[name] = {"half_life": 1 / rate if rate > 0 else None, "theta": theta[kind == i].mean().item()}
    return out
