"""Toy needle in a haystack: train on short haystacks, evaluate on long ones, score by length and depth."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import nn

from titans_mini.data.recall import IGNORE, RecallTask
from titans_mini.memory.layer import NeuralMemory
from titans_mini.train.probe import probe
from titans_mini.train.sources import Curriculum, Recall, Source

CALL = 1 << 15  # tokens per evaluation call, to bound its memory
HELD_OUT = 1_000_000  # added to the seed, so that evaluation batches differ from training batches


@dataclass(frozen=True)
class Needle:
    """A task of `titans_mini.train.experiments`: training batches and the score of the toy needle.

    In training each pair is asked three times: the second and third question about a key can be answered from the
    first, a few tokens back. The evaluation asks one question per pair, so every answer is as far away as its pair.
    """

    task: RecallTask = RecallTask(pairs=4, questions=12, keys=16, values=16, noise=16)
    stages: tuple[tuple[int, int], ...] = ((60, 1), (120, 2))  # curriculum: (end step, pairs)
    batch: int = 16
    length: int = 64  # tokens per training sequence
    lengths: tuple[int, ...] = (64, 128, 256, 512, 1024, 2048, 4096)
    sequences: int = 64  # evaluation sequences per length
    bins: int = 8  # number of depth bins
    probe: bool = False  # mac: also what it writes and where it looks, see `titans_mini.train.probe`

    @property
    def vocab_size(self) -> int:
        """Return the number of token ids."""
        return self.task.vocab_size

    def source(self, seed: int) -> Source:
        """Return the source of training batches."""
        stages = [(end, Recall(replace(self.task, pairs=n), self.batch, self.length, seed)) for end, n in self.stages]
        return Curriculum(tuple(stages), Recall(self.task, self.batch, self.length, seed))

    def score(self, model: nn.Module, seed: int) -> dict:
        """Count correct answers by length and depth; for a model with a memory, average its gates per kind of token.

        Args:
            model: a `TitansLM`.
            seed: training seed; the evaluation draws other questions.

        Returns:
            "chance": accuracy of guessing. "lengths": a list of {"length", "right": correct answers per depth bin,
            "asked": questions per depth bin, "order": correct answers to the first question of a sequence, the
            second …}. A model that knows which values occur, but not their keys, is right at the last question, when
            only one value is left. "gates": as returned by `gates_by_kind`. "all_gates": by `gates_by_layer`; records
            made before it existed lack it. "probe": of `titans_mini.train.probe`, if asked for.
        """
        task = replace(self.task, questions=self.task.pairs)
        rows = [self._at_length(model, task, length, HELD_OUT + seed) for length in self.lengths]
        gates = {"gates": gates_by_kind(model, task, HELD_OUT + seed)}
        gates |= {"all_gates": gates_by_layer(model, task, HELD_OUT + seed)}
        if self.probe:
            gates |= {"probe": probe(model, task, HELD_OUT + seed, self.length)}
        return {"chance": 1 / task.values, "lengths": rows, **gates}

    @torch.no_grad()
    def _at_length(self, model: nn.Module, task: RecallTask, length: int, seed: int) -> dict:
        """Count correct answers at one haystack length."""
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


def gates_by_kind(model: nn.Module, task: RecallTask, seed: int, length: int = 256) -> dict | None:
    """Average the first memory's gates over the keys, values and noise tokens of haystacks.

    Args:
        model: a `TitansLM`.
        task: the task of its training.
        seed: seed of the haystacks.
        length: tokens per haystack.

    Returns:
        Kind of token → {"half_life": tokens, "theta": step size}, of the memory's last layer, averaged over heads; the
        half-life is that of the mean α, None if that is 0. None for a model without a memory.
    """
    memories = gates_by_layer(model, task, seed, length)
    if not memories:
        return None
    return {kind: {name: gate[name] for name in ("half_life", "theta")} for kind, gate in memories[0][-1].items()}


@torch.no_grad()
def gates_by_layer(model: nn.Module, task: RecallTask, seed: int, length: int = 256) -> list[list[dict]]:
    """Average the gates of all memories and all their layers over the keys, values and noise tokens of haystacks.

    A layer that forgets its features loses what the layers after it still hold, so the last one alone does not tell
    how long a memory lasts.

    Args:
        model: a `TitansLM`.
        task: the task of its training.
        seed: seed of the haystacks.
        length: tokens per haystack.

    Returns:
        A list over the blocks that have a memory, of lists over the layers of its network (one entry if they share
        their gates): kind of token → {"half_life": tokens, "eta": momentum, "theta": step size}, as in `gates_by_kind`.
    """
    memories = [m for m in model.modules() if isinstance(m, NeuralMemory) and hasattr(m, "to_gates")]
    seen: list[list[torch.Tensor]] = [[] for _ in memories]
    hooks = [
        m.to_gates.register_forward_pre_hook(lambda module, inputs, to=to: to.append(inputs[0]))
        for m, to in zip(memories, seen, strict=True)
    ]
    tokens = task.batch(16, length, seed).tokens
    try:
        if memories:
            model(tokens)
    finally:
        for hook in hooks:
            hook.remove()
    edges = torch.tensor([task.keys, task.keys + task.values])
    kind = torch.bucketize(tokens, edges, right=True)
    out = []
    for memory, inputs in zip(memories, seen, strict=True):
        read = torch.cat(inputs, 1)[:, -length:]  # MAC reads segment by segment; others read persistent tokens first
        gates = [(g.mean(-1) if g.dim() > 4 else g).mean(1).double() for g in memory.gates(read)]  # α may be a vector
        layers = zip(*(g.unbind(-1) for g in gates), strict=True)  # L times three (B, T)
        out.append([_by_kind(kind, *layer) for layer in layers])
    return out


def _by_kind(kind: torch.Tensor, alpha: torch.Tensor, eta: torch.Tensor, theta: torch.Tensor) -> dict:
    """Average the gates (B, T) of one layer over the tokens of each kind."""
    out = {}
    for i, name in enumerate(("key", "value", "noise")):
        rate = -torch.log2(1 - alpha[kind == i].mean()).item()  # halvings per token
        means = {"eta": eta[kind == i].mean().item(), "theta": theta[kind == i].mean().item()}
        out[name] = {"half_life": 1 / rate if rate > 0 else None, **means}
    return out
