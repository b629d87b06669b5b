"""Where a memory starts, so that short training on text finds a use for it. Options of training, not of the model.

From a random start a language model learns its window and the statistics of its text first; the memory answers noise,
and the model learns to ignore it. The starts below are places from which the gradient points towards a memory that is
used. Training may leave them.
"""

from __future__ import annotations

import torch

from titans_mini.memory.layer import NeuralMemory
from titans_mini.models.titans import TitansLM


def memories(model: TitansLM) -> list[NeuralMemory]:
    """Return the memory of each block that has one which writes, in order."""
    found = [getattr(block.mixer, "memory", None) for block in model.blocks]
    return [memory for memory in found if memory is not None and hasattr(memory, "to_gates")]


@torch.no_grad()
def induction_start(memory: NeuralMemory, generator: torch.Generator) -> None:
    """Let a memory start as an induction head: it answers what followed a token the last time.

    The keys are the queries of one token earlier, v is the token itself. So a token is written as that which follows
    the tokens before it, and when those come again, the query finds it. A query is made of a few
    tokens, mostly of the last.

    Args:
        memory: its projection of queries and keys becomes one, and its convolution is set.
        generator: draws the weights of the tokens, channel by channel.

    Raises:
        ValueError: if its convolution is too short for a key of one token earlier.
    """
    width, inner = memory.conv_size, memory.heads * memory.head_dim
    if width < 2:
        raise ValueError(f"induction_start: got conv_size={width}, expected ≥ 2: a key lies one token back")
    memory.to_qkv.weight[:inner] = memory.to_qkv.weight[inner : 2 * inner]
    spread = torch.tensor([0.0, 0.3, *[0.1] * width])[: width - 1]  # of the token itself, of the one before, …
    taps = torch.randn(inner, width - 1, generator=generator) * spread
    taps[:, 0] = torch.rand(inner, generator=generator) / 2 + 0.5
    weight = memory.conv.weight.zero_()[:, 0]  # (3·inner, width), the last tap is the token itself
    weight[:inner, 1:] = taps.flip(1)
    weight[inner : 2 * inner, :-1] = taps.flip(1)
    weight[2 * inner :, -1] = 1


@torch.no_grad()
def copy_start(model: TitansLM) -> None:
    """Let the first memory start so that what it answers is the embedding of a token, and points at that token.

    Its output projection becomes the transpose of its v; the head is the embedding already. One channel of the
    embedding is alike for all tokens, and opens the output gate. Queries and keys do not see it: all keys would share a
    direction, their writes would add up in it, and the memory would overshoot.

    Args:
        model: with tied embeddings.

    Raises:
        ValueError: if the embeddings are not tied, or the first block has no memory that writes.
    """
    if model.head.weight is not model.embedding.weight or not memories(model):
        raise ValueError("copy_start: expected tied embeddings and a memory that writes: a baseline?")
    memory = memories(model)[0]
    inner = memory.heads * memory.head_dim
    model.embedding.weight[:, 0] = 0.06  # three times the size of the other channels
    memory.to_output.weight.copy_(memory.to_qkv.weight[2 * inner :].T)
    memory.to_output_gate.weight.mul_(0.5)[:, 0] = 0.35
    memory.to_qkv.weight[: 2 * inner, 0] = 0


def steady_gates(memory: NeuralMemory, half_life: float, theta: float) -> None:
    """Fix how a memory forgets, α, and how it carries surprise on, η; the step size θ is learned from `theta` on.

    Gradients that end with a piece see nothing of what forgetting is good for. Left alone, α may fall towards 0 and η
    rise towards 1, and the memory becomes one sum of everything.

    Args:
        memory: its gates start anew, the same for every token.
        half_life: of all its heads, in tokens.
        theta: initial step size, below its cap.
    """
    memory.half_life, memory.theta, memory.learn_gates = (half_life, half_life), theta, False
    memory.reset_gates()
